//! The content of a mailbox: requests in order, with the places of waiting calls.

use std::collections::VecDeque;
use std::mem;

use super::Request;
use crate::net::connection::calls::WaitingCall;
use crate::net::connection::payload::Bytes;
use crate::net::group::budget::Account;
use crate::net::result::SendError;

/// The maximum size of a block that payloads are appended to.
const BLOCK: usize = 64 * 1024;

/// The size of a block when the second payload is appended.
const FIRST: usize = 4 * 1024;

/// A request in the mailbox.
pub(super) struct Queued {
    pub(super) request: Request,
    /// The memory that it was counted with.
    memory: usize,
}

impl Queued {
    pub(super) fn is_call(&self) -> bool {
        matches!(self.request, Request::Call(_))
    }

    pub(super) fn is_running_call(&self) -> bool {
        matches!(self.request, Request::Call(WaitingCall::Running))
    }

    pub(super) fn bytes(&self) -> usize {
        self.request.size().map_or(0, |(bytes, _)| bytes)
    }
}

/// What is in a mailbox, under its lock.
pub(super) struct Content {
    pub(super) requests: VecDeque<Queued>,
    /// The number of calls among the requests.
    pub(super) calls: usize,
    /// The number of bytes that the requests are to send.
    pub(super) bytes: usize,
    /// The number of bytes in the connection's queue, as last published by it. While it drains the
    /// mailbox, the drained bytes count here.
    pub(super) queued: usize,
    pub(super) accepts: Accepts,
    /// The number of [`KeepOpen`](crate::net::KeepOpen) values.
    pub(super) work: usize,
    /// The connection shuts down when no work is left.
    pub(super) is_work_awaited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepts {
    All,
    /// The output has ended, or is about to: no more sends, for this reason.
    NoSends(SendError),
    Nothing,
}

impl Content {
    pub(super) fn unsent(&self) -> usize {
        self.bytes.saturating_add(self.queued)
    }

    /// # Errors
    /// Why the request is refused, if it is.
    pub(super) fn check(&mut self, request: &Request) -> Result<(), SendError> {
        match (request, self.accepts) {
            (_, Accepts::Nothing) => Err(SendError::Closed),
            (Request::Send(_), Accepts::NoSends(reason)) => Err(reason),
            // The place of a reply was reserved before the shutdown.
            (Request::Reply(..), Accepts::NoSends(SendError::Closed)) => Err(SendError::Closed),
            (Request::Shutdown | Request::CloseGracefully(_), Accepts::All) => {
                self.accepts = Accepts::NoSends(SendError::ShutDown);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn take_up_to_call(&mut self, account: &Account) -> VecDeque<Queued> {
        if self.calls == 0 {
            let all = mem::take(&mut self.requests);
            return self.taken(account, all);
        }
        let end = self.requests.iter().position(Queued::is_call).unwrap_or(self.requests.len());
        let taken = self.requests.drain(..end).collect();
        self.taken(account, taken)
    }

    pub(super) fn take_output_up_to_call(&mut self, account: &Account) -> VecDeque<Queued> {
        let end = self.requests.iter().position(Queued::is_call).unwrap_or(self.requests.len());
        let mut later = self.requests.split_off(end);
        let (output, mut others): (VecDeque<_>, VecDeque<_>) =
            mem::take(&mut self.requests).into_iter().partition(|queued| queued.request.size().is_some());
        others.append(&mut later);
        self.requests = others;
        self.taken(account, output)
    }

    pub(super) fn take_all_but_calls(&mut self, account: &Account) -> VecDeque<Queued> {
        let (calls, others) = mem::take(&mut self.requests).into_iter().partition(Queued::is_call);
        self.requests = calls;
        self.taken(account, others)
    }

    /// Accounts for requests that are taken; their bytes now count as queued.
    pub(super) fn taken(&mut self, account: &Account, requests: VecDeque<Queued>) -> VecDeque<Queued> {
        let bytes: usize = requests.iter().map(Queued::bytes).sum();
        self.queued = self.queued.saturating_add(bytes);
        self.bytes -= bytes;
        account.subtract(requests.iter().map(|queued| queued.memory).sum());
        requests
    }

    /// Appends a small payload to the previous request, if that is a send with room. Returns by how
    /// much its memory has grown.
    pub(super) fn append(&mut self, payload: &[u8]) -> Option<usize> {
        let Queued { request, memory } = self.requests.back_mut()?;
        let Request::Send(Bytes::Owned(block)) = request else { return None };
        let len = block.len() + payload.len();
        if len > BLOCK {
            return None;
        }
        let before = block.capacity();
        if len > before {
            // Doubles, but at least to a size that holds several payloads.
            block.reserve_exact(len.max(BLOCK.min((2 * before).max(FIRST))) - block.len());
        }
        block.extend_from_slice(payload);
        let growth = block.capacity() - before;
        *memory += growth;
        Some(growth)
    }

    /// Returns whether the request is the only one.
    pub(super) fn add(&mut self, request: Request, memory: usize) -> bool {
        self.requests.push_back(Queued { request, memory });
        self.requests.len() == 1
    }
}
