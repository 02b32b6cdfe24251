//! The mailbox of a connection: what its handles have requested, in order.
//!
//! Requests of other threads queue here. One task on the connection's loop drains all of them. The
//! bytes in the mailbox are bounded, like the output queue that they go to.
//!
//! A call of the handler has its place among the requests: those behind it wait until it has
//! returned. A shutdown is the exception. It sends all accepted bytes before the FIN, also those
//! behind a call.

mod content;

use std::any::TypeId;
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::time::Duration;

use parking_lot::Mutex;

use self::content::{Accepts, Content, Queued};
use super::calls::{Call, SendCall, WaitingCall};
use super::payload::{Bytes, Payload};
use super::{ConnectionCore, ConnectionId, ConnectionState};
use crate::event_loop::{EventLoop, Refused};
use crate::net::group::budget::Account;
use crate::net::result::{CloseReason, SendError};

/// A payload of at most this size is appended to the previous request, if that is a send too. So
/// many small sends take few blocks of memory and few system calls.
const SMALL: usize = 4 * 1024;

/// What a handle requests of the connection.
pub(super) enum Request {
    Send(Bytes),
    /// Fills the reserved reply of this number.
    Reply(u64, Vec<u8>),
    /// A reserved reply will not be filled.
    DropReply,
    Call(WaitingCall),
    /// No work is outstanding any longer.
    WorkEnded,
    Shutdown,
    Close,
    CloseGracefully(Duration),
    Reset,
    ShutdownRead,
    PauseReading,
    ResumeReading,
}

impl Request {
    /// The number of bytes that the request is to send, and the memory that they take.
    fn size(&self) -> Option<(usize, usize)> {
        match self {
            Request::Send(bytes) => Some((bytes.len(), bytes.memory())),
            Request::Reply(_, bytes) => Some((bytes.len(), bytes.capacity())),
            _ => None,
        }
    }
}

/// Which requests are taken from a mailbox.
#[derive(Clone, Copy)]
pub(in crate::net) enum Taken {
    /// Those before the first call.
    UpToCall,
    /// The sends and replies before the first call.
    OutputUpToCall,
    /// All but the calls.
    AllButCalls,
}

/// The requests of all handles of a connection, and the limit on their bytes.
pub(super) struct Mailbox {
    pub(super) id: ConnectionId,
    /// Whether the connection's handler is, or contains, a handler of a type.
    pub(super) has_handler: fn(TypeId) -> bool,
    content: Mutex<Content>,
    /// Whether there are requests; written under the lock. Without any, a send of the connection
    /// takes no lock. A request that was accepted before the send began is seen, as whatever
    /// orders the two also orders these accesses.
    has_requests: AtomicBool,
    max_bytes: usize,
    /// The memory account of the connection; these bytes are counted in it.
    account: Arc<Account>,
}

/// What a mailbox still held when it was closed.
pub(super) struct Undone {
    /// The number of bytes that were to be sent.
    pub(super) bytes: usize,
    pub(super) calls: Vec<WaitingCall>,
}

impl Mailbox {
    /// Adds a request. Returns `true` if the mailbox was empty, so that the loop must be notified.
    pub(super) fn push(&self, request: Request) -> Result<bool, Refused<Request, SendError>> {
        let mut content = self.content.lock();
        if let Err(reason) = content.check(&request) {
            return Err(Refused::new(request, reason));
        }
        let size = request.size();
        if let Some((bytes, memory)) = size {
            // A request without bytes is never refused: otherwise a reply could not be skipped.
            if bytes > self.max_bytes.saturating_sub(content.unsent())
                || (bytes > 0 && self.account.budget().is_exhausted_by(memory))
            {
                return Err(Refused::new(request, SendError::Full));
            }
            content.bytes += bytes;
            self.account.count(memory);
        }
        let is_first = content.add(request, size.map_or(0, |(_, memory)| memory));
        self.has_requests.store(true, Release);
        drop(content);
        self.account.enforce();
        Ok(is_first)
    }

    /// Appends a small send to the previous request. Returns `false` without effect if the previous
    /// request is no send with room, or if the send is to be refused. The loop has been notified
    /// already.
    pub(super) fn append(&self, payload: &[u8]) -> bool {
        if payload.len() > SMALL {
            return false;
        }
        let mut content = self.content.lock();
        if content.accepts != Accepts::All
            || payload.len() > self.max_bytes.saturating_sub(content.unsent())
            || self.account.budget().is_exhausted_by(payload.len())
        {
            return false;
        }
        let Some(growth) = content.append(payload) else { return false };
        content.bytes += payload.len();
        // Most payloads fit the block, and the account is shared.
        if growth > 0 {
            self.account.count(growth);
            drop(content);
            self.account.enforce();
        }
        true
    }

    /// Same as [`push`](Mailbox::push), for a call. Fails only if the connection is closed.
    pub(super) fn push_call<F>(&self, call: F, box_it: fn(F) -> SendCall) -> Result<bool, F> {
        let mut content = self.content.lock();
        match content.accepts {
            Accepts::Nothing => Err(call),
            Accepts::All | Accepts::NoSends(_) => {
                content.calls += 1;
                self.has_requests.store(true, Release);
                Ok(content.add(Request::Call(WaitingCall::Remote(box_it(call))), 0))
            }
        }
    }

    /// Adds the place of a call that the connection keeps.
    pub(super) fn push_local_call(&self) {
        let mut content = self.content.lock();
        content.calls += 1;
        content.add(Request::Call(WaitingCall::Local), 0);
        self.has_requests.store(true, Release);
    }

    /// Moves on to the next call, under one lock: ends the running call, if there is one, takes the
    /// requests before the next call, and begins that, if it `may_begin`. A running call keeps its
    /// place, so that the requests behind it wait.
    fn advance(&self, is_running: bool, may_begin: bool) -> (VecDeque<Queued>, Option<WaitingCall>) {
        let mut content = self.content.lock();
        // A close has removed the running call.
        if is_running && content.requests.front().is_some_and(Queued::is_running_call) {
            content.requests.pop_front();
            content.calls -= 1;
        }
        let taken = content.take_up_to_call(&self.account);
        let next = content.requests.front_mut().filter(|_| may_begin);
        let call = next.and_then(|queued| match &mut queued.request {
            Request::Call(call) => Some(mem::replace(call, WaitingCall::Running)),
            _ => None,
        });
        self.has_requests.store(!content.requests.is_empty(), Release);
        (taken, call)
    }

    /// The number of calls, including a running one.
    pub(super) fn calls(&self) -> usize {
        self.content.lock().calls
    }

    fn take(&self, which: Taken) -> VecDeque<Queued> {
        let mut content = self.content.lock();
        let taken = match which {
            Taken::UpToCall => content.take_up_to_call(&self.account),
            Taken::OutputUpToCall => content.take_output_up_to_call(&self.account),
            Taken::AllButCalls => content.take_all_but_calls(&self.account),
        };
        self.has_requests.store(!content.requests.is_empty(), Release);
        taken
    }

    fn set_queued(&self, queued: usize) {
        self.content.lock().queued = queued;
    }

    pub(super) fn is_open(&self) -> bool {
        self.content.lock().accepts != Accepts::Nothing
    }

    /// The number of bytes in the mailbox.
    pub(super) fn in_transit(&self) -> usize {
        self.content.lock().bytes
    }

    /// The number of bytes in the mailbox, and of those in the connection's queue.
    pub(super) fn unsent(&self) -> usize {
        self.content.lock().unsent()
    }

    pub(super) fn has_room_for(&self, len: usize) -> bool {
        let content = self.content.lock();
        let is_full = len > self.max_bytes.saturating_sub(content.unsent())
            || self.account.budget().is_exhausted_by(len);
        content.accepts != Accepts::All || !is_full
    }

    /// Refuses all later sends with `reason`. Earlier requests stay in the mailbox.
    pub(super) fn refuse_sends(&self, reason: SendError) {
        let mut content = self.content.lock();
        if content.accepts != Accepts::Nothing {
            content.accepts = Accepts::NoSends(reason);
        }
    }

    /// Refuses all later requests, and returns what is left of the earlier ones.
    pub(super) fn close(&self) -> Undone {
        let mut content = self.content.lock();
        content.accepts = Accepts::Nothing;
        let others = content.take_all_but_calls(&self.account);
        content.calls = 0;
        let calls = mem::take(&mut content.requests);
        drop(content);
        let call = |queued: Queued| match queued.request {
            Request::Call(call) => call,
            _ => unreachable!("only calls are left"),
        };
        Undone { bytes: others.iter().map(Queued::bytes).sum(), calls: calls.into_iter().map(call).collect() }
    }

    /// Counts one more outstanding work.
    pub(super) fn begin_work(&self) {
        self.content.lock().work += 1;
    }

    /// Counts one less. Returns `true` if the connection waits for this.
    pub(super) fn end_work(&self) -> bool {
        let mut content = self.content.lock();
        content.work -= 1;
        content.work == 0 && content.is_work_awaited
    }

    /// Returns whether work is outstanding. If so, its end is reported to the connection.
    pub(super) fn await_work(&self) -> bool {
        let mut content = self.content.lock();
        content.is_work_awaited = content.work > 0;
        content.is_work_awaited
    }
}

impl ConnectionCore {
    /// The mailbox, created by the first call.
    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        self.mailbox.get_or_init(|| {
            let accepts = match (self.state.get(), self.check_output()) {
                (ConnectionState::Closed, _) => Accepts::Nothing,
                (ConnectionState::Closing, Err(reason)) => Accepts::NoSends(reason),
                _ => Accepts::All,
            };
            let content = Content {
                requests: VecDeque::new(),
                calls: 0,
                bytes: 0,
                queued: self.unsent_in_memory(),
                accepts,
                work: 0,
                is_work_awaited: false,
            };
            Arc::new(Mailbox {
                id: self.connection_id,
                has_handler: self.has_handler,
                content: Mutex::new(content),
                has_requests: AtomicBool::new(false),
                max_bytes: self.membership.group().limits.max_unsent,
                account: Arc::clone(self.membership.account()),
            })
        })
    }

    /// Runs the requests of handles, except calls of the handler, since this may run inside one of
    /// its callbacks.
    #[inline]
    pub(in crate::net) fn read_mailbox(&self, event_loop: &EventLoop, which: Taken) {
        if let Some(mailbox) = self.mailbox.get().filter(|mailbox| mailbox.has_requests.load(Acquire)) {
            self.run_requests(event_loop, mailbox.take(which));
        }
    }

    /// Ends the running call, if there is one, runs the requests up to the next call, and returns
    /// that, if it may begin.
    pub(super) fn advance(&self, event_loop: &EventLoop, is_running: bool, may_begin: bool) -> Option<Call> {
        let (requests, call) = self.mailbox.get()?.advance(is_running, may_begin);
        self.run_requests(event_loop, requests);
        match call? {
            WaitingCall::Remote(call) => Some(Call::from(call)),
            WaitingCall::Local => self.next_kept_call(),
            WaitingCall::Running => None,
        }
    }

    fn run_requests(&self, event_loop: &EventLoop, requests: VecDeque<Queued>) {
        if requests.is_empty() {
            return;
        }
        // The bytes of these requests count as queued until all of them have run. Otherwise another
        // thread could use their room, and one of them would be refused after it was accepted.
        let was_draining = self.is_draining_mailbox.replace(true);
        // Bytes sent through a handle are unsolicited, even if the mailbox is drained by a send of
        // the handler while it is given input. So they are not collected together with its replies.
        self.send_collected(event_loop);
        let replying = self.replying.replace(false);
        self.collecting(event_loop, || {
            requests.into_iter().for_each(|queued| self.run_request(event_loop, queued.request))
        });
        // Still collected if a callback is running.
        self.send_collected(event_loop);
        self.send_released_replies(event_loop);
        self.replying.set(replying);
        self.is_draining_mailbox.set(was_draining);
        self.publish_queued();
    }

    fn run_request(&self, event_loop: &EventLoop, request: Request) {
        match request {
            Request::Shutdown => self.shutdown(event_loop),
            Request::Close => self.close(event_loop, CloseReason::Closed),
            Request::CloseGracefully(within) => self.close_gracefully(event_loop, within),
            Request::Reset => self.reset_by_user(event_loop),
            Request::ShutdownRead => self.shutdown_read(event_loop),
            Request::PauseReading => self.pause_reading(event_loop),
            Request::ResumeReading => self.resume_reading_remotely(event_loop),
            Request::WorkEnded => self.shut_down_if_due(event_loop),
            Request::Call(_) => unreachable!("calls are not taken"),
            Request::Reply(number, bytes) => self.fill_reply(number, bytes),
            Request::DropReply => self.drop_reply(event_loop),
            Request::Send(bytes) => {
                if let Err(refused) = self.send(event_loop, bytes) {
                    let reason = refused.reason();
                    self.end_stream(event_loop, refused.into_inner().len(), reason);
                }
            }
        }
    }

    /// `lost` bytes were accepted and cannot be sent, so they cannot be left out of the stream. The
    /// stream ends here, and they count as unsent.
    pub(super) fn end_stream(&self, event_loop: &EventLoop, lost: usize, reason: SendError) {
        self.count_lost(lost);
        if !self.has_output_failed() {
            self.close(event_loop, CloseReason::Error(reason.into()));
        }
    }

    /// Publishes how many bytes are queued, so that other threads stay within the limit.
    pub(super) fn publish_queued(&self) {
        if let Some(mailbox) = self.mailbox.get().filter(|_| !self.is_draining_mailbox.get()) {
            mailbox.set_queued(self.unsent_in_memory());
        }
    }
}
