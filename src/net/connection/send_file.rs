//! Sends parts of files in order with other output.

use std::os::fd::OwnedFd;

use super::ConnectionCore;
use crate::event_loop::{EventLoop, Refused};
use crate::net::result::{CloseReason, SendError};

impl ConnectionCore {
    /// Sends a part of a file after the queue.
    pub(super) fn send_file(
        &self,
        event_loop: &EventLoop,
        file: OwnedFd,
        offset: u64,
        length: u64,
    ) -> Result<(), Refused<OwnedFd, SendError>> {
        self.send_collected(event_loop);
        if let Err(reason) = self.check_output() {
            return Err(Refused::new(file, reason));
        }
        if length == 0 {
            return Ok(());
        }
        let mut unsent = self.unsent.borrow_mut();
        let is_first = unsent.is_none();
        if unsent.as_ref().is_some_and(|queue| !queue.can_queue_file()) {
            return Err(Refused::new(file, SendError::Full));
        }
        let queue = unsent.get_or_insert_default();
        queue.push_file(file, offset, length);
        self.count_reply(queue, usize::try_from(length).unwrap_or(usize::MAX));
        drop(unsent);
        let wrote = if is_first { self.write_queue(event_loop) } else { Ok(()) };
        if let Err(error) = wrote {
            let file = self.pop_last_file();
            // A part may have been sent, so the peer expects the remainder.
            if !self.transport.is_disconnected(&error) {
                self.reset_when_closed();
            }
            self.fail_output(event_loop, error);
            return refused(file);
        }
        let mut unsent = self.unsent.borrow_mut();
        let Some(queue) = unsent.as_mut() else { return Ok(()) };
        let available = self.membership.group().limits.max_unsent.saturating_sub(queue.in_memory());
        let kept = queue.read_small_file(available);
        drop(unsent);
        if let Err(error) = kept {
            self.close(event_loop, CloseReason::Error(error));
            return refused(self.pop_last_file());
        }
        self.on_queue_grown(event_loop);
        Ok(())
    }

    /// A file whose send ended the output was not accepted, so its remainder does not count as
    /// unsent.
    fn pop_last_file(&self) -> Option<OwnedFd> {
        let mut unsent = self.unsent.borrow_mut();
        let queue = unsent.as_mut()?;
        let file = queue.pop_last_file();
        if queue.is_empty() {
            *unsent = None;
        }
        file
    }
}

/// The result for a file whose send ended the output. A filter may have been given all of the file
/// before it failed. Then the file was accepted, and its bytes count as unsent.
fn refused(file: Option<OwnedFd>) -> Result<(), Refused<OwnedFd, SendError>> {
    file.map_or(Ok(()), |file| Err(Refused::new(file, SendError::Closed)))
}
