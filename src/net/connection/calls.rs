//! Calls of a connection's handler from outside its callbacks: by a handle, or by a timer of the
//! connection.
//!
//! A call runs at once if no callback of the connection is running, and otherwise after it. Then it
//! waits in the mailbox, and the later requests of handles wait behind it. A call that was accepted
//! always runs: if the connection closes first, right before `on_close`.

use std::any::{Any, TypeId};
use std::collections::VecDeque;
use std::io;
use std::mem;

use super::{ConnectionCore, ConnectionState, TcpConnection};
use crate::event_loop::EventLoop;
use crate::event_loop::containment::Contained;
use crate::net::result::IntoHandlerResult;

type Run = dyn FnOnce(&mut dyn Any, &TcpConnection<'_>) -> io::Result<()>;
type SendRun = dyn FnOnce(&mut dyn Any, &TcpConnection<'_>) -> io::Result<()> + Send;

/// A closure that gets the handler of a type. It takes four machine words, so a timer that owns a
/// call and the connection's id needs no allocation of its own.
pub(in crate::net) struct Call {
    /// Returns the type of handler that `run` expects.
    wanted: fn() -> TypeId,
    run: Contained<Box<Run>>,
}

/// A call that another thread has made.
pub(super) struct SendCall {
    wanted: fn() -> TypeId,
    run: Contained<Box<SendRun>>,
}

impl Call {
    pub(in crate::net) fn new<H, R>(call: impl FnOnce(&mut H, &TcpConnection<'_>) -> R + 'static) -> Call
    where
        H: 'static,
        R: IntoHandlerResult,
    {
        let run = Box::new(|handler: &mut dyn Any, conn: &TcpConnection<'_>| {
            call(expect_handler(handler), conn).into_result()
        });
        Call { wanted: TypeId::of::<H>, run: Contained::new(run) }
    }

    pub(super) fn wanted(&self) -> TypeId {
        (self.wanted)()
    }

    /// Runs the call with a handler of the wanted type.
    pub(super) fn run(self, handler: &mut dyn Any, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.run.into_inner()(handler, conn)
    }
}

impl SendCall {
    pub(super) fn new<H, R>(call: impl FnOnce(&mut H, &TcpConnection<'_>) -> R + Send + 'static) -> SendCall
    where
        H: 'static,
        R: IntoHandlerResult,
    {
        let run = Box::new(|handler: &mut dyn Any, conn: &TcpConnection<'_>| {
            call(expect_handler(handler), conn).into_result()
        });
        SendCall { wanted: TypeId::of::<H>, run: Contained::new(run) }
    }
}

impl From<SendCall> for Call {
    fn from(SendCall { wanted, run }: SendCall) -> Call {
        Call { wanted, run: Contained::new(run.into_inner() as Box<Run>) }
    }
}

fn expect_handler<H: 'static>(handler: &mut dyn Any) -> &mut H {
    handler.downcast_mut().expect("the type was checked when the call was accepted")
}

/// A call that waits in the mailbox, among the other requests of handles.
pub(super) enum WaitingCall {
    Remote(SendCall),
    /// The next of the calls that the connection keeps, since they need not be `Send`.
    Local,
    /// It is running. It keeps its place until it returns.
    Running,
}

/// The calls of the connection's own thread that wait.
#[derive(Default)]
pub(super) struct WaitingCalls {
    /// Those with a place in the mailbox. After the close, all that have not run.
    calls: VecDeque<Call>,
    /// A task that runs the waiting calls is queued.
    is_task_queued: bool,
}

impl ConnectionCore {
    /// Adds a call behind all requests of handles.
    pub(super) fn add_call(&self, call: Call) {
        self.change_calls(|waiting| waiting.calls.push_back(call));
        if self.state() != ConnectionState::Closed {
            self.mailbox().push_local_call();
        }
    }

    /// The connection has closed: all calls that are left, in order, are kept until `on_close`.
    pub(super) fn keep_undone_calls(&self, undone: Vec<WaitingCall>) {
        self.change_calls(|waiting| {
            for call in undone {
                match call {
                    WaitingCall::Remote(call) => waiting.calls.push_back(Call::from(call)),
                    // Behind the remote calls before it.
                    WaitingCall::Local => {
                        let call = waiting.calls.pop_front();
                        waiting.calls.extend(call);
                    }
                    WaitingCall::Running => {}
                }
            }
        });
    }

    pub(super) fn next_kept_call(&self) -> Option<Call> {
        let mut call = None;
        self.change_calls(|waiting| call = waiting.calls.pop_front());
        call
    }

    /// The number of waiting calls.
    pub(super) fn waiting_calls(&self) -> usize {
        self.mailbox.get().map_or(0, |mailbox| mailbox.calls())
    }

    /// Queues a task that runs the waiting calls, if there are any. The task finds no callback
    /// running.
    pub(super) fn run_calls_later(&self, event_loop: &EventLoop) {
        if self.waiting_calls() == 0 {
            return;
        }
        let mut was_queued = false;
        self.change_calls(|waiting| was_queued = mem::replace(&mut waiting.is_task_queued, true));
        if !was_queued {
            let id = self.id;
            event_loop.queue_internal(move |event_loop| _ = event_loop.call_source(id, &mut None::<Call>));
        }
    }

    /// Called when the calls are run. The task that
    /// [`run_calls_later`](ConnectionCore::run_calls_later) has queued may be the caller.
    pub(super) fn on_calls_task(&self) {
        if let Some(mut waiting) = self.waiting_calls.take() {
            waiting.is_task_queued = false;
            self.waiting_calls.set(Some(waiting));
        }
    }

    fn change_calls(&self, change: impl FnOnce(&mut WaitingCalls)) {
        let mut waiting = self.waiting_calls.take().unwrap_or_default();
        change(&mut waiting);
        self.waiting_calls.set(Some(waiting).filter(|waiting| !waiting.is_empty()));
    }
}

impl WaitingCalls {
    fn is_empty(&self) -> bool {
        self.calls.is_empty() && !self.is_task_queued
    }
}
