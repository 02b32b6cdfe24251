//! A server with 1000 descriptors survives 20 000 connections that are opened as fast as possible.
//!
//! The server is a child process, and this process opens the connections. Its own descriptor limit
//! may be lower than the number of connections, so it keeps at most some thousands pending. Then it
//! waits for the outcome of the oldest one before it opens the next.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::net::{self, Child, Host, send_to_parent};
use crate::support::shortage::{count_warnings, is_served, limit_descriptors, warnings};
use crate::support::with_watchdog;
use reveille::TcpServer;
use reveille::net::{LoadBalancing, OverflowPolicy};
use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Socket, Type};

/// The largest number of listeners of a server here.
const LISTENERS: usize = 3;

const CONNECTIONS: usize = 20_000;
const DESCRIPTORS: u64 = 1000;

/// The number of connections that are open before the storm.
const REGULARS: usize = 100;

/// The time limit of a test. A storm takes a few seconds.
const STORM_LIMIT: Duration = Duration::from_secs(120);

/// The child process: an echo server that replies to its parent's queries.
#[test]
#[ignore = "runs only in a child process of another test"]
fn child_role() {
    let Some(role) = net::role() else { return };
    count_warnings();
    limit_descriptors(DESCRIPTORS);
    let host = Host::new(move |event_loop| {
        let builder = TcpServer::bind(event_loop, "127.0.0.1:0")?;
        match &*role {
            "one listener" => builder.serve_fn(|conn, input| conn.send(input.take_all())),
            "a listener each" => builder
                .threads(3)
                .load_balancing(LoadBalancing::ListenerPerLoop)
                .serve_fn(|conn, input| conn.send(input.take_all())),
            "a maximum" => builder
                .max_connections(500)
                .overflow_policy(OverflowPolicy::Reject)
                .serve_fn(|conn, input| conn.send(input.take_all())),
            other => panic!("unknown role `{other}`"),
        }
    });
    let handle = host.request(|_, server| server.as_ref().expect("a server").handle());
    send_to_parent(host.address());
    for line in io::stdin().lines() {
        let counters = handle.counters();
        match &*line.expect("a query") {
            "open" => send_to_parent(handle.open_connections()),
            "accepted" => send_to_parent(counters.accepted),
            "rejected without descriptor" => send_to_parent(counters.rejected_without_descriptor),
            "rejected at maximum" => send_to_parent(counters.rejected_at_maximum),
            "warnings" => send_to_parent(warnings()),
            other => panic!("unknown query `{other}`"),
        }
    }
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(role: &str) -> Server {
        let mut child = Child::start(role);
        let address = child.next_reply().parse().expect("an address");
        Server { child, address }
    }

    #[track_caller]
    fn request(&mut self, query: &str) -> u64 {
        self.child.request(query).parse().expect("a number")
    }
}

/// Uses the tracer, which supports only this processor architecture.
#[cfg(target_arch = "x86_64")]
mod idle {
    use std::fs;
    use std::thread;
    use std::time::Duration;

    use nix::libc;

    use super::Server;
    use crate::support::net;
    use crate::support::tracer::Traced;

    impl Server {
        /// The traced threads of the server that run a loop; `None` where tracing is not permitted.
        fn loops(&self) -> Option<Vec<Traced>> {
            let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("a running child");
            let of_loops = threads.map(|thread| thread.expect("a thread")).filter(|thread| {
                let name = fs::read_to_string(thread.path().join("comm")).expect("a running thread");
                name.starts_with("host") || name.starts_with("reveille-")
            });
            let id = |thread: fs::DirEntry| {
                thread.file_name().to_str().expect("a number").parse().expect("a number")
            };
            // A loop without descriptors sleeps in read(2) on its counter instead of epoll_wait(2).
            of_loops
                .map(|thread| Traced::attach(id(thread), &[libc::SYS_epoll_wait, libc::SYS_read]))
                .collect()
        }

        /// Checks that none of the server's loops makes a system call for one second.
        #[track_caller]
        pub(crate) fn assert_idle(&self) {
            let Some(loops) = self.loops() else { return };
            let stops = || loops.iter().map(|traced| traced.wait_until_idle().stops).sum::<u64>();
            let stops_within = |time| {
                let before = stops();
                thread::sleep(time);
                stops() - before
            };
            // A listener that lost its reserve in the storm first completes its back-off.
            net::until(|| stops_within(Duration::from_millis(100)) == 0);
            assert_eq!(stops_within(Duration::from_secs(1)), 0, "the idle server makes system calls");
        }
    }
}

/// Starts to connect from one of several addresses: one address has too few ports.
fn start_connecting(number: usize, to: SocketAddr) -> TcpStream {
    let from: SocketAddr = format!("127.0.0.{}:0", 2 + number % 8).parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("a descriptor");
    socket.bind(&from.into()).expect("a free port");
    if let Err(error) = socket.connect(&to.into()) {
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::INPROGRESS.raw_os_error()), "{error}");
    }
    socket.into()
}

/// Opens all connections, at most `window` of them pending, and waits for the outcome of each.
/// Returns those that are served.
fn storm(server: &Server, regulars: &mut [TcpStream], window: usize) -> Vec<TcpStream> {
    let mut pending = VecDeque::with_capacity(window);
    let mut served = Vec::new();
    for number in 0..CONNECTIONS {
        if pending.len() == window {
            let oldest: TcpStream = pending.pop_front().expect("a pending connection");
            if is_served(&oldest) {
                served.push(oldest);
            }
        }
        pending.push_back(start_connecting(number, server.address));
        if number % 500 == 0 {
            let regular = &mut regulars[number / 500 % REGULARS];
            net::assert_echoes(regular);
        }
    }
    served.extend(pending.into_iter().filter(is_served));
    served
}

fn survive_storm(role: &'static str, expected: std::ops::Range<usize>) {
    with_watchdog(STORM_LIMIT, move || {
        limit_descriptors(20_000);
        let own = getrlimit(Resource::Nofile).current.unwrap_or(20_000) as usize;
        let window = 4000.min(own.saturating_sub(1500));
        assert!(window >= 1000, "the descriptor limit of this process is only {own}");
        let mut server = Server::start(role);
        let mut regulars: Vec<_> = (0..REGULARS).map(|_| net::connect(server.address)).collect();
        regulars.iter_mut().for_each(net::assert_echoes);

        let mut served = storm(&server, &mut regulars, window);
        regulars.iter_mut().for_each(net::assert_echoes);
        let all = REGULARS + served.len();
        assert!(expected.contains(&all), "{all} connections are served");
        assert_eq!(server.request("open"), all as u64);
        // Every connection was accepted, or rejected and counted.
        assert_eq!(server.request("accepted"), all as u64);
        let rejected = server.request("rejected without descriptor") + server.request("rejected at maximum");
        assert_eq!(rejected, (CONNECTIONS - served.len()) as u64);
        let warnings = server.request("warnings");
        assert!(warnings <= 3 * STORM_LIMIT.as_secs(), "{warnings} warnings");

        // Without new connections the server is idle.
        #[cfg(target_arch = "x86_64")]
        server.assert_idle();

        // For each connection that closes, another client can connect.
        let leaving = served.len() / 2;
        served.truncate(served.len() - leaving);
        net::until(|| server.request("open") == (all - leaving) as u64);
        // The count falls a moment before the descriptor is free, so a client may be rejected once
        // more. A listener that had lost its reserve takes one of the descriptors.
        let mut later = Vec::new();
        for _ in 0..2 * leaving {
            if later.len() < leaving {
                later.extend(Some(net::connect(server.address)).filter(is_served));
            }
        }
        assert!(later.len() + LISTENERS >= leaving, "{} of {leaving} are served", later.len());
        regulars.iter_mut().for_each(net::assert_echoes);
        assert_eq!(server.request("open"), (all - leaving + later.len()) as u64);
    });
}

#[test]
fn a_server_without_descriptors_survives_a_storm() {
    survive_storm("one listener", 900..1000);
}

/// Each listener has its own reserve. When one releases its reserve, another thread may take the
/// descriptor.
#[test]
fn a_server_with_several_listeners_survives_a_storm() {
    survive_storm("a listener each", 900..1000);
}

#[test]
fn a_server_with_a_maximum_survives_a_storm() {
    survive_storm("a maximum", 500..501);
}
