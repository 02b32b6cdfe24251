//! A server without free descriptors serves its open connections, rejects others, and accepts again
//! when descriptors are free.
//!
//! The server runs in a child process, to which the descriptor limit applies. The clients are in
//! this process.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::alone::alone;
use crate::support::net::{self, Child, Host, send_to_parent};
use crate::support::shortage::{count_warnings, is_served, limit_descriptors, warnings};
use crate::support::{LIMIT, turn, with_watchdog};
use reveille::time::VirtualClock;
use reveille::{EventLoop, TcpServer};

const DESCRIPTORS: u64 = 64;

/// The child process: an echo server that replies to its parent's queries.
#[test]
#[ignore = "runs only in a child process of another test"]
fn child_role() {
    if net::role().is_none() {
        return;
    }
    count_warnings();
    limit_descriptors(DESCRIPTORS);
    let host = Host::new(|event_loop| {
        TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(|conn, input| conn.send(input.take_all()))
    });
    send_to_parent(host.address());
    for line in io::stdin().lines() {
        match line.expect("a query").split_once(' ').expect("a word and a number") {
            ("open", _) => send_to_parent(host.open_connections()),
            ("turns", _) => send_to_parent(host.turns_while_idle()),
            ("warnings", _) => send_to_parent(warnings()),
            ("limit", number) => {
                limit_descriptors(number.parse().expect("a number"));
                send_to_parent("done");
            }
            (other, _) => panic!("unknown query `{other}`"),
        }
    }
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Server {
        let mut child = Child::start("server");
        let address = child.next_reply().parse().expect("an address");
        Server { child, address }
    }

    fn connect(&self) -> TcpStream {
        net::connect(self.address)
    }

    #[track_caller]
    fn request(&mut self, query: &str) -> u64 {
        self.child.request(&format!("{query} 0")).parse().expect("a number")
    }

    #[track_caller]
    fn limit(&mut self, descriptors: u64) {
        assert_eq!(self.child.request(&format!("limit {descriptors}")), "done");
    }
}

#[test]
fn without_descriptors_each_client_is_served_or_rejected() {
    with_watchdog(LIMIT, || {
        let mut server = Server::start();
        let clients: Vec<_> = (0..100).map(|_| server.connect()).collect();
        let (mut served, rejected): (Vec<_>, Vec<_>) =
            clients.into_iter().map(|client| (is_served(&client), client)).partition(|(served, _)| *served);
        // No client waits, although no further client has connected.
        assert!(served.len() >= 40 && served.len() < DESCRIPTORS as usize, "{} are served", served.len());
        assert_eq!(served.len() + rejected.len(), 100);
        assert_eq!(server.request("open"), served.len() as u64);

        // Without events the loop makes no turns.
        assert_eq!(server.request("turns"), 0);
        let warnings = server.request("warnings");
        assert!(warnings >= 1 && warnings < rejected.len() as u64 / 2, "{warnings} warnings");

        // The served connections keep working. When some of them leave, others can connect.
        served.iter_mut().for_each(|(_, client)| net::assert_echoes(client));
        let leaving = served.len() / 2;
        let staying = served.split_off(leaving);
        drop(served);
        net::until(|| server.request("open") == staying.len() as u64);
        let mut later: Vec<_> = (0..leaving).map(|_| server.connect()).collect();
        later.iter_mut().for_each(net::assert_echoes);
        assert_eq!(server.request("open"), (staying.len() + leaving) as u64);
    });
}

/// The limit is below the number of the reserve descriptor, so releasing the reserve does not make
/// an accept possible.
#[test]
fn a_listener_without_descriptors_backs_off_and_recovers() {
    with_watchdog(LIMIT, || {
        let mut server = Server::start();
        let mut before = server.connect();
        net::assert_echoes(&mut before);
        server.limit(3);
        let mut waiting: Vec<_> = (0..20).map(|_| server.connect()).collect();
        // The listener retries at intervals, which takes a few turns. A spinning loop would make
        // thousands.
        net::until(|| server.request("warnings") >= 1);
        let turns = server.request("turns");
        assert!(turns <= 20, "{turns} turns during the back-off");
        net::assert_echoes(&mut before);
        assert_eq!(server.request("open"), 1);

        // When descriptors are free, the listener accepts all waiting connections. It needs no new
        // connection for that.
        server.limit(DESCRIPTORS);
        waiting.iter_mut().for_each(net::assert_echoes);
        assert_eq!(server.request("open"), 21);
        assert_eq!(server.request("turns"), 0);
    });
}

/// A reserve that cannot be reopened is lost. It must be restored when descriptors are free again.
#[test]
fn a_lost_reserve_is_restored() {
    with_watchdog(LIMIT, || {
        let mut server = Server::start();
        server.limit(3);
        let mut first = server.connect();
        net::until(|| server.request("warnings") >= 1);
        server.limit(DESCRIPTORS);
        net::assert_echoes(&mut first);
        let clients: Vec<_> = (0..100).map(|_| server.connect()).collect();
        let served = clients.iter().filter(|client| is_served(client)).count();
        assert!(served > 0 && served < 100, "{served} are served");
    });
}

#[test]
fn notifications_do_not_cut_a_back_off_short() {
    alone(|| {
        let clock = VirtualClock::new();
        let event_loop = EventLoop::builder().virtual_clock(clock.clone()).build().unwrap();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _| ()).unwrap();
        let _client = net::connect(server.local_addr().unwrap());
        limit_descriptors(3);
        for _ in 0..20 {
            server.pause_accepting();
            server.resume_accepting();
            turn(&event_loop);
            turn(&event_loop);
        }
        // One attempt, and one back-off.
        let is_backing_off = || format!("{event_loop:?}").contains("timers: 1,");
        assert!(is_backing_off(), "{event_loop:?}");
        clock.advance(Duration::from_secs(1));
        turn(&event_loop);
        turn(&event_loop);
        assert!(is_backing_off(), "{event_loop:?}");
        assert_eq!(server.open_connections(), 0);
        limit_descriptors(DESCRIPTORS);
        clock.advance(Duration::from_secs(1));
        turn(&event_loop);
        turn(&event_loop);
        assert_eq!(server.open_connections(), 1);
    });
}
