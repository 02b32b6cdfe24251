//! How a server distributes its connections over its loops.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::client::{Refusing, loopback};
use crate::support::net::{self, Host};
use crate::support::{LIMIT, with_watchdog};
use reveille::net::{LoadBalancing, ServerHandle};
use reveille::{EventLoop, TcpServer};
use socket2::{Domain, Socket, Type};

const LOOPS: usize = 3;

/// The loop of the connection from each client address, by the name of its thread.
#[derive(Clone, Default)]
struct Assignments(Arc<Mutex<BTreeMap<SocketAddr, String>>>);

impl Assignments {
    fn of(&self, client: &TcpStream) -> String {
        self.0.lock().unwrap()[&client.local_addr().unwrap()].clone()
    }

    /// Returns the number of these clients on each loop.
    fn count(&self, clients: &[TcpStream]) -> Vec<usize> {
        let mut counts = BTreeMap::new();
        clients.iter().for_each(|client| *counts.entry(self.of(client)).or_default() += 1);
        counts.into_values().collect()
    }
}

fn host(distribution: LoadBalancing) -> (Host, ServerHandle, Assignments) {
    host_at(loopback(), distribution)
}

fn host_at(address: SocketAddr, distribution: LoadBalancing) -> (Host, ServerHandle, Assignments) {
    let assignments = Assignments::default();
    let recorded = assignments.clone();
    let host = Host::new(move |event_loop| {
        TcpServer::bind(event_loop, address)?.threads(LOOPS).load_balancing(distribution).serve_fn(
            move |conn, input| {
                let name = thread::current().name().expect("a thread with a name").to_owned();
                recorded.0.lock().unwrap().insert(conn.peer_addr().unwrap(), name);
                conn.send(input.take_all())
            },
        )
    });
    let handle = host.request(|_, server| server.as_ref().expect("a server").handle());
    (host, handle, assignments)
}

/// Connects `n` clients, each of which has been served.
fn clients(host: &Host, n: usize) -> Vec<TcpStream> {
    let mut clients: Vec<_> = (0..n).map(|_| host.connect()).collect();
    clients.iter_mut().for_each(net::assert_echoes);
    clients
}

#[test]
fn round_robin_gives_each_loop_equally_many_connections() {
    with_watchdog(LIMIT, || {
        let (host, _, assignments) = host(LoadBalancing::RoundRobin);
        assert_eq!(assignments.count(&clients(&host, 300)), [100; LOOPS]);
    });
}

#[test]
fn the_loop_with_fewest_connections_gets_new_ones() {
    with_watchdog(LIMIT, || {
        let (host, handle, assignments) = host(LoadBalancing::LeastConnections);
        let all = clients(&host, 300);
        assert_eq!(assignments.count(&all), [100; LOOPS]);
        // All connections of one loop leave, and ten of another.
        let (first, second) = ("reveille-0", "reveille-1");
        let mut ten = 0;
        let mut staying: Vec<_> = all
            .into_iter()
            .filter(|client| {
                let assigned = assignments.of(client);
                let leaves = assigned == first || (assigned == second && ten < 10);
                ten += usize::from(leaves && assigned == second);
                !leaves
            })
            .collect();
        net::until(|| handle.open_connections() == 190);
        assert_eq!(assignments.count(&staying), [90, 100]);
        staying.extend(clients(&host, 90));
        assert_eq!(assignments.count(&staying), [90, 90, 100]);
        staying.extend(clients(&host, 20));
        assert_eq!(assignments.count(&staying), [100; LOOPS]);
    });
}

#[test]
fn addresses_stick_to_one_loop_and_spread_over_all() {
    with_watchdog(LIMIT, || {
        let (host, _, assignments) = host(LoadBalancing::PeerAddress);
        let mut used = BTreeSet::new();
        for last in 1..=60 {
            let local: SocketAddr = format!("127.0.1.{last}:0").parse().unwrap();
            let of_address: BTreeSet<_> = (0..4)
                .map(|_| {
                    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                    socket.bind(&local.into()).unwrap();
                    socket.connect_timeout(&host.address().into(), net::LIMIT).unwrap();
                    let mut client = TcpStream::from(socket);
                    net::assert_echoes(&mut client);
                    assignments.of(&client)
                })
                .collect();
            assert_eq!(of_address.len(), 1, "{local} is on {of_address:?}");
            used.extend(of_address);
        }
        // About one run in 10^10 leaves a loop without a connection.
        assert_eq!(used.len(), LOOPS, "only {used:?} are used");
    });
}

#[test]
fn a_listener_per_loop_serves_on_all_loops() {
    with_watchdog(LIMIT, || {
        let refusing = Refusing::new();
        let (host, handle, assignments) = host_at(refusing.address(), LoadBalancing::ListenerPerLoop);
        let all = clients(&host, 300);
        let counts = assignments.count(&all);
        assert_eq!((counts.len(), counts.iter().sum::<usize>()), (LOOPS, 300), "{counts:?}");
        // The kernel's hash distributes like a random choice.
        assert!(counts.iter().all(|count| *count >= 30), "{counts:?}");
        assert_eq!((handle.open_connections(), handle.counters().accepted), (300, 300));

        let (report, reported) = mpsc::channel();
        host.request(move |_, server| {
            let server = server.take().expect("a server");
            server.stop(Duration::from_secs(3600), move |_, stopped| report.send(stopped).unwrap());
        });
        for mut client in all {
            assert_eq!(net::read_to_end(&mut client), b"");
        }
        assert_eq!(reported.recv_timeout(net::LIMIT).expect("a report").ended_in_time, 300);
        for _ in 0..20 {
            refusing.assert_refuses();
        }
    });
}

/// A blocked loop closes its listener later than the others. The report waits for it.
#[test]
fn a_stop_waits_until_every_listener_is_closed() {
    with_watchdog(LIMIT, || {
        let (release, released) = mpsc::channel::<()>();
        let (sender, blocked) = mpsc::channel();
        let released = Arc::new(Mutex::new(released));
        let refusing = Refusing::new();
        let address = refusing.address();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, address)?
                .threads(LOOPS)
                .load_balancing(LoadBalancing::ListenerPerLoop)
                .serve_fn(move |conn, _| {
                    let (released, sender) = (Arc::clone(&released), sender.clone());
                    // The connection is closed when the second task blocks its loop.
                    conn.close();
                    conn.event_loop().queue_in_loop(move |event_loop| {
                        event_loop.queue_in_loop(move |_| {
                            sender.send(()).unwrap();
                            let _ = released.lock().unwrap().recv();
                        });
                    });
                })
        });
        // Dropped before the host, which waits for its loops to end.
        let release = release;
        let mut client = host.connect();
        client.write_all(b"block").unwrap();
        blocked.recv_timeout(net::LIMIT).expect("a blocked loop");
        assert_eq!(host.open_connections(), 0);
        let (report, reported) = mpsc::channel();
        host.request(move |_, server| {
            let server = server.take().expect("a server");
            server.stop(Duration::from_secs(3600), move |_, stopped| report.send(stopped).unwrap());
        });
        host.assert_idle();
        assert_eq!(reported.try_recv(), Err(mpsc::TryRecvError::Empty), "a listener is still open");
        drop(release);
        reported.recv_timeout(net::LIMIT).expect("a report");
        refusing.assert_refuses();
    });
}

#[test]
fn dropping_a_server_with_several_listeners_frees_its_port() {
    with_watchdog(LIMIT, || {
        let refusing = Refusing::new();
        let address = refusing.address();
        let (host, _, _) = host_at(address, LoadBalancing::ListenerPerLoop);
        // The listeners share the port only with sockets that set SO_REUSEPORT.
        let taken = std::net::TcpListener::bind(address).expect_err("the address was bound twice");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        host.request(|_, server| drop(server.take()));
        drop(std::net::TcpListener::bind(address).expect("a free port"));
    });
}

#[test]
fn the_loops_of_a_server_have_an_input_buffer_like_its_own_loop() {
    with_watchdog(LIMIT, || {
        const BUFFER: usize = 1024;
        let (sizes, received) = mpsc::channel();
        let host = Host::on(EventLoop::builder().input_buffer(BUFFER), move |event_loop| {
            let sizes = sizes.clone();
            TcpServer::bind(event_loop, "127.0.0.1:0")?.threads(2).serve_fn(move |_, input| {
                // The test may have failed already.
                let _ = sizes.send(input.take_all().len());
            })
        });
        for mut client in [host.connect(), host.connect()] {
            // Segments are larger than the buffer.
            client.write_all(&[0; 100 * BUFFER]).unwrap();
            let mut total = 0;
            while total < 100 * BUFFER {
                let size = received.recv_timeout(LIMIT).expect("more bytes");
                assert!(size <= BUFFER, "{size} bytes at once");
                total += size;
            }
        }
    });
}
