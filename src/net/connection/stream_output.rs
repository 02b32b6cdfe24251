//! The output of byte streams.
//!
//! A write of a stream can wait. So it waits where a send of a handler is refused, or where the
//! connection would be reset for the memory that it takes.

use std::io;
use std::task::{Context, Poll, ready};

use super::demand::{StreamState, copy};
use super::mailbox::Taken;
use super::payload::Payload;
use super::write::SMALL_SEND;
use super::{ConnectionCore, ConnectionState};
use crate::buffer::Buffer;
use crate::event_loop::{EventLoop, Refused};
use crate::net::result::SendError;

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
        let (unsent, queued) = match &*self.unsent.borrow() {
            Some(queue) => (queue.len(), queue.in_memory()),
            None => (0, 0),
        };
        let room = len.min(limits.max_unsent.saturating_sub(queued));
        let room = if queued > 0 || len > SMALL_SEND { self.shared_room(room, queued) } else { room };
        if room == 0 && len > 0 && queued == 0 {
            // Not `WouldBlock`, which the users of an asynchronous stream take for a request to
            // wait.
            let error = io::Error::new(io::ErrorKind::OutOfMemory, "the limit of unsent bytes is 0");
            return Poll::Ready(Err(error));
        }
        if unsent > limits.high_water || (room == 0 && queued > 0) {
            stream.writer.listen(context);
            return Poll::Pending;
        }
        if stream.must_yield(context) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(room))
    }

    /// Accepts as many bytes as the limits permit, which is at least one.
    #[inline]
    pub(in crate::net) fn poll_write(
        &self,
        event_loop: &EventLoop,
        stream: &StreamState,
        context: &Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut most = bytes.len();
        loop {
            let n = ready!(self.poll_room(stream, context, most))?;
            match self.send_polled(event_loop, &bytes[..n]) {
                Ok(()) => return Poll::Ready(Ok(n)),
                Err(refused) => match refused.into_parts().1 {
                    SendError::Full => most = ready!(self.poll_less(stream, context, n)),
                    reason => return Poll::Ready(Err(self.output_error(reason))),
                },
            }
        }
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

    /// Sends `payload` at the end of the present poll, or returns it.
    pub(super) fn send_polled<P: Payload>(
        &self,
        event_loop: &EventLoop,
        payload: P,
    ) -> Result<(), Refused<P, SendError>> {
        self.read_mailbox(event_loop, Taken::UpToCall);
        self.collecting_for_poll(event_loop, || self.send(event_loop, payload))
    }

    /// Returns the payload if a limit refuses it.
    fn send_from_poll<P: Payload>(&self, event_loop: &EventLoop, payload: P) -> io::Result<Option<P>> {
        match self.send_polled(event_loop, payload).map_err(Refused::into_parts) {
            Ok(()) => Ok(None),
            Err((payload, SendError::Full)) => Ok(Some(payload)),
            Err((_, reason)) => Err(self.output_error(reason)),
        }
    }

    /// Returns whether the limits have permitted it.
    #[cfg(any(feature = "futures-io", feature = "tokio", feature = "hyper"))]
    pub(in crate::net) fn send_slices(
        &self,
        event_loop: &EventLoop,
        slices: &[io::IoSlice<'_>],
    ) -> io::Result<bool> {
        Ok(self.send_from_poll(event_loop, slices)?.is_none())
    }

    pub(in crate::net) fn send_vec(
        &self,
        event_loop: &EventLoop,
        bytes: Vec<u8>,
    ) -> io::Result<Option<Vec<u8>>> {
        self.send_from_poll(event_loop, bytes)
    }

    pub(in crate::net) fn send_buffer(
        &self,
        event_loop: &EventLoop,
        bytes: Buffer,
    ) -> io::Result<Option<Buffer>> {
        self.send_from_poll(event_loop, bytes)
    }

    /// Waits until the kernel has taken all output.
    pub(in crate::net) fn poll_flush(
        &self,
        event_loop: &EventLoop,
        stream: &StreamState,
        context: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.read_mailbox(event_loop, Taken::UpToCall);
        self.send_collected(event_loop);
        if self.has_output_failed() {
            return Poll::Ready(Err(self.output_error(SendError::Closed)));
        }
        if self.state.get() != ConnectionState::Closed && self.unsent.borrow().is_none() {
            return Poll::Ready(Ok(()));
        }
        stream.writer.listen(context);
        Poll::Pending
    }

    /// Shuts the connection down, and waits until the FIN has been sent.
    pub(in crate::net) fn poll_shutdown(
        &self,
        event_loop: &EventLoop,
        stream: &StreamState,
        context: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.shutdown(event_loop);
        if self.has_output_failed() {
            return Poll::Ready(Err(self.output_error(SendError::Closed)));
        }
        if self.fin_sent.get() {
            return Poll::Ready(Ok(()));
        }
        stream.writer.listen(context);
        Poll::Pending
    }

    /// The error of the output: that of the write that has failed, if one has.
    pub(super) fn output_error(&self, reason: SendError) -> io::Error {
        let first = self.first_error.take();
        let error = match &first {
            Some(first) if reason == SendError::Closed => copy(first),
            _ => reason.into(),
        };
        self.first_error.set(first);
        error
    }
}
