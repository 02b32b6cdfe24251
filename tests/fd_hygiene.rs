//! Descriptors: all that were opened are closed, however what they were for has ended, and no other
//! program gets one.

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
use support::client::{Refusing, Reporting, Reports, Silent, turn_to_rest};
use support::net::{self, End, Script, Told, scripted};
use support::{LIMIT, Recorder, turn, with_watchdog};

/// The tests count the descriptors of the whole process, so they run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has `test` leave as many descriptors open as it has found.
#[track_caller]
fn closes_what_it_opens(test: impl FnOnce() + Send + 'static) {
    let _alone = alone();
    let before = net::open_descriptors();
    with_watchdog(LIMIT, test);
    assert_eq!(net::open_descriptors(), before);
}

/// Makes 200 connections to one server, and has `end` see to the end of each.
#[track_caller]
fn closes_200_connections(script: fn(Script) -> Script, end: fn(TcpStream), expected: fn(&End) -> bool) {
    closes_what_it_opens(move || {
        let (host, journal) = scripted(script);
        let with_server = net::open_descriptors();
        for number in 0..200 {
            end(host.connect());
            let how = journal.end_of(number);
            assert!(expected(&how), "{number}: {how:?}");
        }
        // The last is told before its descriptor is closed, but that is in the same turn.
        host.ask(|_, _| ());
        assert_eq!(net::open_descriptors(), with_server, "while the server lives");
        assert_eq!(host.open_connections(), 0);
    });
}

#[test]
fn connections_that_their_peers_close_are_closed() {
    closes_200_connections(|script| script, drop, |end| *end == End::Finished);
}

#[test]
fn connections_that_their_peers_reset_are_closed() {
    closes_200_connections(|script| script, net::reset, |end| matches!(end, End::Error(..)));
}

#[test]
fn connections_that_the_server_closes_are_closed() {
    closes_200_connections(
        |script| script.on_open(|conn| conn.close()),
        |mut client| net::wait_for_end(&mut client),
        |end| *end == End::Closed,
    );
}

#[test]
fn connections_with_much_unsent_are_closed() {
    closes_200_connections(
        |script| script.on_open(|conn| conn.send(vec![0; 4 << 20])),
        |client| {
            client.shutdown(Shutdown::Both).unwrap();
        },
        |end| matches!(end, End::Error(..)),
    );
}

#[test]
fn connections_whose_handlers_panic_are_closed() {
    closes_200_connections(
        |script| script.on_message(|_, _| -> () { panic!("as I was told") }),
        |mut client| {
            client.write_all(b"!").unwrap();
            net::wait_for_end(&mut client);
        },
        |end| *end == End::Panicked,
    );
}

#[test]
fn connections_whose_handlers_cannot_be_made_are_closed() {
    closes_what_it_opens(|| {
        let (host, _) = scripted(|_| panic!("no handler"));
        let with_server = net::open_descriptors();
        for _ in 0..200 {
            net::wait_for_end(&mut host.connect());
        }
        net::until(|| host.open_connections() == 0);
        assert_eq!(net::open_descriptors(), with_server, "while the server lives");
        assert_eq!(host.handle().counters().panics, 200);
    });
}

#[test]
fn a_stopped_server_closes_its_connections_and_its_listener() {
    closes_what_it_opens(|| {
        let (host, journal) = scripted(|script| script);
        // What is the server's: its listener, and the descriptor that it keeps in reserve.
        let without_server = net::open_descriptors() - 2;
        let mut clients: Vec<_> = (0..200).map(|_| host.connect()).collect();
        (0..200).for_each(|number| _ = journal.wait_for(number, |told| *told == Told::Open));
        let (report, reported) = mpsc::channel();
        host.ask(move |_, server| {
            let within = Duration::from_millis(50);
            server.take().unwrap().stop(within, move |_, outcome| report.send(outcome).unwrap());
        });
        let staying = clients.split_off(100);
        drop(clients);
        let report = reported.recv_timeout(net::LIMIT).unwrap();
        assert_eq!(report.drained + report.aborted, 200);
        drop(staying);
        host.ask(|_, _| ());
        assert_eq!(net::open_descriptors(), without_server);
    });
}

#[test]
fn a_dropped_server_over_several_loops_closes_everything() {
    closes_what_it_opens(|| {
        let host = net::Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .threads(3)
                .serve_fn(|conn, input| conn.send(input.take_all()))
        });
        let mut clients: Vec<_> = (0..60).map(|_| host.connect()).collect();
        clients.iter_mut().for_each(net::assert_echoes);
        host.ask(|_, server| *server = None);
        clients.iter_mut().for_each(net::wait_for_end);
    });
}

/// The listeners are those of other threads, which close them in their own time. In the report they
/// are closed. Connections that wait to be accepted make a close take longer, and a loop that is
/// awake reports as soon as it can.
#[test]
fn a_stop_is_reported_when_the_listeners_of_all_loops_are_closed() {
    closes_what_it_opens(|| {
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
            let (report, reported) = mpsc::channel();
            server.handle().stop(LIMIT, move |event_loop, _| {
                let is_open = |(path, socket): &(PathBuf, PathBuf)| {
                    fs::read_link(path).is_ok_and(|found| found == *socket)
                };
                report.send(listeners.into_iter().filter(is_open).collect::<Vec<_>>()).unwrap();
                event_loop.quit();
            });
            event_loop.run().unwrap();
            assert_eq!(reported.recv().unwrap(), [], "round {round}");
            drop(clients);
        }
    });
}

/// Long before its deadline, which nobody needs then.
#[test]
fn a_stopped_server_over_several_loops_gives_them_up_with_its_last_connection() {
    closes_what_it_opens(|| {
        let before = net::open_descriptors();
        let (plain, _) = scripted(|script| script);
        // Besides its loop's it has its listener's and the one in reserve.
        let of_a_loop = net::open_descriptors() - before - 2;
        drop(plain);
        let host = net::Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .threads(3)
                .serve_fn(|conn, input| conn.send(input.take_all()))
        });
        let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
        clients.iter_mut().for_each(net::assert_echoes);
        let (report, reported) = mpsc::channel();
        host.ask(move |_, server| {
            let within = Duration::from_secs(3600);
            server.take().unwrap().stop(within, move |_, outcome| report.send(outcome).unwrap());
        });
        drop(clients);
        assert_eq!(reported.recv_timeout(net::LIMIT).unwrap().drained, 6);
        assert_eq!(host.ask(|event_loop, _| event_loop.next_deadline()), None);
        assert_eq!(net::open_descriptors(), before + of_a_loop);
    });
}

#[test]
fn an_address_in_use_costs_no_descriptor() {
    closes_what_it_opens(|| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
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
fn attempts_that_fail_leave_no_descriptor() {
    closes_what_it_opens(|| {
        let (nobody, silent) = (Refusing::new(), Silent::new());
        let event_loop = EventLoop::new().unwrap();
        let with_loop = net::open_descriptors();
        // No label of a name is that long, so no server is asked for it.
        let targets: [ConnectTarget; 3] =
            [nobody.address().into(), silent.address().into(), ("x".repeat(300), 80).into()];
        for target in targets {
            let reports = Reports::new();
            let client = TcpClient::connect(&event_loop, target)
                .timeout(Duration::from_millis(2))
                .retry(Backoff::new().start(Duration::ZERO).cap(Duration::ZERO).max_retries(49))
                .reporting(&reports)
                .serve_fn(|_, _| ())
                .unwrap();
            net::turn_until(&event_loop, || reports.len() == 51);
            turn_to_rest(&event_loop);
            // The last of the lookups may have been given up.
            net::until(|| net::open_descriptors() == with_loop);
            drop(client);
        }
    });
}

#[test]
fn clients_that_are_dropped_leave_no_descriptor_whatever_they_do() {
    closes_what_it_opens(|| {
        let (host, _) = scripted(|script| script);
        let (nobody, silent) = (Refusing::new(), Silent::new());
        let event_loop = EventLoop::new().unwrap();
        let with_loop = net::open_descriptors();
        let targets: [ConnectTarget; 4] = [
            host.address().into(),
            nobody.address().into(),
            silent.address().into(),
            "no-such-host.invalid:80".into(),
        ];
        for turns in 0..8 {
            let clients = targets.clone().map(|target| {
                TcpClient::connect(&event_loop, target).reconnect().serve_fn(|_, _| ()).unwrap()
            });
            (0..turns).for_each(|_| turn(&event_loop));
            drop(clients);
            turn_to_rest(&event_loop);
            // A lookup has its descriptor until the resolver answers, and the host may have yet to
            // take its connection.
            net::until(|| net::open_descriptors() == with_loop);
        }
    });
}

#[test]
fn sessions_that_follow_one_another_leave_no_descriptor() {
    closes_what_it_opens(|| {
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
        turn_to_rest(&event_loop);
        assert!(sessions.take().iter().all(|connected| *connected));
        // The host may not have accepted the last connection yet.
        net::until(|| host.open_connections() == 0 && net::open_descriptors() == with_loop);
    });
}

#[test]
fn loops_threads_and_pools_leave_no_descriptor() {
    closes_what_it_opens(|| {
        for _ in 0..20 {
            let event_loop = EventLoop::new().unwrap();
            event_loop.run_once(Duration::ZERO).unwrap();
            let thread = LoopThread::spawn("one").unwrap();
            let pool = LoopPool::new(3.try_into().unwrap(), "pool").unwrap();
            // A handle that outlives its loop keeps the eventfd, and gives it up when it goes.
            let handle = event_loop.handle();
            drop(event_loop);
            assert!(handle.queue_in_loop(|_| ()).is_err());
            drop((thread, pool));
        }
    });
}

/// What `ls` sees of its own descriptors, by their numbers.
fn seen_by_another_program() -> BTreeSet<String> {
    let output = Command::new("ls").arg("/proc/self/fd").output().expect("ls");
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_program_started_by_a_handler_inherits_nothing() {
    closes_what_it_opens(|| {
        // Its three standard ones, the directory it reads, and what this process was itself started
        // with.
        let usual = seen_by_another_program();
        assert!(usual.len() >= 4, "{usual:?}");
        let (seen, sees) = mpsc::channel();
        let host = net::Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.threads(2).serve_fn(move |_, input| {
                input.clear();
                seen.send(seen_by_another_program()).map_err(io::Error::other)
            })
        });
        let eventfd = EventFd::new(0).unwrap();
        let mut clients = [host.connect(), host.connect()];
        for client in &mut clients {
            client.write_all(b"what do you see?").unwrap();
            assert_eq!(sees.recv_timeout(net::LIMIT).unwrap(), usual);
        }
        drop(eventfd);
    });
}
