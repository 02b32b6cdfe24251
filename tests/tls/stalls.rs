//! The end of a session that makes no progress.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::unbuffered::{ConnectionState, ReadEarlyData, UnbufferedConnectionCommon, UnbufferedStatus};

use crate::authority::{NAME, client_config};
use session::{Advanced, Side, Sinks, advance};

#[path = "../../src/net/tls/session.rs"]
#[allow(dead_code, reason = "a part of the module is tested here")]
mod session;

/// Shows another session in each step, all of which have only a state without an effect to offer.
struct Stalls {
    sessions: Vec<UnbufferedClientConnection>,
    steps: usize,
}

impl Stalls {
    fn new(sessions: usize) -> Stalls {
        let mut stalls = Stalls { sessions: Vec::new(), steps: 0 };
        stalls.sessions.resize_with(sessions, || {
            let mut session =
                UnbufferedClientConnection::new(Arc::clone(&client_config()), NAME.try_into().unwrap())
                    .unwrap();
            let UnbufferedStatus { state, .. } = session.process_tls_records(&mut []);
            let Ok(ConnectionState::EncodeTlsData(mut hello)) = state else { panic!("no ClientHello") };
            hello.encode(&mut [0; 4096]).unwrap();
            session
        });
        stalls
    }
}

impl Deref for Stalls {
    type Target = UnbufferedConnectionCommon<ClientConnectionData>;

    fn deref(&self) -> &Self::Target {
        &self.sessions[0]
    }
}

impl DerefMut for Stalls {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.sessions[0]
    }
}

impl Side for Stalls {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        let session = &mut self.sessions[self.steps];
        self.steps += 1;
        session.process_tls_records(input)
    }

    fn read_early(
        _: ReadEarlyData<'_, '_, Self::Data>,
        _: &mut reveille::Buffer,
    ) -> Result<usize, rustls::Error> {
        Ok(0)
    }
}

fn advance_all(stalls: &mut Stalls) -> Result<Advanced, rustls::Error> {
    let [mut input, mut output, mut to_peer] = [(); 3].map(|()| reveille::Buffer::new());
    let sinks = Sinks { output: &mut output, to_peer: &mut to_peer, early_data: &mut 0 };
    advance(stalls, &mut input, usize::MAX, sinks)
}

#[test]
fn a_session_without_progress_ends_with_an_error() {
    let mut stalls = Stalls::new(100);
    let error = advance_all(&mut stalls).expect_err("an endless loop");
    assert!(error.to_string().contains("no progress"), "{error}");
    assert!(stalls.steps < 20, "{} steps", stalls.steps);
}

#[test]
fn a_few_states_without_effect_are_permitted() {
    let mut stalls = Stalls::new(4);
    // The last session waits for its server after its step.
    let last = stalls.sessions.pop().unwrap();
    let mut waiting = last;
    let UnbufferedStatus { state, .. } = waiting.process_tls_records(&mut []);
    let Ok(ConnectionState::TransmitTlsData(sent)) = state else { panic!("nothing to send") };
    sent.done();
    stalls.sessions.push(waiting);
    assert_eq!(advance_all(&mut stalls), Ok(Advanced::NeedsInput));
}
