//! The time limit of an incomplete frame, over virtual time.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use reveille::codec::{FrameError, FrameHandler, Framed, LineCodec, LineError};
use reveille::net::{CloseReason, ConnectionLimits, TcpServerBuilder};
use reveille::time::VirtualClock;
use reveille::{ConnectionHandle, EventLoopBuilder, TcpConnection};

use crate::support::Recorder;
use crate::support::bench::{Bench, Ended, defaults, with_virtual_time};
use crate::support::clock::{HOUR, MINUTE, SECOND};
use crate::support::net::{End, with_small_send_buffer};

/// Records its calls. Keeps the connection open after a frame error if `keeps_open`.
struct Session {
    calls: Recorder<String>,
    act: fn(&TcpConnection<'_>, &str),
    keeps_open: bool,
    end: Rc<Cell<Option<End>>>,
}

impl FrameHandler<LineCodec> for Session {
    fn on_frame(&mut self, conn: &TcpConnection<'_>, line: &[u8]) -> io::Result<()> {
        let line = std::str::from_utf8(line).unwrap();
        self.calls.record(line.to_owned());
        (self.act)(conn, line);
        Ok(())
    }

    fn on_frame_error(&mut self, _: &TcpConnection<'_>, error: FrameError<LineError>) -> io::Result<()> {
        self.calls.record(format!("{error:?}"));
        if self.keeps_open { Ok(()) } else { Err(error.into()) }
    }

    fn on_deadline(&mut self, _: &TcpConnection<'_>) -> io::Result<()> {
        self.calls.record("deadline".to_owned());
        Ok(())
    }

    fn on_idle(&mut self, _: &TcpConnection<'_>) -> io::Result<()> {
        self.calls.record("idle".to_owned());
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection<'_>, reason: &CloseReason) {
        self.end.set(Some(reason.into()));
    }
}

struct Stage {
    bench: Bench,
    clock: VirtualClock,
    calls: Recorder<String>,
    end: Rc<Cell<Option<End>>>,
}

impl Stage {
    /// A bench of framed connections with a time limit of ten seconds.
    fn new(
        builder: EventLoopBuilder,
        clock: VirtualClock,
        keeps_open: bool,
        act: fn(&TcpConnection<'_>, &str),
    ) -> Stage {
        Stage::with(builder, clock, defaults, keeps_open, act)
    }

    fn with(
        builder: EventLoopBuilder,
        clock: VirtualClock,
        settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a>,
        keeps_open: bool,
        act: fn(&TcpConnection<'_>, &str),
    ) -> Stage {
        let (calls, end) = (Recorder::new(), Rc::new(Cell::new(None)));
        let (recorder, ending) = (calls.clone(), Rc::clone(&end));
        let bench = Bench::new(builder, settings, move |_| {
            let session = Session { calls: recorder.clone(), act, keeps_open, end: Rc::clone(&ending) };
            Framed::new(LineCodec::new(100), session).frame_timeout(10 * SECOND)
        });
        Stage { bench, clock, calls, end }
    }

    fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.bench.settle();
    }
}

fn nothing(_: &TcpConnection<'_>, _: &str) {}

#[test]
fn an_incomplete_frame_closes_the_connection_at_the_limit() {
    with_virtual_time(|builder, clock| {
        let stage = Stage::new(builder, clock, false, nothing);
        let mut client = stage.bench.connect();
        // Without a frame there is no limit.
        stage.pass(HOUR);
        stage.bench.send(&mut client, "abc");
        stage.pass(10 * SECOND - Duration::from_nanos(1));
        assert_eq!(stage.end.take(), None);
        stage.pass(Duration::from_nanos(1));
        assert_eq!(stage.calls.take(), ["TimedOut { bytes: 3 }"]);
        let message = FrameError::<LineError>::TimedOut { bytes: 3 }.to_string();
        assert_eq!(stage.end.take(), Some(End::Error(io::ErrorKind::TimedOut, message)));
        assert_eq!(stage.bench.read_all(&mut client), (vec![], Ended::Fin));
        assert_eq!(stage.bench.event_loop.next_deadline(), None, "a timer is left");
    });
}

#[test]
fn a_slow_sender_of_single_bytes_is_ended() {
    with_virtual_time(|builder, clock| {
        let stage = Stage::new(builder, clock, false, nothing);
        let mut client = stage.bench.connect();
        for _ in 0..10 {
            assert_eq!(stage.calls.take(), [""; 0]);
            stage.bench.send(&mut client, "x");
            stage.pass(SECOND);
        }
        assert_eq!(stage.calls.take(), ["TimedOut { bytes: 10 }"]);
        assert!(!stage.bench.handle(0).is_open());
    });
}

#[test]
fn complete_frames_never_time_out() {
    with_virtual_time(|builder, clock| {
        let stage = Stage::new(builder, clock, false, nothing);
        let mut client = stage.bench.connect();
        for _ in 0..5 {
            stage.bench.send(&mut client, "abc\n");
            assert_eq!(stage.bench.event_loop.next_deadline(), None, "a complete frame set a timer");
            stage.pass(HOUR);
        }
        // In two pieces, each in time.
        for _ in 0..5 {
            stage.bench.send(&mut client, "ab");
            stage.pass(9 * SECOND);
            stage.bench.send(&mut client, "c\n");
            stage.pass(HOUR);
        }
        assert_eq!(stage.calls.take(), ["abc"; 10]);
        assert!(stage.bench.handle(0).is_open());
    });
}

#[test]
fn each_frame_has_its_own_limit() {
    with_virtual_time(|builder, clock| {
        let stage = Stage::new(builder, clock, false, nothing);
        let mut client = stage.bench.connect();
        stage.bench.send(&mut client, "a");
        // Each input completes a frame and begins the next.
        for _ in 0..5 {
            stage.pass(9 * SECOND);
            stage.bench.send(&mut client, "\na");
        }
        assert_eq!(stage.calls.take(), ["a"; 5]);
        stage.pass(10 * SECOND - Duration::from_nanos(1));
        assert_eq!(stage.calls.take(), [""; 0]);
        stage.pass(Duration::from_nanos(1));
        assert_eq!(stage.calls.take(), ["TimedOut { bytes: 1 }"]);
    });
}

#[test]
fn a_handler_may_keep_the_connection_after_a_timeout() {
    with_virtual_time(|builder, clock| {
        let stage = Stage::new(builder, clock, true, nothing);
        let mut client = stage.bench.connect();
        stage.bench.send(&mut client, "ab");
        stage.pass(10 * SECOND);
        assert_eq!(stage.calls.take(), ["TimedOut { bytes: 2 }"]);
        stage.bench.handle(0).send("too slow").unwrap();
        assert_eq!(stage.bench.read_exact(&mut client, 8), b"too slow");
        // Further input is discarded, and the error is reported once.
        stage.bench.send(&mut client, "c\nd\ne");
        stage.pass(HOUR);
        stage.bench.finish(&client);
        assert_eq!(stage.calls.take(), [""; 0]);
        assert_eq!(stage.bench.read_to_fin(&mut client), b"");
        assert_eq!(stage.end.take(), Some(End::Finished));
    });
}

#[test]
fn a_paused_connection_does_not_time_out() {
    type Pause = fn(&ConnectionHandle);
    let pauses: [Pause; 2] = [ConnectionHandle::pause_reading, |handle| {
        handle.with(|_: &mut Session, conn| conn.pause_reading()).unwrap();
    }];
    for pause in pauses {
        with_virtual_time(move |builder, clock| {
            let stage = Stage::new(builder, clock, false, nothing);
            let mut client = stage.bench.connect();
            stage.bench.send(&mut client, "ab");
            let handle = stage.bench.handle(0);
            stage.pass(5 * SECOND);
            pause(&handle);
            stage.bench.settle();
            stage.pass(HOUR);
            assert_eq!(stage.calls.take(), [""; 0], "the paused connection timed out");
            // The rest arrives in time after the resumption.
            handle.resume_reading();
            stage.bench.settle();
            stage.pass(4 * SECOND);
            stage.bench.send(&mut client, "c\nd");
            assert_eq!(stage.calls.take(), ["abc"]);
            // And this one does not.
            pause(&handle);
            stage.bench.settle();
            stage.pass(HOUR);
            handle.resume_reading();
            stage.bench.settle();
            stage.pass(10 * SECOND);
            assert_eq!(stage.calls.take(), ["TimedOut { bytes: 1 }"]);
        });
    }
}

#[test]
fn frames_held_by_a_pause_in_on_frame_do_not_time_out() {
    with_virtual_time(|builder, clock| {
        let stage = Stage::new(builder, clock, false, |conn, line| {
            if line == "pause" {
                conn.pause_reading();
            }
        });
        let mut client = stage.bench.connect();
        stage.bench.send(&mut client, "pause\nb\nincompl");
        stage.pass(HOUR);
        assert_eq!(stage.calls.take(), ["pause"]);
        stage.bench.handle(0).resume_reading();
        stage.bench.settle();
        assert_eq!(stage.calls.take(), ["b"]);
        stage.pass(9 * SECOND);
        assert_eq!(stage.calls.take(), [""; 0]);
        stage.pass(SECOND);
        assert_eq!(stage.calls.take(), ["TimedOut { bytes: 7 }"]);
    });
}

#[test]
fn an_automatic_pause_does_not_time_out() {
    with_virtual_time(|builder, clock| {
        let limits = ConnectionLimits::new().water_marks(1000, 500);
        let stage = Stage::with(
            builder,
            clock,
            move |builder| with_small_send_buffer(builder).limits(limits),
            false,
            |conn, _| conn.send([0; 1_000_000]).unwrap(),
        );
        let mut client = stage.bench.connect_slow_reader();
        stage.bench.send(&mut client, "a\nincompl");
        stage.pass(HOUR);
        assert_eq!(stage.calls.take(), ["a"]);
        stage.bench.read_exact(&mut client, 1_000_000);
        stage.bench.settle();
        stage.pass(10 * SECOND);
        assert_eq!(stage.calls.take(), ["TimedOut { bytes: 7 }"]);
    });
}

#[test]
fn a_fin_within_a_frame_is_reported_as_incomplete() {
    with_virtual_time(|builder, clock| {
        let stage = Stage::new(builder, clock, true, nothing);
        let mut client = stage.bench.connect();
        stage.bench.send(&mut client, "ab");
        stage.bench.finish(&client);
        assert_eq!(stage.calls.take(), ["Incomplete { bytes: 2 }"]);
        stage.pass(HOUR);
        assert_eq!(stage.calls.take(), [""; 0]);
    });
}

#[test]
fn a_shutdown_within_on_frame_ends_the_limit() {
    with_virtual_time(|builder, clock| {
        let stage = Stage::new(builder, clock, false, |conn, line| {
            if line == "quit" {
                conn.shutdown();
            }
        });
        let mut client = stage.bench.connect();
        stage.bench.send(&mut client, "qu");
        stage.bench.send(&mut client, "it\nincompl");
        stage.pass(HOUR);
        assert_eq!(stage.calls.take(), ["quit"]);
    });
}

#[test]
fn the_limit_of_a_frame_is_independent_of_other_deadlines() {
    with_virtual_time(|builder, clock| {
        let stage = Stage::new(builder, clock, true, |conn, line| {
            if line == "set" {
                conn.set_deadline(MINUTE);
                conn.set_idle_timeout(Some(20 * SECOND));
            }
        });
        let mut client = stage.bench.connect();
        stage.bench.send(&mut client, "set\nab");
        stage.pass(10 * SECOND);
        assert_eq!(stage.calls.take(), ["set", "TimedOut { bytes: 2 }"]);
        stage.pass(10 * SECOND);
        assert_eq!(stage.calls.take(), ["idle"]);
        stage.pass(20 * SECOND);
        assert_eq!(stage.calls.take(), ["idle"]);
        stage.pass(20 * SECOND);
        let mut last = stage.calls.take();
        last.sort_unstable();
        assert_eq!(last, ["deadline", "idle"]);
    });
}

#[test]
fn a_frame_timeout_is_a_timed_out_io_error() {
    let error = FrameError::<LineError>::TimedOut { bytes: 7 };
    assert!(error.to_string().contains('7'), "{error}");
    let text = error.to_string();
    let error = io::Error::from(error);
    assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::TimedOut, text));
}
