//! Two connected ends in memory: a stream in each direction, without a descriptor.
//!
//! The ends behave like a connected pair of sockets: bounded buffers, half-close, a reset that is
//! an error after the bytes sent before. Both are on one thread. Instead of the poller, an end
//! reports readiness to the channel of the other one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

use rustix::io::Errno;

use super::transport::Transferred;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::{EventLoop, WeakLoop};
use crate::readiness::Readiness;

/// The number of bytes that a direction holds.
const CAPACITY: usize = 64 * 1024;

/// One end of a pair. Dropping it closes it: by an orderly end, or by a reset if input is unread or
/// a [reset](MemoryEnd::reset_on_close) was requested.
pub(in crate::net) struct MemoryEnd {
    input: Rc<Direction>,
    output: Rc<Direction>,
    resets: Cell<bool>,
}

#[derive(Default)]
struct Direction {
    bytes: RefCell<VecDeque<u8>>,
    /// The writer has ended it.
    is_ended: Cell<bool>,
    /// The reader has closed.
    is_abandoned: Cell<bool>,
    /// The writer was reset, and the reader has not taken the error yet.
    is_reset: Cell<bool>,
    reader: RefCell<Option<Wake>>,
    writer: RefCell<Option<Wake>>,
}

/// The channel that an end reports readiness to.
struct Wake {
    event_loop: WeakLoop,
    id: ChannelId,
}

impl MemoryEnd {
    /// Two ends that are connected to each other.
    pub(in crate::net) fn pair() -> (MemoryEnd, MemoryEnd) {
        let (one, other) = (Rc::<Direction>::default(), Rc::<Direction>::default());
        let end = |input: &Rc<Direction>, output: &Rc<Direction>| MemoryEnd {
            input: Rc::clone(input),
            output: Rc::clone(output),
            resets: Cell::new(false),
        };
        (end(&one, &other), end(&other, &one))
    }

    /// Reports readiness to a channel from now on.
    pub(in crate::net) fn attach(&self, event_loop: &EventLoop, id: ChannelId) {
        let wake = || Some(Wake { event_loop: event_loop.downgrade(), id });
        *self.input.reader.borrow_mut() = wake();
        *self.output.writer.borrow_mut() = wake();
    }

    /// Reads once. 0 bytes are the end of input.
    ///
    /// # Errors
    /// `ECONNRESET`, once and after the last byte, if the other end was reset.
    pub(in crate::net) fn receive(&self, into: &mut [u8]) -> io::Result<Transferred> {
        let read = {
            let mut bytes = self.input.bytes.borrow_mut();
            let n = bytes.len().min(into.len());
            let (front, back) = bytes.as_slices();
            let from_front = front.len().min(n);
            into[..from_front].copy_from_slice(&front[..from_front]);
            into[from_front..n].copy_from_slice(&back[..n - from_front]);
            bytes.drain(..n);
            n
        };
        if read > 0 {
            wake(&self.input.writer, Readiness::WRITABLE);
            return Ok(Transferred::Bytes(read));
        }
        self.check_reset()?;
        Ok(if self.input.is_ended.get() { Transferred::Bytes(0) } else { Transferred::WouldBlock })
    }

    /// Same as [`receive`](MemoryEnd::receive) with one byte, which is not consumed.
    pub(in crate::net) fn peek(&self) -> io::Result<Transferred> {
        if !self.input.bytes.borrow().is_empty() {
            return Ok(Transferred::Bytes(1));
        }
        self.check_reset()?;
        Ok(if self.input.is_ended.get() { Transferred::Bytes(0) } else { Transferred::WouldBlock })
    }

    /// Sends as many bytes as there is space for.
    ///
    /// # Errors
    /// `ECONNRESET`, once, if the other end was reset. `EPIPE` if it is closed.
    pub(in crate::net) fn send(&self, bytes: &[u8]) -> io::Result<Transferred> {
        self.check_reset()?;
        if self.output.is_abandoned.get() || self.output.is_ended.get() {
            return Err(Errno::PIPE.into());
        }
        let taken = bytes.len().min(self.space());
        if taken == 0 && !bytes.is_empty() {
            return Ok(Transferred::WouldBlock);
        }
        self.output.bytes.borrow_mut().extend(&bytes[..taken]);
        wake(&self.output.reader, Readiness::READABLE);
        Ok(Transferred::Bytes(taken))
    }

    /// Same as [`send`](MemoryEnd::send), for several slices.
    pub(in crate::net) fn send_slices(&self, slices: &[IoSlice<'_>]) -> io::Result<Transferred> {
        let mut total = 0;
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            match self.send(slice)? {
                Transferred::Bytes(n) => total += n,
                Transferred::WouldBlock => break,
            }
        }
        let is_blocked = total == 0 && slices.iter().any(|slice| !slice.is_empty());
        Ok(if is_blocked { Transferred::WouldBlock } else { Transferred::Bytes(total) })
    }

    /// The number of bytes that [`send`](MemoryEnd::send) takes now.
    pub(in crate::net) fn space(&self) -> usize {
        CAPACITY - self.output.bytes.borrow().len()
    }

    /// The number of bytes that can be read now.
    pub(in crate::net) fn available(&self) -> usize {
        self.input.bytes.borrow().len()
    }

    /// Ends the output. Returns `false` if it has ended before.
    pub(in crate::net) fn end_output(&self) -> bool {
        let is_first = !self.output.is_ended.replace(true);
        wake(&self.output.reader, Readiness::READABLE | Readiness::READ_CLOSED);
        is_first
    }

    /// Ends the output, for a connection.
    pub(in crate::net) fn shutdown_write(&self) -> io::Result<()> {
        self.check_reset()?;
        self.end_output();
        Ok(())
    }

    /// Makes the close a reset.
    pub(in crate::net) fn reset_on_close(&self) {
        self.resets.set(true);
    }

    /// The number of sent bytes that the other end has not read. The end of the output counts as
    /// one more, as for a socket.
    pub(in crate::net) fn unacknowledged(&self) -> u32 {
        let bytes = self.output.bytes.borrow().len();
        let end = usize::from(bytes > 0 && self.output.is_ended.get());
        u32::try_from(bytes + end).unwrap_or(u32::MAX)
    }

    /// Takes the error of a reset.
    pub(in crate::net) fn check_reset(&self) -> io::Result<()> {
        if self.input.is_reset.take() { Err(Errno::CONNRESET.into()) } else { Ok(()) }
    }
}

impl Drop for MemoryEnd {
    fn drop(&mut self) {
        let MemoryEnd { input, output, resets } = self;
        let unread = std::mem::take(&mut *input.bytes.borrow_mut());
        let is_reset = resets.get() || !unread.is_empty();
        output.is_reset.set(is_reset);
        output.is_ended.set(true);
        input.is_abandoned.set(true);
        let ended = Readiness::READABLE | Readiness::READ_CLOSED;
        let reset = Readiness::WRITABLE | Readiness::WRITE_CLOSED | Readiness::ERROR;
        wake(&output.reader, if is_reset { ended | reset } else { ended | Readiness::WRITABLE });
    }
}

fn wake(channel: &RefCell<Option<Wake>>, ready: Readiness) {
    if let Some(Wake { event_loop, id }) = &*channel.borrow() {
        event_loop.with(|event_loop| event_loop.add_ready(*id, ready));
    }
}
