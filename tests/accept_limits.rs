//! A server that runs out of descriptors: it lives, serves those it has, turns others away, and
//! goes on when it can.
//!
//! The limit is that of a child process, which has the server; the clients are in this one.

mod support;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use reveille::time::VirtualClock;
use reveille::{EventLoop, TcpServer};
use support::alone::alone;
use support::net::{self, Child, Host, answer};
use support::shortage::{count_warnings, is_served, limit_descriptors, warnings};
use support::{LIMIT, turn, with_watchdog};

const DESCRIPTORS: u64 = 64;

/// The child: an echo server, and answers to its parent's questions.
#[test]
#[ignore = "is run in a process of its own by the tests of this file"]
fn child_role() {
    if net::role().is_none() {
        return;
    }
    count_warnings();
    limit_descriptors(DESCRIPTORS);
    let host = Host::new(|event_loop| {
        TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(|conn, input| conn.send(input.take_all()))
    });
    answer(host.address());
    for line in io::stdin().lines() {
        match line.expect("a parent that speaks").split_once(' ').expect("a word and a number") {
            ("open", _) => answer(host.open_connections()),
            ("turns", _) => answer(host.turns_at_rest()),
            ("warnings", _) => answer(warnings()),
            ("limit", number) => {
                limit_descriptors(number.parse().expect("a number"));
                answer("done");
            }
            (other, _) => panic!("what is `{other}`?"),
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
        let address = child.hear().parse().expect("an address");
        Server { child, address }
    }

    fn connect(&self) -> TcpStream {
        net::connect(self.address)
    }

    #[track_caller]
    fn ask(&mut self, question: &str) -> u64 {
        self.child.ask(&format!("{question} 0")).parse().expect("a number")
    }

    #[track_caller]
    fn limit(&mut self, descriptors: u64) {
        assert_eq!(self.child.ask(&format!("limit {descriptors}")), "done");
    }
}

#[test]
fn of_more_clients_than_descriptors_each_is_served_or_turned_away() {
    with_watchdog(LIMIT, || {
        let mut server = Server::start();
        let clients: Vec<_> = (0..100).map(|_| server.connect()).collect();
        let (mut served, turned_away): (Vec<_>, Vec<_>) =
            clients.into_iter().map(|client| (is_served(&client), client)).partition(|(served, _)| *served);
        // None waits for an answer now, though no further client has come.
        assert!(served.len() >= 40 && served.len() < DESCRIPTORS as usize, "{} are served", served.len());
        assert_eq!(served.len() + turned_away.len(), 100);
        assert_eq!(server.ask("open"), served.len() as u64);

        // Nothing happens, and nothing is done.
        assert_eq!(server.ask("turns"), 0);
        let warnings = server.ask("warnings");
        assert!(warnings >= 1 && warnings < turned_away.len() as u64 / 2, "{warnings} warnings");

        // Those that are served go on, and when some of them leave there is room for others.
        served.iter_mut().for_each(|(_, client)| net::assert_echoes(client));
        let left = served.len() / 2;
        let stay = served.split_off(left);
        drop(served);
        net::until(|| server.ask("open") == stay.len() as u64);
        let mut later: Vec<_> = (0..left).map(|_| server.connect()).collect();
        later.iter_mut().for_each(net::assert_echoes);
        assert_eq!(server.ask("open"), (stay.len() + left) as u64);
    });
}

/// Not even the reserve is of use here, for no descriptor at all can be had.
#[test]
fn a_listener_that_can_take_nobody_rests_and_then_goes_on_by_itself() {
    with_watchdog(LIMIT, || {
        let mut server = Server::start();
        let mut before = server.connect();
        net::assert_echoes(&mut before);
        server.limit(3);
        let mut waiting: Vec<_> = (0..20).map(|_| server.connect()).collect();
        // It looks again now and then, which is a few turns, and not thousands.
        net::until(|| server.ask("warnings") >= 1);
        let turns = server.ask("turns");
        assert!(turns <= 20, "{turns} turns in a moment");
        net::assert_echoes(&mut before);
        assert_eq!(server.ask("open"), 1);

        // As soon as it can it takes all of them, without another one that comes.
        server.limit(DESCRIPTORS);
        waiting.iter_mut().for_each(net::assert_echoes);
        assert_eq!(server.ask("open"), 21);
        assert_eq!(server.ask("turns"), 0);
    });
}

/// The reserve goes when not even it can be replaced. Once there are descriptors again there must
/// be one in reserve as well.
#[test]
fn a_reserve_that_was_lost_is_replaced() {
    with_watchdog(LIMIT, || {
        let mut server = Server::start();
        server.limit(3);
        let mut first = server.connect();
        net::until(|| server.ask("warnings") >= 1);
        server.limit(DESCRIPTORS);
        net::assert_echoes(&mut first);
        let clients: Vec<_> = (0..100).map(|_| server.connect()).collect();
        let served = clients.iter().filter(|client| is_served(client)).count();
        assert!(served > 0 && served < 100, "{served} are served");
    });
}

#[test]
fn a_rest_is_not_cut_short_by_word_that_comes_meanwhile() {
    alone(|| {
        let clock = VirtualClock::new();
        let event_loop = EventLoop::builder().virtual_clock(clock.clone()).build().unwrap();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _| ()).unwrap();
        let _waits = net::connect(server.local_addr());
        limit_descriptors(3);
        for _ in 0..20 {
            server.pause_accepting();
            server.resume_accepting();
            turn(&event_loop);
            turn(&event_loop);
        }
        // One try, and one rest.
        let is_at_rest = || format!("{event_loop:?}").contains("timers: 1,");
        assert!(is_at_rest(), "{event_loop:?}");
        clock.advance(Duration::from_secs(1));
        turn(&event_loop);
        turn(&event_loop);
        assert!(is_at_rest(), "{event_loop:?}");
        assert_eq!(server.open_connections(), 0);
        limit_descriptors(DESCRIPTORS);
        clock.advance(Duration::from_secs(1));
        turn(&event_loop);
        turn(&event_loop);
        assert_eq!(server.open_connections(), 1);
    });
}
