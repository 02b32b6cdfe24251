//! How connections end: in order, in a hurry, by the peer, by an error, by a panic. Whichever way, each handler is told once.

mod support;

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use reveille::{ConnectionHandle, EventLoop, SendError, State, TcpServer};
use rustix::event::PollFlags;
use support::net::{self, End, Journal, Script, Told, giving_handles, message, pattern, scripted};
use support::{LIMIT, OnDrop, with_loop, with_watchdog};

/// A server on a loop of this thread, whose sockets can be looked at from outside.
fn scripted_here(
    event_loop: &EventLoop,
    script: impl Fn(Script) -> Script + 'static,
) -> (TcpServer, Journal, Rc<RefCell<Vec<TcpStream>>>) {
    let journal = Journal::new();
    let sockets = Rc::new(RefCell::new(Vec::new()));
    let (writing, opening) = (journal.clone(), Rc::clone(&sockets));
    let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |conn| {
        opening.borrow_mut().push(net::peephole(conn));
        script(writing.script())
    });
    (server.unwrap(), journal, sockets)
}

fn is_closed(journal: &Journal, number: usize) -> bool {
    journal.of(number).iter().any(|told| matches!(told, Told::Close(_)))
}

// --- The peer finishes ----------------------------------------------------------------------------

#[test]
fn a_peer_that_has_finished_is_answered_and_then_closed() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script.on_peer_shutdown(|conn| {
                conn.send(b", and goodbye")?;
                conn.shutdown();
                Ok(())
            })
        });
        let mut client = host.connect();
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut client), b"hello, and goodbye");
        assert_eq!(
            journal.life_of(0),
            [Told::Open, message("hello"), Told::PeerShutdown, Told::Close(End::Finished)]
        );
        drop(host);
        journal.assert_whole_lives(1);
    });
}

#[test]
fn a_peer_that_has_finished_may_be_served_for_as_long_as_the_handler_likes() {
    with_watchdog(LIMIT, || {
        let (give, given) = mpsc::channel();
        let (host, journal) = scripted(move |script| {
            let give = give.clone();
            script.on_peer_shutdown(move |conn| give.send(conn.handle()).unwrap())
        });
        let mut client = host.connect();
        client.shutdown(Shutdown::Write).unwrap();
        let handle: ConnectionHandle = given.recv_timeout(net::LIMIT).unwrap();
        for n in 0..100u8 {
            handle.send([n]).unwrap();
            assert_eq!(net::read_exact(&mut client, 1), [n]);
        }
        assert_eq!(journal.of(0), [Told::Open, Told::PeerShutdown]);
        handle.shutdown();
        assert_eq!(net::read_to_end(&mut client), b"");
        assert_eq!(journal.end_of(0), End::Finished);
    });
}

/// One report of the kernel stands for both, and one read brings only the bytes.
#[test]
fn bytes_and_the_end_that_come_together_are_both_seen() {
    with_watchdog(LIMIT, || {
        for size in [1, 1000, 1024, 2048, 5000] {
            let event_loop = EventLoop::builder().input_buffer(1024).build().unwrap();
            let (server, journal, sockets) = scripted_here(&event_loop, |script| script);
            let mut client = net::connect(server.local_addr());
            net::turn_until(&event_loop, || journal.handlers() == 1);
            let bytes = vec![b'x'; size];
            client.write_all(&bytes).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            net::until(|| net::condition(&sockets.borrow()[0]).contains(PollFlags::RDHUP));
            net::turn_until(&event_loop, || is_closed(&journal, 0));

            let told = journal.of(0);
            assert_eq!(told[told.len() - 2..], [Told::PeerShutdown, Told::Close(End::Finished)]);
            sockets.borrow_mut().clear();
            assert_eq!(net::read_to_end(&mut client), bytes);
        }
    });
}

#[test]
fn four_mebibytes_come_back_to_a_peer_that_finishes_before_it_reads() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(Script::terse);
        let bytes = pattern(4 << 20);
        let mut client = host.connect();
        client.write_all(&bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(net::read_to_end(&mut client) == bytes, "other bytes came back");
        assert_eq!(journal.end_of(0), End::Finished);
        assert_eq!(journal.of(0).iter().filter(|told| **told == Told::PeerShutdown).count(), 1);
    });
}

#[test]
fn both_ends_may_finish_at_once_and_twice() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script
                .on_open(|conn| {
                    conn.shutdown();
                    conn.shutdown();
                    assert_eq!(conn.state(), State::Closing);
                    Ok(())
                })
                .on_close(|conn, _| {
                    conn.shutdown();
                    conn.close();
                    assert_eq!(conn.state(), State::Closed);
                })
        });
        for number in 0..20 {
            let mut client = host.connect();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(net::read_to_end(&mut client), b"");
            assert_eq!(journal.life_of(number), [Told::Open, Told::PeerShutdown, Told::Close(End::Finished)]);
        }
        assert_eq!(host.handle().counters().panics, 0);
        drop(host);
        journal.assert_whole_lives(20);
    });
}

// --- This end finishes ----------------------------------------------------------------------------

#[test]
fn a_connection_that_was_shut_down_still_receives() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script
                .on_open(|conn| {
                    assert_eq!(conn.state(), State::Open);
                    conn.send(b"that is all")?;
                    conn.shutdown();
                    Ok(())
                })
                .on_message(|conn, input| {
                    input.clear();
                    assert_eq!(conn.send(b"more"), Err(SendError::Closed));
                    Ok(())
                })
        });
        let mut client = host.connect();
        assert_eq!(net::read_to_end(&mut client), b"that is all");
        for n in 0..3 {
            let text = format!("message {n}");
            client.write_all(text.as_bytes()).unwrap();
            journal.wait_for(0, |told| *told == message(&text));
        }
        assert!(!is_closed(&journal, 0));
        drop(client);
        assert_eq!(journal.end_of(0), End::Finished);
        assert_eq!(host.handle().counters().panics, 0);
        drop(host);
        journal.assert_whole_lives(1);
    });
}

#[test]
fn what_was_queued_before_a_shutdown_is_sent() {
    with_watchdog(LIMIT, || {
        let bytes = pattern(6 << 20);
        let sent = bytes.clone();
        let (host, journal) = scripted(move |script| {
            let sent = sent.clone();
            script.on_open(move |conn| {
                conn.send(&sent)?;
                assert!(conn.unsent() > 0, "more than a kernel takes at once");
                conn.shutdown();
                Ok(())
            })
        });
        let mut client = host.connect();
        assert!(net::read_to_end(&mut client) == bytes, "other bytes came");
        drop(client);
        assert_eq!(
            journal.life_of(0),
            [Told::Open, Told::Drained, Told::PeerShutdown, Told::Close(End::Finished)]
        );
    });
}

/// Both ends have finished before the loop looks: there is nothing left to shut down, but something to read.
#[test]
fn a_connection_that_asks_for_on_drained_and_shuts_down_ends_in_order() {
    with_loop(|event_loop| {
        let (server, journal, sockets) = scripted_here(event_loop, |script| {
            script
                .on_open(|conn| {
                    conn.notify_drained();
                    conn.shutdown();
                    Ok(())
                })
                .on_message(|_, input| input.clear())
        });
        let mut client = net::connect(server.local_addr());
        net::turn_until(event_loop, || journal.handlers() == 1);
        assert_eq!(net::read_to_end(&mut client), b"");
        client.write_all(b"goodbye").unwrap();
        drop(client);
        net::until(|| net::condition(&sockets.borrow()[0]).contains(PollFlags::HUP));
        net::turn_until(event_loop, || is_closed(&journal, 0));
        sockets.borrow_mut().clear();
        let life =
            [Told::Open, Told::Drained, message("goodbye"), Told::PeerShutdown, Told::Close(End::Finished)];
        assert_eq!(journal.of(0), life);
    });
}

/// A script that closes in one of its calls, and the life that it leads to.
type Closing = (fn(Script) -> Script, &'static [Told]);

#[test]
fn a_connection_may_be_closed_in_any_of_its_calls() {
    const OPEN: Told = Told::Open;
    const CLOSED: Told = Told::Close(End::Closed);
    let closings: [Closing; 4] = [
        (|script| script.on_open(|conn| conn.close()), &[OPEN, CLOSED]),
        (
            |script| {
                // Drained and readable in one turn: what comes after the close is not told.
                script.on_open(|conn| conn.notify_drained()).on_drained(|conn| conn.close())
            },
            &[OPEN, Told::Drained, CLOSED],
        ),
        (|script| script.on_peer_shutdown(|conn| conn.close()), &[OPEN, Told::PeerShutdown, CLOSED]),
        (
            |script| script.on_open(|conn| conn.shutdown()).on_peer_shutdown(|conn| conn.close()),
            &[OPEN, Told::PeerShutdown, CLOSED],
        ),
    ];
    with_watchdog(LIMIT, || {
        for (script, life) in closings {
            let (host, journal) = scripted(script);
            let mut client = host.connect();
            client.shutdown(Shutdown::Write).unwrap();
            net::wait_for_end(&mut client);
            assert_eq!(journal.life_of(0), life);
            assert_eq!(host.open_connections(), 0);
            drop(host);
            journal.assert_whole_lives(1);
        }
    });
}

#[test]
fn a_connection_closed_in_its_message_hears_no_other() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().input_buffer(1024).build().unwrap();
        let (server, journal, sockets) = scripted_here(&event_loop, |script| {
            script.on_message(|conn, _| {
                conn.close();
                conn.close();
                assert_eq!(conn.state(), State::Closed);
                assert_eq!(conn.send(b"late"), Err(SendError::Closed));
                // None of these wakes the dead.
                conn.resume_reading();
                conn.notify_drained();
                conn.shutdown();
                Ok(())
            })
        });
        let mut client = net::connect(server.local_addr());
        net::turn_until(&event_loop, || journal.handlers() == 1);
        client.write_all(&[b'x'; 3000]).unwrap();
        net::until(|| sockets.borrow()[0].peek(&mut [0; 3000]).unwrap() == 3000);
        net::turn_until(&event_loop, || is_closed(&journal, 0));
        sockets.borrow_mut().clear();
        for _ in 0..5 {
            event_loop.run_once(Duration::ZERO).unwrap();
        }
        let first = Told::Message("x".repeat(1024));
        assert_eq!(journal.of(0), [Told::Open, first, Told::Close(End::Closed)]);
        assert_eq!(event_loop.handle().counters().panics, 0);
        net::wait_for_end(&mut client);
    });
}

#[test]
fn the_first_reason_to_close_is_the_one_that_is_told() {
    fn failure() -> io::Result<()> {
        Err(io::Error::other("a second reason"))
    }
    let closings: [fn(Script) -> Script; 3] = [
        |script| {
            script.on_message(|conn, _| {
                conn.close();
                failure()
            })
        },
        |script| {
            script.on_message(|conn, _| -> () {
                conn.close();
                panic!("a second reason");
            })
        },
        |script| {
            script.on_message(|conn, _| {
                conn.handle().close();
                conn.close();
                conn.close_after(Duration::ZERO);
            })
        },
    ];
    with_watchdog(LIMIT, || {
        for script in closings {
            let (host, journal) = scripted(script);
            let mut client = host.connect();
            client.write_all(b"x").unwrap();
            net::wait_for_end(&mut client);
            assert_eq!(journal.life_of(0), [Told::Open, message("x"), Told::Close(End::Closed)]);
            drop(host);
            journal.assert_whole_lives(1);
        }
    });
}

#[test]
fn a_close_says_how_much_it_loses() {
    with_watchdog(LIMIT, || {
        let (lost, loses) = mpsc::channel();
        let (host, journal) = scripted(move |script| {
            let lost = lost.clone();
            script
                .on_open(|conn| {
                    conn.send(vec![0; 8 << 20])?;
                    conn.close();
                    Ok(())
                })
                .on_close(move |conn, _| lost.send(conn.unsent()).unwrap())
        });
        let mut client = host.connect();
        assert_eq!(journal.end_of(0), End::Closed);
        let lost = loses.recv_timeout(net::LIMIT).unwrap();
        let received = net::read_to_end(&mut client).len();
        assert_eq!(received + lost, 8 << 20);
    });
}

#[test]
fn a_deadline_closes_the_connection_it_was_set_for_and_no_other() {
    with_watchdog(LIMIT, || {
        const DELAY: Duration = Duration::from_millis(20);
        let (host, journal) = scripted(|script| {
            let number = script.number();
            script.on_open(move |conn| {
                match number {
                    0 => conn.close_after(DELAY),
                    1 => {
                        conn.close_after(DELAY);
                        conn.close();
                    }
                    _ => {}
                }
                Ok(())
            })
        });
        let mut first = host.connect();
        net::wait_for_end(&mut first);
        assert_eq!(journal.life_of(0), [Told::Open, Told::Close(End::Closed)]);

        // The third takes over what the second leaves, before the deadline of the second.
        net::wait_for_end(&mut host.connect());
        let mut third = host.connect();
        net::assert_echoes(&mut third);
        let (later, is_later) = mpsc::channel();
        host.ask(move |event_loop, _| event_loop.run_after(2 * DELAY, move |_| later.send(()).unwrap()));
        is_later.recv_timeout(net::LIMIT).unwrap();
        net::assert_echoes(&mut third);
        assert_eq!(journal.life_of(1), [Told::Open, Told::Close(End::Closed)]);
        drop(host);
        journal.assert_whole_lives(3);
    });
}

// --- Errors ---------------------------------------------------------------------------------------

fn assert_broken(end: &End) {
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    assert!(matches!(end, End::Error(kind, _) if kinds.contains(kind)), "{end:?}");
}

#[test]
fn a_reset_of_an_idle_connection_is_told_as_an_error() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| script);
        let mut client = host.connect();
        net::assert_echoes(&mut client);
        net::reset(client);
        let end = journal.end_of(0);
        assert!(matches!(end, End::Error(io::ErrorKind::ConnectionReset, _)), "{end:?}");
        assert_eq!(host.open_connections(), 0);
        drop(host);
        journal.assert_whole_lives(1);
    });
}

#[test]
fn a_reset_is_noticed_while_reading_is_paused() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| script.on_open(|conn| conn.pause_reading()));
        let mut client = host.connect();
        client.write_all(b"never read").unwrap();
        journal.wait_for(0, |told| *told == Told::Open);
        net::reset(client);
        let end = journal.end_of(0);
        assert!(matches!(end, End::Error(io::ErrorKind::ConnectionReset, _)), "{end:?}");
        drop(host);
        assert_eq!(journal.of(0).len(), 2);
        journal.assert_whole_lives(1);
    });
}

#[test]
fn a_reset_in_the_middle_of_a_transfer_is_told_once() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script
                .on_open(|conn| conn.send(vec![1; 8 << 20]))
                .on_close(|conn, _| assert_eq!(conn.send(b"still there?"), Err(SendError::Closed)))
        });
        for number in 0..10 {
            let mut client = host.connect();
            net::read_exact(&mut client, 100_000);
            net::reset(client);
            assert_broken(&journal.end_of(number));
        }
        assert_eq!(host.handle().counters().panics, 0);
        drop(host);
        journal.assert_whole_lives(10);
    });
}

/// The bytes are there before the reset is, and both before the loop looks.
#[test]
fn the_last_words_before_a_reset_are_heard() {
    with_loop(|event_loop| {
        let (server, journal, sockets) =
            scripted_here(event_loop, |script| script.on_message(|_, input| input.clear()));
        let mut client = net::connect(server.local_addr());
        net::turn_until(event_loop, || journal.handlers() == 1);
        client.write_all(b"last words").unwrap();
        net::reset(client);
        net::until(|| net::condition(&sockets.borrow()[0]).contains(PollFlags::HUP));
        net::turn_until(event_loop, || is_closed(&journal, 0));
        sockets.borrow_mut().clear();
        let [Told::Open, words, Told::Close(end)] = &journal.of(0)[..] else { panic!("{journal:?}") };
        assert_eq!(*words, message("last words"));
        assert!(matches!(end, End::Error(io::ErrorKind::ConnectionReset, _)), "{end:?}");
    });
}

/// The turn that brings the news of the reset begins with what the handler has to send.
#[test]
fn a_send_that_meets_a_reset_before_the_loop_does_closes_with_it() {
    with_loop(|event_loop| {
        let (server, journal, sockets) = scripted_here(event_loop, |script| {
            script.on_open(|conn| conn.notify_drained()).on_drained(|conn| {
                assert_eq!(conn.send(b"hello?"), Err(SendError::Closed));
                assert_eq!(conn.state(), State::Closed);
            })
        });
        let client = net::connect(server.local_addr());
        net::turn_until(event_loop, || journal.handlers() == 1);
        net::reset(client);
        net::until(|| net::condition(&sockets.borrow()[0]).contains(PollFlags::HUP));
        net::turn_until(event_loop, || is_closed(&journal, 0));
        sockets.borrow_mut().clear();
        assert_eq!(event_loop.handle().counters().panics, 0);
        let [Told::Open, Told::Drained, Told::Close(end)] = &journal.of(0)[..] else { panic!("{journal:?}") };
        assert_broken(end);
    });
}

#[test]
fn peers_that_reset_before_they_are_accepted_cost_nothing_but_themselves() {
    with_loop(|event_loop| {
        let (server, journal, sockets) = scripted_here(event_loop, |script| script);
        for _ in 0..50 {
            net::reset(net::connect(server.local_addr()));
        }
        let address = server.local_addr();
        let client = thread::spawn(move || {
            let mut client = net::connect(address);
            net::assert_echoes(&mut client);
        });
        net::turn_until(event_loop, || client.is_finished());
        sockets.borrow_mut().clear();
        client.join().unwrap();
        net::turn_until(event_loop, || server.open_connections() == 0);
        let last = journal.handlers() - 1;
        for number in 0..last {
            assert_broken(&journal.end_of(number));
        }
        assert_eq!(journal.end_of(last), End::Finished);
        journal.assert_whole_lives(last + 1);
    });
}

#[test]
fn an_error_that_a_handler_returns_closes_its_connection_with_that_error() {
    fn failure<T>() -> io::Result<T> {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not what I was promised"))
    }
    let failing: [fn(Script) -> Script; 4] = [
        |script| script.on_open(|_| failure()),
        |script| script.on_message(|_, _| failure()),
        |script| script.on_open(|conn| conn.notify_drained()).on_drained(|_| failure()),
        |script| script.on_peer_shutdown(|_| failure()),
    ];
    with_watchdog(LIMIT, || {
        for script in failing {
            let (host, journal) = scripted(script);
            let mut client = host.connect();
            // The connection may have failed before either.
            let _ = client.write_all(b"x");
            let _ = client.shutdown(Shutdown::Write);
            net::wait_for_end(&mut client);
            let expected = End::Error(io::ErrorKind::InvalidData, "not what I was promised".to_owned());
            assert_eq!(journal.end_of(0), expected);
            drop(host);
            journal.assert_whole_lives(1);
        }
    });
}

// --- Panics ---------------------------------------------------------------------------------------

#[test]
fn a_panic_in_a_handler_costs_its_connection_and_no_other() {
    let panicking: [fn(Script) -> Script; 4] = [
        |script| script.on_open(|_| -> () { panic!("on_open") }),
        |script| script.on_message(|_, _| -> () { panic!("on_message") }),
        |script| script.on_open(|conn| conn.notify_drained()).on_drained(|_| -> () { panic!("on_drained") }),
        |script| script.on_peer_shutdown(|_| -> () { panic!("on_peer_shutdown") }),
    ];
    with_watchdog(LIMIT, || {
        for bad in panicking {
            let (host, journal) =
                scripted(move |script| if script.number() == 1 { bad(script) } else { script });
            let mut before = host.connect();
            net::assert_echoes(&mut before);
            let mut client = host.connect();
            let _ = client.write_all(b"x");
            let _ = client.shutdown(Shutdown::Write);
            net::wait_for_end(&mut client);
            assert_eq!(journal.end_of(1), End::Panicked);
            net::assert_echoes(&mut before);
            net::assert_echoes(&mut host.connect());
            assert_eq!(host.handle().counters().panics, 1);
            drop(host);
            journal.assert_whole_lives(3);
        }
    });
}

#[test]
fn a_panic_in_the_factory_costs_the_connection_that_has_no_handler_then() {
    with_watchdog(LIMIT, || {
        let (host, journal) =
            scripted(|script| if script.number() == 1 { panic!("no handler") } else { script });
        let mut before = host.connect();
        net::assert_echoes(&mut before);
        net::wait_for_end(&mut host.connect());
        net::assert_echoes(&mut before);
        net::assert_echoes(&mut host.connect());
        assert_eq!(host.handle().counters().panics, 1);
        assert_eq!(journal.of(1), []);
        drop(before);
        net::until(|| host.open_connections() == 0);
    });
}

#[test]
fn a_panic_in_the_last_call_or_in_a_destructor_is_counted_and_goes_no_further() {
    let panicking: [fn(Script) -> Script; 2] = [
        |script| script.on_close(|_, _| -> () { panic!("on_close") }),
        |script| {
            let bomb = OnDrop::new(|| panic!("a handler's destructor"));
            script.on_close(move |_, _| bomb.keep())
        },
    ];
    with_watchdog(LIMIT, || {
        for bad in panicking {
            let (host, journal) =
                scripted(move |script| if script.number() == 1 { bad(script) } else { script });
            let mut before = host.connect();
            net::assert_echoes(&mut before);
            let mut client = host.connect();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(net::read_to_end(&mut client), b"");
            assert_eq!(journal.end_of(1), End::Finished);
            net::assert_echoes(&mut before);
            assert_eq!(host.handle().counters().panics, 1);
            assert_eq!(host.open_connections(), 1);
            drop(host);
            journal.assert_whole_lives(2);
        }
    });
}

#[test]
fn a_destructor_that_panics_while_the_loop_is_dropped_takes_nobody_with_it() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (server, journal, sockets) = scripted_here(&event_loop, |script| {
            let number = script.number();
            let bomb = OnDrop::new(move || assert_ne!(number, 1, "a handler's destructor"));
            script.on_close(move |_, _| bomb.keep())
        });
        let clients: Vec<_> = (0..3).map(|_| net::connect(server.local_addr())).collect();
        net::turn_until(&event_loop, || journal.handlers() == 3);
        sockets.borrow_mut().clear();
        let handle = event_loop.handle();
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(event_loop)));
        assert!(dropped.is_ok(), "the panic came out of the loop's destructor");
        assert_eq!(handle.counters().panics, 1);
        for number in 0..3 {
            assert_eq!(journal.of(number), [Told::Open, Told::Close(End::LoopEnded)], "of {number}");
        }
        drop((server, clients));
    });
}

// --- Handles --------------------------------------------------------------------------------------

#[test]
fn a_handle_sends_from_another_thread_in_order() {
    with_watchdog(LIMIT, || {
        let (host, _, given) = giving_handles();
        let mut client = host.connect();
        let handle = given.recv_timeout(net::LIMIT).unwrap();
        assert!(handle.is_open());
        let expected: String = (0..3000).map(|n| format!("{n}\n")).collect();
        for n in 0..3000 {
            // Clones speak to the same connection.
            let clone = handle.clone();
            if n % 2 == 0 { &handle } else { &clone }.send(format!("{n}\n")).unwrap();
        }
        handle.shutdown();
        assert_eq!(String::from_utf8(net::read_to_end(&mut client)).unwrap(), expected);
    });
}

#[test]
fn a_send_on_the_loop_goes_behind_what_handles_were_given_before() {
    with_watchdog(LIMIT, || {
        let (host, _) = scripted(|script| {
            script.on_message(|conn, input| {
                input.clear();
                let handle = conn.handle();
                // The loop is in this callback all the while, and reads no mailbox.
                thread::spawn(move || ["1 ", "2 "].map(|text| handle.send(text).unwrap())).join().unwrap();
                conn.send("3 ")?;
                let handle = conn.handle();
                thread::spawn(move || handle.send("4 ").unwrap()).join().unwrap();
                conn.send_owned("5 ")?;
                conn.send_vectored(&[io::IoSlice::new(b"6 "), io::IoSlice::new(b"7")])?;
                conn.shutdown();
                Ok(())
            })
        });
        let mut client = host.connect();
        client.write_all(b"go").unwrap();
        assert_eq!(net::read_to_end(&mut client), b"1 2 3 4 5 6 7");
    });
}

#[test]
fn the_sends_of_several_threads_do_not_mix() {
    with_watchdog(LIMIT, || {
        let (host, _, given) = giving_handles();
        let mut client = host.connect();
        let handle = given.recv_timeout(net::LIMIT).unwrap();
        thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let handle = handle.clone();
                scope.spawn(move || {
                    for n in 0..300 {
                        handle.send(format!("{name} {n}\n")).unwrap();
                    }
                });
            }
        });
        handle.shutdown();
        let text = String::from_utf8(net::read_to_end(&mut client)).unwrap();
        for name in ["a", "b", "c", "d"] {
            let theirs: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
            let expected: Vec<_> = (0..300).map(|n| format!("{name} {n}")).collect();
            assert_eq!(theirs, expected);
        }
    });
}

#[test]
fn a_handle_closes_its_connection_and_says_so() {
    with_watchdog(LIMIT, || {
        let (host, journal, given) = giving_handles();
        let mut client = host.connect();
        let handle = given.recv_timeout(net::LIMIT).unwrap();
        handle.close();
        net::wait_for_end(&mut client);
        assert_eq!(journal.life_of(0), [Told::Open, Told::Close(End::Closed)]);
        assert!(!handle.is_open());
        assert_eq!(handle.send("anybody?"), Err(SendError::Closed));
        handle.shutdown();
        handle.close();
        drop(host);
        assert_eq!(handle.send("anybody?"), Err(SendError::Closed));
        journal.assert_whole_lives(1);
    });
}

#[test]
fn a_handle_made_at_the_very_end_is_closed_from_the_start() {
    with_watchdog(LIMIT, || {
        let (give, given) = mpsc::channel();
        let (host, _journal) = scripted(move |script| {
            let give = give.clone();
            script.on_close(move |conn, _| give.send(conn.handle()).unwrap())
        });
        drop(host.connect());
        let handle: ConnectionHandle = given.recv_timeout(net::LIMIT).unwrap();
        assert!(!handle.is_open());
        assert_eq!(handle.send("too late"), Err(SendError::Closed));
    });
}

/// What a handle accepts is delivered, or its loss is reported: behind a shutdown nothing can be delivered.
#[test]
fn a_handle_refuses_what_would_come_behind_a_shutdown() {
    with_watchdog(LIMIT, || {
        let (host, journal, given) = giving_handles();
        let mut client = host.connect();
        let handle = given.recv_timeout(net::LIMIT).unwrap();
        handle.send("before").unwrap();
        handle.shutdown();
        assert_eq!(handle.send("behind"), Err(SendError::Closed), "accepted, and then lost in silence");
        assert_eq!(net::read_to_end(&mut client), b"before");
        assert_eq!(handle.send("long after"), Err(SendError::Closed), "accepted, and then lost in silence");
        assert!(!is_closed(&journal, 0));
    });
}

#[test]
fn what_a_handle_has_accepted_goes_out_before_the_end() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script.on_message(|conn, input| {
                input.clear();
                let handle = conn.handle();
                conn.send("at once, ")?;
                // Still on its way when the connection is shut down.
                assert_eq!(handle.send("accepted"), Ok(()));
                conn.shutdown();
                assert_eq!(handle.send("too late"), Err(SendError::Closed));
                assert_eq!(conn.state(), State::Closing);
                Ok(())
            })
        });
        let mut client = host.connect();
        client.write_all(b"x").unwrap();
        assert_eq!(net::read_to_end(&mut client), b"at once, accepted");
        drop(client);
        assert_eq!(journal.end_of(0), End::Finished);
        assert_eq!(host.handle().counters().panics, 0);
    });
}

#[test]
fn what_a_handle_has_accepted_and_a_close_has_lost_counts_as_unsent() {
    with_watchdog(LIMIT, || {
        let (lost, loses) = mpsc::channel();
        let (host, _journal) = scripted(move |script| {
            let lost = lost.clone();
            script
                .on_message(|conn, _| {
                    assert_eq!(conn.handle().send("accepted"), Ok(()));
                    conn.close();
                })
                .on_close(move |conn, _| lost.send(conn.unsent()).unwrap())
        });
        let mut client = host.connect();
        client.write_all(b"x").unwrap();
        assert_eq!(loses.recv_timeout(net::LIMIT).unwrap(), "accepted".len());
        net::wait_for_end(&mut client);
    });
}

#[test]
fn a_handle_used_on_the_loop_sends_in_order_with_the_connection() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script.on_message(|conn, input| {
                input.clear();
                conn.handle().send("first, ").unwrap();
                conn.send("second, ")?;
                conn.handle().send("third").unwrap();
                Ok(())
            })
        });
        let mut client = host.connect();
        client.write_all(b"when then?").unwrap();
        assert_eq!(net::read_exact(&mut client, 20), b"first, second, third");
        assert!(!is_closed(&journal, 0));
    });
}

#[test]
fn a_handle_never_speaks_to_another_connection() {
    with_watchdog(LIMIT, || {
        let (host, journal, given) = giving_handles();
        let mut past: Vec<ConnectionHandle> = Vec::new();
        for number in 0..200 {
            let mut client = host.connect();
            let handle = given.recv_timeout(net::LIMIT).unwrap();
            // On their way to the loop, or refused: either way they are for those who have gone.
            for old in past.iter().rev().take(5) {
                let _ = old.send("for another one");
                old.shutdown();
                old.close();
            }
            net::assert_echoes(&mut client);
            match number % 4 {
                0 => net::reset(client),
                1 => drop(client),
                2 => handle.close(),
                _ => {
                    handle.send("goodbye").unwrap();
                    handle.close();
                    net::wait_for_end(&mut client);
                }
            }
            // Every other time the next one comes before this one has quite gone.
            if number % 2 == 0 {
                journal.end_of(number);
                assert_eq!(handle.send("gone?"), Err(SendError::Closed));
            }
            past.push(handle);
        }
        drop(host);
        journal.assert_whole_lives(200);
        assert!(past.iter().all(|handle| !handle.is_open()));
    });
}

// --- The loop goes --------------------------------------------------------------------------------

#[test]
fn a_loop_that_is_dropped_tells_its_open_connections() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (server, journal, sockets) = scripted_here(&event_loop, |script| {
            script.on_close(|conn, _| {
                // There is nobody left to do these things, and no harm in asking.
                conn.event_loop().queue_in_loop(|_| unreachable!());
                conn.close_after(Duration::ZERO);
                conn.close();
                assert_eq!(conn.send("goodbye"), Err(SendError::Closed));
            })
        });
        let mut clients: Vec<_> = (0..3).map(|_| net::connect(server.local_addr())).collect();
        net::turn_until(&event_loop, || journal.handlers() == 3);
        sockets.borrow_mut().clear();
        let handle = event_loop.handle();
        drop(event_loop);
        for (number, client) in clients.iter_mut().enumerate() {
            net::wait_for_end(client);
            assert_eq!(journal.of(number), [Told::Open, Told::Close(End::LoopEnded)]);
        }
        assert_eq!(handle.counters().panics, 0);
        journal.assert_whole_lives(3);
        assert_eq!(server.open_connections(), 0);
    });
}

#[test]
fn nothing_is_left_to_read_when_the_last_call_comes() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| script.terse());
        let bytes = pattern(300_000);
        let mut client = host.connect();
        let mut writer = client.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                writer.write_all(&bytes).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert!(answer == bytes, "other bytes came back");
        });
        let life = journal.life_of(0);
        assert_eq!(life[life.len() - 2..], [Told::PeerShutdown, Told::Close(End::Finished)]);
        assert!(!life[..life.len() - 2].contains(&Told::PeerShutdown));
    });
}
