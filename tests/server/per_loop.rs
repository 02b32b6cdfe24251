//! Values that each loop of a server keeps for its connections.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::support::bomb::Bomb;
use crate::support::client::Refusing;
use crate::support::clock::HOUR;
use crate::support::net::{self, End, Host, Journal};
use crate::support::{Count, LIMIT, OnDrop, turn, with_catching_loop, with_watchdog};
use reveille::net::{CloseReason, LoadBalancing, MultiLoop, ServerHandle, TcpServerBuilder};
use reveille::{Buffer, ConnectionHandler, EventLoop, LoopPool, TcpClient, TcpConnection, TcpServer};

const LOOPS: usize = 3;

fn name() -> String {
    thread::current().name().expect("a name").to_owned()
}

/// A list that all threads write to.
type Log = Arc<Mutex<Vec<String>>>;

/// Replies with the name of its loop and the number of messages there.
struct Counting(Rc<Cell<u32>>);

impl ConnectionHandler for Counting {
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        self.0.set(self.0.get() + 1);
        conn.send(format!("{} {};", name(), self.0.get()))?;
        Ok(())
    }
}

fn reply(client: &mut TcpStream) -> String {
    client.write_all(b"?").unwrap();
    let mut reply = String::new();
    while !reply.ends_with(';') {
        let mut byte = [0];
        io::Read::read_exact(client, &mut byte).unwrap();
        reply.push(char::from(byte[0]));
    }
    reply
}

#[test]
fn the_handlers_of_a_loop_share_its_value() {
    with_watchdog(LIMIT, || {
        for (threads, distribution) in [
            (1, LoadBalancing::RoundRobin),
            (3, LoadBalancing::RoundRobin),
            (3, LoadBalancing::ListenerPerLoop),
        ] {
            let log = Log::default();
            let recording = Arc::clone(&log);
            let host = Host::new(move |event_loop| {
                let builder = TcpServer::bind(event_loop, "127.0.0.1:0")?.threads(threads);
                let counting = Arc::clone(&recording);
                let init = move |event_loop: &EventLoop| {
                    assert!(event_loop.handle().is_in_loop_thread());
                    recording.lock().unwrap().push(name());
                    Ok(Rc::default())
                };
                let server = builder
                    .load_balancing(distribution)
                    .serve_per_loop(init, |count, _| Counting(Rc::clone(count)));
                // Each loop has its value when the call returns.
                assert_eq!(counting.lock().unwrap().len(), threads);
                server
            });
            let mut inits = log.lock().unwrap().clone();
            inits.sort();
            let expected: Vec<_> = match threads {
                1 => vec!["host".to_owned()],
                _ => (0..threads).map(|number| format!("reveille-{number}")).collect(),
            };
            assert_eq!(inits, expected);
            let mut counts = BTreeMap::new();
            let mut clients: Vec<_> = (0..12).map(|_| host.connect()).collect();
            for number in 0..24 {
                let reply = reply(&mut clients[number % 12]);
                let (name, count) = reply.trim_end_matches(';').split_once(' ').unwrap();
                let expected = counts.entry(name.to_owned()).or_insert(0);
                *expected += 1;
                assert_eq!(count, expected.to_string(), "{name}");
            }
            assert_eq!(counts.values().sum::<u32>(), 24);
        }
    });
}

// --- Errors --------------------------------------------------------------------------------------

type Settings = Box<dyn Fn(TcpServerBuilder<'_>) -> TcpServerBuilder<'_, MultiLoop>>;

/// Servers on threads of their own, on one loop, and on the pool.
fn placements(pool: &Arc<LoopPool>) -> Vec<Settings> {
    let (first, second) = (Arc::clone(pool), Arc::clone(pool));
    vec![
        Box::new(|builder| builder.threads(LOOPS)),
        Box::new(|builder| builder.threads(1)),
        Box::new(move |builder| builder.pool(&first)),
        Box::new(move |builder| builder.pool(&second).load_balancing(LoadBalancing::ListenerPerLoop)),
    ]
}

#[test]
fn a_failed_init_leaves_no_value_and_no_listener() {
    with_watchdog(LIMIT, || {
        let pool = Arc::new(LoopPool::new(LOOPS, "worker").unwrap());
        let event_loop = EventLoop::new().unwrap();
        for place in placements(&pool) {
            for panics in [false, true] {
                let (inits, drops) = (Count::default(), Count::default());
                let (initializing, counting) = (inits.clone(), drops.clone());
                let refusing = Refusing::new();
                let builder = place(TcpServer::bind(&event_loop, refusing.address()).unwrap());
                let served = builder.serve_per_loop(
                    move |_| {
                        initializing.add();
                        match name().as_str() {
                            "reveille-0" | "worker-0" | "reveille-1" | "worker-1" => {
                                Ok((Rc::new(()), counting.drop_token()))
                            }
                            _ if panics => panic!("init panics"),
                            _ => Err(ErrorKind::NotFound.into()),
                        }
                    },
                    |_, _| Counting(Rc::default()),
                );
                let kind = served.unwrap_err().kind();
                assert_eq!(kind, if panics { ErrorKind::Other } else { ErrorKind::NotFound });
                assert_eq!(drops.get() + 1, inits.get());
                refusing.assert_refuses();
                let again = TcpServer::bind(&event_loop, refusing.address()).unwrap().serve_fn(|_, _| ());
                drop(again.expect("a free port"));
            }
        }
        assert!(pool.handles().all(|handle| handle.call(|_| ()).is_ok()));
    });
}

/// The address is in use, so there is nothing to initialize.
#[test]
fn init_is_not_called_if_no_address_can_be_bound() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let builder = TcpServer::bind(&event_loop, taken.local_addr().unwrap()).unwrap().threads(2);
        let served = builder.serve_per_loop(
            |_| -> io::Result<()> { unreachable!("called without a server") },
            |(), _| Counting(Rc::default()),
        );
        assert_eq!(served.unwrap_err().kind(), ErrorKind::AddrInUse);
    });
}

// --- Ends ----------------------------------------------------------------------------------------

/// Logs its end, and shares the value of its loop.
struct Logging {
    log: Log,
    _value: Rc<Cell<u32>>,
}

impl ConnectionHandler for Logging {
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        conn.send(input.take_all())?;
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection<'_>, reason: &CloseReason) {
        self.log.lock().unwrap().push(format!("{} close {reason:?}", name()));
    }
}

/// A server with 6 connections. The values of its loops log their drops.
fn logging(
    configure: impl FnOnce(TcpServerBuilder<'_>) -> TcpServerBuilder<'_, MultiLoop> + Send + 'static,
) -> (Host, Log, Vec<TcpStream>) {
    let log = Log::default();
    let (dropping, closing) = (Arc::clone(&log), Arc::clone(&log));
    let host = Host::new(move |event_loop| {
        configure(TcpServer::bind(event_loop, "127.0.0.1:0")?).serve_per_loop(
            move |event_loop| {
                let (log, handle) = (Arc::clone(&dropping), event_loop.handle());
                let drops = OnDrop::new(move || {
                    assert!(handle.is_in_loop_thread());
                    log.lock().unwrap().push(format!("{} value", name()));
                });
                Ok((Rc::new(Cell::new(0)), drops))
            },
            move |(value, _), _| Logging { log: Arc::clone(&closing), _value: Rc::clone(value) },
        )
    });
    let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
    clients.iter_mut().for_each(net::assert_echoes);
    (host, log, clients)
}

fn values(log: &Log) -> usize {
    log.lock().unwrap().iter().filter(|line| line.ends_with("value")).count()
}

/// Checks that on each loop the value was dropped after all connections had been closed.
#[track_caller]
fn assert_values_are_last(log: &Log, loops: usize, reason: &str) {
    let log = log.lock().unwrap();
    assert_eq!(log.iter().filter(|line| line.ends_with("value")).count(), loops, "{log:?}");
    assert_eq!(log.iter().filter(|line| line.ends_with(reason)).count(), 6, "{log:?}");
    let mut ended = Vec::new();
    for line in &*log {
        let (name, event) = line.split_once(' ').unwrap();
        assert!(!ended.contains(&name), "{log:?}");
        if event == "value" {
            ended.push(name);
        }
    }
}

#[test]
fn values_are_dropped_on_their_loops_after_the_server() {
    with_watchdog(LIMIT, || {
        let pool = Arc::new(LoopPool::new(LOOPS, "worker").unwrap());
        for (place, loops) in [(0, LOOPS), (1, 1), (2, LOOPS), (3, LOOPS)] {
            let serving = Arc::clone(&pool);
            let (host, log, _clients) = logging(move |builder| placements(&serving)[place](builder));
            host.request(|_, server| *server = None);
            net::until(|| values(&log) == loops);
            assert_values_are_last(&log, loops, "close Stopped");
        }
    });
}

#[test]
fn values_live_until_the_last_connection_has_drained() {
    with_watchdog(LIMIT, || {
        let pool = Arc::new(LoopPool::new(LOOPS, "worker").unwrap());
        for (place, loops) in [(0, LOOPS), (1, 1), (2, LOOPS), (3, LOOPS)] {
            let serving = Arc::clone(&pool);
            let (host, log, mut clients) = logging(move |builder| placements(&serving)[place](builder));
            let (sender, reported) = mpsc::channel();
            host.request(move |_, server| {
                server.take().unwrap().stop(HOUR, move |_, _| sender.send(()).unwrap());
            });
            let last = clients.pop();
            for client in &mut clients {
                assert_eq!(net::read_to_end(client), b"");
            }
            drop(clients);
            net::until(|| log.lock().unwrap().len() == 5);
            assert_eq!(values(&log), 0);
            drop(last);
            reported.recv_timeout(net::LIMIT).unwrap();
            net::until(|| values(&log) == loops);
            assert_values_are_last(&log, loops, "close Finished");
        }
    });
}

#[test]
fn values_end_with_their_loops_after_the_connections() {
    with_watchdog(LIMIT, || {
        // The only loop, which the server is bound to.
        let (host, log, _clients) = logging(|builder| builder.threads(1));
        host.request(|_, server| drop(server.take().unwrap().detach()));
        drop(host);
        assert_values_are_last(&log, 1, "close LoopEnded");
        // The loops of a pool, which ends before the server.
        let pool = Arc::new(LoopPool::new(LOOPS, "worker").unwrap());
        let serving = Arc::clone(&pool);
        let (host, log, _clients) = logging(move |builder| builder.pool(&serving));
        drop(Arc::into_inner(pool).expect("the server does not own the pool"));
        assert_values_are_last(&log, LOOPS, "close LoopEnded");
        drop(host);
    });
}

/// The last listener has ended with the server's own loop, before the server.
#[test]
fn values_are_dropped_if_the_servers_loop_ends_first() {
    with_watchdog(LIMIT, || {
        let (pool, drops) = (LoopPool::new(LOOPS, "worker").unwrap(), Count::default());
        let counting = drops.clone();
        let event_loop = EventLoop::new().unwrap();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().pool(&pool);
        let init = move |_: &EventLoop| Ok(counting.drop_token());
        let server = server.serve_per_loop(init, |_, _| Counting(Rc::default())).unwrap();
        drop(event_loop);
        assert_eq!(drops.get(), 0);
        drop(server);
        net::until(|| drops.get() == LOOPS);
    });
}

// --- User code -----------------------------------------------------------------------------------

#[test]
fn a_panicking_factory_loses_only_its_connection() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            let builder = TcpServer::bind(event_loop, "127.0.0.1:0")?.threads(2);
            builder.serve_per_loop(
                |_| Ok(Rc::new(Cell::new(0))),
                |count, _| {
                    count.set(count.get() + 1);
                    assert!(count.get() > 1, "the first connection of each loop");
                    Counting(Rc::clone(count))
                },
            )
        });
        (0..2).for_each(|_| net::wait_for_end(&mut host.connect()));
        for _ in 0..2 {
            assert!(reply(&mut host.connect()).ends_with(" 3;"));
        }
    });
}

#[test]
fn values_that_panic_when_dropped_are_counted() {
    with_watchdog(LIMIT, || {
        let (pool, drops) = (LoopPool::new(2, "worker").unwrap(), Count::default());
        let counting = drops.clone();
        with_catching_loop(move |event_loop| {
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().pool(&pool);
            let init = move |_: &EventLoop| Ok(Bomb::new(&counting));
            drop(server.serve_per_loop(init, |_, _| Counting(Rc::default())).unwrap());
            turn(event_loop);
            net::until(|| drops.get() == 2);
            for handle in pool.handles() {
                assert_eq!(handle.call(|event_loop| event_loop.handle().counters().panics), Ok(1));
            }
        });
    });
}

thread_local! {
    /// A client of this thread, which the factory has created.
    static CLIENT: RefCell<Option<TcpClient>> = const { RefCell::new(None) };
}

/// The factory of the first connection connects to its own server, and the one of the second stops
/// the server.
#[test]
fn a_factory_may_connect_to_its_server_and_stop_it() {
    with_watchdog(LIMIT, || {
        let pool = Arc::new(LoopPool::new(1, "worker").unwrap());
        for place in 0..4 {
            let (serving, journal, drops) = (Arc::clone(&pool), Journal::new(), Count::default());
            let (writing, counting) = (journal.clone(), drops.clone());
            let (sender, servers) = mpsc::channel();
            let servers = Mutex::new(servers);
            let (report, reported) = mpsc::channel();
            let host = Host::new(move |event_loop| {
                let builder = placements(&serving)[place](TcpServer::bind(event_loop, "127.0.0.1:0")?);
                let numbers = Count::default();
                builder.serve_per_loop(
                    move |_| Ok((Cell::new(0), counting.drop_token())),
                    move |(calls, _), conn| {
                        calls.set(calls.get() + 1);
                        numbers.add();
                        if numbers.get() == 1 {
                            let client = TcpClient::connect(conn.event_loop(), conn.local_addr().unwrap());
                            CLIENT.set(Some(client.serve_fn(|_, _| ()).unwrap()));
                        } else {
                            let server: ServerHandle = servers.lock().unwrap().recv().unwrap();
                            server.pause_accepting();
                            server.resume_accepting();
                            let report = report.clone();
                            server.stop(Duration::ZERO, move |_, outcome| report.send(outcome).unwrap());
                        }
                        calls.set(calls.get() + 1);
                        writing.script()
                    },
                )
            });
            host.request(move |_, server| sender.send(server.as_ref().unwrap().handle()).unwrap());
            // The reset may arrive before the connect has returned.
            if let Ok(mut client) = TcpStream::connect(host.address()) {
                net::wait_for_end(&mut client);
            }
            assert_eq!(reported.recv_timeout(net::LIMIT).unwrap().aborted, 2);
            assert_eq!(journal.handlers(), 2);
            assert_eq!(journal.end_of(0), End::Stopped);
            host.request(|_, _| CLIENT.set(None));
            pool.handles().for_each(|handle| handle.call(|_| CLIENT.set(None)).unwrap());
            net::until(|| drops.get() == if place == 0 { LOOPS } else { 1 });
        }
    });
}
