//! Batches of frames: when a batch ends, and which frames are no longer delivered.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use reveille::codec::{FrameError, FrameHandler, Framed, LineCodec, LineError};
use reveille::net::{CloseReason, ConnectionLimits, SendError, TcpServerBuilder};
use reveille::{EventLoop, TcpConnection};

use crate::support::bench::{Bench, Ended, defaults};
use crate::support::clock::HOUR;
use crate::support::net::{End, pattern, with_small_send_buffer};
use crate::support::{LIMIT, MIB, Recorder, with_watchdog};

type Act = fn(&TcpConnection<'_>, &str) -> io::Result<()>;

/// Records its calls; a frame is recorded as its text. Calls `act` with the name of each call or
/// the text of a frame.
struct Session {
    calls: Recorder<String>,
    act: Act,
    end: Rc<Cell<Option<End>>>,
}

impl Session {
    fn call(&mut self, conn: &TcpConnection<'_>, call: &str) -> io::Result<()> {
        self.calls.record(call.to_owned());
        (self.act)(conn, call)
    }
}

impl FrameHandler<LineCodec> for Session {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        (self.act)(conn, "[open]")
    }

    fn on_frame(&mut self, conn: &TcpConnection<'_>, line: &[u8]) -> io::Result<()> {
        self.call(conn, std::str::from_utf8(line).unwrap())
    }

    fn on_batch_end(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.call(conn, "[batch end]")
    }

    fn on_frame_error(&mut self, conn: &TcpConnection<'_>, _: FrameError<LineError>) -> io::Result<()> {
        self.call(conn, "[frame error]")
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.call(conn, "[peer shutdown]")?;
        conn.shutdown();
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        self.end.set(Some(reason.into()));
        self.call(conn, "[close]").unwrap();
    }
}

struct Stage {
    bench: Bench,
    calls: Recorder<String>,
    end: Rc<Cell<Option<End>>>,
}

fn stage(act: Act) -> Stage {
    stage_with(defaults, act)
}

fn stage_with(
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a>,
    act: Act,
) -> Stage {
    let (calls, end) = (Recorder::new(), Rc::new(Cell::new(None)));
    let (recorder, ending) = (calls.clone(), Rc::clone(&end));
    let bench = Bench::new(EventLoop::builder().propagate_panics(), settings, move |_| {
        let session = Session { calls: recorder.clone(), act, end: Rc::clone(&ending) };
        Framed::new(LineCodec::new(100), session)
    });
    Stage { bench, calls, end }
}

fn nothing(_: &TcpConnection<'_>, _: &str) -> io::Result<()> {
    Ok(())
}

// --- The end of a batch --------------------------------------------------------------------------

#[test]
fn a_batch_ends_once_after_all_frames_of_an_input() {
    with_watchdog(LIMIT, || {
        let Stage { bench, calls, .. } = stage(nothing);
        let mut client = bench.connect();
        bench.send(&mut client, "a\nb\nc\n");
        assert_eq!(calls.take(), ["a", "b", "c", "[batch end]"]);
        bench.send(&mut client, "d\nincomplete");
        assert_eq!(calls.take(), ["d", "[batch end]"]);
        bench.send(&mut client, " and still incomplete");
        assert_eq!(calls.take(), [""; 0], "a batch without a frame has ended");
        bench.send(&mut client, "\n");
        assert_eq!(calls.take(), ["incomplete and still incomplete", "[batch end]"]);
        bench.send(&mut client, "e\n");
        bench.finish(&client);
        assert_eq!(calls.take(), ["e", "[batch end]", "[peer shutdown]", "[close]"]);
    });
}

#[test]
fn no_batch_ends_after_a_close_or_an_error() {
    let ends: [Act; 3] = [
        |conn, call| {
            if call == "b" {
                conn.close();
            }
            Ok(())
        },
        |conn, call| {
            if call == "b" {
                conn.handle().close();
            }
            Ok(())
        },
        |_, call| if call == "b" { Err(io::Error::other("intended")) } else { Ok(()) },
    ];
    for act in ends {
        with_watchdog(LIMIT, move || {
            let Stage { bench, calls, .. } = stage(act);
            let mut client = bench.connect();
            bench.send(&mut client, "a\nb\nc\n");
            assert_eq!(calls.take(), ["a", "b", "[close]"]);
        });
    }
}

#[test]
fn a_batch_that_a_malformed_frame_cuts_short_ends_after_the_error() {
    with_watchdog(LIMIT, || {
        let Stage { bench, calls, end } = stage(|conn, call| match call {
            "[frame error]" => Ok(conn.send("malformed")?),
            "[batch end]" => Ok(conn.send(", end")?),
            _ => Ok(()),
        });
        let mut client = bench.connect();
        bench.send(&mut client, format!("a\n{}", "x".repeat(200)));
        assert_eq!(calls.take(), ["a", "[frame error]", "[batch end]"]);
        assert_eq!(bench.read_exact(&mut client, 14), b"malformed, end");
        bench.send(&mut client, "\nfurther\n");
        assert_eq!((calls.take(), end.take()), (vec![], None));
    });
}

#[test]
fn an_error_at_the_end_of_a_batch_closes_the_connection() {
    with_watchdog(LIMIT, || {
        let Stage { bench, calls, end } = stage(|conn, call| match call {
            "[batch end]" => {
                conn.send("last words")?;
                Err(io::Error::other("intended"))
            }
            _ => Ok(()),
        });
        let mut client = bench.connect();
        bench.send(&mut client, "a\nb\n");
        assert_eq!(bench.read_to_fin(&mut client), b"last words");
        assert_eq!(calls.take(), ["a", "b", "[batch end]", "[close]"]);
        assert_eq!(end.take(), Some(End::Error(io::ErrorKind::Other, "intended".to_owned())));
    });
}

#[test]
fn a_batch_ends_where_the_handler_pauses() {
    with_watchdog(LIMIT, || {
        let Stage { bench, calls, .. } = stage(|conn, call| {
            if call == "pause" {
                conn.pause_reading();
            }
            Ok(())
        });
        let mut client = bench.connect();
        bench.send(&mut client, "a\npause\nb\npause\nc\n");
        assert_eq!(calls.take(), ["a", "pause", "[batch end]"]);
        bench.handle(0).resume_reading();
        bench.settle();
        assert_eq!(calls.take(), ["b", "pause", "[batch end]"]);
        bench.handle(0).resume_reading();
        bench.settle();
        assert_eq!(calls.take(), ["c", "[batch end]"]);
    });
}

#[test]
fn frames_are_delivered_if_reading_resumes_at_the_end_of_the_batch() {
    with_watchdog(LIMIT, || {
        let Stage { bench, calls, .. } = stage(|conn, call| {
            match call {
                "[batch end]" => conn.resume_reading(),
                "pause" => conn.pause_reading(),
                _ => {}
            }
            Ok(())
        });
        let mut client = bench.connect();
        bench.send(&mut client, "a\npause\nb\npause\nc\n");
        let expected = ["a", "pause", "[batch end]", "b", "pause", "[batch end]", "c", "[batch end]"];
        assert_eq!(calls.take(), expected);
    });
}

#[test]
fn a_batch_ends_at_an_automatic_pause() {
    with_watchdog(LIMIT, || {
        let limits = ConnectionLimits::new().water_marks(300_000, 1000);
        let Stage { bench, calls, .. } = stage_with(
            move |builder| with_small_send_buffer(builder).limits(limits),
            |conn, call| {
                if !call.starts_with('[') {
                    conn.send([b'r'; 200_000])?;
                }
                Ok(())
            },
        );
        let mut client = bench.connect_slow_reader();
        bench.send(&mut client, "1\n2\n3\n4\n5\n6\n7\n8\n");
        let first = calls.take();
        assert_eq!(first.last().unwrap(), "[batch end]");
        assert!(first.len() < 9, "not paused: {first:?}");
        bench.read_exact(&mut client, 8 * 200_000);
        let mut all = first;
        all.extend(calls.take());
        let frames: Vec<&String> = all.iter().filter(|call| *call != "[batch end]").collect();
        assert_eq!(frames, ["1", "2", "3", "4", "5", "6", "7", "8"]);
        // No two batches end in succession.
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
        assert_eq!(all.last().unwrap(), "[batch end]");
    });
}

// --- Shutdown ------------------------------------------------------------------------------------

#[test]
fn no_frame_follows_a_shutdown_in_on_frame() {
    let ends: [fn(&TcpConnection<'_>); 2] = [|conn| conn.shutdown(), |conn| conn.close_gracefully(HOUR)];
    for (number, _) in ends.iter().enumerate() {
        with_watchdog(LIMIT, move || {
            let act: Act = match number {
                0 => |conn, call| act_until_quit(conn, call, |conn| conn.shutdown()),
                _ => |conn, call| act_until_quit(conn, call, |conn| conn.close_gracefully(HOUR)),
            };
            let Stage { bench, calls, end } = stage_with(with_small_send_buffer, act);
            let mut client = bench.connect_slow_reader();
            bench.send(&mut client, "big\nquit\nmore\nand more\n");
            assert_eq!(calls.take(), ["big", "quit", "[batch end]"]);
            bench.send(&mut client, "even more\n");
            assert_eq!(calls.take(), [""; 0]);
            assert!(bench.read_to_fin(&mut client) == pattern(3 * MIB));
            bench.finish(&client);
            bench.until(|| calls.len() > 0 && end.take().is_some_and(|end| end == End::Finished));
        });
    }
}

fn act_until_quit(conn: &TcpConnection<'_>, call: &str, quit: fn(&TcpConnection<'_>)) -> io::Result<()> {
    match call {
        "big" => conn.send(pattern(3 * MIB))?,
        "quit" => quit(conn),
        "[batch end]" => assert_eq!(conn.send("x"), Err(SendError::ShutDown)),
        "[peer shutdown]" | "[close]" | "[open]" => {}
        call => panic!("{call} was delivered"),
    }
    Ok(())
}

#[test]
fn frames_continue_after_a_shutdown_in_on_open() {
    with_watchdog(LIMIT, || {
        let Stage { bench, calls, end } = stage(|conn, call| {
            if call == "[open]" {
                conn.send("request")?;
                conn.shutdown();
            }
            Ok(())
        });
        let mut client = bench.connect();
        assert_eq!(bench.read_to_fin(&mut client), b"request");
        bench.send(&mut client, "a\nb\n");
        bench.send(&mut client, "c\n");
        assert_eq!(calls.take(), ["a", "b", "[batch end]", "c", "[batch end]"]);
        bench.finish(&client);
        assert_eq!(calls.take(), ["[peer shutdown]", "[close]"]);
        assert_eq!(end.take(), Some(End::Finished));
    });
}

#[test]
fn an_incomplete_frame_after_a_shutdown_in_on_frame_is_no_error() {
    with_watchdog(LIMIT, || {
        let Stage { bench, calls, end } = stage(|conn, call| {
            if call == "quit" {
                conn.shutdown();
            }
            Ok(())
        });
        let mut client = bench.connect();
        bench.send(&mut client, "quit\nincompl");
        bench.send(&mut client, "ete");
        bench.finish(&client);
        assert_eq!(calls.take(), ["quit", "[batch end]", "[peer shutdown]", "[close]"]);
        assert_eq!(end.take(), Some(End::Finished));
        assert_eq!(bench.read_all(&mut client), (vec![], Ended::Fin));
    });
}

// --- Closures ------------------------------------------------------------------------------------

#[test]
fn a_closure_gets_each_frame() {
    with_watchdog(LIMIT, || {
        let bench = Bench::new(EventLoop::builder().propagate_panics(), defaults, |_| {
            let mut number = 0;
            Framed::from_fn(LineCodec::new(100), move |conn, line| {
                number += 1;
                conn.send(format!("{number}: {} bytes\n", line.len()))
            })
        });
        let mut clients = [bench.connect(), bench.connect()];
        let [first, second] = &mut clients;
        bench.send(first, "abc\n\n");
        bench.send(second, "four\n");
        assert_eq!(bench.read_exact(first, 22), b"1: 3 bytes\n2: 0 bytes\n");
        assert_eq!(bench.read_exact(second, 11), b"1: 4 bytes\n");
        // The default reaction to the peer's FIN.
        bench.finish(first);
        assert_eq!(bench.read_to_fin(first), b"");
    });
}

#[test]
fn an_error_of_a_closure_closes_the_connection() {
    with_watchdog(LIMIT, || {
        let bench = Bench::new(EventLoop::builder().propagate_panics(), defaults, |_| {
            Framed::from_fn(LineCodec::new(100), |conn, line| {
                conn.send(line)?;
                if line == b"fail" { Err(io::Error::other("intended")) } else { Ok(()) }
            })
        });
        let mut client = bench.connect();
        bench.send(&mut client, "a\nfail\nb\n");
        assert_eq!(bench.read_to_fin(&mut client), b"afail");
        assert!(!bench.handle(0).is_open());
    });
}

#[test]
fn a_closure_may_return_nothing() {
    with_watchdog(LIMIT, || {
        let frames = Recorder::new();
        let recorder = frames.clone();
        let bench = Bench::new(EventLoop::builder().propagate_panics(), defaults, move |_| {
            let recorder = recorder.clone();
            Framed::from_fn(LineCodec::new(100), move |_, line: &[u8]| recorder.record(line.len()))
        });
        let mut client = bench.connect();
        bench.send(&mut client, "a\nbc\n");
        assert_eq!(frames.take(), [1, 2]);
    });
}
