//! The orderly stop of a server: the output that it still sends, the input that it discards, the
//! connections that it aborts at the deadline, and its report.

use std::cell::{Cell, OnceCell};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::support::client::Refusing;
use crate::support::clock::HOUR;
use crate::support::net::{
    self, End, HandlerCall, Host, Journal, Script, assert_written, scripted, scripted_with,
    scripted_with_threads,
};
use crate::support::{LIMIT, OnDrop, with_loop, with_watchdog};
use reveille::net::{ConnectionLimits, ServerHandle, StopReport};
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection, TcpServer};
use socket2::SockRef;

/// Stops the host's server. Returns the receiver of its report.
fn stop(host: &Host, within: Duration) -> mpsc::Receiver<StopReport> {
    let (report, reported) = mpsc::channel();
    host.request(move |_, server| {
        server.take().expect("a server").stop(within, move |_, outcome| report.send(outcome).unwrap());
    });
    reported
}

/// Returns the report, and checks that the callback is dropped after it.
#[track_caller]
fn only_report(reported: &mpsc::Receiver<StopReport>) -> (u64, u64) {
    let report = reported.recv_timeout(net::LIMIT).expect("a report");
    assert_eq!(reported.recv_timeout(net::LIMIT), Err(mpsc::RecvTimeoutError::Disconnected));
    (report.ended_in_time, report.aborted)
}

/// The size of the output of a connection. The kernel does not accept all of it at once.
const OUTPUT: usize = 6 << 20;

/// A script that sends `bytes` when the connection opens.
fn sending(bytes: &Arc<[u8]>, script: Script) -> Script {
    let bytes = Arc::clone(bytes);
    script.on_open(move |conn| Ok(conn.send(&bytes)?))
}

#[test]
fn a_stop_without_connections_completes_at_once() {
    with_watchdog(LIMIT, || {
        for threads in [1, 3] {
            let refusing = Refusing::new();
            let address = refusing.address();
            let host = Host::new(move |event_loop| {
                TcpServer::bind(event_loop, address)?.threads(threads).serve_fn(|_, _| ())
            });
            assert_eq!(only_report(&stop(&host, HOUR)), (0, 0));
            refusing.assert_refuses();
        }
    });
}

#[test]
fn the_callback_of_a_stop_need_not_be_send() {
    with_loop(|event_loop| {
        for threads in [1, 2] {
            let server =
                TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().threads(threads).serve_fn(|_, _| ());
            let stopped = Rc::new(Cell::new(false));
            let noted = Rc::clone(&stopped);
            server.unwrap().stop(HOUR, move |_, _| noted.set(true));
            net::turn_until(event_loop, || stopped.get());
            assert_eq!(Rc::strong_count(&stopped), 1, "the callback was not dropped");
        }
    });
}

#[test]
fn a_stop_sends_queued_output_to_a_slow_reader() {
    with_watchdog(LIMIT, || {
        let bytes: Arc<[u8]> = net::pattern(OUTPUT).into();
        for threads in [1, 2] {
            let output = Arc::clone(&bytes);
            let (host, journal) = scripted_with_threads(threads, move |script| sending(&output, script));
            let mut client = host.connect();
            journal.wait_for(0, |event| *event == HandlerCall::Open);
            let reported = stop(&host, HOUR);
            // The client has read nothing so far.
            assert!(net::read_to_end(&mut client) == *bytes, "the received bytes differ");
            drop(client);
            assert_eq!(only_report(&reported), (1, 0));
            assert_eq!(journal.end_of(0), End::Finished);
            drop(host);
            journal.assert_opened_and_closed_once(1);
        }
    });
}

#[test]
fn a_stop_aborts_late_connections() {
    with_watchdog(LIMIT, || {
        for threads in [1, 3] {
            let output: Arc<[u8]> = vec![0; OUTPUT].into();
            let (host, journal) = scripted_with_threads(threads, move |script| {
                if script.number() % 2 == 0 { sending(&output, script) } else { script }
            });
            let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
            (0..6).for_each(|number| _ = journal.wait_for(number, |event| *event == HandlerCall::Open));
            let reported = stop(&host, Duration::from_millis(30));
            assert_eq!(only_report(&reported), (0, 6));
            (0..6).for_each(|number| assert_eq!(journal.end_of(number), End::Stopped));
            // Clients that have not received all output see an error.
            let ends = clients.iter_mut().map(|client| client.read_to_end(&mut Vec::new()));
            assert_eq!(ends.filter(|end| end.is_err()).count(), 3);
            drop(host);
            journal.assert_opened_and_closed_once(6);
        }
    });
}

/// More than a client with a small receive buffer receives at once, and less than the size of the
/// server's send buffer.
const SIZE: usize = 200_000;

fn send_into_the_kernel(conn: &TcpConnection<'_>) -> io::Result<()> {
    SockRef::from(conn).set_send_buffer_size(2 * SIZE)?;
    assert_written(conn, conn.send(vec![0; SIZE]));
    Ok(())
}

/// The kernel holds the last part of the output and the FIN, which the peer has not received.
#[test]
fn a_deadline_discards_output_left_in_the_kernel() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| script.on_open(send_into_the_kernel));
        let mut client = net::connect_with_small_receive_buffer(host.address());
        journal.wait_for(0, |event| *event == HandlerCall::Open);
        assert_eq!(only_report(&stop(&host, Duration::from_millis(1))), (0, 1));
        assert!(net::read_until_reset(&mut client).len() < SIZE);
    });
}

/// Timers run between the callback that stops the server and the next turn, in which the connection
/// would process the stop.
#[test]
fn a_deadline_before_the_stop_is_processed_resets_connections() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (report, reported) = mpsc::channel();
        let handle: Rc<OnceCell<ServerHandle>> = Rc::default();
        let (stopped, journal) = (Rc::clone(&handle), Journal::new());
        let written = journal.clone();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0")
            .unwrap()
            .serve(move |_| {
                let (stopped, report) = (Rc::clone(&stopped), report.clone());
                let script = written.script().on_open(send_into_the_kernel);
                script.on_message(move |_, input| {
                    input.clear();
                    let report = report.clone();
                    let server = stopped.get().expect("a server");
                    server.stop(Duration::from_nanos(1), move |_, outcome| report.send(outcome).unwrap());
                })
            })
            .unwrap();
        handle.set(server.handle()).unwrap();
        let mut client = net::connect_with_small_receive_buffer(server.local_addr().unwrap());
        let mut idle = net::connect(server.local_addr().unwrap());
        net::turn_until(&event_loop, || journal.handlers() == 2);
        client.write_all(b"stop").unwrap();
        let mut outcome = None;
        net::turn_until(&event_loop, || {
            outcome = outcome.or(reported.try_recv().ok());
            outcome.is_some()
        });
        assert_eq!(outcome.map(|report| (report.ended_in_time, report.aborted)), Some((0, 2)));
        assert!(net::read_until_reset(&mut client).len() < SIZE);
        net::wait_for_end(&mut idle);
        (0..2).for_each(|number| assert_eq!(journal.end_of(number), End::Stopped));
    });
}

/// The loop of the connection is busy with a task from before the stop until after the deadline.
/// Then the loop receives its notification, or ends without it.
#[test]
fn a_deadline_resets_connections_of_a_busy_loop() {
    for ends in [false, true] {
        with_watchdog(LIMIT, move || {
            let (release, released) = mpsc::channel::<()>();
            let (sender, busy) = mpsc::channel();
            let released = Arc::new(Mutex::new(released));
            let (host, journal) = scripted_with_threads(2, move |script| {
                let (sender, released) = (sender.clone(), Arc::clone(&released));
                script.on_open(send_into_the_kernel).on_message(move |conn, input| {
                    input.clear();
                    let (sender, released) = (sender.clone(), Arc::clone(&released));
                    conn.event_loop().queue_in_loop(move |event_loop| {
                        sender.send(()).unwrap();
                        let _ = released.lock().unwrap().recv_timeout(net::LIMIT);
                        if ends {
                            event_loop.quit();
                        }
                    });
                })
            });
            let mut client = net::connect_with_small_receive_buffer(host.address());
            client.write_all(b"be busy").unwrap();
            busy.recv_timeout(net::LIMIT).unwrap();
            let (report, reported) = mpsc::channel();
            host.request(move |_, server| {
                let server = server.as_ref().expect("a server").handle();
                server.stop(Duration::from_nanos(1), move |_, outcome| report.send(outcome).unwrap());
            });
            // This is a task of a later turn, so the timers have run.
            host.request(|_, _| ());
            drop(release);
            assert_eq!(only_report(&reported), (0, 1));
            assert!(net::read_until_reset(&mut client).len() < SIZE);
            assert_eq!(journal.end_of(0), End::Stopped);
        });
    }
}

/// The deadline is immediate, so no connection processes the stop. The peer has received all
/// output.
#[test]
fn a_stop_without_time_ends_drained_connections_cleanly() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| script);
        let mut client = host.connect();
        net::assert_echoes(&mut client);
        assert_eq!(only_report(&stop(&host, Duration::ZERO)), (0, 1));
        assert_eq!(net::read_to_end(&mut client), b"");
        assert_eq!(journal.end_of(0), End::Stopped);
    });
}

/// The deadline comes after the connections that end by themselves have ended.
#[test]
fn a_stop_reports_connections_in_time_and_aborted_ones() {
    with_watchdog(LIMIT, || {
        for threads in [1, 3] {
            let (host, journal) = scripted_with_threads(threads, |script| script);
            let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
            clients.iter_mut().for_each(net::assert_echoes);
            let reported = stop(&host, Duration::from_millis(150));
            let staying = clients.split_off(4);
            for client in &mut clients {
                assert_eq!(net::read_to_end(client), b"");
            }
            drop(clients);
            let (ended_in_time, aborted) = only_report(&reported);
            assert_eq!(ended_in_time + aborted, 6);
            // Exactly two are aborted, unless this machine needs the whole delay for the others.
            assert!(aborted >= 2, "only {aborted} connections were aborted");
            let ends: Vec<End> = (0..6).map(|number| journal.end_of(number)).collect();
            let stopped = ends.iter().filter(|end| **end == End::Stopped).count() as u64;
            let finished = ends.iter().filter(|end| **end == End::Finished).count() as u64;
            assert_eq!((finished, stopped), (ended_in_time, aborted));
            drop(staying);
        }
    });
}

#[test]
fn a_stop_discards_later_input() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| script);
        let mut client = host.connect();
        net::assert_echoes(&mut client);
        let before = journal.of(0);
        let reported = stop(&host, HOUR);
        assert_eq!(net::read_to_end(&mut client), b"");
        client.write_all(&[0; 100_000]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(only_report(&reported), (1, 0));
        let life = journal.calls_until_close(0);
        assert_eq!(life[..life.len() - 1], before[..]);
        assert_eq!(life.last(), Some(&HandlerCall::Close(End::Finished)));
    });
}

/// Sends one last message on a stop. Fails after it if the client has requested that.
struct Farewell {
    fails: bool,
}

impl ConnectionHandler for Farewell {
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        let message = input.take_all();
        self.fails |= message == b"fail";
        conn.send(message)?;
        Ok(())
    }

    fn on_stop(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.send("goodbye")?;
        if self.fails { Err(io::Error::other("it fails")) } else { Ok(()) }
    }
}

#[test]
fn on_stop_runs_once_and_may_send_a_message() {
    for threads in [1, 2] {
        with_watchdog(LIMIT, move || {
            let host = Host::new(move |event_loop| {
                let server = TcpServer::bind(event_loop, "127.0.0.1:0")?;
                server.threads(threads).serve(|_| Farewell { fails: false })
            });
            let mut clients: Vec<_> = (0..4).map(|_| host.connect()).collect();
            clients.iter_mut().for_each(net::assert_echoes);
            assert_eq!(net::exchange(&mut clients[3], b"fail"), b"fail");
            let reported = stop(&host, HOUR);
            for client in &mut clients {
                assert_eq!(net::read_to_end(client), b"goodbye", "not exactly one message before the end");
            }
            drop(clients);
            assert_eq!(only_report(&reported), (4, 0));
        });
    }
}

#[test]
fn a_stop_proceeds_despite_paused_reading() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| script.on_open(|conn| conn.pause_reading()));
        let mut client = host.connect();
        client.write_all(b"never read").unwrap();
        journal.wait_for(0, |event| *event == HandlerCall::Open);
        let reported = stop(&host, HOUR);
        assert_eq!(net::read_to_end(&mut client), b"");
        drop(client);
        assert_eq!(only_report(&reported), (1, 0));
        assert_eq!(journal.of(0), [HandlerCall::Open, HandlerCall::Close(End::Finished)]);
    });
}

/// The peer writes all bytes before it reads. It would block forever if the server did not read
/// either.
#[test]
fn a_stop_frees_a_throttled_peer() {
    with_watchdog(LIMIT, || {
        let throttled = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&throttled);
        let (host, journal) = scripted_with(
            |builder| builder.limits(ConnectionLimits::new().water_marks(OUTPUT / 2, 0)),
            move |script| {
                let noted = Arc::clone(&noted);
                script.terse().on_message(move |conn, input| {
                    conn.send(input.take_all())?;
                    noted.fetch_or(conn.unsent() > OUTPUT / 2, SeqCst);
                    io::Result::Ok(())
                })
            },
        );
        let mut client = host.connect();
        let mut writer = client.try_clone().unwrap();
        thread::scope(|scope| {
            let writing = scope.spawn(move || writer.write_all(&vec![0; 8 * OUTPUT]));
            net::until(|| throttled.load(SeqCst));
            let reported = stop(&host, HOUR);
            writing.join().unwrap().unwrap();
            assert!(net::read_to_end(&mut client).len() > OUTPUT / 2);
            client.shutdown(Shutdown::Both).unwrap();
            assert_eq!(only_report(&reported), (1, 0));
            assert_eq!(journal.end_of(0), End::Finished);
        });
    });
}

#[test]
fn a_stop_refuses_connections_in_transit() {
    with_watchdog(LIMIT, || {
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let (host, journal) = scripted_with_threads(2, move |script| {
            let _ = released.lock().unwrap().recv_timeout(net::LIMIT);
            script
        });
        let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
        net::until(|| host.open_connections() == 6);
        let reported = stop(&host, HOUR);
        drop(release);
        for client in &mut clients {
            // The first connection of each loop is shut down. The others are closed on arrival.
            net::wait_for_end(client);
        }
        drop(clients);
        let (ended_in_time, aborted) = only_report(&reported);
        assert_eq!(ended_in_time + aborted, 6);
        assert!(aborted >= 4, "only {aborted} connections were aborted");
        drop(host);
        assert!(journal.handlers() <= 2, "a connection opened after the stop: {journal:?}");
        journal.assert_opened_and_closed_once(journal.handlers());
    });
}

#[test]
fn a_stop_ends_with_its_dropped_loop() {
    with_watchdog(LIMIT, || {
        for threads in [1, 2] {
            let journal = Journal::new();
            let writing = journal.clone();
            let event_loop = EventLoop::new().unwrap();
            let server = TcpServer::bind(&event_loop, "127.0.0.1:0")
                .unwrap()
                .threads(threads)
                .serve(move |_| writing.script())
                .unwrap();
            let client = net::connect(server.local_addr().unwrap());
            net::turn_until(&event_loop, || journal.handlers() == 1);
            journal.wait_for(0, |event| *event == HandlerCall::Open);
            let dropped = Arc::new(Mutex::new(false));
            let noted = Arc::clone(&dropped);
            let token = OnDrop::new(move || *noted.lock().unwrap() = true);
            server.stop(HOUR, move |_, _| {
                token.keep();
                unreachable!("the loop was dropped");
            });
            drop(event_loop);
            assert!(*dropped.lock().unwrap(), "the callback was not dropped");
            assert_eq!(journal.end_of(0), End::LoopEnded);
            journal.assert_opened_and_closed_once(1);
            drop(client);
        }
    });
}

#[test]
fn a_stop_callback_may_quit_the_loop() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0")
            .unwrap()
            .serve_fn(|conn, input| conn.send(input.take_all()))
            .unwrap();
        let address = server.local_addr().unwrap();
        let client = thread::spawn(move || {
            let mut client = net::connect(address);
            net::assert_echoes(&mut client);
            client
        });
        net::turn_until(&event_loop, || client.is_finished());
        let mut client = client.join().unwrap();
        server.stop(HOUR, |event_loop, _| event_loop.quit());
        let reader = thread::spawn(move || net::read_to_end(&mut client));
        event_loop.run().unwrap();
        assert_eq!(reader.join().unwrap(), b"");
    });
}
