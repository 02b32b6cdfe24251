//! [`HandshakeStep`]: a step of a server's handshake, with the input that has arrived. It may
//! contain the server's signature, its part of the key exchange or the verification of the client's
//! certificate, so it can run on another thread.

use std::cell::Cell;
use std::rc::Rc;

use rustls::Error;
use rustls::server::UnbufferedServerConnection;

use super::certificates::take_last_name;
use super::session::{Advanced, Sinks, advance};
use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
use crate::net::filter::{FilterContext, FilterWaker};
use crate::threads::workers::Workers;
use crate::threads::workers::error::JobError;

/// A session and the input that it is given.
pub(super) struct HandshakeStep {
    pub(super) session: UnbufferedServerConnection,
    pub(super) input: Buffer,
}

/// The session after the step.
pub(super) struct Stepped {
    pub(super) session: UnbufferedServerConnection,
    /// What the session has left.
    pub(super) input: Buffer,
    pub(super) output: Buffer,
    pub(super) to_peer: Buffer,
    pub(super) early_data: u64,
    pub(super) server_name: Option<Box<str>>,
    pub(super) advanced: Result<Advanced, Error>,
}

/// Where the result of a step arrives. `Err` if the job was cancelled or has panicked.
pub(super) type Arrival = Rc<Cell<Option<Result<Stepped, JobError>>>>;

impl HandshakeStep {
    /// Runs the step on a thread of `workers`. If they take no more jobs, runs it here and returns
    /// the result.
    pub(super) fn submit(
        self,
        workers: &Workers,
        event_loop: &EventLoop,
        arrival: &Arrival,
        waker: FilterWaker,
    ) -> Option<Stepped> {
        let slot = Rc::clone(arrival);
        let done = move |event_loop: &EventLoop, result| {
            slot.set(Some(result));
            waker.wake(event_loop);
        };
        let refused = workers.submit(event_loop, move || self.run(), done).err()?;
        let (work, _) = refused.into_inner();
        Some(work())
    }

    fn run(self) -> Stepped {
        let HandshakeStep { mut session, mut input } = self;
        let (mut output, mut to_peer, mut early_data) = (Buffer::new(), Buffer::new(), 0);
        let sinks = Sinks { output: &mut output, to_peer: &mut to_peer, early_data: &mut early_data };
        let advanced = advance(&mut session, &mut input, FilterContext::PIECE, sinks);
        let server_name = take_last_name();
        Stepped { session, input, output, to_peer, early_data, server_name, advanced }
    }
}
