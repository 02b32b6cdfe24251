//! The end of a connection: a half-close by the peer, and `shutdown`, `close` and `close_after` on
//! this side. In each case `on_close` is called once.

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::endings::{is_closed, scripted_server};
use crate::support::net::{
    self, End, HandlerCall, Script, assert_queued, message, pattern, scripted, scripted_with,
};
use crate::support::{LIMIT, with_loop, with_watchdog};
use reveille::net::{ConnectionLimits, ConnectionState, SendError, TcpServerBuilder};
use reveille::{ConnectionHandle, EventLoop, TcpConnection};
use rustix::event::PollFlags;

// --- A half-close by the peer

#[test]
fn a_peer_receives_the_reply_to_its_half_close() {
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
            journal.calls_until_close(0),
            [
                HandlerCall::Open,
                message("hello"),
                HandlerCall::PeerShutdown,
                HandlerCall::Close(End::Finished)
            ]
        );
        drop(host);
        journal.assert_opened_and_closed_once(1);
    });
}

#[test]
fn a_handler_may_send_after_the_peers_half_close() {
    with_watchdog(LIMIT, || {
        let (sender, handles) = mpsc::channel();
        let (host, journal) = scripted(move |script| {
            let sender = sender.clone();
            script.on_peer_shutdown(move |conn| sender.send(conn.handle()).unwrap())
        });
        let mut client = host.connect();
        client.shutdown(Shutdown::Write).unwrap();
        let handle: ConnectionHandle = handles.recv_timeout(net::LIMIT).unwrap();
        for n in 0..100u8 {
            handle.send([n]).unwrap();
            assert_eq!(net::read_exact(&mut client, 1), [n]);
        }
        assert_eq!(journal.of(0), [HandlerCall::Open, HandlerCall::PeerShutdown]);
        handle.shutdown();
        assert_eq!(net::read_to_end(&mut client), b"");
        assert_eq!(journal.end_of(0), End::Finished);
    });
}

/// The kernel reports the bytes and the end with one event, but one read returns only the bytes.
#[test]
fn bytes_and_end_of_input_in_one_event_are_delivered() {
    with_watchdog(LIMIT, || {
        for size in [1, 1000, 1024, 2048, 5000] {
            let event_loop = EventLoop::builder().input_buffer(1024).build().unwrap();
            let (server, journal, sockets) = scripted_server(&event_loop, |script| script);
            let mut client = net::connect(server.local_addr().unwrap());
            net::turn_until(&event_loop, || journal.handlers() == 1);
            let bytes = vec![b'x'; size];
            client.write_all(&bytes).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            net::until(|| net::poll_flags(&sockets.borrow()[0]).contains(PollFlags::RDHUP));
            net::turn_until(&event_loop, || is_closed(&journal, 0));

            let events = journal.of(0);
            assert_eq!(
                events[events.len() - 2..],
                [HandlerCall::PeerShutdown, HandlerCall::Close(End::Finished)]
            );
            sockets.borrow_mut().clear();
            assert_eq!(net::read_to_end(&mut client), bytes);
        }
    });
}

#[test]
fn a_peer_that_half_closes_before_reading_receives_all_bytes() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(Script::terse);
        let bytes = pattern(4 << 20);
        let mut client = host.connect();
        client.write_all(&bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(net::read_to_end(&mut client) == bytes, "the echoed bytes differ");
        assert_eq!(journal.end_of(0), End::Finished);
        assert_eq!(journal.of(0).iter().filter(|event| **event == HandlerCall::PeerShutdown).count(), 1);
    });
}

#[test]
fn on_peer_shutdown_is_called_once_before_on_close() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(Script::terse);
        let bytes = pattern(300_000);
        let mut client = host.connect();
        assert!(net::finish_meanwhile(&mut client, &bytes) == bytes, "the echoed bytes differ");
        let life = journal.calls_until_close(0);
        assert_eq!(life[life.len() - 2..], [HandlerCall::PeerShutdown, HandlerCall::Close(End::Finished)]);
        assert!(!life[..life.len() - 2].contains(&HandlerCall::PeerShutdown));
    });
}

#[test]
fn both_sides_may_shut_down_and_repeatedly() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script
                .on_open(|conn| {
                    conn.shutdown();
                    conn.shutdown();
                    assert_eq!(conn.state(), ConnectionState::Closing);
                    Ok(())
                })
                .on_close(|conn, _| {
                    conn.shutdown();
                    conn.close();
                    assert_eq!(conn.state(), ConnectionState::Closed);
                })
        });
        for number in 0..20 {
            let mut client = host.connect();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(net::read_to_end(&mut client), b"");
            assert_eq!(
                journal.calls_until_close(number),
                [HandlerCall::Open, HandlerCall::PeerShutdown, HandlerCall::Close(End::Finished)]
            );
        }
        assert_eq!(host.handle().counters().panics, 0);
        drop(host);
        journal.assert_opened_and_closed_once(20);
    });
}

// --- `shutdown` and `close` on this side

#[test]
fn a_connection_that_was_shut_down_still_receives() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script
                .on_open(|conn| {
                    assert_eq!(conn.state(), ConnectionState::Open);
                    conn.send(b"that is all")?;
                    conn.shutdown();
                    Ok(())
                })
                .on_message(|conn, input| {
                    input.clear();
                    assert_eq!(conn.send(b"more"), Err(SendError::ShutDown));
                    Ok(())
                })
        });
        let mut client = host.connect();
        assert_eq!(net::read_to_end(&mut client), b"that is all");
        for n in 0..3 {
            let text = format!("message {n}");
            client.write_all(text.as_bytes()).unwrap();
            journal.wait_for(0, |event| *event == message(&text));
        }
        assert!(!is_closed(&journal, 0));
        drop(client);
        assert_eq!(journal.end_of(0), End::Finished);
        assert_eq!(host.handle().counters().panics, 0);
        drop(host);
        journal.assert_opened_and_closed_once(1);
    });
}

#[test]
fn bytes_queued_before_a_shutdown_are_sent() {
    with_watchdog(LIMIT, || {
        let bytes = pattern(2 << 20);
        let (sender, sent) = mpsc::channel();
        let queued = bytes.clone();
        let (host, journal) = scripted_with(net::with_small_send_buffer, move |script| {
            let (queued, sender) = (queued.clone(), sender.clone());
            script.on_open(move |conn| {
                conn.send(&queued)?;
                assert!(conn.unsent() > 0, "the kernel accepted all bytes before the shutdown");
                conn.shutdown();
                sender.send(()).unwrap();
                Ok(())
            })
        });
        let mut client = net::connect_with_small_receive_buffer(host.address());
        sent.recv_timeout(net::LIMIT).unwrap();
        assert!(net::read_to_end(&mut client) == bytes, "the received bytes differ");
        drop(client);
        assert_eq!(
            journal.calls_until_close(0),
            [
                HandlerCall::Open,
                HandlerCall::Drained,
                HandlerCall::PeerShutdown,
                HandlerCall::Close(End::Finished)
            ]
        );
    });
}

/// Both directions have ended before the loop polls: no output is left to shut down, but there is
/// input to read.
#[test]
fn a_shutdown_with_notify_drained_delivers_events_in_order() {
    with_loop(|event_loop| {
        let (server, journal, sockets) = scripted_server(event_loop, |script| {
            script
                .on_open(|conn| {
                    conn.notify_drained();
                    conn.shutdown();
                    Ok(())
                })
                .on_message(|_, input| input.clear())
        });
        let mut client = net::connect(server.local_addr().unwrap());
        net::turn_until(event_loop, || journal.handlers() == 1);
        assert_eq!(net::read_to_end(&mut client), b"");
        client.write_all(b"goodbye").unwrap();
        drop(client);
        net::until(|| net::poll_flags(&sockets.borrow()[0]).contains(PollFlags::HUP));
        net::turn_until(event_loop, || is_closed(&journal, 0));
        sockets.borrow_mut().clear();
        let life = [
            HandlerCall::Open,
            HandlerCall::Drained,
            message("goodbye"),
            HandlerCall::PeerShutdown,
            HandlerCall::Close(End::Finished),
        ];
        assert_eq!(journal.of(0), life);
    });
}

/// A script that closes in one of its callbacks, and the resulting events.
type Closing = (fn(Script) -> Script, &'static [HandlerCall]);

#[test]
fn a_connection_may_be_closed_in_any_callback() {
    const OPEN: HandlerCall = HandlerCall::Open;
    const CLOSED: HandlerCall = HandlerCall::Close(End::Closed);
    let closings: [Closing; 4] = [
        (|script| script.on_open(|conn| conn.close()), &[OPEN, CLOSED]),
        (
            |script| {
                // One turn reports drained output and input. The close suppresses the input.
                script.on_open(|conn| conn.notify_drained()).on_drained(|conn| conn.close())
            },
            &[OPEN, HandlerCall::Drained, CLOSED],
        ),
        (|script| script.on_peer_shutdown(|conn| conn.close()), &[OPEN, HandlerCall::PeerShutdown, CLOSED]),
        (
            |script| script.on_open(|conn| conn.shutdown()).on_peer_shutdown(|conn| conn.close()),
            &[OPEN, HandlerCall::PeerShutdown, CLOSED],
        ),
    ];
    with_watchdog(LIMIT, move || {
        for (script, life) in closings {
            let (host, journal) = scripted(script);
            let mut client = host.connect();
            client.shutdown(Shutdown::Write).unwrap();
            net::wait_for_end(&mut client);
            assert_eq!(journal.calls_until_close(0), life);
            assert_eq!(host.open_connections(), 0);
            drop(host);
            journal.assert_opened_and_closed_once(1);
        }
    });
}

#[test]
fn a_close_in_on_message_prevents_further_messages() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().input_buffer(1024).build().unwrap();
        let (server, journal, sockets) = scripted_server(&event_loop, |script| {
            script.on_message(|conn, _| {
                conn.close();
                conn.close();
                assert_eq!(conn.state(), ConnectionState::Closed);
                assert_eq!(conn.send(b"late"), Err(SendError::Closed));
                // These calls have no effect on a closed connection.
                conn.resume_reading();
                conn.notify_drained();
                conn.shutdown();
                Ok(())
            })
        });
        let mut client = net::connect(server.local_addr().unwrap());
        net::turn_until(&event_loop, || journal.handlers() == 1);
        client.write_all(&[b'x'; 3000]).unwrap();
        net::until(|| sockets.borrow()[0].peek(&mut [0; 3000]).unwrap() == 3000);
        net::turn_until(&event_loop, || is_closed(&journal, 0));
        sockets.borrow_mut().clear();
        for _ in 0..5 {
            event_loop.run_once(Duration::ZERO).unwrap();
        }
        let first = HandlerCall::Message("x".repeat(1024));
        assert_eq!(journal.of(0), [HandlerCall::Open, first, HandlerCall::Close(End::Closed)]);
        assert_eq!(event_loop.handle().counters().panics, 0);
        net::wait_for_end(&mut client);
    });
}

#[test]
fn a_close_reports_its_unsent_bytes() {
    with_watchdog(LIMIT, || {
        const SENT: usize = 2 << 20;
        let (sender, reports) = mpsc::channel();
        let (host, journal) = scripted_with(net::with_small_send_buffer, move |script| {
            let sender = sender.clone();
            script
                // Not in `on_open`: a reset could reach the client within its connect(2).
                .on_message(|conn, input| {
                    input.clear();
                    conn.send(vec![0; SENT])?;
                    conn.close();
                    Ok(())
                })
                .on_close(move |conn, _| sender.send(conn.unsent()).unwrap())
        });
        let mut client = net::connect_with_small_receive_buffer(host.address());
        client.write_all(b"x").unwrap();
        assert_eq!(journal.end_of(0), End::Closed);
        let unsent = reports.recv_timeout(net::LIMIT).unwrap();
        // The reset also discards bytes that the kernel has queued.
        let received = net::read_until_reset(&mut client).len();
        assert!(unsent > 0 && received + unsent <= SENT, "{received} bytes received, {unsent} unsent");
    });
}

fn without_drain(builder: TcpServerBuilder<'_>) -> TcpServerBuilder<'_> {
    net::with_small_send_buffer(builder).limits(ConnectionLimits::new().drain_timeout(Duration::ZERO))
}

/// Every abortive way to end a connection with unsent bytes resets it. A peer that has received all
/// bytes sees an orderly end.
#[test]
fn a_peer_can_distinguish_truncated_from_complete_streams() {
    with_watchdog(LIMIT, || {
        type Close = fn(&TcpConnection<'_>) -> io::Result<()>;
        const CLOSES: [Close; 3] = [
            |conn| {
                conn.close();
                Ok(())
            },
            |_| Err(io::Error::other("on purpose")),
            |_| panic!("on purpose"),
        ];
        for (close, truncates) in CLOSES.into_iter().flat_map(|close| [(close, false), (close, true)]) {
            let (sender, sent) = mpsc::channel();
            let (host, _) = scripted_with(without_drain, move |script| {
                let sender = sender.clone();
                // Not in `on_open`: a reset could reach the client within its connect(2).
                script.on_message(move |conn, input| {
                    input.clear();
                    conn.send("all")?;
                    if truncates {
                        assert_queued(conn, conn.send(vec![0; 2 << 20]));
                    }
                    sender.send(()).unwrap();
                    close(conn)
                })
            });
            let mut client = net::connect_with_small_receive_buffer(host.address());
            client.write_all(b"x").unwrap();
            // The client does not read before the handler has sent. So the kernel accepts only a
            // part of the bytes.
            sent.recv_timeout(net::LIMIT).unwrap();
            if truncates {
                net::read_until_reset(&mut client);
            } else {
                assert_eq!(net::read_to_end(&mut client), b"all");
            }
        }
    });
}

#[test]
fn a_deadline_closes_only_its_own_connection() {
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
        assert_eq!(journal.calls_until_close(0), [HandlerCall::Open, HandlerCall::Close(End::Closed)]);

        // The third connection reuses the slot of the second, before the deadline of the second.
        net::wait_for_end(&mut host.connect());
        let mut third = host.connect();
        net::assert_echoes(&mut third);
        let (sender, expired) = mpsc::channel();
        host.request(move |event_loop, _| event_loop.run_after(2 * DELAY, move |_| sender.send(()).unwrap()));
        expired.recv_timeout(net::LIMIT).unwrap();
        net::assert_echoes(&mut third);
        assert_eq!(journal.calls_until_close(1), [HandlerCall::Open, HandlerCall::Close(End::Closed)]);
        drop(host);
        journal.assert_opened_and_closed_once(3);
    });
}
