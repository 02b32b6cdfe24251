//! Calls of a connection's handler through handles: when they run, and how they end.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;

use crate::support::actor::{Actor, Actors, actors_that, record};
use crate::support::bench::{Bench, defaults};
use crate::support::net::{self, Script, reason};
use crate::support::{Count, LIMIT, Recorder, on_another_thread, with_watchdog};
use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::net::WithError;
use reveille::{EventLoop, TcpConnection};

// --- When a call runs ----------------------------------------------------------------------------

#[test]
fn a_call_from_another_thread_gets_the_handler_on_the_loop() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_that(|_, _| ());
        let mut client = bench.connect();
        let handle = bench.handle(0);
        let caller = thread::current().id();
        let id = handle.id();
        on_another_thread(|| {
            for name in ["first", "second", "third"] {
                let call = move |actor: &mut Actor, conn: &TcpConnection<'_>| {
                    assert_eq!(thread::current().id(), caller);
                    assert_eq!(conn.id(), id);
                    actor.call(name, conn)?;
                    conn.send(name).map_err(io::Error::from)
                };
                handle.with(call).unwrap();
            }
        });
        assert_eq!(actors.calls.take(), ["open"], "a call ran on the other thread");
        bench.settle();
        assert_eq!(actors.calls.take(), ["first", "second", "third"]);
        assert_eq!(bench.read_exact(&mut client, 16), b"firstsecondthird");
    });
}

#[test]
fn a_call_from_another_thread_wakes_a_sleeping_loop() {
    with_watchdog(LIMIT, || {
        let (host, _, handles) = net::scripted_with_handles();
        let mut client = host.connect();
        let handle = handles.recv_timeout(net::LIMIT).unwrap();
        for _ in 0..20 {
            handle.with(|_: &mut Script, conn| conn.send("x")).unwrap();
            assert_eq!(net::read_exact(&mut client, 1), b"x");
        }
    });
}

#[test]
fn a_call_on_the_loop_runs_before_with_returns() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_that(|_, _| ());
        let (_first, mut second) = (bench.connect(), bench.connect());
        actors.calls.take();
        let (handle, calls) = (bench.handle(0), actors.calls.clone());
        let check = Rc::new(move |event_loop: &EventLoop, name| {
            record(&handle, name).unwrap();
            assert_eq!(calls.take(), [name]);
            // The closure need not be `Send`.
            let seen = Rc::new(Cell::new(0));
            let set = Rc::clone(&seen);
            let call = move |_: &mut Actor, conn: &TcpConnection<'_>| set.set(conn.unread() + 1);
            handle.with_local(event_loop, call).unwrap();
            assert_eq!(seen.get(), 1);
        });
        check(&bench.event_loop, "outside a turn");
        let done = Count::default();
        let (checked, count) = (Rc::clone(&check), done.clone());
        bench.event_loop.run_after(std::time::Duration::ZERO, move |event_loop| {
            checked(event_loop, "in a timer");
            count.add();
        });
        let (checked, count) = (Rc::clone(&check), done.clone());
        bench.event_loop.queue_in_loop(move |event_loop| {
            checked(event_loop, "in a task");
            count.add();
        });
        bench.until(|| done.get() == 2);
        let count = done.clone();
        let call = move |_: &mut Actor, conn: &TcpConnection<'_>| {
            check(conn.event_loop(), "in a call of another connection");
            count.add();
        };
        bench.handle(1).with_local(&bench.event_loop, call).unwrap();
        assert_eq!(done.get(), 3);
        bench.send(&mut second, "x");
    });
}

#[test]
fn a_call_from_the_connections_own_callback_runs_after_it_in_order() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_that(|name, conn| {
            if name == "message" || name == "open" {
                let calls = Rc::new(RefCell::new(Vec::new()));
                for number in 0..3 {
                    let calls = Rc::clone(&calls);
                    let call = move |actor: &mut Actor, conn: &TcpConnection<'_>| {
                        calls.borrow_mut().push(number);
                        assert_eq!(*calls.borrow(), (0..=number).collect::<Vec<i32>>());
                        actor.call("call", conn)
                    };
                    conn.handle().with_local(conn.event_loop(), call).unwrap();
                }
                assert_eq!(calls.borrow().len(), 0, "a call ran within a callback");
                conn.send("sent by the callback, ").unwrap();
                conn.handle().with(|_: &mut Actor, conn| conn.send("sent by the call")).unwrap();
            }
        });
        let mut client = bench.connect();
        assert_eq!(bench.read_exact(&mut client, 38), b"sent by the callback, sent by the call");
        assert_eq!(actors.calls.take(), ["open", "call", "call", "call"]);
        bench.send(&mut client, "x");
        assert_eq!(actors.calls.take(), ["message", "call", "call", "call"]);
    });
}

#[test]
fn a_call_made_in_a_call_runs_after_it() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_that(|_, _| ());
        let _client = bench.connect();
        let call = |actor: &mut Actor, conn: &TcpConnection<'_>| {
            record(&conn.handle(), "inner").unwrap();
            actor.call("outer", conn)
        };
        bench.handle(0).with(call).unwrap();
        record(&bench.handle(0), "later").unwrap();
        bench.settle();
        assert_eq!(actors.calls.take(), ["open", "outer", "inner", "later"]);
    });
}

#[test]
fn two_connections_call_each_other_in_nested_calls() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_that(|_, _| ());
        let _clients = [bench.connect(), bench.connect()];
        actors.calls.take();
        let (first, second) = (bench.handle(0), bench.handle(1));
        let back = first.clone();
        let call = move |actor: &mut Actor, conn: &TcpConnection<'_>| {
            actor.call("first begins", conn).unwrap();
            let inner = move |actor: &mut Actor, conn: &TcpConnection<'_>| {
                actor.call("second", conn).unwrap();
                record(&back, "back in the first").unwrap();
                actor.call("second ends", conn)
            };
            second.with(inner).unwrap();
            actor.call("first ends", conn)
        };
        first.with(call).unwrap();
        bench.settle();
        let expected = ["first begins", "second", "second ends", "first ends", "back in the first"];
        assert_eq!(actors.calls.take(), expected);
    });
}

#[test]
fn a_handle_of_the_factory_can_call_the_later_handler() {
    with_watchdog(LIMIT, || {
        let actors = Actors::new();
        let cast = actors.clone();
        let builder = EventLoop::builder().propagate_panics();
        let bench = Bench::new(builder, defaults, move |conn| {
            record(&conn.handle(), "local").unwrap();
            let handle = conn.handle();
            on_another_thread(move || record(&handle, "remote").unwrap());
            cast.actor(|_, _| Ok(()))
        });
        let _client = bench.connect();
        bench.settle();
        let calls = actors.calls.take();
        assert_eq!(calls[0], "open");
        assert_eq!(calls[1..], ["local", "remote"]);
    });
}

// --- Refused calls -------------------------------------------------------------------------------

struct Other;

#[test]
fn a_call_for_another_type_is_returned() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_that(|_, _| ());
        let _client = bench.connect();
        let handle = bench.handle(0);
        let drops = Count::default();
        let token = drops.drop_token();
        let refused = handle.with(move |_: &mut Other, _| token.keep()).unwrap_err();
        assert_eq!((refused.reason(), drops.get()), (WithError::WrongHandler, 0));
        drop(refused.into_inner());
        assert_eq!(drops.get(), 1);
        let remote = handle.clone();
        let refused = on_another_thread(move || reason(remote.with(|_: &mut Other, _| ())));
        assert_eq!(refused, Err(WithError::WrongHandler));
        let refused = handle.with_local(&bench.event_loop, |_: &mut Framed<LineCodec, Lines>, _| ());
        assert_eq!(reason(refused), Err(WithError::WrongHandler));
        bench.settle();
        assert_eq!(actors.calls.take(), ["open"]);
    });
}

#[test]
fn a_call_of_a_closed_connection_is_returned() {
    with_watchdog(LIMIT, || {
        let closed = Rc::new(Cell::new(None));
        let seen = Rc::clone(&closed);
        let (bench, actors) = actors_that(move |name, conn| {
            if name == "close" {
                seen.set(Some(record(&conn.handle(), "in on_close")));
            }
        });
        let _client = bench.connect();
        let handle = bench.handle(0);
        handle.close();
        assert_eq!(record(&handle, "at once"), Err(WithError::Closed));
        bench.settle();
        assert_eq!(closed.get(), Some(Err(WithError::Closed)));
        assert_eq!(on_another_thread(|| record(&handle, "remote")), Err(WithError::Closed));
        let call = |_: &mut Actor, _: &TcpConnection<'_>| ();
        assert_eq!(reason(handle.with_local(&bench.event_loop, call)), Err(WithError::Closed));
        drop(bench);
        assert_eq!(record(&handle, "without the loop"), Err(WithError::Closed));
        assert_eq!(actors.calls.take(), ["open", "close"]);
    });
}

#[test]
fn a_local_call_needs_the_loop_of_the_connection() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_that(|_, _| ());
        let _client = bench.connect();
        let handle = bench.handle(0);
        let refused = on_another_thread(move || {
            let other_loop = EventLoop::new().unwrap();
            reason(handle.with_local(&other_loop, |_: &mut Actor, _| ()))
        });
        assert_eq!(refused, Err(WithError::WrongLoop));
        bench.settle();
        assert_eq!(actors.calls.take(), ["open"]);
    });
}

#[test]
fn refused_calls_convert_to_io_errors() {
    let kinds = [
        (WithError::Closed, io::ErrorKind::BrokenPipe),
        (WithError::WrongHandler, io::ErrorKind::InvalidInput),
        (WithError::WrongLoop, io::ErrorKind::InvalidInput),
    ];
    for (error, kind) in kinds {
        assert_eq!(io::Error::from(error).kind(), kind);
        assert_eq!(io::Error::from(error).to_string(), error.to_string());
    }
}

// --- Framed --------------------------------------------------------------------------------------

struct Lines {
    count: usize,
}

impl FrameHandler<LineCodec> for Lines {
    fn on_frame(&mut self, conn: &TcpConnection<'_>, _: &[u8]) -> io::Result<()> {
        self.count += 1;
        // Runs after this callback, for either type.
        conn.handle().with(|lines: &mut Lines, _| lines.count += 10).unwrap();
        conn.handle().with(|_: &mut Framed<LineCodec, Lines>, conn| conn.send("framed\n"))?;
        Ok(())
    }
}

#[test]
fn a_call_gets_the_frame_handler_or_the_framed_handler() {
    with_watchdog(LIMIT, || {
        let builder = EventLoop::builder().propagate_panics();
        let bench = Bench::new(builder, defaults, |_| Framed::new(LineCodec::new(10), Lines { count: 0 }));
        let mut client = bench.connect();
        bench.send(&mut client, "a\nb\n");
        assert_eq!(bench.read_exact(&mut client, 14), b"framed\nframed\n");
        let handle = bench.handle(0);
        on_another_thread(|| {
            let report = |lines: &mut Lines, conn: &TcpConnection<'_>| conn.send(lines.count.to_string());
            handle.with(report).unwrap();
        });
        assert_eq!(bench.read_exact(&mut client, 2), b"22");
        assert_eq!(reason(handle.with(|_: &mut LineCodec, _| ())), Err(WithError::WrongHandler));
    });
}

// --- Results -------------------------------------------------------------------------------------

#[test]
fn a_call_may_return_any_result_that_converts_to_an_io_error() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_that(|_, _| ());
        let _client = bench.connect();
        let handle = bench.handle(0);
        handle.with(|_: &mut Actor, _| ()).unwrap();
        handle.with(|_: &mut Actor, _| io::Result::Ok(7)).unwrap();
        handle.with(|_: &mut Actor, conn| conn.send("x")).unwrap();
        handle.with(|_: &mut Actor, conn| conn.send_owned("x")).unwrap();
        bench.settle();
        assert_eq!(actors.calls.take(), ["open"]);
        let values: Recorder<u8> = Recorder::new();
        let (sender, results) = mpsc::channel();
        handle.with(move |_: &mut Actor, _| sender.send(3).map_err(io::Error::other)).unwrap();
        results.into_iter().for_each(|value| values.record(value));
        assert_eq!(values.take(), [3]);
    });
}
