//! Outstanding work: the peer's half-close and the stop of a server wait for it.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::bench::{Bench, Ended, defaults, with_virtual_time};
use crate::support::clock::{MINUTE, SECOND};
use crate::support::net::{self, End, Host};
use crate::support::{LIMIT, on_another_thread, with_watchdog};
use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::net::{CloseReason, ConnectionState, KeepOpen, SendError};
use reveille::{Buffer, ConnectionHandler, EventLoop, EventLoopBuilder, TcpConnection, TcpServer};

/// Consumes its input, and has the default reaction to a half-close.
struct Plain {
    end: Rc<RefCell<Option<End>>>,
}

impl ConnectionHandler for Plain {
    fn on_message(&mut self, _: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection<'_>, reason: &CloseReason) {
        *self.end.borrow_mut() = Some(reason.into());
    }
}

fn plain() -> (Bench, Rc<RefCell<Option<End>>>) {
    plain_on(EventLoop::builder().propagate_panics())
}

fn plain_on(builder: EventLoopBuilder) -> (Bench, Rc<RefCell<Option<End>>>) {
    let end = Rc::<RefCell<Option<End>>>::default();
    let seen = Rc::clone(&end);
    (Bench::new(builder, defaults, move |_| Plain { end: Rc::clone(&seen) }), end)
}

/// Runs `call` with the first connection, and returns its result.
fn with_first<R: 'static>(bench: &Bench, call: impl FnOnce(&TcpConnection<'_>) -> R + 'static) -> R {
    let result = Rc::new(RefCell::new(None));
    let slot = Rc::clone(&result);
    let call = move |_: &mut Plain, conn: &TcpConnection<'_>| *slot.borrow_mut() = Some(call(conn));
    bench.handle(0).with_local(&bench.event_loop, call).unwrap();
    result.take().expect("the call has run")
}

fn keep_open(bench: &Bench) -> KeepOpen {
    with_first(bench, |conn| conn.keep_open())
}

fn state(bench: &Bench) -> ConnectionState {
    with_first(bench, |conn| conn.state())
}

/// Drops the work on another thread, and turns the loop.
fn drop_elsewhere(bench: &Bench, work: KeepOpen) {
    on_another_thread(move || drop(work));
    bench.settle();
}

// --- The peer's half-close -----------------------------------------------------------------------

#[test]
fn a_reply_of_another_thread_arrives_after_a_half_close() {
    with_watchdog(LIMIT, || {
        let (sender, requests) = mpsc::channel();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve(move |_| {
                let sender = sender.clone();
                Framed::from_fn(LineCodec::new(20), move |conn, line| {
                    sender.send((conn.handle(), conn.keep_open(), line.to_vec())).map_err(io::Error::other)
                })
            })
        });
        let mut client = host.connect();
        client.write_all(b"one\ntwo\nthree\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        for _ in 0..3 {
            let (handle, work, line) = requests.recv_timeout(net::LIMIT).unwrap();
            // The half-close has been noticed.
            host.request(|_, _| ());
            thread::spawn(move || {
                handle.send(line).unwrap();
                drop(work);
            });
        }
        let mut received = net::read_to_end(&mut client);
        received.sort_unstable();
        let mut expected = b"onetwothree".to_vec();
        expected.sort_unstable();
        assert_eq!(received, expected);
        net::until(|| host.open_connections() == 0);
    });
}

#[test]
fn a_half_close_waits_for_the_last_of_several() {
    with_watchdog(LIMIT, || {
        let (bench, end) = plain();
        let mut client = bench.connect();
        let [first, second, third] = [(); 3].map(|()| keep_open(&bench));
        bench.finish(&client);
        drop_elsewhere(&bench, second);
        assert_eq!(state(&bench), ConnectionState::Open);
        bench.handle(0).send("first, ").unwrap();
        drop(first);
        bench.settle();
        assert_eq!(state(&bench), ConnectionState::Open);
        let handle = bench.handle(0);
        on_another_thread(move || {
            handle.send("second").unwrap();
            drop(third);
        });
        assert_eq!(bench.read_to_fin(&mut client), b"first, second");
        bench.until(|| end.borrow().is_some());
        assert_eq!(end.take(), Some(End::Finished));
    });
}

#[test]
fn a_half_close_without_work_ends_at_once() {
    with_watchdog(LIMIT, || {
        let (bench, end) = plain();
        let mut client = bench.connect();
        drop(keep_open(&bench));
        bench.settle();
        assert_eq!(state(&bench), ConnectionState::Open, "work that ends shuts nothing down");
        bench.finish(&client);
        assert_eq!(bench.read_to_fin(&mut client), b"");
        assert_eq!(end.take(), Some(End::Finished));
    });
}

#[test]
fn work_begun_while_another_is_outstanding_is_waited_for() {
    with_watchdog(LIMIT, || {
        let (bench, end) = plain();
        let mut client = bench.connect();
        let mut work = keep_open(&bench);
        bench.finish(&client);
        for _ in 0..3 {
            let next = keep_open(&bench);
            drop_elsewhere(&bench, std::mem::replace(&mut work, next));
            assert_eq!(state(&bench), ConnectionState::Open);
        }
        drop_elsewhere(&bench, work);
        assert_eq!(bench.read_to_fin(&mut client), b"");
        assert_eq!(end.take(), Some(End::Finished));
    });
}

/// The end of the first work is in transit to the loop when the second begins.
#[test]
fn work_begun_before_the_loop_knows_of_an_end_is_waited_for() {
    with_watchdog(LIMIT, || {
        let (bench, _) = plain();
        let mut client = bench.connect();
        let first = keep_open(&bench);
        bench.finish(&client);
        let second = with_first(&bench, |conn| {
            on_another_thread(move || drop(first));
            assert_eq!(conn.state(), ConnectionState::Open);
            conn.keep_open()
        });
        bench.settle();
        assert_eq!(state(&bench), ConnectionState::Open);
        bench.handle(0).send("second").unwrap();
        drop_elsewhere(&bench, second);
        assert_eq!(bench.read_to_fin(&mut client), b"second");
    });
}

#[test]
fn a_framed_connection_waits_for_its_work() {
    struct Lines(Rc<RefCell<Option<KeepOpen>>>);

    impl FrameHandler<LineCodec> for Lines {
        fn on_frame(&mut self, conn: &TcpConnection<'_>, _: &[u8]) -> io::Result<()> {
            *self.0.borrow_mut() = Some(conn.keep_open());
            Ok(())
        }
    }

    with_watchdog(LIMIT, || {
        let work = Rc::new(RefCell::new(None));
        let kept = Rc::clone(&work);
        let bench = Bench::new(EventLoop::builder().propagate_panics(), defaults, move |_| {
            Framed::new(LineCodec::new(10), Lines(Rc::clone(&kept)))
        });
        let mut client = bench.connect();
        bench.send(&mut client, "x\n");
        bench.finish(&client);
        bench.handle(0).send("reply").unwrap();
        assert_eq!(bench.read_exact(&mut client, 5), b"reply");
        drop_elsewhere(&bench, work.take().unwrap());
        assert_eq!(bench.read_to_fin(&mut client), b"");
    });
}

#[test]
fn many_replies_of_many_threads_all_arrive_before_the_fin() {
    const THREADS: usize = 8;
    with_watchdog(LIMIT, || {
        for _ in 0..30 {
            let (sender, connections) = mpsc::channel();
            let host = Host::new(move |event_loop| {
                TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(move |conn, input| {
                    input.clear();
                    let work: Vec<_> = (0..THREADS).map(|_| conn.keep_open()).collect();
                    sender.send((conn.handle(), work)).map_err(io::Error::other)
                })
            });
            let mut client = host.connect();
            client.write_all(b"x").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let (handle, work) = connections.recv_timeout(net::LIMIT).unwrap();
            for work in work {
                let handle = handle.clone();
                thread::spawn(move || {
                    handle.send("reply ").unwrap();
                    drop(work);
                });
            }
            assert_eq!(net::read_to_end(&mut client), b"reply ".repeat(THREADS));
        }
    });
}

// --- shutdown_after_work -------------------------------------------------------------------------

#[test]
fn a_shutdown_after_work_happens_at_once_without_work() {
    with_watchdog(LIMIT, || {
        let (bench, _) = plain();
        let mut client = bench.connect();
        with_first(&bench, |conn| {
            conn.send("all").unwrap();
            conn.shutdown_after_work();
            assert_eq!(conn.state(), ConnectionState::Closing);
            assert_eq!(conn.send("x"), Err(SendError::ShutDown));
        });
        assert_eq!(bench.read_to_fin(&mut client), b"all");
    });
}

#[test]
fn a_connection_sends_and_receives_until_the_work_ends() {
    with_watchdog(LIMIT, || {
        let (bench, _) = plain();
        let mut client = bench.connect();
        let work = with_first(&bench, |conn| {
            let work = conn.keep_open();
            conn.shutdown_after_work();
            assert_eq!(conn.state(), ConnectionState::Open);
            conn.send("a").unwrap();
            work
        });
        bench.send(&mut client, "input");
        bench.handle(0).send("b").unwrap();
        assert_eq!(bench.read_exact(&mut client, 2), b"ab");
        drop_elsewhere(&bench, work);
        assert_eq!(state(&bench), ConnectionState::Closing);
        assert_eq!(net::reason(bench.handle(0).send("c")), Err(SendError::ShutDown));
        assert_eq!(bench.read_to_fin(&mut client), b"");
    });
}

#[test]
fn work_dropped_in_a_callback_shuts_down_after_its_sends() {
    with_watchdog(LIMIT, || {
        let (bench, _) = plain();
        let mut client = bench.connect();
        with_first(&bench, |conn| {
            let work = conn.keep_open();
            conn.shutdown_after_work();
            conn.send("a").unwrap();
            conn.handle().send("b").unwrap();
            drop(work);
        });
        assert_eq!(bench.read_to_fin(&mut client), b"ab");
    });
}

// --- Other ends ----------------------------------------------------------------------------------

#[test]
fn work_delays_no_other_end() {
    type EndIt = fn(&TcpConnection<'_>);
    let ends: [(EndIt, End); 3] = [
        (|conn| conn.close(), End::Closed),
        (|conn| conn.close_gracefully(MINUTE), End::Finished),
        (|conn| conn.shutdown(), End::Finished),
    ];
    for (end_it, expected) in ends {
        with_watchdog(LIMIT, move || {
            let (bench, end) = plain();
            let mut client = bench.connect();
            let work = keep_open(&bench);
            with_first(&bench, end_it);
            assert_eq!(bench.read_to_fin(&mut client), b"");
            bench.finish(&client);
            bench.until(|| end.borrow().is_some());
            assert_eq!(end.take(), Some(expected));
            // Without effect after the close, on any thread.
            drop_elsewhere(&bench, work);
        });
    }
}

#[test]
fn work_delays_neither_a_deadline_nor_an_idle_timeout() {
    for (is_idle, expected) in [(false, End::TimedOut), (true, End::Idle)] {
        with_virtual_time(move |builder, clock| {
            let (bench, end) = plain_on(builder);
            let _client = bench.connect();
            let _work = keep_open(&bench);
            with_first(&bench, move |conn| match is_idle {
                true => conn.set_idle_timeout(Some(SECOND)),
                false => conn.set_deadline(SECOND),
            });
            clock.advance(SECOND);
            bench.settle();
            assert_eq!(end.take(), Some(expected));
        });
    }
}

#[test]
fn work_outlives_its_connection_and_its_loop() {
    with_watchdog(LIMIT, || {
        let (bench, end) = plain();
        let client = bench.connect();
        let works = [(); 3].map(|()| keep_open(&bench));
        net::reset(client);
        bench.until(|| end.borrow().is_some());
        let [first, second, third] = works;
        drop(first);
        drop_elsewhere(&bench, second);
        drop(bench);
        drop(third);
    });
}

#[test]
fn work_of_a_closed_connection_does_not_affect_its_successor() {
    with_watchdog(LIMIT, || {
        let (bench, _) = plain();
        let _first = bench.connect();
        let work = keep_open(&bench);
        with_first(&bench, |conn| conn.shutdown_after_work());
        bench.handle(0).close();
        bench.settle();
        let mut second = bench.connect();
        drop_elsewhere(&bench, work);
        bench.handle(1).send("still open").unwrap();
        assert_eq!(bench.read_exact(&mut second, 10), b"still open");
        bench.handle(1).send("!").unwrap();
    });
}

// --- The stop of a server ------------------------------------------------------------------------

#[test]
fn a_stop_waits_for_outstanding_work() {
    with_watchdog(LIMIT, || {
        let (bench, end) = plain();
        let mut client = bench.connect();
        let work = keep_open(&bench);
        let (sender, reports) = mpsc::channel();
        bench.server.handle().stop(net::LIMIT, move |_, report| sender.send(report).unwrap());
        bench.settle();
        assert_eq!(state(&bench), ConnectionState::Open);
        let handle = bench.handle(0);
        on_another_thread(move || {
            handle.send("reply").unwrap();
            drop(work);
        });
        assert_eq!(bench.read_to_fin(&mut client), b"reply");
        drop(client);
        bench.until(|| end.borrow().is_some());
        bench.settle();
        let report = reports.try_recv().unwrap();
        assert_eq!((report.ended_in_time, report.aborted), (1, 0));
    });
}

#[test]
fn a_stop_resets_connections_with_outstanding_work_at_its_deadline() {
    with_virtual_time(|builder, clock| {
        let (bench, end) = plain_on(builder);
        let mut client = bench.connect();
        let work = keep_open(&bench);
        let (sender, reports) = mpsc::channel();
        bench.server.handle().stop(MINUTE, move |_, report| sender.send(report).unwrap());
        clock.advance(MINUTE - Duration::from_nanos(1));
        bench.settle();
        assert_eq!(end.take(), None);
        clock.advance(Duration::from_nanos(1));
        bench.settle();
        assert_eq!(end.take(), Some(End::Stopped));
        let report = reports.try_recv().unwrap();
        assert_eq!((report.ended_in_time, report.aborted), (0, 1));
        drop_elsewhere(&bench, work);
        // All output was sent, so the end may be a FIN or a reset.
        let (received, ended) = bench.read_all(&mut client);
        assert!(received.is_empty() && matches!(ended, Ended::Fin | Ended::Reset));
    });
}
