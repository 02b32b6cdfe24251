//! Handlers that pause reading: the loop sleeps meanwhile. Input and an end of input that arrive
//! during the pause are delivered when reading resumes.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;

use crate::support::net::{self, End, Journal, Script, Told, message, pattern, scripted};
use crate::support::{KIB, LIMIT, on_another_thread, with_loop, with_watchdog};
use reveille::{EventLoop, TcpServer};
use rustix::event::PollFlags;

/// Pauses after each message, and resumes in a later turn.
#[test]
fn reading_paused_after_each_message_loses_nothing() {
    with_watchdog(LIMIT, || {
        let (host, _journal) = scripted(|script| {
            script
                .terse()
                .on_message(|conn, input| {
                    conn.pause_reading();
                    conn.send(input.take(input.len().min(5000)))?;
                    conn.notify_drained();
                    Ok(())
                })
                .on_drained(|conn| conn.resume_reading())
        });
        let bytes = pattern(1 << 20);
        let answer = net::exchange_meanwhile(&mut host.connect(), &bytes);
        assert!(answer == bytes, "other bytes came back");
    });
}

/// A script that takes one line per message, and then pauses until the next turn.
fn line_by_line(script: Script) -> Script {
    script
        .on_message(|conn, input| {
            if let Some(end) = input.find(b'\n') {
                conn.send(input.take(end + 1))?;
                conn.pause_reading();
                conn.notify_drained();
            }
            Ok(())
        })
        .on_drained(|conn| conn.resume_reading())
}

#[test]
fn unconsumed_input_is_offered_again_without_new_input() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(line_by_line);
        let mut client = host.connect();
        assert_eq!(net::exchange(&mut client, b"one\ntwo\nthree\n"), b"one\ntwo\nthree\n");
        let offered: Vec<_> =
            journal.of(0).into_iter().filter(|event| matches!(event, Told::Message(_))).collect();
        assert_eq!(offered, [message("one\ntwo\nthree\n"), message("two\nthree\n"), message("three\n")]);
        assert_eq!(net::exchange(&mut client, b"four\n"), b"four\n");
    });
}

#[test]
fn unconsumed_input_is_offered_again_before_the_end() {
    with_loop(|event_loop| {
        let journal = Journal::new();
        let sockets = Rc::new(RefCell::new(Vec::new()));
        let (writing, opening) = (journal.clone(), Rc::clone(&sockets));
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |conn| {
            opening.borrow_mut().push(net::peephole(conn));
            line_by_line(writing.script())
        });
        let server = server.unwrap();
        let mut client = net::connect(server.local_addr().unwrap());
        net::turn_until(event_loop, || journal.handlers() == 1);
        client.write_all(b"one\ntwo\nthree\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        net::until(|| net::condition(&sockets.borrow()[0]).contains(PollFlags::RDHUP));
        net::turn_until(event_loop, || journal.of(0).contains(&Told::PeerShutdown));
        sockets.borrow_mut().clear();
        let before: Vec<_> =
            journal.of(0).into_iter().filter(|event| matches!(event, Told::Message(_))).collect();
        assert_eq!(before, [message("one\ntwo\nthree\n"), message("two\nthree\n"), message("three\n")]);
        net::turn_until(event_loop, || server.open_connections() == 0);
        assert_eq!(net::read_to_end(&mut client), b"one\ntwo\nthree\n");
    });
}

/// This holds after `on_peer_shutdown` as well, since the handler may pause for a reason of its
/// own.
#[test]
fn a_pause_in_on_peer_shutdown_offers_unconsumed_input_again() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            let mut finished = false;
            script
                .on_message(move |conn, input| {
                    if finished {
                        conn.send(input.take_all())?;
                        conn.shutdown();
                    }
                    finished = true;
                    Ok(())
                })
                .on_peer_shutdown(|conn| {
                    conn.pause_reading();
                    conn.notify_drained();
                    Ok(())
                })
                .on_drained(|conn| conn.resume_reading())
        });
        let mut client = host.connect();
        client.write_all(b"for later").unwrap();
        journal.wait_for(0, |event| *event == message("for later"));
        client.shutdown(Shutdown::Write).unwrap();
        journal.wait_for(0, |event| *event == Told::Drained);
        // Two turns are more than sufficient.
        host.ask(|_, _| ());
        host.ask(|_, _| ());
        let offered = journal.of(0).into_iter().filter(|event| *event == message("for later")).count();
        assert_eq!(offered, 2, "resumed, and not offered again: {journal:?}");
        assert_eq!(net::read_to_end(&mut client), b"for later");
    });
}

/// A script that pauses reading on open, until `go` is set.
fn paused_until(go: &Rc<Cell<bool>>, script: Script) -> Script {
    let go = Rc::clone(go);
    script
        .on_open(|conn| {
            conn.pause_reading();
            conn.notify_drained();
            Ok(())
        })
        .on_drained(move |conn| {
            if go.get() {
                conn.resume_reading()
            } else {
                conn.notify_drained()
            }
            Ok(())
        })
}

#[test]
fn input_and_its_end_during_a_pause_are_delivered_afterwards() {
    for bytes in [&b""[..], b"in the meantime"] {
        with_loop(move |event_loop| {
            let (go, journal) = (Rc::new(Cell::new(false)), Journal::new());
            let sockets = Rc::new(RefCell::new(Vec::<TcpStream>::new()));
            let (writing, opening, going) = (journal.clone(), Rc::clone(&sockets), Rc::clone(&go));
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |conn| {
                opening.borrow_mut().push(net::peephole(conn));
                paused_until(&going, writing.script())
            });
            let server = server.unwrap();
            let mut client = net::connect(server.local_addr().unwrap());
            net::turn_until(event_loop, || journal.handlers() == 1);
            client.write_all(bytes).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            net::until(|| net::condition(&sockets.borrow()[0]).contains(PollFlags::RDHUP));
            for _ in 0..10 {
                crate::support::turn(event_loop);
            }
            sockets.borrow_mut().clear();
            let events = journal.of(0);
            assert!(
                events.iter().all(|event| matches!(event, Told::Open | Told::Drained)),
                "paused: {events:?}"
            );

            go.set(true);
            net::turn_until(event_loop, || server.open_connections() == 0);
            let events: Vec<_> = journal.of(0).into_iter().filter(|event| *event != Told::Drained).collect();
            let mut expected = vec![Told::Open, Told::PeerShutdown, Told::Close(End::Finished)];
            if !bytes.is_empty() {
                expected.insert(1, message("in the meantime"));
            }
            assert_eq!(events, expected);
            assert_eq!(net::read_to_end(&mut client), bytes);
        });
    }
}

/// Both ends have finished. The kernel reports this as a hang-up regardless of the requested
/// events.
#[test]
fn a_hang_up_does_not_spin_the_loop_while_reading_is_paused() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script.on_open(|conn| {
                conn.pause_reading();
                conn.shutdown();
                Ok(())
            })
        });
        let mut client = host.connect();
        client.write_all(b"unread").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut client), b"");
        net::until(|| host.open_connections() == 1);
        host.assert_rests();
        assert_eq!(journal.of(0), [Told::Open]);
    });
}

#[test]
fn a_pause_during_a_burst_takes_effect_immediately() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().input_buffer(KIB).build().unwrap();
        let (go, journal) = (Rc::new(Cell::new(false)), Journal::new());
        let sockets = Rc::new(RefCell::new(Vec::new()));
        let (writing, opening, going) = (journal.clone(), Rc::clone(&sockets), Rc::clone(&go));
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().serve(move |conn| {
            opening.borrow_mut().push(net::peephole(conn));
            paused_until(&going, writing.script()).on_open(|_| Ok(())).on_message(|conn, input| {
                input.clear();
                conn.pause_reading();
                conn.notify_drained();
                Ok(())
            })
        });
        let server = server.unwrap();
        let mut client = net::connect(server.local_addr().unwrap());
        net::turn_until(&event_loop, || journal.handlers() == 1);
        client.write_all(&[b'x'; 3 * KIB]).unwrap();
        net::until(|| sockets.borrow()[0].peek(&mut [0; 3 * KIB]).unwrap() == 3 * KIB);
        let messages = || journal.of(0).iter().filter(|event| matches!(event, Told::Message(_))).count();
        net::turn_until(&event_loop, || messages() == 1);
        for _ in 0..10 {
            crate::support::turn(&event_loop);
        }
        assert_eq!(messages(), 1, "read on while paused");
        go.set(true);
        net::turn_until(&event_loop, || messages() == 3);
        sockets.borrow_mut().clear();
    });
}

/// The consumer on another thread may finish before the handler does.
#[test]
fn a_resume_during_on_message_offers_unconsumed_input_again() {
    with_watchdog(LIMIT, || {
        let (host, _journal) = scripted(|script| {
            script.on_message(|conn, input| {
                let Some(end) = input.find(b'\n') else { return Ok(()) };
                conn.pause_reading();
                let handle = conn.handle();
                on_another_thread(move || handle.resume_reading());
                // This send is ordered after the earlier request of the handle.
                conn.send(input.take(end + 1))?;
                Ok(())
            })
        });
        let mut client = host.connect();
        assert_eq!(net::exchange(&mut client, b"one\ntwo\nthree\n"), b"one\ntwo\nthree\n");
        client.write_all(b"half").unwrap();
        host.assert_rests();
    });
}
