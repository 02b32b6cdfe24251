//! Calls of a connection's handler through handles: when they run, and how they end.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;

use crate::support::actor::{Actor, Actors};
use crate::support::bench::{Bench, defaults};
use crate::support::bomb::Bomb;
use crate::support::net::{self, End, Script, reason};
use crate::support::{Count, LIMIT, Recorder, on_another_thread, turn, with_watchdog};
use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::net::{ConnectionState, WithError};
use reveille::{ConnectionHandle, EventLoop, TcpConnection};

/// A bench of actors that call `act`.
fn actors_that(act: impl FnMut(&'static str, &TcpConnection<'_>) + Clone + 'static) -> (Bench, Actors) {
    actors_on(EventLoop::builder().propagate_panics(), act)
}

fn actors_on(
    builder: reveille::EventLoopBuilder,
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

fn record(handle: &ConnectionHandle, name: &'static str) -> Result<(), WithError> {
    reason(handle.with(move |actor: &mut Actor, conn| actor.call(name, conn)))
}

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

// --- Order with other requests -------------------------------------------------------------------

#[test]
fn a_call_follows_earlier_requests_of_handles() {
    with_watchdog(LIMIT, || {
        let (bench, _) = actors_that(|_, _| ());
        let mut client = bench.connect();
        let handle = bench.handle(0);
        on_another_thread(|| {
            handle.send("1").unwrap();
            handle.with(|_: &mut Actor, conn| conn.send("2")).unwrap();
        });
        bench.settle();
        handle.send("3").unwrap();
        handle.with(|_: &mut Actor, conn| conn.send("4")).unwrap();
        handle.send("5").unwrap();
        assert_eq!(bench.read_exact(&mut client, 5), b"12345");
    });
}

#[test]
fn later_requests_of_a_handle_follow_its_call() {
    with_watchdog(LIMIT, || {
        let (bench, _) = actors_that(|_, _| ());
        let mut client = bench.connect();
        let handle = bench.handle(0);
        on_another_thread(|| {
            handle.with(|_: &mut Actor, conn| conn.send("1")).unwrap();
            handle.send("2").unwrap();
            handle.with(|_: &mut Actor, conn| conn.send("3")).unwrap();
            handle.send("4").unwrap();
            handle.shutdown();
        });
        assert_eq!(bench.read_to_fin(&mut client), b"1234");
    });
}

#[test]
fn requests_behind_a_call_wait_for_the_running_callback() {
    with_watchdog(LIMIT, || {
        let (bench, _) = actors_that(|name, conn| {
            if name == "message" {
                let handle = conn.handle();
                on_another_thread(move || {
                    handle.send("1").unwrap();
                    handle.with(|_: &mut Actor, conn| conn.send("3")).unwrap();
                    handle.send("4").unwrap();
                });
                conn.send("2").unwrap();
                conn.handle().with(|_: &mut Actor, conn| conn.send("5")).unwrap();
                conn.handle().shutdown();
            }
        });
        let mut client = bench.connect();
        bench.send(&mut client, "x");
        assert_eq!(bench.read_to_fin(&mut client), b"12345");
    });
}

#[test]
fn bytes_accepted_behind_a_call_are_sent_before_a_shutdown() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_that(|name, conn| {
            if name == "message" {
                let handle = conn.handle();
                on_another_thread(move || {
                    record(&handle, "call").unwrap();
                    handle.send("2").unwrap();
                });
                conn.send("1").unwrap();
                conn.shutdown();
                assert_eq!(conn.state(), ConnectionState::Closing);
            }
        });
        let mut client = bench.connect();
        bench.send(&mut client, "x");
        assert_eq!(bench.read_to_fin(&mut client), b"12");
        assert_eq!(actors.calls.take(), ["open", "message", "call"]);
        assert_eq!(actors.end(), None);
    });
}

#[test]
fn requests_made_by_a_queued_call_run_after_it() {
    with_watchdog(LIMIT, || {
        let (bench, _) = actors_that(|_, _| ());
        let mut client = bench.connect();
        let handle = bench.handle(0);
        on_another_thread(|| {
            let call = |_: &mut Actor, conn: &TcpConnection<'_>| {
                conn.handle().send("3")?;
                conn.send("1").map_err(io::Error::from)
            };
            handle.with(call).unwrap();
            handle.send("2").unwrap();
        });
        assert_eq!(bench.read_exact(&mut client, 3), b"123");
    });
}

#[test]
fn local_and_remote_calls_left_at_a_close_run_in_order() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_that(|name, conn| {
            if name == "message" {
                let handle = conn.handle();
                let remote = |name| on_another_thread(|| record(&handle, name).unwrap());
                record(&handle, "local 1").unwrap();
                remote("remote 1");
                remote("remote 2");
                record(&handle, "local 2").unwrap();
                record(&handle, "local 3").unwrap();
                remote("remote 3");
                conn.close();
            }
        });
        let mut client = bench.connect();
        bench.send(&mut client, "x");
        let calls = actors.calls.take();
        assert_eq!(
            calls[2..],
            ["local 1", "remote 1", "remote 2", "local 2", "local 3", "remote 3", "close"]
        );
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

// --- Ends ----------------------------------------------------------------------------------------

#[test]
fn an_accepted_call_runs_before_on_close() {
    let closes: [fn(&Bench); 4] = [
        |bench| bench.handle(0).close(),
        |bench| {
            on_another_thread({
                let handle = bench.handle(0);
                move || handle.close()
            })
        },
        |bench| drop(bench.handle(0).with(|_: &mut Actor, conn| conn.close())),
        |bench| drop(bench.handle(0).with(|_: &mut Actor, _| Err::<(), _>(io::Error::other("intended")))),
    ];
    for close in closes {
        with_watchdog(LIMIT, move || {
            let (bench, actors) = actors_that(|name, conn| {
                if name == "call" {
                    assert_eq!(conn.state(), ConnectionState::Closed);
                    assert!(!conn.handle().is_open());
                }
            });
            let _client = bench.connect();
            let handle = bench.handle(0);
            // The first of two is a close, so the second finds the connection closed.
            on_another_thread(|| {
                handle.with(|_: &mut Actor, conn| conn.close()).unwrap();
                record(&handle, "call").unwrap();
            });
            close(&bench);
            bench.settle();
            assert_eq!(actors.calls.take(), ["open", "call", "close"]);
        });
    }
}

#[test]
fn a_call_waiting_for_a_callback_runs_even_if_that_closes() {
    let ends: [fn(&TcpConnection<'_>) -> io::Result<()>; 2] = [
        |conn| {
            conn.close();
            Ok(())
        },
        |_| Err(io::Error::other("intended by the test")),
    ];
    for end in ends {
        with_watchdog(LIMIT, move || {
            let actors = Actors::new();
            let cast = actors.clone();
            let builder = EventLoop::builder().propagate_panics();
            let bench = Bench::new(builder, defaults, move |_| {
                cast.actor(move |name, conn| match name {
                    "message" => {
                        record(&conn.handle(), "call").unwrap();
                        end(conn)
                    }
                    "call" => {
                        assert_eq!(conn.state(), ConnectionState::Closed);
                        Ok(())
                    }
                    _ => Ok(()),
                })
            });
            let mut client = bench.connect();
            bench.send(&mut client, "x");
            assert_eq!(actors.calls.take(), ["open", "message", "call", "close"]);
        });
    }
}

#[test]
fn an_accepted_call_runs_when_the_loop_ends() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_that(|_, _| ());
        let _client = bench.connect();
        let handle = bench.handle(0);
        on_another_thread(|| record(&handle, "call").unwrap());
        // The server lives longer than its loop.
        let Bench { event_loop, server, .. } = bench;
        drop(event_loop);
        drop(server);
        assert_eq!(actors.calls.take(), ["open", "call", "close"]);
        assert_eq!(actors.end(), Some(End::LoopEnded));
    });
}

#[test]
fn calls_that_race_with_a_close_run_once_or_are_returned() {
    const CALLERS: usize = 3;
    const MAX_CALLS: usize = 300;
    with_watchdog(LIMIT, || {
        let (host, journal, handles) = net::scripted_with_handles();
        for number in 0..50 {
            let client = host.connect();
            let handle = handles.recv_timeout(net::LIMIT).unwrap();
            let (ran, accepted, drops) = (Count::default(), Count::default(), Count::default());
            thread::scope(|scope| {
                for _ in 0..CALLERS {
                    scope.spawn(|| {
                        for _ in 0..MAX_CALLS {
                            let (ran, token) = (ran.clone(), drops.drop_token());
                            let call = move |_: &mut Script, _: &TcpConnection<'_>| {
                                token.keep();
                                ran.add();
                            };
                            match handle.with(call) {
                                Ok(()) => accepted.add(),
                                Err(refused) => {
                                    assert_eq!(refused.reason(), WithError::Closed);
                                    break;
                                }
                            }
                        }
                    });
                }
                match number % 2 {
                    0 => drop(client),
                    _ => handle.close(),
                }
            });
            journal.end_of(number);
            // The calls run before on_close, which has begun.
            assert_eq!(ran.get(), accepted.get());
            net::until(|| drops.get() >= accepted.get());
            assert_eq!(reason(handle.with(|_: &mut Script, _| ())), Err(WithError::Closed));
        }
    });
}

#[test]
fn a_panic_in_a_call_closes_only_its_connection() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_on(EventLoop::builder(), |_, _| ());
        let _clients = [bench.connect(), bench.connect()];
        let (first, second) = (bench.handle(0), bench.handle(1));
        let caller = first.clone();
        // The panic does not unwind into the caller, which is a call of the other connection.
        let call = move |actor: &mut Actor, conn: &TcpConnection<'_>| {
            let panics = |_: &mut Actor, _: &TcpConnection<'_>| -> () { panic!("intended by the test") };
            caller.with(panics).unwrap();
            actor.call("goes on", conn)
        };
        second.with(call).unwrap();
        bench.settle();
        assert_eq!(actors.calls.take(), ["open", "open", "goes on", "close"]);
        assert_eq!(actors.end(), Some(End::Panicked));
        assert!(!first.is_open() && second.is_open());
        assert_eq!(bench.event_loop.handle().counters().panics, 1);
        record(&second, "still called").unwrap();
        assert_eq!(actors.calls.take(), ["still called"]);
    });
}

#[test]
fn an_error_of_a_call_closes_its_connection() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_that(|_, _| ());
        let mut clients = [bench.connect(), bench.connect()];
        let call = |_: &mut Actor, conn: &TcpConnection<'_>| {
            conn.send("last words")?;
            Err::<(), _>(io::Error::other("intended by the test"))
        };
        bench.handle(0).with(call).unwrap();
        assert_eq!(bench.read_to_fin(&mut clients[0]), b"last words");
        bench.settle();
        assert_eq!(actors.calls.take(), ["open", "open", "close"]);
        assert_eq!(actors.end(), Some(End::Error(io::ErrorKind::Other, "intended by the test".to_owned())));
        assert!(bench.handle(1).is_open());
    });
}

#[test]
fn a_destructor_that_panics_in_a_call_closes_only_its_connection() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_on(EventLoop::builder(), |_, _| ());
        let _clients = [bench.connect(), bench.connect(), bench.connect()];
        let drops = Count::default();
        // Dropped at the end of the call: at once, from another thread, and after the close.
        let call = |bomb: Bomb| move |_: &mut Actor, _: &TcpConnection<'_>| bomb.keep();
        bench.handle(0).with(call(Bomb::new(&drops))).unwrap();
        let (remote, bomb) = (bench.handle(1), Bomb::new(&drops));
        on_another_thread(|| {
            remote.with(|_: &mut Actor, conn| conn.close()).unwrap();
            remote.with(call(bomb)).unwrap();
        });
        bench.settle();
        assert_eq!(drops.get(), 2);
        assert_eq!(actors.calls.take(), ["open", "open", "open", "close", "close"]);
        record(&bench.handle(2), "still called").unwrap();
        assert_eq!(actors.calls.take(), ["still called"]);
    });
}

#[test]
fn a_call_of_a_connection_whose_factory_panics_is_dropped() {
    with_watchdog(LIMIT, || {
        let drops = Count::default();
        let counted = drops.clone();
        let bench = Bench::new(EventLoop::builder(), defaults, move |conn| -> Actor {
            let bomb = Bomb::new(&counted);
            conn.handle().with(move |_: &mut Actor, _| bomb.keep()).unwrap();
            let (remote, token) = (conn.handle(), counted.drop_token());
            on_another_thread(|| remote.with(move |_: &mut Actor, _| token.keep()).unwrap());
            panic!("intended by the test");
        });
        let mut client = bench.connect();
        bench.read_all(&mut client);
        bench.settle();
        assert_eq!(drops.get(), 2);
        assert_eq!(record(&bench.handle(0), "call"), Err(WithError::Closed));
    });
}

#[test]
fn a_call_of_a_connection_closed_by_its_factory_runs_before_on_close() {
    with_watchdog(LIMIT, || {
        let actors = Actors::new();
        let cast = actors.clone();
        let builder = EventLoop::builder().propagate_panics();
        let bench = Bench::new(builder, defaults, move |conn| {
            record(&conn.handle(), "call").unwrap();
            conn.close();
            cast.actor(|_, _| Ok(()))
        });
        let _client = bench.connect();
        bench.settle();
        assert_eq!(actors.calls.take(), ["call", "close"]);
    });
}

#[test]
fn nothing_of_a_connection_closed_by_another_is_called() {
    type Close = fn(&ConnectionHandle);
    let closes: [Close; 2] =
        [ConnectionHandle::close, |handle| drop(handle.with(|_: &mut Actor, conn| conn.close()))];
    for close in closes {
        with_watchdog(LIMIT, move || {
            let all = Rc::new(RefCell::new(Vec::<ConnectionHandle>::new()));
            let others = Rc::clone(&all);
            let (bench, actors) = actors_that(move |name, conn| {
                if name == "message" {
                    let others = others.borrow();
                    others.iter().filter(|other| other.id() != conn.id()).for_each(close);
                }
            });
            let mut clients: Vec<_> = (0..5).map(|_| bench.connect()).collect();
            all.borrow_mut().extend((0..5).map(|number| bench.handle(number)));
            actors.calls.take();
            // All messages arrive in one turn.
            clients.iter_mut().for_each(|client| io::Write::write_all(client, b"x").unwrap());
            let server = bench.address();
            net::until(|| {
                let arrived = |client: &std::net::TcpStream| {
                    net::queues(server, Some(client.local_addr().unwrap()))
                        .is_some_and(|queues| queues.unread == 1)
                };
                clients.iter().all(arrived)
            });
            turn(&bench.event_loop);
            bench.settle();
            assert_eq!(actors.calls.take(), ["message", "close", "close", "close", "close"]);
        });
    }
}

// --- Values --------------------------------------------------------------------------------------

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

#[test]
fn connection_ids_grow_and_handles_compare_by_connection() {
    use std::collections::HashSet;
    with_watchdog(LIMIT, || {
        let (bench, _) = actors_that(|_, _| ());
        let mut handles = Vec::new();
        for number in 0..20 {
            let _client = bench.connect();
            handles.push(bench.handle(number));
            // The next connection takes the slot of this one.
            if number % 2 == 0 {
                handles[number].close();
                bench.settle();
            }
        }
        assert!(handles.is_sorted_by(|a, b| a.id() < b.id()));
        let set: HashSet<ConnectionHandle> = handles.iter().chain(&handles).cloned().collect();
        assert_eq!(set.len(), 20);
        let texts: HashSet<String> = handles.iter().map(|handle| handle.id().to_string()).collect();
        assert_eq!(texts.len(), 20);
        for (number, handle) in handles.iter().enumerate() {
            assert_eq!(handles.iter().position(|other| other == handle), Some(number));
            assert!(set.contains(handle));
        }
    });
}

#[test]
fn ids_are_unique_over_all_loops() {
    with_watchdog(LIMIT, || {
        let (sender, ids) = mpsc::channel();
        let (host, _) = net::scripted_with_threads(3, move |script| {
            let sender = sender.clone();
            script.on_open(move |conn| sender.send((conn.id(), conn.handle().id())).unwrap())
        });
        let clients: Vec<_> = (0..12).map(|_| host.connect()).collect();
        let ids: Vec<_> = clients.iter().map(|_| ids.recv_timeout(net::LIMIT).unwrap()).collect();
        assert!(ids.iter().all(|(id, of_handle)| id == of_handle));
        let distinct: std::collections::BTreeSet<_> = ids.iter().map(|(id, _)| *id).collect();
        assert_eq!(distinct.len(), 12);
    });
}
