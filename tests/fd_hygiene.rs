//! The lifetime of descriptors. Each object closes its descriptors however it ends, and started
//! programs inherit none.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use reveille::net::{Backoff, ConnectTarget, LoadBalancing};
use reveille::{EventFd, EventLoop, LoopPool, LoopThread, TcpClient, TcpServer};
use support::client::{FullBacklog, Refusing, Reporting, Reports, turn_until_idle};
use support::net::{self, End, HandlerCall, Script, scripted};
use support::{LIMIT, Recorder, turn, with_watchdog};

/// Makes the tests run one at a time, since they count the descriptors of the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `test` and requires that the number of open descriptors is the same before and after.
#[track_caller]
fn assert_closes_all(test: impl FnOnce() + Send + 'static) {
    let _alone = alone();
    let before = net::open_descriptors();
    with_watchdog(LIMIT, test);
    assert_eq!(net::open_descriptors(), before);
}

/// Opens 200 connections to one server, and ends each with `end`. Requires that each ends as
/// expected and leaves no descriptor.
#[track_caller]
fn assert_closes_connections(script: fn(Script) -> Script, end: fn(TcpStream), expected: fn(&End) -> bool) {
    assert_closes_all(move || {
        let (host, journal) = scripted(script);
        let with_server = net::open_descriptors();
        for number in 0..200 {
            end(host.connect());
            let reason = journal.end_of(number);
            assert!(expected(&reason), "{number}: {reason:?}");
        }
        // `on_close` is called before the descriptor is closed, but in the same turn. This waits
        // for the end of that turn.
        host.request(|_, _| ());
        assert_eq!(net::open_descriptors(), with_server, "connections have left descriptors");
        assert_eq!(host.open_connections(), 0);
    });
}

#[test]
fn connections_closed_by_their_peers_leave_no_descriptor() {
    assert_closes_connections(|script| script, drop, |end| *end == End::Finished);
}

#[test]
fn connections_reset_by_their_peers_leave_no_descriptor() {
    assert_closes_connections(|script| script, net::reset, |end| matches!(end, End::Error(..)));
}

#[test]
fn connections_closed_by_the_server_leave_no_descriptor() {
    assert_closes_connections(
        |script| script.on_open(|conn| conn.close()),
        |mut client| net::wait_for_end(&mut client),
        |end| *end == End::Closed,
    );
}

#[test]
fn connections_with_unsent_output_leave_no_descriptor() {
    assert_closes_connections(
        |script| script.on_open(|conn| Ok(conn.send(vec![0; 4 << 20])?)),
        |client| {
            client.shutdown(Shutdown::Both).unwrap();
        },
        |end| matches!(end, End::Error(..)),
    );
}

#[test]
fn connections_whose_handlers_panic_leave_no_descriptor() {
    assert_closes_connections(
        |script| script.on_message(|_, _| -> () { panic!("intended by the test") }),
        |mut client| {
            client.write_all(b"!").unwrap();
            net::wait_for_end(&mut client);
        },
        |end| *end == End::Panicked,
    );
}

#[test]
fn connections_whose_factory_panics_leave_no_descriptor() {
    assert_closes_all(|| {
        let (host, _) = scripted(|_| panic!("intended by the test"));
        let with_server = net::open_descriptors();
        for _ in 0..200 {
            net::wait_for_end(&mut host.connect());
        }
        net::until(|| host.open_connections() == 0);
        assert_eq!(net::open_descriptors(), with_server, "connections have left descriptors");
        assert_eq!(host.handle().counters().panics, 200);
    });
}

#[test]
fn a_stopped_server_closes_its_connections_and_its_listener() {
    assert_closes_all(|| {
        let (host, journal) = scripted(|script| script);
        // A server has two descriptors: its listener, and the one that it keeps in reserve.
        let without_server = net::open_descriptors() - 2;
        let mut clients: Vec<_> = (0..200).map(|_| host.connect()).collect();
        (0..200).for_each(|number| _ = journal.wait_for(number, |event| *event == HandlerCall::Open));
        let (sender, reports) = mpsc::channel();
        host.request(move |_, server| {
            let timeout = Duration::from_millis(50);
            server.take().unwrap().stop(timeout, move |_, outcome| sender.send(outcome).unwrap());
        });
        let staying = clients.split_off(100);
        drop(clients);
        let report = reports.recv_timeout(net::LIMIT).unwrap();
        assert_eq!(report.ended_in_time + report.aborted, 200);
        drop(staying);
        host.request(|_, _| ());
        assert_eq!(net::open_descriptors(), without_server);
    });
}

#[test]
fn a_dropped_server_with_several_loops_leaves_no_descriptor() {
    assert_closes_all(|| {
        let host = net::Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .threads(3)
                .serve_fn(|conn, input| conn.send(input.take_all()))
        });
        let mut clients: Vec<_> = (0..60).map(|_| host.connect()).collect();
        clients.iter_mut().for_each(net::assert_echoes);
        host.request(|_, server| *server = None);
        clients.iter_mut().for_each(net::wait_for_end);
    });
}

/// The listeners of the other loops are closed on their threads. The waiting connections make these
/// closes take longer, and the busy-polling loop reports without delay, so a report that does not
/// wait for the closes comes too early.
#[test]
fn a_stop_is_reported_after_all_listeners_are_closed() {
    assert_closes_all(|| {
        for round in 0..100 {
            let event_loop = EventLoop::builder().busy_poll(LIMIT).build().unwrap();
            let before = net::open_sockets();
            let builder = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
            let builder = builder.threads(3).load_balancing(LoadBalancing::ListenerPerLoop);
            let server = builder.serve_fn(|_, _| ()).unwrap();
            let listeners: Vec<_> = net::open_sockets().difference(&before).cloned().collect();
            assert!(listeners.len() >= 3);
            server.pause_accepting();
            let clients: Vec<_> = (0..30).map(|_| net::connect(server.local_addr().unwrap())).collect();
            let (sender, reports) = mpsc::channel();
            server.handle().stop(LIMIT, move |event_loop, _| {
                let is_open = |(path, socket): &(PathBuf, PathBuf)| {
                    fs::read_link(path).is_ok_and(|found| found == *socket)
                };
                sender.send(listeners.into_iter().filter(is_open).collect::<Vec<_>>()).unwrap();
                event_loop.quit();
            });
            event_loop.run().unwrap();
            assert_eq!(reports.recv().unwrap(), [], "round {round}");
            drop(clients);
        }
    });
}

/// The timer of the stop is cancelled as well, long before its deadline.
#[test]
fn a_stopped_server_ends_its_loops_after_the_last_connection() {
    assert_closes_all(|| {
        let before = net::open_descriptors();
        let (single, _) = scripted(|script| script);
        // A server has two descriptors besides those of its loop: its listener, and the one that it
        // keeps in reserve.
        let per_loop = net::open_descriptors() - before - 2;
        drop(single);
        let host = net::Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .threads(3)
                .serve_fn(|conn, input| conn.send(input.take_all()))
        });
        let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
        clients.iter_mut().for_each(net::assert_echoes);
        let (sender, reports) = mpsc::channel();
        host.request(move |_, server| {
            let timeout = Duration::from_secs(3600);
            server.take().unwrap().stop(timeout, move |_, outcome| sender.send(outcome).unwrap());
        });
        drop(clients);
        assert_eq!(reports.recv_timeout(net::LIMIT).unwrap().ended_in_time, 6);
        assert_eq!(host.request(|event_loop, _| event_loop.next_deadline()), None);
        assert_eq!(net::open_descriptors(), before + per_loop);
    });
}

#[test]
fn an_address_in_use_leaves_no_descriptor() {
    assert_closes_all(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let event_loop = EventLoop::new().unwrap();
        let with_loop = net::open_descriptors();
        for _ in 0..20 {
            TcpServer::bind(&event_loop, address).unwrap().serve_fn(|_, _| ()).unwrap_err();
            let pool = TcpServer::bind(&event_loop, address).unwrap().threads(2);
            pool.serve_fn(|_, _| ()).unwrap_err();
            assert_eq!(net::open_descriptors(), with_loop);
        }
    });
}

#[test]
fn failed_attempts_leave_no_descriptor() {
    assert_closes_all(|| {
        let (refusing, silent) = (Refusing::new(), FullBacklog::new());
        let event_loop = EventLoop::new().unwrap();
        let with_loop = net::open_descriptors();
        // A label of a name cannot be that long, so the resolver rejects it without a query.
        let targets: [ConnectTarget; 3] =
            [refusing.address().into(), silent.address().into(), ("x".repeat(300), 80).try_into().unwrap()];
        for target in targets {
            let reports = Reports::new();
            let client = TcpClient::connect(&event_loop, target)
                .timeout(Duration::from_millis(2))
                .retry(Backoff::new().start(Duration::ZERO).cap(Duration::ZERO).max_retries(49))
                .reporting(&reports)
                .serve_fn(|_, _| ())
                .unwrap();
            net::turn_until(&event_loop, || reports.len() == 51);
            turn_until_idle(&event_loop);
            // A lookup that has timed out may still hold its descriptor.
            net::until(|| net::open_descriptors() == with_loop);
            drop(client);
        }
    });
}

#[test]
fn clients_dropped_in_any_state_leave_no_descriptor() {
    assert_closes_all(|| {
        let (host, _) = scripted(|script| script);
        let (refusing, silent) = (Refusing::new(), FullBacklog::new());
        let event_loop = EventLoop::new().unwrap();
        let with_loop = net::open_descriptors();
        let targets: [ConnectTarget; 4] = [
            host.address().into(),
            refusing.address().into(),
            silent.address().into(),
            "no-such-host.invalid:80".parse().unwrap(),
        ];
        for turns in 0..8 {
            let clients = targets.clone().map(|target| {
                TcpClient::connect(&event_loop, target).reconnect().serve_fn(|_, _| ()).unwrap()
            });
            (0..turns).for_each(|_| turn(&event_loop));
            drop(clients);
            turn_until_idle(&event_loop);
            // A lookup holds its descriptor until the resolver returns, and the host may not have
            // accepted its connection yet.
            net::until(|| net::open_descriptors() == with_loop);
        }
    });
}

#[test]
fn consecutive_sessions_leave_no_descriptor() {
    assert_closes_all(|| {
        let (host, _) = scripted(|script| script.on_open(|conn| conn.shutdown()));
        let event_loop = EventLoop::new().unwrap();
        let with_loop = net::open_descriptors();
        let sessions = Recorder::new();
        let counting = sessions.clone();
        let client = TcpClient::connect(&event_loop, host.address())
            .retry(Backoff::new().start(Duration::ZERO).cap(Duration::ZERO))
            .reconnect()
            .on_attempt(move |_, attempt| counting.record(attempt.result.is_ok()))
            .serve_fn(|_, _| ())
            .unwrap();
        net::turn_until(&event_loop, || sessions.len() == 100);
        drop(client);
        turn_until_idle(&event_loop);
        assert!(sessions.take().iter().all(|connected| *connected));
        // The host may not have accepted the last connection yet.
        net::until(|| host.open_connections() == 0 && net::open_descriptors() == with_loop);
    });
}

#[test]
fn loops_threads_and_pools_leave_no_descriptor() {
    assert_closes_all(|| {
        for _ in 0..20 {
            let event_loop = EventLoop::new().unwrap();
            event_loop.run_once(Duration::ZERO).unwrap();
            let thread = LoopThread::spawn("one").unwrap();
            let pool = LoopPool::new(3, "pool").unwrap();
            // A handle that outlives its loop keeps the eventfd open until it is dropped.
            let handle = event_loop.handle();
            drop(event_loop);
            assert!(handle.queue_in_loop(|_| ()).is_err());
            drop((thread, pool));
        }
    });
}

/// Returns the numbers of the descriptors of `ls`, a program started by this process.
fn descriptors_of_another_program() -> BTreeSet<String> {
    let output = Command::new("ls").arg("/proc/self/fd").output().expect("ls");
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_program_started_by_a_handler_inherits_no_descriptor() {
    assert_closes_all(|| {
        // The three standard descriptors, the directory that `ls` reads, and the descriptors that
        // this process itself has inherited.
        let expected = descriptors_of_another_program();
        assert!(expected.len() >= 4, "{expected:?}");
        let (sender, descriptors) = mpsc::channel();
        let host = net::Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.threads(2).serve_fn(move |_, input| {
                input.clear();
                sender.send(descriptors_of_another_program()).map_err(io::Error::other)
            })
        });
        let eventfd = EventFd::new(0).unwrap();
        let mut clients = [host.connect(), host.connect()];
        for client in &mut clients {
            client.write_all(b"x").unwrap();
            assert_eq!(descriptors.recv_timeout(net::LIMIT).unwrap(), expected);
        }
        drop(eventfd);
    });
}
