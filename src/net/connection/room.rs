//! How much a byte stream may send now.
//!
//! A write of a stream can wait. So it waits where a send of a handler is refused, or where the
//! connection would be reset for the memory that it takes.

use std::io;
use std::task::{Context, Poll};

use super::demand::StreamState;
use super::write::SMALL_SEND;
use super::{ConnectionCore, ConnectionState};

impl ConnectionCore {
    /// Waits until no more is unsent than the high-water mark. Returns how many of `len` bytes the
    /// limits permit now, which is at least one unless `len` is 0.
    ///
    /// While the memory of all connections is scarce, a connection that has nothing queued may
    /// still send a little. Otherwise it waits until it has sent its queue. So writes alone hardly
    /// bring the memory to the limit at which connections are reset.
    pub(in crate::net) fn poll_room(
        &self,
        stream: &StreamState,
        context: &Context<'_>,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        if self.state.get() == ConnectionState::Closed {
            stream.writer.listen(context);
            return Poll::Pending;
        }
        if let Err(reason) = self.check_output() {
            return Poll::Ready(Err(self.output_error(reason)));
        }
        let limits = &self.membership.group().limits;
        let queued = self.unsent_in_memory();
        let room = len.min(limits.max_unsent.saturating_sub(queued));
        let room = if queued > 0 || len > SMALL_SEND { self.shared_room(room, queued) } else { room };
        if room == 0 && len > 0 && queued == 0 {
            // Not `WouldBlock`, which the users of an asynchronous stream take for a request to
            // wait.
            let error = io::Error::new(io::ErrorKind::OutOfMemory, "the limit of unsent bytes is 0");
            return Poll::Ready(Err(error));
        }
        if self.queued() > limits.high_water || (room == 0 && queued > 0) {
            stream.writer.listen(context);
            return Poll::Pending;
        }
        if stream.must_yield(context) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(room))
    }

    /// How many of `room` bytes the memory of all connections permits. `queued` are in memory.
    fn shared_room(&self, room: usize, queued: usize) -> usize {
        let share = self.membership.group().budget().share();
        let least = room.min(SMALL_SEND);
        match room.min(share) {
            permitted if permitted >= least => permitted,
            _ if queued > 0 => 0,
            _ => least,
        }
    }

    /// A limit has refused `len` bytes, for which there was room: other threads have taken the
    /// memory, or output that precedes the bytes has taken a part of the room. Returns how many may
    /// be tried now, or waits until this connection has sent its output.
    pub(in crate::net) fn poll_less(
        &self,
        stream: &StreamState,
        context: &Context<'_>,
        len: usize,
    ) -> Poll<usize> {
        if self.unsent.borrow().is_some() {
            stream.writer.listen(context);
            return Poll::Pending;
        }
        Poll::Ready(len.min(SMALL_SEND))
    }
}
