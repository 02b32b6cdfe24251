//! Loops of a server that end before it: the other loops keep serving, and take over the
//! connections in transit.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, mpsc};

use crate::support::net::{self, Host};
use crate::support::{LIMIT, with_watchdog};
use reveille::net::{LoadBalancing, ServerHandle};
use reveille::{LoopHandle, LoopPool, TcpServer};

const LOOPS: usize = 3;

const ALL: [LoadBalancing; 4] = [
    LoadBalancing::RoundRobin,
    LoadBalancing::LeastConnections,
    LoadBalancing::PeerAddress,
    LoadBalancing::ListenerPerLoop,
];

/// An echo server. One of its loops ends when a connection there sends "end". Before that, the loop
/// reports its handle and blocks until it is released.
struct Fragile {
    host: Host,
    server: ServerHandle,
    ending: mpsc::Receiver<LoopHandle>,
    release: mpsc::Sender<()>,
}

impl Fragile {
    fn new(distribution: LoadBalancing) -> Fragile {
        let (end, ending) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let released = Arc::new(Mutex::new(released));
        let host = Host::new(move |event_loop| {
            let builder = TcpServer::bind(event_loop, "127.0.0.1:0")?.threads(LOOPS);
            builder.load_balancing(distribution).serve_fn(move |conn, input| {
                if input.readable() == b"end" {
                    conn.event_loop().quit();
                    end.send(conn.event_loop().handle()).unwrap();
                    let _ = released.lock().unwrap().recv();
                }
                conn.send(input.take_all())
            })
        });
        let server = host.request(|_, server| server.as_ref().expect("a server").handle());
        Fragile { host, server, ending, release }
    }

    /// Blocks the loop of one connection before its end.
    fn block_a_loop(&self) -> LoopHandle {
        self.host.connect().write_all(b"end").unwrap();
        self.ending.recv_timeout(net::LIMIT).expect("a loop that is about to end")
    }

    fn end_a_loop(&self) {
        let ended = self.block_a_loop();
        assert!(!ended.has_ended());
        self.release.send(()).unwrap();
        net::until(|| ended.has_ended());
    }
}

#[test]
fn all_connections_are_served_after_loops_have_ended() {
    with_watchdog(LIMIT, || {
        for distribution in ALL {
            let fragile = Fragile::new(distribution);
            for left in (1..LOOPS).rev() {
                fragile.end_a_loop();
                assert_eq!(fragile.server.live_loops(), left, "{distribution:?}");
                let mut clients: Vec<_> = (0..40).map(|_| fragile.host.connect()).collect();
                clients.iter_mut().for_each(net::assert_echoes);
                net::until(|| fragile.server.open_connections() == 40);
                drop(clients);
                net::until(|| fragile.server.open_connections() == 0);
            }
        }
    });
}

#[test]
fn connections_in_transit_to_an_ended_loop_are_served() {
    with_watchdog(LIMIT, || {
        for distribution in ALL {
            let fragile = Fragile::new(distribution);
            fragile.block_a_loop();
            let mut clients: Vec<_> = (0..40).map(|_| fragile.host.connect()).collect();
            if distribution != LoadBalancing::ListenerPerLoop {
                net::until(|| fragile.server.counters().accepted == 41);
            }
            fragile.release.send(()).unwrap();
            clients.iter_mut().for_each(net::assert_echoes);
            // The connection that blocked the loop closes with it.
            net::until(|| fragile.server.open_connections() == 40);
        }
    });
}

/// Clients see the end of their connection instead of a reply, and the server is idle.
#[test]
fn a_server_without_loops_closes_connections_and_idles() {
    with_watchdog(LIMIT, || {
        for distribution in ALL {
            let fragile = Fragile::new(distribution);
            (0..LOOPS).for_each(|_| fragile.end_a_loop());
            assert_eq!(fragile.server.live_loops(), 0);
            for _ in 0..5 {
                match TcpStream::connect(fragile.host.address()) {
                    Ok(mut client) => {
                        client.set_read_timeout(Some(net::LIMIT)).unwrap();
                        net::wait_for_end(&mut client);
                    }
                    // The last listener is closed with the last loop.
                    Err(error) => assert_eq!(
                        (distribution, error.kind()),
                        (LoadBalancing::ListenerPerLoop, io::ErrorKind::ConnectionRefused)
                    ),
                }
            }
            fragile.host.assert_idle();
            net::until(|| fragile.server.open_connections() == 0);
        }
    });
}

#[test]
fn a_permit_is_released_when_no_loop_is_left() {
    with_watchdog(LIMIT, || {
        let host = Host::new(move |event_loop| {
            let builder = TcpServer::bind(event_loop, "127.0.0.1:0")?.max_connections(1);
            builder.threads(2).serve_fn(|conn, _| conn.event_loop().quit())
        });
        let server = host.request(|_, server| server.as_ref().expect("a server").handle());
        while server.live_loops() > 0 {
            let mut client = host.connect();
            // While the last loop ends, the server may have reset the connection already.
            let _ = client.write_all(b"end");
            net::wait_for_end(&mut client);
        }
        for _ in 0..3 {
            net::wait_for_end(&mut host.connect());
        }
        // The client sees the end before the permit is released.
        net::until(|| server.open_connections() == 0);
    });
}

#[test]
fn a_pool_gives_only_live_loops() {
    with_watchdog(LIMIT, || {
        let pool = LoopPool::new(LOOPS, "worker").unwrap();
        let ended: Vec<_> = pool.handles().take(2).cloned().collect();
        for handle in &ended {
            handle.quit();
            net::until(|| handle.has_ended());
        }
        for _ in 0..10 {
            assert!(!pool.next().has_ended());
            assert_eq!(pool.next().call(|_| 7).unwrap(), 7);
        }
        let last = pool.next().clone();
        last.quit();
        net::until(|| last.has_ended());
        assert!(pool.next().has_ended());
        assert!(pool.next().queue_in_loop(|_| ()).is_err());
    });
}
