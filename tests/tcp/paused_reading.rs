//! Handlers that pause reading. The loop sleeps during the pause. Input and an end of input that
//! arrive during it are delivered when reading resumes.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;

use crate::support::net::{self, End, HandlerCall, Journal, Script, message, pattern, scripted};
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
        let reply = net::exchange_meanwhile(&mut host.connect(), &bytes);
        assert!(reply == bytes, "the echoed bytes differ");
    });
}

/// A script that echoes one line per message, and then pauses until the next turn.
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
        let messages: Vec<_> =
            journal.of(0).into_iter().filter(|event| matches!(event, HandlerCall::Message(_))).collect();
        assert_eq!(messages, [message("one\ntwo\nthree\n"), message("two\nthree\n"), message("three\n")]);
        assert_eq!(net::exchange(&mut client, b"four\n"), b"four\n");
    });
}

#[test]
fn unconsumed_input_is_offered_again_before_the_end() {
    with_loop(|event_loop| {
        let journal = Journal::new();
        let sockets = Rc::new(RefCell::new(Vec::new()));
        let (factory_journal, factory_sockets) = (journal.clone(), Rc::clone(&sockets));
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |conn| {
            factory_sockets.borrow_mut().push(net::second_descriptor(conn));
            line_by_line(factory_journal.script())
        });
        let server = server.unwrap();
        let mut client = net::connect(server.local_addr().unwrap());
        net::turn_until(event_loop, || journal.handlers() == 1);
        client.write_all(b"one\ntwo\nthree\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        net::until(|| net::poll_flags(&sockets.borrow()[0]).contains(PollFlags::RDHUP));
        net::turn_until(event_loop, || journal.of(0).contains(&HandlerCall::PeerShutdown));
        sockets.borrow_mut().clear();
        let messages: Vec<_> =
            journal.of(0).into_iter().filter(|event| matches!(event, HandlerCall::Message(_))).collect();
        assert_eq!(messages, [message("one\ntwo\nthree\n"), message("two\nthree\n"), message("three\n")]);
        net::turn_until(event_loop, || server.open_connections() == 0);
        assert_eq!(net::read_to_end(&mut client), b"one\ntwo\nthree\n");
    });
}

/// The offer is repeated after `on_peer_shutdown` as well: the handler may pause for its own
/// reasons.
#[test]
fn a_pause_in_on_peer_shutdown_offers_unconsumed_input_again() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            let mut is_second = false;
            script
                .on_message(move |conn, input| {
                    if is_second {
                        conn.send(input.take_all())?;
                        conn.shutdown();
                    }
                    is_second = true;
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
        journal.wait_for(0, |event| *event == HandlerCall::Drained);
        // One turn would be sufficient.
        host.request(|_, _| ());
        host.request(|_, _| ());
        let offers = journal.of(0).into_iter().filter(|event| *event == message("for later")).count();
        assert_eq!(offers, 2, "the input was not offered again: {journal:?}");
        assert_eq!(net::read_to_end(&mut client), b"for later");
    });
}

/// A script that pauses reading on open, until `may_resume` is set.
fn paused_until(may_resume: &Rc<Cell<bool>>, script: Script) -> Script {
    let may_resume = Rc::clone(may_resume);
    script
        .on_open(|conn| {
            conn.pause_reading();
            conn.notify_drained();
            Ok(())
        })
        .on_drained(move |conn| {
            if may_resume.get() {
                conn.resume_reading()
            } else {
                conn.notify_drained()
            }
            Ok(())
        })
}

#[test]
fn input_and_its_end_during_a_pause_are_delivered_afterwards() {
    for bytes in [&b""[..], b"during the pause"] {
        with_loop(move |event_loop| {
            let (may_resume, journal) = (Rc::new(Cell::new(false)), Journal::new());
            let sockets = Rc::new(RefCell::new(Vec::<TcpStream>::new()));
            let (factory_journal, factory_sockets) = (journal.clone(), Rc::clone(&sockets));
            let factory_may_resume = Rc::clone(&may_resume);
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |conn| {
                factory_sockets.borrow_mut().push(net::second_descriptor(conn));
                paused_until(&factory_may_resume, factory_journal.script())
            });
            let server = server.unwrap();
            let mut client = net::connect(server.local_addr().unwrap());
            net::turn_until(event_loop, || journal.handlers() == 1);
            client.write_all(bytes).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            net::until(|| net::poll_flags(&sockets.borrow()[0]).contains(PollFlags::RDHUP));
            for _ in 0..10 {
                crate::support::turn(event_loop);
            }
            sockets.borrow_mut().clear();
            let events = journal.of(0);
            assert!(
                events.iter().all(|event| matches!(event, HandlerCall::Open | HandlerCall::Drained)),
                "input was delivered during the pause: {events:?}"
            );

            may_resume.set(true);
            net::turn_until(event_loop, || server.open_connections() == 0);
            let events: Vec<_> =
                journal.of(0).into_iter().filter(|event| *event != HandlerCall::Drained).collect();
            let mut expected =
                vec![HandlerCall::Open, HandlerCall::PeerShutdown, HandlerCall::Close(End::Finished)];
            if !bytes.is_empty() {
                expected.insert(1, message("during the pause"));
            }
            assert_eq!(events, expected);
            assert_eq!(net::read_to_end(&mut client), bytes);
        });
    }
}

/// Both directions have ended. The kernel reports this as a hang-up, regardless of the requested
/// events.
#[test]
fn a_hang_up_during_a_pause_does_not_spin_the_loop() {
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
        host.assert_idle();
        assert_eq!(journal.of(0), [HandlerCall::Open]);
    });
}

#[test]
fn a_pause_during_a_burst_takes_effect_immediately() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().input_buffer(KIB).build().unwrap();
        let (may_resume, journal) = (Rc::new(Cell::new(false)), Journal::new());
        let sockets = Rc::new(RefCell::new(Vec::new()));
        let (factory_journal, factory_sockets) = (journal.clone(), Rc::clone(&sockets));
        let factory_may_resume = Rc::clone(&may_resume);
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().serve(move |conn| {
            factory_sockets.borrow_mut().push(net::second_descriptor(conn));
            let script = paused_until(&factory_may_resume, factory_journal.script());
            script.on_open(|_| Ok(())).on_message(|conn, input| {
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
        let messages =
            || journal.of(0).iter().filter(|event| matches!(event, HandlerCall::Message(_))).count();
        net::turn_until(&event_loop, || messages() == 1);
        for _ in 0..10 {
            crate::support::turn(&event_loop);
        }
        assert_eq!(messages(), 1, "reading continued during the pause");
        may_resume.set(true);
        net::turn_until(&event_loop, || messages() == 3);
        sockets.borrow_mut().clear();
    });
}

/// A consumer on another thread may resume reading before the handler returns.
#[test]
fn a_resume_during_on_message_offers_unconsumed_input_again() {
    with_watchdog(LIMIT, || {
        let (host, _journal) = scripted(|script| {
            script.on_message(|conn, input| {
                let Some(end) = input.find(b'\n') else { return Ok(()) };
                conn.pause_reading();
                let handle = conn.handle();
                on_another_thread(move || handle.resume_reading());
                // The resume of the handle takes effect before this send.
                conn.send(input.take(end + 1))?;
                Ok(())
            })
        });
        let mut client = host.connect();
        assert_eq!(net::exchange(&mut client, b"one\ntwo\nthree\n"), b"one\ntwo\nthree\n");
        client.write_all(b"half").unwrap();
        host.assert_idle();
    });
}
