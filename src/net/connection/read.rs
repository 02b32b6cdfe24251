//! What a connection receives.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::fd_passing::FdPassing;
use super::{ConnectionCore, ConnectionState, INPUT};
use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
use crate::net::disposal::close_descriptors;
use crate::net::result::CloseReason;
use crate::net::sys::fd_passing::receive_with_descriptors;
use crate::net::sys::stream::{self, Transferred};
use crate::readiness::Readiness;

/// The most storage that a buffer of unread input keeps, however little is in it.
const SPACIOUS: usize = 4 * 1024;

/// Whether the buffer has much more storage than what is in it needs.
fn is_spacious(unread: &Buffer) -> bool {
    unread.capacity() > SPACIOUS && unread.len() <= unread.capacity() / 8
}

/// What came of a try to read.
pub(in crate::net) enum Received {
    /// There is something to offer to the handler, new or left over.
    Input,
    /// That, and descriptors that came along; they are not none.
    InputAndDescriptors(Vec<OwnedFd>),
    /// The peer has finished: there will be no more.
    End,
    /// Nothing for the handler.
    Nothing,
}

impl ConnectionCore {
    /// Whether the connection takes input for now: there may be some, or some is to be offered again.
    pub(in crate::net) fn is_reading(&self) -> bool {
        let is_held = self.paused.get() || self.throttled.get() || self.is_read_paused_by_relay();
        !is_held && (self.redeliver.get() || !self.peer_finished.get())
    }

    /// Reads once into `input`, at most what it holds, so that a busy peer does not keep the others waiting. If there is
    /// more, the connection stays ready and goes on with the next turn of the loop.
    pub(in crate::net) fn receive(
        &self,
        event_loop: &EventLoop,
        ready: Readiness,
        input: &mut Buffer,
    ) -> Received {
        if self.redeliver.replace(false) {
            self.update_wanted(event_loop);
            return Received::Input;
        }
        let space = input.writable_mut();
        let room = space.len();
        let mut descriptors = Vec::new();
        let received = match self.passing.get() {
            FdPassing::None => stream::receive(self.fd.as_fd(), space),
            passing => receive_with_descriptors(self.fd.as_fd(), space, passing.limit(), &mut descriptors),
        };
        match received {
            Ok(Transferred::Bytes(0)) if self.has_taken_reset() => {
                // For the error that a write has met.
                self.close(event_loop, CloseReason::Finished);
                Received::Nothing
            }
            Ok(Transferred::Bytes(0)) => {
                if ready.is_error() {
                    self.record_error_after_eof();
                }
                self.peer_finished.set(true);
                self.update_wanted(event_loop);
                Received::End
            }
            Ok(Transferred::Bytes(n)) => {
                // A short read has emptied the socket, which saves the read that would say so; a later arrival raises a
                // new edge. Not so once the end of input or an error has been reported: that edge is spent, and only
                // reading on finds it. Nor if there is urgent data, before which a read ends (tcp(7)), whatever is behind
                // it; nor on a Unix socket, where one ends behind descriptors that were sent along, whoever wants them.
                let is_all =
                    !ready.intersects(Readiness::READ_CLOSED | Readiness::ERROR | Readiness::PRIORITY);
                if n < room && is_all && !self.peer().is_unix() {
                    event_loop.clear_ready(self.id, Readiness::READABLE);
                }
                input.commit(n);
                self.record_activity(event_loop);
                match (self.discarding.get(), descriptors.is_empty()) {
                    (true, _) => {
                        close_descriptors(descriptors);
                        Received::Nothing
                    }
                    (false, true) => Received::Input,
                    (false, false) => Received::InputAndDescriptors(descriptors),
                }
            }
            Ok(Transferred::WouldBlock) => {
                self.on_socket_drained();
                event_loop.clear_ready(self.id, (INPUT & !Readiness::ERROR) | Readiness::PRIORITY);
                if ready.is_error() {
                    self.check_error(event_loop);
                }
                Received::Nothing
            }
            Err(error) => {
                self.record_left_unread(&error);
                self.close(event_loop, CloseReason::Error(error));
                Received::Nothing
            }
        }
    }

    /// What the handler has left of earlier input, to be offered to it now.
    pub(in crate::net) fn take_unread(&self) -> Option<Box<Buffer>> {
        self.resume_pending.set(false);
        self.unread.take()
    }

    /// How much that is.
    pub(super) fn unread_len(&self) -> usize {
        let unread = self.unread.take();
        let len = unread.as_ref().map_or(0, |unread| unread.len());
        self.unread.set(unread);
        len
    }

    /// How much memory that takes.
    fn unread_memory(&self) -> usize {
        let unread = self.unread.take();
        let memory = unread.as_ref().map_or(0, |unread| unread.capacity());
        self.unread.set(unread);
        memory
    }

    /// Keeps what the handler has left of its input, which is not nothing, within the limit.
    pub(in crate::net) fn keep_unread(&self, event_loop: &EventLoop, unread: Box<Buffer>) {
        // The handler may have ended its input just now.
        if self.discarding.get() {
            return;
        }
        if unread.len() > self.membership.group().limits.max_unread {
            let message = "the handler leaves more input unread than the limit allows";
            self.close(event_loop, CloseReason::Error(io::Error::new(io::ErrorKind::StorageFull, message)));
        }
        if is_spacious(&unread) && !self.unread_is_spacious.replace(true) {
            event_loop.request_trim(self.id);
        }
        self.unread.set(Some(unread));
        self.report_memory();
        if self.resume_pending.replace(false) {
            self.redeliver_unread(event_loop);
            self.update_wanted(event_loop);
        }
    }

    /// Moves what the handler has left to storage of its size, if it is in much larger storage and the connection has been idle since
    /// the last call. Returns whether it has not been, so that a stream of large messages keeps its storage.
    pub(in crate::net) fn trim_unread(&self) -> bool {
        if self.unread_is_spacious.replace(false) {
            return true;
        }
        if let Some(mut unread) = self.unread.take() {
            if is_spacious(&unread) {
                let mut small = Buffer::new();
                small.append(unread.readable());
                *unread = small;
            }
            self.unread.set(Some(unread));
            self.report_memory();
        }
        false
    }

    /// Counts how much memory the connection takes, if that has changed since. Not called for a message that is answered at once, of
    /// which nothing stays.
    pub(in crate::net) fn report_memory(&self) {
        let now = self.unsent.borrow().as_ref().map_or(0, |queue| queue.memory()) + self.unread_memory();
        let before = self.reported_memory.replace(now);
        if now > before {
            self.membership.account().add(now - before);
        } else if now < before {
            self.membership.account().subtract(before - now);
        }
    }

    /// Notes that `bytes` of what the connection held have left it.
    pub(in crate::net) fn note_moved(&self, bytes: usize) {
        if let Some(account) = self.membership.opened_account().filter(|_| bytes > 0) {
            account.note_moved(bytes);
        }
    }

    /// The connections of the process, or of the group, hold more than they may together, and this one holds most and progresses
    /// least.
    pub(super) fn close_for_memory(&self, event_loop: &EventLoop) {
        if self.state.get() != ConnectionState::Closed {
            self.membership.group().admission.count_closed_for_memory();
            self.reset(event_loop, CloseReason::MemoryLimit);
        }
    }

    pub(super) fn pause_reading(&self, event_loop: &EventLoop) {
        // Nobody is told of input that is thrown away, and its end is to be seen.
        if self.discarding.get() {
            return;
        }
        self.paused.set(true);
        self.update_wanted(event_loop);
    }

    pub(super) fn resume_reading(&self, event_loop: &EventLoop) {
        if !self.paused.replace(false) {
            return;
        }
        self.redeliver_unread(event_loop);
        self.update_wanted(event_loop);
        // The close that an error leads to had to wait for this.
        if self.has_error() {
            event_loop.add_ready(self.id, Readiness::READABLE | Readiness::ERROR);
        }
    }

    /// As [`resume_reading`](ConnectionCore::resume_reading), for another thread. That may ask while the handler that has paused is still at its
    /// message, as sending reads the mailbox, and then it is as if it had asked afterwards: what the handler leaves is offered again.
    pub(super) fn resume_reading_remotely(&self, event_loop: &EventLoop) {
        if self.paused.get() {
            self.resume_pending.set(true);
        }
        self.resume_reading(event_loop);
    }

    /// Has what the handler has left of its input offered to it again, before anything new is read.
    pub(super) fn redeliver_unread(&self, event_loop: &EventLoop) {
        let unread = self.unread.take();
        if unread.is_some() {
            self.unread.set(unread);
            // No edge will come for bytes that are here already, so the connection counts as readable.
            self.redeliver.set(true);
            event_loop.add_ready(self.id, Readiness::READABLE);
        }
    }
}
