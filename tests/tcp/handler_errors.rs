//! A handler that returns an error: its accepted output is sent, and only `on_close` follows.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use crate::support::actor::{Actor, Actors};
use crate::support::bench::{Bench, Ended, with_virtual_time};
use crate::support::clock::{HOUR, MINUTE, SECOND};
use crate::support::net::{self, End, pattern, with_small_send_buffer};
use crate::support::{LIMIT, turn, with_watchdog};
use reveille::net::{ConnectionLimits, SendError, TcpServerBuilder};
use reveille::{EventLoop, EventLoopBuilder, TcpConnection};

/// Far more than the kernel accepts with small buffers at both ends.
const MUCH: usize = 1 << 20;

fn intended() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "intended by the test")
}

fn intended_end() -> End {
    End::Error(io::ErrorKind::Unsupported, "intended by the test".to_owned())
}

/// The drain ends before the time limit of the tests only if all output is sent.
fn with_long_drain(builder: TcpServerBuilder<'_>) -> TcpServerBuilder<'_> {
    with_small_send_buffer(builder).limits(ConnectionLimits::new().drain_timeout(HOUR))
}

fn with_drain_of_a_minute(builder: TcpServerBuilder<'_>) -> TcpServerBuilder<'_> {
    with_small_send_buffer(builder)
        .limits(ConnectionLimits::new().water_marks(1000, 500).drain_timeout(MINUTE))
}

fn without_drain(builder: TcpServerBuilder<'_>) -> TcpServerBuilder<'_> {
    with_small_send_buffer(builder).limits(ConnectionLimits::new().drain_timeout(Duration::ZERO))
}

/// A bench whose connections send much and return an error as soon as they are given input.
fn failing_bench(
    builder: EventLoopBuilder,
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a>,
    prepare: impl Fn(&TcpConnection<'_>) + Clone + 'static,
) -> (Bench, Actors) {
    let actors = Actors::new();
    let cast = actors.clone();
    let bench = Bench::new(builder, settings, move |_| {
        let prepare = prepare.clone();
        cast.actor(move |name, conn| {
            if name != "message" {
                return Ok(());
            }
            prepare(conn);
            conn.send(pattern(MUCH))?;
            Err(intended())
        })
    });
    (bench, actors)
}

/// Sends a first message. Its handler fails.
fn fail(bench: &Bench, actors: &Actors) -> TcpStream {
    let mut client = bench.connect_slow_reader();
    bench.send(&mut client, "fail");
    assert_eq!(actors.calls.take(), ["open", "message"]);
    client
}

// --- Accepted output -----------------------------------------------------------------------------

#[test]
fn output_accepted_before_a_refused_send_reaches_a_late_reader() {
    const REPLY: usize = 7_000_000;
    with_watchdog(LIMIT, || {
        let actors = Actors::new();
        let cast = actors.clone();
        let builder = EventLoop::builder().propagate_panics();
        let bench = Bench::new(builder, with_long_drain, move |_| {
            cast.actor(|name, conn| {
                if name == "message" {
                    conn.send(pattern(REPLY))?;
                    conn.shutdown();
                    conn.send("too late")?;
                }
                Ok(())
            })
        });
        let mut client = fail(&bench, &actors);
        bench.settle();
        assert_eq!(actors.end(), None, "the output was discarded");
        assert!(bench.read_to_fin(&mut client) == pattern(REPLY), "the received bytes differ");
        drop(client);
        bench.until(|| actors.end().is_some());
        let error = io::Error::from(SendError::ShutDown);
        assert_eq!(actors.end(), Some(End::Error(error.kind(), error.to_string())));
        assert_eq!(actors.calls.take(), ["close"]);
    });
}

#[test]
fn a_peer_that_never_reads_is_reset_after_the_drain_timeout() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = failing_bench(builder, with_drain_of_a_minute, |_| ());
        let mut client = fail(&bench, &actors);
        clock.advance(MINUTE - Duration::from_nanos(1));
        bench.settle();
        assert_eq!(actors.end(), None, "closed before the timeout");
        clock.advance(Duration::from_nanos(1));
        bench.settle();
        assert_eq!(actors.end(), Some(intended_end()));
        let (received, ended) = bench.read_all(&mut client);
        assert_eq!(ended, Ended::Reset);
        assert!(received.len() < MUCH);
        assert_eq!(actors.calls.take(), ["close"]);
        assert_eq!(bench.event_loop.next_deadline(), None, "a timer is left");
    });
}

#[test]
fn a_peer_that_reads_but_sends_no_fin_is_reset_after_the_drain_timeout() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = failing_bench(builder, with_drain_of_a_minute, |_| ());
        let mut client = fail(&bench, &actors);
        assert!(bench.read_to_fin(&mut client) == pattern(MUCH));
        clock.advance(MINUTE - Duration::from_nanos(1));
        bench.settle();
        assert_eq!(actors.end(), None, "closed before the timeout");
        clock.advance(Duration::from_nanos(1));
        bench.settle();
        assert_eq!(actors.end(), Some(intended_end()));
        assert!(client.take_error().unwrap().is_some(), "a FIN without a reset");
    });
}

#[test]
fn a_drain_timeout_of_zero_resets_at_once() {
    with_watchdog(LIMIT, || {
        let builder = EventLoop::builder().propagate_panics();
        let (bench, actors) = failing_bench(builder, without_drain, |_| ());
        let mut client = bench.connect_slow_reader();
        bench.send(&mut client, "fail");
        assert_eq!(actors.calls.take(), ["open", "message", "close"]);
        assert_eq!(actors.end(), Some(intended_end()));
        assert_eq!(bench.read_all(&mut client).1, Ended::Reset);
    });
}

#[test]
fn an_error_without_queued_output_closes_in_the_same_turn() {
    with_watchdog(LIMIT, || {
        let actors = Actors::new();
        let cast = actors.clone();
        let builder = EventLoop::builder().propagate_panics();
        let bench = Bench::new(builder, with_long_drain, move |_| {
            cast.actor(|name, conn| {
                conn.send(name).unwrap_or_default();
                if name == "message" { Err(intended()) } else { Ok(()) }
            })
        });
        let mut client = bench.connect();
        bench.send(&mut client, "fail");
        assert_eq!(actors.calls.take(), ["open", "message", "close"]);
        assert_eq!(actors.end(), Some(intended_end()));
        assert_eq!(bench.read_to_fin(&mut client), b"openmessage");
    });
}

// --- Later callbacks -----------------------------------------------------------------------------

#[test]
fn only_on_close_is_called_after_an_error() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = failing_bench(builder, with_drain_of_a_minute, |conn| {
            conn.set_idle_timeout(Some(SECOND));
            conn.set_deadline(2 * SECOND);
            conn.notify_drained();
        });
        let mut client = fail(&bench, &actors);
        bench.send(&mut client, "more input");
        // All deadlines pass.
        for _ in 0..5 {
            clock.advance(SECOND);
            bench.settle();
        }
        // The queue falls below the low-water mark and drains.
        assert!(bench.read_to_fin(&mut client) == pattern(MUCH));
        bench.finish(&client);
        // The last bytes may be acknowledged late.
        bench.until(|| {
            clock.advance(Duration::from_millis(1));
            actors.end().is_some()
        });
        assert_eq!(actors.calls.take(), ["close"]);
        assert_eq!(actors.end(), Some(intended_end()));
    });
}

#[test]
fn a_later_error_does_not_replace_the_first() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = failing_bench(builder, with_drain_of_a_minute, |_| ());
        let client = fail(&bench, &actors);
        net::reset(client);
        bench.until(|| actors.end().is_some());
        assert_eq!(actors.end(), Some(intended_end()));
        clock.advance(HOUR);
        bench.settle();
        assert_eq!(actors.calls.take(), ["close"]);
    });
}

#[test]
fn timers_of_a_failed_handler_do_not_call_it() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = failing_bench(builder, with_drain_of_a_minute, |conn| {
            conn.run_after(SECOND, |actor: &mut Actor, conn| actor.call("timer", conn));
            conn.run_every(SECOND, |actor: &mut Actor, conn| actor.call("tick", conn));
        });
        let _client = fail(&bench, &actors);
        for _ in 0..5 {
            clock.advance(SECOND);
            bench.settle();
        }
        assert_eq!(actors.calls.take(), [""; 0]);
    });
}

#[test]
fn an_error_during_a_graceful_close_keeps_its_deadline() {
    with_virtual_time(|builder, clock| {
        let actors = Actors::new();
        let cast = actors.clone();
        let bench = Bench::new(builder, with_drain_of_a_minute, move |_| {
            cast.actor(|name, conn| {
                if name != "message" {
                    return Ok(());
                }
                conn.send(pattern(MUCH))?;
                conn.close_gracefully(SECOND);
                Err(intended())
            })
        });
        let _client = fail(&bench, &actors);
        clock.advance(SECOND - Duration::from_nanos(1));
        bench.settle();
        assert_eq!(actors.end(), None);
        clock.advance(Duration::from_nanos(1));
        bench.settle();
        assert_eq!(actors.end(), Some(intended_end()));
    });
}

// --- The origin of the error ---------------------------------------------------------------------

#[test]
fn an_error_of_any_callback_keeps_its_output() {
    const CALLBACKS: [&str; 9] = [
        "open",
        "message",
        "high water",
        "low water",
        "drained",
        "peer shutdown",
        "deadline",
        "idle",
        "stop",
    ];
    for callback in CALLBACKS {
        with_virtual_time(move |builder, clock| {
            let actors = Actors::new();
            let cast = actors.clone();
            let bench = Bench::new(builder, with_drain_of_a_minute, move |_| {
                cast.actor(move |name, conn| {
                    if name == callback {
                        conn.send(pattern(MUCH))?;
                        return Err(intended());
                    }
                    match name {
                        "open" => {
                            conn.set_deadline(SECOND);
                            conn.set_idle_timeout((callback == "idle").then_some(SECOND));
                        }
                        "message" => conn.send([b'-'; 500_000])?,
                        _ => {}
                    }
                    Ok(())
                })
            });
            let mut client = bench.connect_slow_reader();
            let mut skipped = 0;
            match callback {
                "message" | "high water" => bench.send(&mut client, "go"),
                "low water" | "drained" => {
                    bench.send(&mut client, "go");
                    skipped = 500_000;
                    bench.read_exact(&mut client, skipped);
                }
                "peer shutdown" => bench.finish(&client),
                "deadline" | "idle" => clock.advance(SECOND),
                "stop" => bench.server.handle().stop(HOUR, |_, _| ()),
                _ => {}
            }
            if callback == "high water" {
                skipped = 500_000;
            }
            bench.settle();
            let received = bench.read_to_fin(&mut client);
            let rest = &received[received.len() - MUCH.min(received.len())..];
            assert!(rest == pattern(MUCH), "{callback}: {} bytes arrived", received.len());
            assert!(received.len() <= MUCH + skipped, "{callback}");
            if callback != "peer shutdown" {
                bench.finish(&client);
            }
            bench.until(|| {
                clock.advance(Duration::from_millis(1));
                actors.end().is_some()
            });
            assert_eq!(actors.end(), Some(intended_end()), "{callback}");
            let calls = actors.calls.take();
            assert_eq!(calls.last(), Some(&"close"), "{callback}");
            assert_eq!(calls[calls.len() - 2], callback, "{calls:?}");
        });
    }
}

#[test]
fn an_error_of_a_timer_or_a_call_keeps_its_output() {
    fn last_words(actor: &mut Actor, conn: &TcpConnection<'_>) -> io::Result<()> {
        actor.call("last words", conn)?;
        conn.send(pattern(MUCH))?;
        Err(intended())
    }
    for origin in ["call", "timer", "repeating timer"] {
        with_virtual_time(move |builder, clock| {
            let actors = Actors::new();
            let cast = actors.clone();
            let bench = Bench::new(builder, with_drain_of_a_minute, move |_| {
                cast.actor(move |name, conn| {
                    match (name, origin) {
                        ("open", "timer") => drop(conn.run_after(SECOND, last_words)),
                        ("open", "repeating timer") => drop(conn.run_every(SECOND, last_words)),
                        _ => {}
                    }
                    Ok(())
                })
            });
            let mut client = bench.connect_slow_reader();
            match origin {
                "call" => bench.handle(0).with(last_words).unwrap(),
                _ => clock.advance(SECOND),
            }
            turn(&bench.event_loop);
            assert!(bench.read_to_fin(&mut client) == pattern(MUCH), "{origin}");
            bench.finish(&client);
            bench.until(|| {
                clock.advance(Duration::from_millis(1));
                actors.end().is_some()
            });
            assert_eq!(actors.end(), Some(intended_end()), "{origin}");
            let calls: Vec<_> = actors.calls.take().into_iter().filter(|name| *name != "drained").collect();
            assert_eq!(calls, ["open", "last words", "close"], "{origin}");
        });
    }
}

// --- The errors of sends -------------------------------------------------------------------------

#[test]
fn every_kind_of_send_reports_a_shutdown() {
    let ends: [fn(&TcpConnection<'_>); 2] = [|conn| conn.shutdown(), |conn| conn.close_gracefully(HOUR)];
    with_watchdog(LIMIT, move || {
        for end in ends {
            let (bench, _) = Bench::scripted(move |script| {
                script.on_open(move |conn| {
                    let handle = conn.handle();
                    end(conn);
                    assert_eq!(conn.send("x"), Err(SendError::ShutDown));
                    assert_eq!(conn.send(""), Err(SendError::ShutDown));
                    assert_eq!(net::reason(conn.send_owned("x")), Err(SendError::ShutDown));
                    assert_eq!(conn.send_shared(&[0; 5000][..].into()), Err(SendError::ShutDown));
                    assert_eq!(conn.flush(), Err(SendError::ShutDown));
                    assert_eq!(conn.reserve_reply().unwrap_err(), SendError::ShutDown);
                    assert_eq!(net::reason(handle.send("x")), Err(SendError::ShutDown));
                    assert_eq!(handle.send_shared(&[0; 5000][..].into()), Err(SendError::ShutDown));
                    conn.close();
                    assert_eq!(conn.send("x"), Err(SendError::Closed));
                    assert_eq!(conn.flush(), Err(SendError::Closed));
                    assert_eq!(conn.reserve_reply().unwrap_err(), SendError::Closed);
                    assert_eq!(net::reason(handle.send("x")), Err(SendError::Closed));
                })
            });
            let mut client = bench.connect();
            assert_eq!(bench.read_to_fin(&mut client), b"");
        }
    });
}

#[test]
fn sends_are_refused_as_shut_down_while_the_server_stops() {
    with_watchdog(LIMIT, || {
        let (bench, journal) = Bench::scripted(|script| script);
        let _client = bench.connect();
        bench.server.handle().stop(HOUR, |_, _| ());
        bench.settle();
        assert_eq!(net::reason(bench.handle(0).send("x")), Err(SendError::ShutDown));
        assert_eq!(journal.of(0), [net::HandlerCall::Open]);
    });
}

#[test]
fn a_shutdown_is_a_broken_pipe_as_an_io_error() {
    let error = io::Error::from(SendError::ShutDown);
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(error.to_string(), SendError::ShutDown.to_string());
    assert_ne!(SendError::ShutDown.to_string(), SendError::Closed.to_string());
}
