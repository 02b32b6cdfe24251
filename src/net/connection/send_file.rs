//! Sends parts of files in order with other output.

use std::os::fd::OwnedFd;

use super::{ConnectionCore, ConnectionState};
use crate::event_loop::EventLoop;
use crate::net::result::{CloseReason, SendError, SendStatus};
use crate::net::sys::stream;

impl ConnectionCore {
    /// Sends a part of a file after the queue.
    pub(super) fn send_file(
        &self,
        event_loop: &EventLoop,
        file: OwnedFd,
        offset: u64,
        length: u64,
    ) -> Result<SendStatus, SendError> {
        self.send_collected(event_loop);
        if self.state.get() != ConnectionState::Open {
            return Err(SendError::Closed);
        }
        if length == 0 {
            return Ok(if self.unsent.borrow().is_none() { SendStatus::Written } else { SendStatus::Queued });
        }
        let mut unsent = self.unsent.borrow_mut();
        let is_first = unsent.is_none();
        if unsent.as_ref().is_some_and(|queue| !queue.can_queue_file()) {
            return Err(SendError::Full);
        }
        let queue = unsent.get_or_insert_default();
        queue.push_file(file, offset, length);
        self.count_reply(queue, usize::try_from(length).unwrap_or(usize::MAX));
        drop(unsent);
        let wrote = if is_first { self.write_queue(event_loop) } else { Ok(()) };
        if let Err(error) = wrote {
            self.pop_last_file();
            // A part may have been sent, so the peer expects the remainder.
            if !stream::is_disconnected(&self.fd, &error) {
                self.reset_when_closed();
            }
            self.fail_output(event_loop, error);
            return Err(SendError::Closed);
        }
        let mut unsent = self.unsent.borrow_mut();
        let Some(queue) = unsent.as_mut() else { return Ok(SendStatus::Written) };
        let available = self.membership.group().limits.max_unsent.saturating_sub(queue.in_memory());
        let kept = queue.read_small_file(available);
        drop(unsent);
        if let Err(error) = kept {
            self.close(event_loop, CloseReason::Error(error));
            self.pop_last_file();
            return Err(SendError::Closed);
        }
        self.on_queue_grown(event_loop);
        Ok(SendStatus::Queued)
    }

    /// A file whose send ended the output was not accepted, so its remainder does not count as
    /// unsent.
    fn pop_last_file(&self) {
        let mut unsent = self.unsent.borrow_mut();
        if let Some(queue) = unsent.as_mut() {
            queue.pop_last_file();
            if queue.is_empty() {
                *unsent = None;
            }
        }
    }
}
