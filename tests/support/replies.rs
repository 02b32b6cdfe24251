//! For the tests of reserved replies: connections that do nothing by themselves.

use std::cell::RefCell;
use std::net::TcpStream;
use std::rc::Rc;

use reveille::net::{ReplySlot, TcpServerBuilder};
use reveille::{EventLoop, EventLoopBuilder, TcpConnection};

use super::actor::{Actor, Actors};
use super::bench::Bench;
use super::net;

/// A bench of actors that do nothing.
pub(crate) fn quiet(
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a>,
) -> (Bench, Actors) {
    quiet_on(EventLoop::builder().propagate_panics(), settings)
}

pub(crate) fn quiet_on(
    builder: EventLoopBuilder,
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a>,
) -> (Bench, Actors) {
    let actors = Actors::new();
    let cast = actors.clone();
    (Bench::new(builder, settings, move |_| cast.actor(|_, _| Ok(()))), actors)
}

/// Runs `call` with the first connection, and returns its result.
pub(crate) fn with_first<R: 'static>(
    bench: &Bench,
    call: impl FnOnce(&TcpConnection<'_>) -> R + 'static,
) -> R {
    let result = Rc::new(RefCell::new(None));
    let slot = Rc::clone(&result);
    let call = move |_: &mut Actor, conn: &TcpConnection<'_>| *slot.borrow_mut() = Some(call(conn));
    bench.handle(0).with_local(&bench.event_loop, call).unwrap();
    result.take().expect("the call has run")
}

pub(crate) fn reserve(bench: &Bench) -> ReplySlot {
    with_first(bench, |conn| conn.reserve_reply().unwrap())
}

pub(crate) fn send(bench: &Bench, text: &'static str) {
    with_first(bench, move |conn| conn.send(text).unwrap());
}

pub(crate) fn fill(slot: ReplySlot, text: &str) {
    slot.fill(text).unwrap();
}

#[track_caller]
pub(crate) fn assert_silent(bench: &Bench, client: &TcpStream) {
    bench.settle();
    let flags = net::poll_flags(client);
    assert!(flags.is_empty(), "{flags:?}");
}
