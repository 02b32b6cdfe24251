//! Pairs in memory: two connections that are each other's peers.

use std::io;
use std::time::Duration;

use super::{Collector, Seen};
use crate::support::alone::alone_with_loop;
use crate::support::net::{open_descriptors, pattern};
use crate::support::{KIB, MIB, with_clock, with_loop};
use reveille::net::{Address, CloseReason, ConnectionLimits, SendError};
use reveille::{Buffer, ConnectionHandle, ConnectionHandler, EventLoop, TcpConnection};

/// An end of a pair, and what its handler has seen.
struct End {
    seen: Seen,
    handle: ConnectionHandle,
}

/// A pair of the handlers that the closures make. Both have been opened.
fn pair(
    event_loop: &EventLoop,
    one: impl FnOnce(&Seen) -> Collector,
    other: impl FnOnce(&Seen) -> Collector,
) -> [End; 2] {
    let (seen, seen_by_other) = (Seen::default(), Seen::default());
    let (one, other) = (one(&seen), other(&seen_by_other));
    let (handle, handle_of_other) = TcpConnection::pair(event_loop, |_| one, |_| other).unwrap();
    event_loop.run_ready().unwrap();
    [End { seen, handle }, End { seen: seen_by_other, handle: handle_of_other }]
}

/// A pair of an end that sends when it opens, and a reader that has paused.
fn with_paused_reader(event_loop: &EventLoop, send: impl FnOnce(&TcpConnection<'_>) + 'static) -> [End; 2] {
    pair(event_loop, |seen| seen.opening(send), |seen| seen.opening(|conn| conn.pause_reading()))
}

#[test]
fn a_mebibyte_is_echoed_byte_exact() {
    with_loop(|event_loop| {
        let sent = pattern(MIB);
        let bytes = sent.clone();
        let send = move |conn: &TcpConnection<'_>| {
            assert_eq!(*conn.peer_address(), Address::Unaddressed);
            conn.send_owned(bytes).unwrap();
            conn.shutdown();
        };
        let ends = pair(event_loop, |seen| seen.opening(send), Seen::echo);
        event_loop.run_until_idle().unwrap();
        for End { seen, .. } in ends {
            assert!(seen.input() == sent);
            assert_eq!((seen.opens(), seen.ends()), (1, 1));
            assert_eq!(seen.close(), ("both ends have finished".to_owned(), 0));
        }
    });
}

#[test]
fn a_reader_that_pauses_fills_the_pair_and_then_the_queue() {
    with_loop(|event_loop| {
        let [sender, reader] = with_paused_reader(event_loop, |conn| conn.send_owned(vec![1; MIB]).unwrap());
        assert_eq!((sender.handle.unsent(), reader.seen.received()), (MIB - 64 * KIB, 0));
        reader.handle.resume_reading();
        event_loop.run_ready().unwrap();
        assert_eq!((sender.handle.unsent(), reader.seen.received()), (0, MIB));
    });
}

#[test]
fn unsent_bytes_are_counted_when_the_peer_resets() {
    with_loop(|event_loop| {
        let [sender, reader] = with_paused_reader(event_loop, |conn| conn.send_owned(vec![1; MIB]).unwrap());
        let unsent = sender.handle.unsent();
        reader.handle.reset();
        event_loop.run_ready().unwrap();
        let (reason, lost) = sender.seen.close();
        assert!(reason.contains("reset"), "{reason}");
        assert_eq!(lost, unsent);
        assert_eq!(reader.seen.close().0, CloseReason::Reset.to_string());
    });
}

#[test]
fn bytes_before_a_reset_are_delivered() {
    with_loop(|event_loop| {
        let [sender, reader] = with_paused_reader(event_loop, |conn| conn.send("before").unwrap());
        sender.handle.reset();
        event_loop.run_ready().unwrap();
        let reset = CloseReason::Reset.to_string();
        assert_eq!((sender.seen.close().0, reader.seen.received()), (reset, 0));
        reader.handle.resume_reading();
        event_loop.run_ready().unwrap();
        assert_eq!((reader.seen.input(), reader.seen.ends()), (b"before".to_vec(), 0));
        assert!(reader.seen.close().0.contains("reset"));
    });
}

#[test]
fn a_close_with_unread_input_resets_the_peer() {
    with_loop(|event_loop| {
        let [sender, reader] = with_paused_reader(event_loop, |conn| conn.send("unread").unwrap());
        reader.handle.close();
        event_loop.run_ready().unwrap();
        assert_eq!(reader.seen.received(), 0);
        let (reason, _) = sender.seen.close();
        assert!(reason.contains("reset"), "{reason}");
    });
}

#[test]
fn a_half_closed_end_still_receives() {
    with_loop(|event_loop| {
        struct LateReply;

        impl ConnectionHandler for LateReply {
            fn on_message(&mut self, _: &TcpConnection<'_>, _: &mut Buffer) -> io::Result<()> {
                Ok(())
            }

            fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
                conn.send("late")?;
                conn.shutdown();
                Ok(())
            }
        }

        let one = Seen::default();
        let ending = one.opening(|conn| {
            conn.shutdown();
            assert_eq!(conn.send("x").unwrap_err(), SendError::ShutDown);
        });
        TcpConnection::pair(event_loop, |_| ending, |_| LateReply).unwrap();
        event_loop.run_until_idle().unwrap();
        assert_eq!(one.input(), b"late");
        assert_eq!(one.close().0, "both ends have finished");
    });
}

#[test]
fn either_end_may_close_in_any_callback() {
    /// Closes in its call number `at`.
    struct Closing {
        at: usize,
        calls: usize,
        resets: bool,
    }

    impl Closing {
        fn call(&mut self, conn: &TcpConnection<'_>) {
            self.calls += 1;
            if self.calls == self.at {
                if self.resets { conn.reset() } else { conn.close() }
            }
        }
    }

    impl ConnectionHandler for Closing {
        fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
            // It may have been closed already, or the peer may be gone.
            let _ = conn.send("x");
            conn.notify_drained();
            self.call(conn);
            Ok(())
        }
        fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
            let _ = conn.send(input.take_all());
            conn.notify_drained();
            self.call(conn);
            Ok(())
        }
        fn on_drained(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
            self.call(conn);
            Ok(())
        }
    }

    with_loop(|event_loop| {
        for at in 1..8 {
            for resets in [false, true] {
                let seen = Seen::default();
                let closing = Closing { at, calls: 0, resets };
                let echo = seen.echo();
                let (one, other) = TcpConnection::pair(event_loop, |_| closing, |_| echo).unwrap();
                event_loop.run_ready().unwrap();
                assert!(!one.is_open(), "call {at}");
                other.close();
                event_loop.run_ready().unwrap();
                assert!(seen.is_closed() && !other.is_open(), "call {at}");
            }
        }
    });
}

#[test]
fn an_idle_pair_does_not_keep_the_loop_running() {
    with_clock(|event_loop, clock| {
        let wait = |conn: &TcpConnection<'_>| conn.set_idle_timeout(Some(Duration::from_secs(60)));
        let start = clock.now();
        let [waiting, idle] = pair(event_loop, |seen| seen.opening(wait), Seen::handler);
        // The timeout counts, and the connections alone do not.
        event_loop.run_until_idle().unwrap();
        assert_eq!(clock.now() - start, Duration::from_secs(60));
        let (reason, _) = waiting.seen.close();
        assert!(reason.contains("idle"), "{reason}");
        assert_eq!(idle.seen.ends(), 1);
    });
}

#[test]
fn a_graceful_close_waits_for_the_reader() {
    with_clock(|event_loop, _| {
        let [sender, reader] = with_paused_reader(event_loop, |conn| {
            conn.send("unread").unwrap();
            conn.close_gracefully(Duration::from_secs(5));
        });
        assert!(sender.handle.is_open());
        reader.handle.resume_reading();
        event_loop.run_for(Duration::from_secs(1)).unwrap();
        assert_eq!(sender.seen.close().0, "both ends have finished");
    });
}

#[test]
fn a_file_is_sent_to_a_pair() {
    with_loop(|event_loop| {
        let folder = crate::support::folder::Folder::new();
        let content = pattern(MIB);
        std::fs::write(folder.join("file"), &content).unwrap();
        let file = std::fs::File::open(folder.join("file")).unwrap();
        let send = move |conn: &TcpConnection<'_>| {
            conn.send_file(file, 0, MIB as u64).unwrap();
            conn.shutdown();
        };
        let [sender, reader] = pair(event_loop, |seen| seen.opening(send), Seen::handler);
        event_loop.run_until_idle().unwrap();
        assert!(reader.seen.input() == content);
        assert_eq!(sender.seen.close(), ("both ends have finished".to_owned(), 0));
    });
}

#[test]
fn limits_of_a_pair_apply_to_both_ends() {
    with_loop(|event_loop| {
        let limits = ConnectionLimits::new().max_unsent(KIB);
        let refused = |conn: &TcpConnection<'_>| {
            conn.send(vec![0; 64 * KIB]).unwrap_err();
            conn.send(vec![0; KIB]).unwrap();
        };
        let (one, other) = (Seen::default(), Seen::default());
        let (a, b) = (one.opening(refused), other.opening(refused));
        TcpConnection::builder(event_loop).limits(limits).pair(|_| a, |_| b).unwrap();
        event_loop.run_ready().unwrap();
        assert_eq!((one.received(), other.received()), (KIB, KIB));
    });
}

#[test]
fn a_pair_uses_no_descriptor() {
    alone_with_loop(|event_loop| {
        let before = open_descriptors();
        let [one, _] = pair(event_loop, |seen| seen.opening(|conn| conn.send("x").unwrap()), Seen::echo);
        assert_eq!((one.seen.received(), open_descriptors()), (1, before));
    });
}

#[test]
fn dropping_the_loop_closes_both_ends() {
    let event_loop = EventLoop::new().unwrap();
    let [one, other] = pair(&event_loop, Seen::handler, Seen::handler);
    drop(event_loop);
    assert!(one.seen.is_closed() && other.seen.is_closed());
    assert_eq!(one.handle.send("x").unwrap_err().reason(), SendError::Closed);
}

#[test]
fn a_panic_of_one_handler_ends_the_input_of_the_other() {
    crate::support::with_catching_loop(|event_loop| {
        struct Panics;

        impl ConnectionHandler for Panics {
            fn on_message(&mut self, conn: &TcpConnection<'_>, _: &mut Buffer) -> io::Result<()> {
                conn.send("accepted")?;
                panic!("a handler");
            }
        }

        let one = Seen::default();
        let sending = one.opening(|conn| conn.send("x").unwrap());
        TcpConnection::pair(event_loop, |_| sending, |_| Panics).unwrap();
        event_loop.run_ready().unwrap();
        assert_eq!((one.input(), one.ends()), (b"accepted".to_vec(), 1));
    });
}
