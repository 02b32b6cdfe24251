//! Connections that do not read when their peer resets them: the input is delivered later or
//! discarded, and each connection ends.

use std::io::{ErrorKind, Write};
use std::mem;
use std::rc::Rc;
use std::time::Duration;

use crate::support::endings::is_closed;
use crate::support::failures::{Bench, assert_ends_with, turns};
use crate::support::net::{self, End, HandlerCall, Script, assert_queued, assert_written, message, reason};
use crate::support::{with_clock, with_loop};
use reveille::net::{ConnectionLimits, ConnectionState, SendError};
use reveille::{EventLoop, TcpServer};
use rustix::event::PollFlags;

// --- While the connection does not read

/// Makes the peer write to the connection of a bench, which has paused reading, and reset it.
fn reset_while_paused(event_loop: &EventLoop, bench: &Bench) {
    let mut client = bench.connect(event_loop);
    client.write_all(b"last words").unwrap();
    net::reset(client);
    bench.wait_for(PollFlags::HUP);
    turns(event_loop);
    assert_eq!(bench.journal.of(0), [HandlerCall::Open]);
}

fn pausing(script: Script) -> Script {
    script.on_open(|conn| conn.pause_reading()).on_message(|_, input| input.clear())
}

#[test]
fn input_before_a_reset_waits_while_reading_is_paused() {
    with_loop(|event_loop| {
        let bench = Bench::new(event_loop, pausing);
        reset_while_paused(event_loop, &bench);
        // The loop sleeps meanwhile.
        let before = event_loop.iteration();
        event_loop.run_for(Duration::from_millis(20)).unwrap();
        let turns = event_loop.iteration() - before;
        assert!(turns < 10, "{turns} turns with nothing to do");
        bench.handle().resume_reading();
        let life = bench.calls_until_close(event_loop);
        assert_eq!(life[..life.len() - 1], [HandlerCall::Open, message("last words")]);
        assert_ends_with(&life, ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_reset_without_input_is_detected_while_reading_is_paused() {
    with_loop(|event_loop| {
        let bench = Bench::new(event_loop, pausing);
        net::reset(bench.connect(event_loop));
        let life = bench.calls_until_close(event_loop);
        assert_eq!(life.len(), 2);
        assert_ends_with(&life, ErrorKind::ConnectionReset);
    });
}

#[test]
fn unconsumed_input_before_a_reset_is_offered_on_resumption() {
    with_loop(|event_loop| {
        let bench = Bench::new(event_loop, |script| {
            let mut is_first = true;
            script.on_message(move |conn, input| {
                if mem::take(&mut is_first) {
                    conn.pause_reading();
                } else {
                    input.clear();
                }
            })
        });
        let mut client = bench.connect(event_loop);
        client.write_all(b"left").unwrap();
        net::turn_until(event_loop, || bench.journal.of(0).len() == 2);
        net::reset(client);
        bench.wait_for(PollFlags::HUP);
        turns(event_loop);
        assert_eq!(bench.journal.of(0), [HandlerCall::Open, message("left")]);
        assert_eq!(reason(bench.handle().send(*b"x")), Err(SendError::Closed));
        bench.handle().resume_reading();
        let life = bench.calls_until_close(event_loop);
        assert_eq!(life[..life.len() - 1], [HandlerCall::Open, message("left"), message("left")]);
        assert_ends_with(&life, ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_close_ends_a_reset_connection_that_stays_paused() {
    with_loop(|event_loop| {
        let bench = Bench::new(event_loop, pausing);
        reset_while_paused(event_loop, &bench);
        bench.handle().close();
        assert_eq!(bench.calls_until_close(event_loop), [HandlerCall::Open, HandlerCall::Close(End::Closed)]);
    });
}

#[test]
fn a_stop_ends_a_reset_connection_that_stays_paused() {
    with_loop(|event_loop| {
        let bench = Bench::new(event_loop, pausing);
        reset_while_paused(event_loop, &bench);
        let (journal, socket) = (bench.journal.clone(), Rc::clone(&bench.socket));
        bench.server.stop(net::LIMIT, |_, report| assert_eq!(report.aborted, 0));
        net::turn_until(event_loop, || is_closed(&journal, 0));
        socket.borrow_mut().take();
        let life = journal.of(0);
        assert_eq!(life.len(), 2, "{life:?}");
        assert_ends_with(&life, ErrorKind::ConnectionReset);
    });
}

#[test]
fn an_idle_timeout_ends_a_reset_connection_that_stays_paused() {
    const TIMEOUT: Duration = Duration::from_secs(10);
    with_clock(|event_loop, clock| {
        let builder = TcpServer::bind(event_loop, "127.0.0.1:0")
            .unwrap()
            .limits(ConnectionLimits::new().idle_timeout(TIMEOUT));
        let bench = Bench::of(builder, pausing);
        reset_while_paused(event_loop, &bench);
        clock.advance(TIMEOUT);
        assert_eq!(bench.calls_until_close(event_loop), [HandlerCall::Open, HandlerCall::Close(End::Idle)]);
    });
}

/// Replies that the peer does not read keep the connection from reading until they are lost.
#[test]
fn input_delayed_by_unsent_replies_survives_a_reset() {
    with_loop(|event_loop| {
        let bench = Bench::new(event_loop, |script| {
            script.on_message(|conn, input| {
                input.clear();
                let _ = conn.send(vec![0; 8 << 20]);
            })
        });
        let mut client = bench.connect(event_loop);
        client.write_all(b"one").unwrap();
        net::turn_until(event_loop, || bench.journal.of(0).len() == 2);
        client.write_all(b"two").unwrap();
        turns(event_loop);
        assert_eq!(bench.journal.of(0), [HandlerCall::Open, message("one")]);
        net::reset(client);
        bench.wait_for(PollFlags::HUP);
        let life = bench.calls_until_close(event_loop);
        // Neither the low-water mark nor the drained queue is reported: nothing was sent.
        assert_eq!(life[..life.len() - 1], [HandlerCall::Open, message("one"), message("two")]);
        assert_ends_with(&life, ErrorKind::ConnectionReset);
        assert!(bench.lost.get().0 > 0);
    });
}

#[test]
fn unconsumed_input_is_offered_again_after_a_reset() {
    with_loop(|event_loop| {
        let bench = Bench::new(event_loop, |script| {
            let mut is_first = true;
            script.on_message(move |conn, input| {
                if mem::take(&mut is_first) {
                    input.consume(3);
                    assert_queued(conn, conn.send(vec![0; 8 << 20]));
                } else {
                    input.clear();
                }
            })
        });
        let mut client = bench.connect(event_loop);
        client.write_all(b"onetwo").unwrap();
        net::turn_until(event_loop, || bench.journal.of(0).len() == 2);
        net::reset(client);
        let life = bench.calls_until_close(event_loop);
        assert_eq!(life[..life.len() - 1], [HandlerCall::Open, message("onetwo"), message("two")]);
        assert_ends_with(&life, ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_pause_for_output_ends_when_the_output_has_failed() {
    with_loop(|event_loop| {
        let bench = Bench::new(event_loop, |script| {
            let mut is_first = true;
            script.on_message(move |conn, input| {
                input.clear();
                if mem::take(&mut is_first) {
                    // `on_drained` would resume reading, but is never called.
                    conn.pause_reading();
                    assert_queued(conn, conn.send(vec![0; 8 << 20]));
                }
            })
        });
        let mut client = bench.connect(event_loop);
        client.write_all(b"one").unwrap();
        net::turn_until(event_loop, || bench.journal.of(0).len() == 2);
        client.write_all(b"two").unwrap();
        turns(event_loop);
        assert_eq!(bench.journal.of(0), [HandlerCall::Open, message("one")]);
        net::reset(client);
        bench.wait_for(PollFlags::HUP);
        let life = bench.calls_until_close(event_loop);
        assert_eq!(life[..life.len() - 1], [HandlerCall::Open, message("one"), message("two")]);
        assert_ends_with(&life, ErrorKind::ConnectionReset);
    });
}

// --- Input that is discarded

#[test]
fn a_graceful_close_ends_immediately_at_a_reset() {
    with_loop(|event_loop| {
        let bench = Bench::new(event_loop, |script| {
            script.on_open(|conn| {
                assert_queued(conn, conn.send(vec![0; 8 << 20]));
                conn.close_gracefully(net::LIMIT);
            })
        });
        let mut client = bench.connect(event_loop);
        client.write_all(b"discarded").unwrap();
        net::reset(client);
        let life = bench.calls_until_close(event_loop);
        assert_eq!(life.len(), 2, "{life:?}");
        assert_ends_with(&life, ErrorKind::ConnectionReset);
        let (unsent, undelivered) = bench.lost.get();
        assert!(unsent > 0 && undelivered >= unsent, "{:?}", bench.lost);
        assert_eq!(event_loop.next_deadline(), None, "a timer is left");
    });
}

/// The close starts after the output has failed.
#[test]
fn a_graceful_close_after_failed_output_ends_immediately() {
    with_loop(|event_loop| {
        let bench = Bench::new(event_loop, |script| {
            script.on_open(|conn| {
                net::until(|| net::poll_flags(conn).contains(PollFlags::HUP));
                assert_eq!(conn.send("x").and_then(|_| conn.flush()), Err(SendError::Closed));
                conn.close_gracefully(net::LIMIT);
                assert_eq!(conn.state(), ConnectionState::Closed);
            })
        });
        let mut client = net::connect(bench.server.local_addr().unwrap());
        client.write_all(b"discarded").unwrap();
        net::reset(client);
        let life = bench.calls_until_close(event_loop);
        assert_eq!(life.len(), 2, "{life:?}");
        assert_ends_with(&life, ErrorKind::ConnectionReset);
        assert_eq!(event_loop.next_deadline(), None, "a timer is left");
    });
}

/// The kernel accepted all bytes, and the queue of a Unix socket is empty once the peer has closed.
#[test]
fn bytes_unread_by_a_closed_unix_peer_are_undelivered() {
    with_loop(|event_loop| {
        let bench = Bench::on_unix(event_loop, |script| {
            script.on_open(|conn| {
                assert_written(conn, conn.send("never read"));
                conn.close_gracefully(net::LIMIT);
            })
        });
        drop(bench.connect_unix(event_loop));
        let life = bench.calls_until_close(event_loop);
        assert_ends_with(&life, ErrorKind::ConnectionReset);
        let (unsent, undelivered) = bench.lost.get();
        assert!(unsent == 0 && undelivered > 0, "{:?}", bench.lost);
    });
}
