//! Handles, reserved replies and outstanding work of connections, in forked children. Each test
//! runs in its own process.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::net::Shutdown;
use std::rc::Rc;

use crate::support::actor::{Actor, Actors};
use crate::support::alone::alone;
use crate::support::bench::{Bench, defaults};
use crate::support::forked::{exit_child_and_wait, fork_process, in_child};
use crate::support::net::{self, reason};
use crate::support::on_another_thread;
use reveille::net::{Filter, FilterContext, SendError, WithError};
use reveille::{Buffer, EventLoop, TcpConnection, TcpServer};

fn bench() -> (Bench, Actors) {
    let actors = Actors::new();
    let cast = actors.clone();
    let builder = EventLoop::builder().propagate_panics();
    (Bench::new(builder, defaults, move |_| cast.actor(|_, _| Ok(()))), actors)
}

#[test]
fn a_child_cannot_call_a_handler_of_its_parent() {
    alone(|| {
        let (bench, actors) = bench();
        let _client = bench.connect();
        bench.settle();
        let handle = bench.handle(0);
        in_child(|| {
            let call = |_: &mut Actor, _: &TcpConnection<'_>| panic!("called in the child");
            let call = move |actor: &mut Actor, conn: &TcpConnection<'_>| -> () { call(actor, conn) };
            assert_eq!(reason(handle.with(call)), Err(WithError::Closed));
            assert_eq!(reason(handle.with_local(&bench.event_loop, call)), Err(WithError::Closed));
            assert_eq!(reason(handle.send("x")), Err(SendError::Closed));
            assert_eq!((handle.in_transit(), handle.unsent(), handle.is_open()), (0, 0, false));
        });
        handle.with(|actor: &mut Actor, conn| actor.call("call", conn)).unwrap();
        assert_eq!(actors.calls.take(), ["open", "call"]);
    });
}

#[test]
fn a_queued_call_and_a_timer_run_only_in_the_parent() {
    alone(|| {
        let (bench, actors) = bench();
        let mut client = bench.connect();
        let handle = bench.handle(0);
        let process = std::process::id();
        handle
            .with(move |_: &mut Actor, conn| {
                conn.run_after(std::time::Duration::ZERO, move |actor: &mut Actor, conn| {
                    assert_eq!(std::process::id(), process);
                    actor.call("timer", conn)
                });
            })
            .unwrap();
        on_another_thread(|| {
            let call = move |actor: &mut Actor, conn: &TcpConnection<'_>| {
                assert_eq!(std::process::id(), process);
                conn.send("once")?;
                actor.call("call", conn)
            };
            handle.with(call).unwrap();
        });
        let mut bench = Some(bench);
        in_child(|| drop(bench.take()));
        let bench = bench.unwrap();
        bench.settle();
        let mut calls = actors.calls.take();
        calls.sort_unstable();
        assert_eq!(calls, ["call", "open", "timer"]);
        handle.shutdown();
        assert_eq!(bench.read_to_fin(&mut client), b"once");
    });
}

#[test]
fn a_child_neither_fills_nor_drops_the_replies_of_its_parent() {
    alone(|| {
        let (bench, actors) = bench();
        let mut client = bench.connect();
        let kept = Rc::new(RefCell::new(None));
        let slots = Rc::clone(&kept);
        let call = move |_: &mut Actor, conn: &TcpConnection<'_>| {
            let slot = || conn.reserve_reply().unwrap();
            *slots.borrow_mut() = Some([slot(), slot(), slot()]);
        };
        bench.handle(0).with_local(&bench.event_loop, call).unwrap();
        in_child(|| {
            let [first, second, third] = kept.take().unwrap();
            assert_eq!(first.fill("child").unwrap_err().reason(), SendError::Closed);
            second.skip();
            drop(third);
        });
        bench.settle();
        let [first, second, third] = kept.take().unwrap();
        third.fill("3").unwrap();
        second.fill("2").unwrap();
        first.fill("1").unwrap();
        assert_eq!(bench.read_exact(&mut client, 3), b"123");
        assert_eq!(actors.end(), None);
    });
}

#[test]
fn a_child_does_not_end_the_work_of_its_parent() {
    alone(|| {
        let (bench, actors) = bench();
        let mut client = bench.connect();
        let kept = Rc::new(RefCell::new(None));
        let work = Rc::clone(&kept);
        let call = move |_: &mut Actor, conn: &TcpConnection<'_>| {
            *work.borrow_mut() = Some(conn.keep_open());
            conn.shutdown_after_work();
        };
        bench.handle(0).with_local(&bench.event_loop, call).unwrap();
        in_child(|| drop(kept.take()));
        bench.settle();
        bench.handle(0).send("still open").unwrap();
        drop(kept.take());
        assert_eq!(bench.read_to_fin(&mut client), b"still open");
        assert_eq!(actors.end(), None);
    });
}

/// Passes bytes on, and forks when it first does so.
struct Forks {
    is_encoding: bool,
    has_forked: bool,
}

impl Forks {
    fn pass(&mut self, is_encoding: bool, input: &mut Buffer, output: &mut Buffer) {
        output.append_buffer(input);
        if is_encoding == self.is_encoding && !mem::replace(&mut self.has_forked, true) {
            fork_process();
        }
    }
}

impl Filter for Forks {
    fn decode(
        &mut self,
        _: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        self.pass(false, input, output);
        Ok(())
    }

    fn encode(
        &mut self,
        _: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        self.pass(true, input, output);
        Ok(())
    }
}

#[test]
fn output_of_a_filter_that_forks_is_sent_by_the_parent_only() {
    alone(|| {
        for is_encoding in [false, true] {
            let event_loop = EventLoop::new().unwrap();
            let server = TcpServer::bind(&event_loop, "127.0.0.1:0")
                .unwrap()
                .filter(move || Forks { is_encoding, has_forked: false })
                .serve_fn(|conn, input| {
                    conn.send(input.take_all())?;
                    conn.event_loop().quit();
                    io::Result::Ok(())
                })
                .unwrap();
            let mut client = net::connect(server.local_addr().unwrap());
            client.write_all(b"once").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let result = event_loop.run();
            exit_child_and_wait(|| assert_eq!(result.as_ref().unwrap_err().kind(), ErrorKind::Unsupported));
            result.unwrap();
            drop((server, event_loop));
            assert_eq!(net::read_to_end(&mut client), b"once");
        }
    });
}
