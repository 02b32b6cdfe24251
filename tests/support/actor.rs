//! A handler that records the names of all its callbacks, and calls one closure for each of them.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use reveille::net::{CloseReason, WithError};
use reveille::time::VirtualClock;
use reveille::{Buffer, ConnectionHandle, ConnectionHandler, EventLoop, EventLoopBuilder, TcpConnection};

use super::Recorder;
use super::bench::{Bench, defaults};
use super::clock::SECOND;
use super::net::{End, reason};

type Act = dyn FnMut(&'static str, &TcpConnection<'_>) -> io::Result<()>;

/// Consumes all input. The closure gets the name of the callback.
pub(crate) struct Actor {
    pub(crate) calls: Recorder,
    act: Box<Act>,
    end: Rc<RefCell<Option<End>>>,
}

/// The calls of the actors of a test, and the end of the last one that has closed.
#[derive(Clone)]
pub(crate) struct Actors {
    pub(crate) calls: Recorder,
    pub(crate) end: Rc<RefCell<Option<End>>>,
}

impl Actors {
    pub(crate) fn new() -> Actors {
        Actors { calls: Recorder::new(), end: Rc::default() }
    }

    pub(crate) fn actor(
        &self,
        act: impl FnMut(&'static str, &TcpConnection<'_>) -> io::Result<()> + 'static,
    ) -> Actor {
        Actor { calls: self.calls.clone(), act: Box::new(act), end: Rc::clone(&self.end) }
    }

    /// The end of a connection, once it has closed.
    pub(crate) fn end(&self) -> Option<End> {
        self.end.borrow().clone()
    }
}

impl Actor {
    pub(crate) fn call(&mut self, name: &'static str, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.calls.record(name);
        (self.act)(name, conn)
    }
}

impl ConnectionHandler for Actor {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.call("open", conn)
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        self.call("message", conn)
    }

    fn on_drained(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.call("drained", conn)
    }

    fn on_high_water(&mut self, conn: &TcpConnection<'_>, _: usize) -> io::Result<()> {
        self.call("high water", conn)
    }

    fn on_low_water(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.call("low water", conn)
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.call("peer shutdown", conn)
    }

    fn on_idle(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.call("idle", conn)
    }

    fn on_deadline(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.call("deadline", conn)
    }

    fn on_stop(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.call("stop", conn)
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        *self.end.borrow_mut() = Some(reason.into());
        self.call("close", conn).expect("no error");
    }
}

/// A bench of actors that call `act`.
pub(crate) fn actors_that(
    act: impl FnMut(&'static str, &TcpConnection<'_>) + Clone + 'static,
) -> (Bench, Actors) {
    actors_on(EventLoop::builder().propagate_panics(), act)
}

/// Same as [`actors_that`], on a loop of the builder.
pub(crate) fn actors_on(
    builder: EventLoopBuilder,
    act: impl FnMut(&'static str, &TcpConnection<'_>) + Clone + 'static,
) -> (Bench, Actors) {
    let actors = Actors::new();
    let cast = actors.clone();
    let bench = Bench::new(builder, defaults, move |_| {
        let mut act = act.clone();
        cast.actor(move |name, conn| {
            act(name, conn);
            Ok(())
        })
    });
    (bench, actors)
}

/// Calls the actor of a connection through its handle.
pub(crate) fn record(handle: &ConnectionHandle, name: &'static str) -> Result<(), WithError> {
    reason(handle.with(move |actor: &mut Actor, conn| actor.call(name, conn)))
}

type Open = dyn FnMut(&TcpConnection<'_>);

/// A bench of actors that call `open` when they open.
pub(crate) fn opening(
    builder: EventLoopBuilder,
    open: impl FnMut(&TcpConnection<'_>) + 'static,
) -> (Bench, Actors) {
    let actors = Actors::new();
    let (cast, open) = (actors.clone(), Rc::new(RefCell::new(Box::new(open) as Box<Open>)));
    let bench = Bench::new(builder, defaults, move |_| {
        let open = Rc::clone(&open);
        cast.actor(move |name, conn| {
            if name == "open" {
                (open.borrow_mut())(conn);
            }
            Ok(())
        })
    });
    (bench, actors)
}

/// Advances the clock second by second, and returns what was called in each.
pub(crate) fn seconds(
    bench: &Bench,
    clock: &VirtualClock,
    actors: &Actors,
    n: usize,
) -> Vec<Vec<&'static str>> {
    let second = || {
        clock.advance(SECOND);
        bench.settle();
        actors.calls.take()
    };
    (0..n).map(|_| second()).collect()
}
