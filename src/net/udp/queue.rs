//! The bounded FIFO queue of datagrams that the kernel has not accepted yet.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use super::destination::UdpSource;
use crate::event_loop::trimming::slack::release_if_empty;

/// A datagram to be sent. Without a destination it goes to the peer of a connected socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Datagram {
    pub(super) to: Option<SocketAddr>,
    /// The source address; `None` if the kernel chooses it. Only with a destination.
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

    /// Returns `true` if a datagram of `bytes` bytes fits within the limits.
    pub(super) fn fits(&self, bytes: usize) -> bool {
        self.waiting.len() < self.limits.datagrams && bytes <= self.limits.bytes.saturating_sub(self.bytes)
    }

    /// Appends a datagram. The caller checks the limits.
    pub(super) fn push(&mut self, datagram: Datagram) {
        self.bytes += datagram.bytes.len();
        self.waiting.push_back(datagram);
    }

    /// Removes the oldest datagram.
    pub(super) fn pop(&mut self) -> Option<Datagram> {
        let datagram = self.waiting.pop_front()?;
        self.bytes -= datagram.bytes.len();
        release_if_empty(&mut self.waiting);
        Some(datagram)
    }

    /// Passes batches of datagrams to `send`, at max `max` in total, until it would block. `send`
    /// returns how many it has accepted from the front of its batch. Its error is that of the first
    /// datagram, which is passed to `on_refused`, so that it does not block those behind it.
    /// Returns `false` if `send` would block.
    pub(super) fn flush(
        &mut self,
        max: usize,
        mut send: impl FnMut(&[Datagram]) -> io::Result<usize>,
        mut on_refused: impl FnMut(Datagram, io::Error),
    ) -> bool {
        let mut remaining = max;
        while remaining > 0 && !self.waiting.is_empty() {
            let (batch, _) = self.waiting.as_slices();
            let batch = &batch[..batch.len().min(remaining)];
            match send(batch) {
                Ok(0) => return false,
                Ok(taken) => {
                    remaining -= taken;
                    for _ in 0..taken {
                        self.pop();
                    }
                }
                Err(error) => {
                    remaining -= 1;
                    if let Some(first) = self.pop() {
                        on_refused(first, error);
                    }
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
