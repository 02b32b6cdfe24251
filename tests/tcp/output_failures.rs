//! Writes that fail because the peer has closed or reset the connection: the output is dropped and
//! counted. Input that arrived earlier is still delivered, up to the end, for every reason that
//! keeps the connection from reading meanwhile.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::rc::Rc;

use crate::support::failures::{Bench, assert_ends_with};
use crate::support::net::{self, HandlerCall, assert_queued, message, reason};
use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::net::{ConnectionState, SendError};
use reveille::{EventLoop, TcpConnection, TcpServer};
use rustix::event::PollFlags;

use crate::support::{Recorder, with_loop};

/// All input that was offered, concatenated.
fn offered_input(life: &[HandlerCall]) -> String {
    life.iter().map(|event| if let HandlerCall::Message(text) = event { text.as_str() } else { "" }).collect()
}

// --- Earlier input is delivered

/// The peer's orderly close is followed by a reset once anything is sent to it.
#[test]
fn input_before_an_orderly_close_survives_failed_writes() {
    crate::support::with_watchdog(crate::support::LIMIT, || {
        let builder = EventLoop::builder().propagate_panics().input_buffer(1024);
        let event_loop = builder.build().unwrap();
        let refused = Rc::new(Cell::new(0));
        let (counted, has_replied) = (Rc::clone(&refused), Rc::new(Cell::new(false)));
        let bench = Bench::new(&event_loop, move |script| {
            let (counted, has_replied) = (Rc::clone(&counted), Rc::clone(&has_replied));
            script
                .on_message(move |conn, input| {
                    input.clear();
                    if !has_replied.replace(true) {
                        conn.send("ok").and_then(|_| conn.flush()).unwrap();
                        net::until(|| net::poll_flags(conn).contains(PollFlags::HUP));
                    }
                    if conn.send("ok").and_then(|_| conn.flush()).is_err() {
                        counted.set(counted.get() + 1);
                        assert_eq!(conn.state(), ConnectionState::Closing);
                    }
                })
                .on_peer_shutdown(|conn| {
                    assert_eq!(conn.send("late").and_then(|_| conn.flush()), Err(SendError::Closed));
                    conn.shutdown();
                    Ok(())
                })
        });
        let mut client = bench.connect(&event_loop);
        client.write_all(&[b'x'; 5000]).unwrap();
        drop(client);
        bench.wait_for(PollFlags::RDHUP);
        let life = bench.calls_until_close(&event_loop);
        assert_eq!(offered_input(&life).len(), 5000);
        assert_eq!(life[life.len() - 2], HandlerCall::PeerShutdown);
        assert_ends_with(&life, ErrorKind::BrokenPipe);
        assert_eq!(refused.get(), 5, "not every reply was refused");
    });
}

#[test]
fn input_before_a_unix_close_survives_failed_writes() {
    crate::support::with_watchdog(crate::support::LIMIT, || {
        let builder = EventLoop::builder().propagate_panics().input_buffer(1024);
        let event_loop = builder.build().unwrap();
        let bench = Bench::on_unix(&event_loop, |script| {
            script.on_message(|conn, input| {
                input.clear();
                assert_eq!(conn.send("ok").and_then(|_| conn.flush()), Err(SendError::Closed));
            })
        });
        let mut client = bench.connect_unix(&event_loop);
        client.write_all(&[b'x'; 5000]).unwrap();
        drop(client);
        let life = bench.calls_until_close(&event_loop);
        assert_eq!(offered_input(&life).len(), 5000);
        assert_eq!(life[life.len() - 2], HandlerCall::PeerShutdown);
        assert_ends_with(&life, ErrorKind::BrokenPipe);
    });
}

/// A peer that replies and closes before it has read the whole request resets the connection.
#[test]
fn an_early_reply_survives_the_loss_of_the_request() {
    const REQUEST: usize = 12 << 20;
    with_loop(|event_loop| {
        let bench = Bench::new(event_loop, |script| {
            script
                .on_open(|conn| assert_queued(conn, conn.send(vec![0; REQUEST])))
                .on_message(|_, input| input.clear())
        });
        let mut client = bench.connect(event_loop);
        client.write_all(b"413").unwrap();
        drop(client);
        bench.wait_for(PollFlags::HUP);
        let life = bench.calls_until_close(event_loop);
        // The queue did not drain, and the peer has not finished in order.
        assert_eq!(life[..life.len() - 1], [HandlerCall::Open, message("413")]);
        assert_ends_with(&life, ErrorKind::ConnectionReset);
        let (unsent, undelivered) = bench.lost.get();
        assert!(unsent > 0 && unsent <= undelivered && undelivered <= REQUEST, "{:?}", bench.lost);
    });
}

/// Each way to write, with one byte to read and then a reset.
#[test]
fn input_before_a_reset_survives_every_failed_write() {
    fn file() -> File {
        File::open(std::env::current_exe().unwrap()).unwrap()
    }
    let writes: [fn(&TcpConnection<'_>); 7] = [
        |conn| assert_eq!(conn.send("x").and_then(|_| conn.flush()), Err(SendError::Closed)),
        |conn| {
            assert_eq!(
                reason(conn.send_owned(vec![0; 5000])).and_then(|_| conn.flush()),
                Err(SendError::Closed)
            )
        },
        |conn| {
            assert_eq!(conn.send_shared(&[0; 5000].into()).and_then(|_| conn.flush()), Err(SendError::Closed))
        },
        |conn| {
            let slices = [IoSlice::new(b"x"), IoSlice::new(b"y")];
            assert_eq!(conn.send_vectored(&slices).and_then(|_| conn.flush()), Err(SendError::Closed));
        },
        |conn| assert_eq!(reason(conn.send_file(file(), 0, 1000)), Err(SendError::Closed)),
        |conn| conn.shutdown(),
        // The bytes are accepted, and count as unsent.
        |conn| {
            let sender = conn.handle();
            assert_eq!(reason(sender.send(*b"accepted")), Ok(()));
            assert_eq!(conn.send("x").and_then(|_| conn.flush()), Err(SendError::Closed));
            assert_eq!(reason(sender.send(*b"refused")), Err(SendError::Closed));
        },
    ];
    for (number, write) in writes.into_iter().enumerate() {
        with_loop(move |event_loop| {
            let bench = Bench::new(event_loop, move |script| {
                script
                    .on_open(|conn| {
                        conn.pause_reading();
                        conn.notify_drained();
                    })
                    .on_drained(move |conn| {
                        net::until(|| net::poll_flags(conn).contains(PollFlags::HUP));
                        write(conn);
                        assert_eq!(conn.state(), ConnectionState::Closing);
                        // Has no effect after the failed write.
                        conn.notify_drained();
                        conn.resume_reading();
                    })
                    .on_message(|_, input| input.clear())
            });
            let mut client = net::connect_with_small_receive_buffer(bench.server.local_addr().unwrap());
            client.write_all(b"last words").unwrap();
            net::reset(client);
            let life = bench.calls_until_close(event_loop);
            assert_eq!(
                life[..life.len() - 1],
                [HandlerCall::Open, HandlerCall::Drained, message("last words")],
                "{number}"
            );
            assert_ends_with(&life, ErrorKind::ConnectionReset);
            // Small sends were accepted before the write failed.
            let unsent = [1, 0, 0, 2, 0, 0, "accepted".len()];
            assert_eq!(bench.lost.get().0, unsent[number], "{number}");
        });
    }
}

/// The peer has stopped reading, and still writes.
#[test]
fn a_peer_that_stopped_reading_is_read_while_it_writes() {
    with_loop(|event_loop| {
        let bench = Bench::on_unix(event_loop, |script| {
            script.on_message(|conn, input| {
                input.clear();
                let sent = conn.send_with_descriptors("x", [conn.as_fd().try_clone_to_owned()?]);
                assert_eq!(sent.map_err(|error| error.kind()), Err(ErrorKind::BrokenPipe));
                assert_eq!(conn.state(), ConnectionState::Closing);
                Ok(())
            })
        });
        let mut client = bench.connect_unix(event_loop);
        client.shutdown(Shutdown::Read).unwrap();
        for text in ["one", "two", "three"] {
            client.write_all(text.as_bytes()).unwrap();
            net::turn_until(event_loop, || bench.journal.of(0).last() == Some(&message(text)));
        }
        client.shutdown(Shutdown::Write).unwrap();
        let life = bench.calls_until_close(event_loop);
        assert_eq!(life[4], HandlerCall::PeerShutdown);
        assert_ends_with(&life, ErrorKind::BrokenPipe);
    });
}

#[test]
fn received_frames_are_delivered_though_replies_fail() {
    struct Lines(Recorder<String>);
    impl FrameHandler<LineCodec> for Lines {
        fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
            net::until(|| net::poll_flags(conn).contains(PollFlags::HUP));
            Ok(())
        }

        fn on_frame(&mut self, conn: &TcpConnection<'_>, line: &[u8]) -> io::Result<()> {
            assert_eq!(conn.send("ok\n").and_then(|_| conn.flush()), Err(SendError::Closed));
            self.0.record(String::from_utf8_lossy(line).into_owned());
            Ok(())
        }

        fn on_close(&mut self, _: &TcpConnection<'_>, reason: &reveille::net::CloseReason) {
            let is_reset = matches!(reason, reveille::net::CloseReason::Error(error) if error.kind() == ErrorKind::ConnectionReset);
            self.0.record(format!("reset: {is_reset}"));
        }
    }
    with_loop(|event_loop| {
        let lines = Recorder::new();
        let recorder = lines.clone();
        let server = TcpServer::bind(event_loop, "127.0.0.1:0")
            .unwrap()
            .serve(move |_| Framed::new(LineCodec::new(100), Lines(recorder.clone())))
            .unwrap();
        let mut client = net::connect(server.local_addr().unwrap());
        client.write_all(b"one\ntwo\nthree\n").unwrap();
        net::reset(client);
        net::turn_until(event_loop, || lines.len() == 4);
        assert_eq!(lines.take(), ["one", "two", "three", "reset: true"]);
    });
}
