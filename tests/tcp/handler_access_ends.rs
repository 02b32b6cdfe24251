//! Calls of a handler whose connection closes: they always run; and calls that fail or panic.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::thread;

use crate::support::actor::{Actor, Actors, actors_on, actors_that, record};
use crate::support::bench::{Bench, defaults};
use crate::support::bomb::Bomb;
use crate::support::net::{self, End, Script, reason};
use crate::support::{Count, LIMIT, on_another_thread, turn, with_watchdog};
use reveille::net::{ConnectionState, WithError};
use reveille::{ConnectionHandle, EventLoop, TcpConnection};

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
