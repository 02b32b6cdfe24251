//! Calls of a connection's handler from outside its callbacks: by a handle, or by a timer of the
//! connection.
//!
//! A call runs at once if no callback of the connection is running, and otherwise after it. A call
//! that was accepted always runs: if the connection closes first, right before `on_close`.

use std::any::{Any, TypeId};
use std::collections::VecDeque;
use std::io;

use super::{ConnectionCore, TcpConnection};
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

/// The calls that wait until no callback of the connection is running.
#[derive(Default)]
pub(super) struct WaitingCalls {
    calls: VecDeque<Call>,
    /// A task that runs them is queued.
    is_task_queued: bool,
}

impl ConnectionCore {
    pub(super) fn add_call(&self, call: Call) {
        let mut waiting = self.waiting_calls.take().unwrap_or_default();
        waiting.calls.push_back(call);
        self.waiting_calls.set(Some(waiting));
    }

    pub(super) fn next_call(&self) -> Option<Call> {
        let mut waiting = self.waiting_calls.take()?;
        let call = waiting.calls.pop_front();
        self.waiting_calls.set(Some(waiting).filter(|waiting| !waiting.calls.is_empty()));
        call
    }

    /// The number of waiting calls.
    pub(super) fn waiting_calls(&self) -> usize {
        let waiting = self.waiting_calls.take();
        let len = waiting.as_ref().map_or(0, |waiting| waiting.calls.len());
        self.waiting_calls.set(waiting);
        len
    }

    /// Queues a task that runs the waiting calls, if there are any. The task finds no callback
    /// running.
    pub(super) fn run_calls_later(&self, event_loop: &EventLoop) {
        let Some(mut waiting) = self.waiting_calls.take() else { return };
        if !waiting.is_task_queued {
            waiting.is_task_queued = true;
            let id = self.id;
            event_loop.queue_internal(move |event_loop| _ = event_loop.call_source(id, &mut None::<Call>));
        }
        self.waiting_calls.set(Some(waiting));
    }

    /// Called when the calls are run. The task that
    /// [`run_calls_later`](ConnectionCore::run_calls_later) has queued may be the caller.
    pub(super) fn on_calls_task(&self) {
        if let Some(mut waiting) = self.waiting_calls.take() {
            waiting.is_task_queued = false;
            self.waiting_calls.set(Some(waiting));
        }
    }
}
