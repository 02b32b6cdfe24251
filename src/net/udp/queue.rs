//! Datagrams that wait until the kernel takes them: in order, whole, and not without bound.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use super::destination::UdpSource;
use crate::event_loop::trimming::slack::release_if_empty;

/// A datagram on its way out. It goes to the peer of a connected socket if no other destination is given.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Datagram {
    pub(super) to: Option<SocketAddr>,
    /// Where it is to come from, if the kernel is not to choose. Only with a destination.
    pub(super) source: Option<UdpSource>,
    pub(super) bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) datagrams: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Datagram>,
    bytes: usize,
    limits: Limits,
}

impl Queue {
    pub(super) fn new(limits: Limits) -> Queue {
        Queue { waiting: VecDeque::new(), bytes: 0, limits }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a datagram of so many bytes may still wait here.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.waiting.len() < self.limits.datagrams && bytes <= self.limits.bytes.saturating_sub(self.bytes)
    }

    /// Adds a datagram behind the others. Whether there is room is the caller's to ask.
    pub(super) fn push(&mut self, datagram: Datagram) {
        self.bytes += datagram.bytes.len();
        self.waiting.push_back(datagram);
    }

    /// The datagram that has waited the longest.
    pub(super) fn pop(&mut self) -> Option<Datagram> {
        let datagram = self.waiting.pop_front()?;
        self.bytes -= datagram.bytes.len();
        release_if_empty(&mut self.waiting);
        Some(datagram)
    }

    /// Offers datagrams to `send`, some at a time and `most` in all, until it takes no more. It answers how many it has taken,
    /// from the first; an error is that of the first, which goes to `refused`, so that it does not stand in the way of those
    /// behind it. Answers whether `send` still took what it was offered.
    pub(super) fn flush(
        &mut self,
        most: usize,
        mut send: impl FnMut(&[Datagram]) -> io::Result<usize>,
        mut refused: impl FnMut(Datagram, io::Error),
    ) -> bool {
        let mut left = most;
        while left > 0 && !self.waiting.is_empty() {
            let (batch, _) = self.waiting.as_slices();
            let batch = &batch[..batch.len().min(left)];
            match send(batch) {
                Ok(0) => return false,
                Ok(taken) => {
                    left -= taken;
                    for _ in 0..taken {
                        self.pop();
                    }
                }
                Err(error) => {
                    left -= 1;
                    if let Some(first) = self.pop() {
                        refused(first, error);
                    }
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
