//! What a callback sends is encoded together, and not queued first.

use std::io;
use std::sync::{Arc, Mutex};

use crate::support::{LIMIT, with_watchdog};
use reveille::net::{Filter, FilterContext};
use reveille::testing::Peer;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection};

/// Passes output on, and records the length of each call.
struct Lengths(Arc<Mutex<Vec<usize>>>);

impl Filter for Lengths {
    fn encode(
        &mut self,
        _: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        self.0.lock().unwrap().push(input.len());
        output.append_buffer(input);
        Ok(())
    }
}

/// Sends bytes of each length when it opens.
struct Send(&'static [usize]);

impl ConnectionHandler for Send {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        for &len in self.0 {
            conn.send(&vec![len as u8; len][..])?;
        }
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection<'_>, _: &mut Buffer) -> io::Result<()> {
        Ok(())
    }
}

/// The lengths of the pieces in which the filter encodes what one callback sends.
fn pieces(lengths: &'static [usize]) -> Vec<usize> {
    let event_loop = EventLoop::new().unwrap();
    let encoded = Arc::<Mutex<Vec<usize>>>::default();
    let seen = Arc::clone(&encoded);
    let builder = TcpConnection::builder(&event_loop).filter(move || Lengths(Arc::clone(&seen)));
    let peer = Peer::connect_with(builder, move |_| Send(lengths)).unwrap();
    let expected: Vec<u8> = lengths.iter().flat_map(|&len| vec![len as u8; len]).collect();
    assert!(peer.received().unwrap() == expected);
    let encoded = encoded.lock().unwrap();
    encoded.clone()
}

#[test]
fn large_sends_of_a_callback_are_encoded_together() {
    with_watchdog(LIMIT, || {
        assert_eq!(pieces(&[20_000, 3, 30_000]), [50_003]);
        assert_eq!(pieces(&[20_000, 50_000]), [20_000, 50_000]);
        assert_eq!(pieces(&[96 * 1024]), [96 * 1024]);
        assert_eq!(pieces(&[1, 96 * 1024 + 1]), [1, 64 * 1024, 32 * 1024 + 1]);
    });
}
