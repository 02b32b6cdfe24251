//! Descriptors that are sent along with bytes, on Unix sockets.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::Core;
use super::output::Payload;
use super::queue::Queue;
use crate::event_loop::EventLoop;
use crate::net::descriptors::{self, send_with_descriptors};
use crate::net::outcome::{SendError, Sent};
use crate::net::socket::Transferred;

/// How many descriptors a connection keeps until its peer reads. Bytes have their own limit.
const MOST_QUEUED: usize = 1000;

/// Bytes and descriptors, of which neither are none.
pub(super) struct Along {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Along {
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for what cannot be sent in one message.
    pub(super) fn new(bytes: Vec<u8>, descriptors: Vec<OwnedFd>) -> io::Result<Along> {
        let problem = if bytes.is_empty() {
            "descriptors travel with bytes, of which there are none"
        } else if descriptors.is_empty() {
            "there are no descriptors to send"
        } else if descriptors.len() > usize::from(descriptors::MOST) {
            "more than 253 descriptors do not go into one message"
        } else {
            return Ok(Along { bytes, descriptors });
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
    }
}

impl Payload for Along {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn write(&self, socket: BorrowedFd<'_>) -> io::Result<Transferred> {
        send_with_descriptors(socket, &self.bytes, &self.descriptors)
    }

    fn queue(self, queue: &mut Queue, sent: usize) {
        // With the first byte the descriptors have gone.
        match sent {
            0 => queue.push_along(self.bytes, self.descriptors),
            _ => queue.push_owned(self.bytes, sent),
        }
    }
}

impl Core {
    pub(super) fn send_along(&self, event_loop: &EventLoop, along: Along) -> io::Result<Sent> {
        self.check_unix()?;
        let queued = self.unsent.borrow().as_ref().map_or(0, |queue| queue.descriptors());
        if queued + along.descriptors.len() > MOST_QUEUED {
            return Err(SendError::Full.into());
        }
        self.send(event_loop, along).map_err(|(error, _)| error.into())
    }

    pub(super) fn accept_descriptors(&self, most: usize) -> io::Result<()> {
        self.check_unix()?;
        self.most_descriptors.set(u8::try_from(most).unwrap_or(u8::MAX).min(descriptors::MOST));
        Ok(())
    }

    fn check_unix(&self) -> io::Result<()> {
        if self.peer().is_unix() {
            return Ok(());
        }
        let message = "descriptors go from process to process through Unix sockets only";
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }
}
