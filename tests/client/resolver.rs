//! Lookups: their results, their callbacks, and clients that use a resolver.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use crate::support::alone::alone_after;
use crate::support::bomb::Bomb;
use crate::support::client::{LONG_TIMEOUT, Reported, Reporting, Reports, echo_server, loopback};
use crate::support::clock::HOUR;
use crate::support::{Count, LIMIT, Recorder, net, turn, with_catching_loop, with_loop, with_watchdog};
use reveille::net::{ConnectTarget, Resolver, ResolverError, UnixAddress};
use reveille::{EventLoop, TcpClient};

/// The hosts, addresses and services of this process alone, from files that it may write.
const OWN_NAMES: &str = r#"
    exec unshare -rm sh -ec '
        mount -t tmpfs names /mnt
        printf "hosts: files\nservices: files\n" > /mnt/nsswitch.conf
        printf "192.0.2.7 one.example one\n192.0.2.8 one.example one\n" > /mnt/hosts
        echo "made-up 4321/tcp" > /mnt/services
        for file in nsswitch.conf hosts services; do mount --bind /mnt/$file /etc/$file; done
        exec "$@"' sh "$@""#;

type Addresses = Result<Vec<SocketAddr>, ErrorKind>;

/// Looks up addresses, and runs the loop until there is a result.
#[track_caller]
fn addresses_of(event_loop: &EventLoop, resolver: &Resolver, target: &str) -> Addresses {
    let found = Recorder::new();
    let recording = found.clone();
    let then = move |_: &EventLoop, result: io::Result<Vec<SocketAddr>>| {
        recording.record(result.map_err(|error| error.kind()));
    };
    let _lookup = resolver.lookup(target, then).unwrap();
    net::turn_until(event_loop, || found.len() == 1);
    found.take().swap_remove(0)
}

#[track_caller]
fn name_of(event_loop: &EventLoop, resolver: &Resolver, address: &str) -> Result<String, ErrorKind> {
    let found = Recorder::new();
    let recording = found.clone();
    let then = move |_: &EventLoop, result: io::Result<String>| {
        recording.record(result.map_err(|error| error.kind()));
    };
    let _lookup = resolver.reverse(address.parse().unwrap(), then).unwrap();
    net::turn_until(event_loop, || found.len() == 1);
    found.take().swap_remove(0)
}

fn parsed(addresses: &[&str]) -> Addresses {
    Ok(addresses.iter().map(|address| address.parse().unwrap()).collect())
}

// --- Results -------------------------------------------------------------------------------------

#[test]
fn hosts_services_and_names_are_looked_up() {
    alone_after(OWN_NAMES, || {
        let event_loop = EventLoop::new().unwrap();
        let resolver = Resolver::new(&event_loop).unwrap();
        let look_up = |target: &str| {
            let mut found = addresses_of(&event_loop, &resolver, target)?;
            found.sort();
            Ok(found)
        };
        assert_eq!(look_up("one.example:80"), parsed(&["192.0.2.7:80", "192.0.2.8:80"]));
        assert_eq!(look_up("ONE:made-up"), parsed(&["192.0.2.7:4321", "192.0.2.8:4321"]));
        assert_eq!(look_up("192.0.2.1:made-up"), parsed(&["192.0.2.1:4321"]));
        assert_eq!(look_up("[2001:db8::1]:made-up"), parsed(&["[2001:db8::1]:4321"]));
        assert_eq!(look_up("[fe80::1%1]:made-up"), parsed(&["[fe80::1%1]:4321"]));
        assert_eq!(look_up("one.example:unknown"), Err(ErrorKind::NotFound));
        let unknown = reveille::TcpServer::bind(&event_loop, "127.0.0.1:unknown").unwrap_err();
        assert!(unknown.to_string().contains("the TCP service \"unknown\" is unknown"), "{unknown}");
        assert_eq!(look_up("two.example:80"), Err(ErrorKind::NotFound));
        assert_eq!(name_of(&event_loop, &resolver, "192.0.2.8"), Ok("one.example".to_owned()));
        assert_eq!(name_of(&event_loop, &resolver, "192.0.2.9"), Err(ErrorKind::NotFound));
    });
}

#[test]
fn clients_and_servers_accept_service_names() {
    alone_after(OWN_NAMES, || {
        let event_loop = EventLoop::new().unwrap();
        let server = echo_server(&event_loop, loopback());
        let address = server.local_addr().unwrap();
        fs::write("/etc/services", format!("made-up {}/tcp\nanother 0/tcp\n", address.port())).unwrap();
        let reports = Reports::new();
        let _client = TcpClient::connect(&event_loop, "127.0.0.1:made-up")
            .reporting(&reports)
            .serve_fn(|_, _| ())
            .unwrap();
        net::turn_until(&event_loop, || reports.len() == 1);
        assert_eq!(reports.take(), [Reported::Connected(address)]);
        let taken = reveille::TcpServer::bind(&event_loop, "127.0.0.1:made-up").unwrap().serve_fn(|_, _| ());
        assert_eq!(taken.unwrap_err().kind(), ErrorKind::AddrInUse);
        // The service exists for TCP only.
        let error = reveille::UdpSocket::bind(&event_loop, "127.0.0.1:made-up").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("the UDP service \"made-up\" is unknown"), "{error}");
    });
}

#[test]
fn cached_results_outlive_a_change_until_they_expire() {
    alone_after(OWN_NAMES, || {
        let clock = reveille::time::VirtualClock::new();
        let event_loop = EventLoop::builder().virtual_clock(clock.clone()).build().unwrap();
        let resolver = Resolver::builder().cache(Duration::from_secs(10), 8).build(&event_loop).unwrap();
        let before = name_of(&event_loop, &resolver, "192.0.2.8");
        fs::write("/etc/hosts", "192.0.2.8 renamed\n").unwrap();
        assert_eq!(name_of(&event_loop, &resolver.clone(), "192.0.2.8"), before);
        clock.advance(Duration::from_secs(10));
        assert_eq!(name_of(&event_loop, &resolver, "192.0.2.8"), Ok("renamed".to_owned()));
    });
}

/// One turn suffices, so there is no other thread to wait for.
#[test]
fn an_address_is_returned_in_the_next_turn() {
    with_loop(|event_loop| {
        let resolver = Resolver::new(event_loop).unwrap();
        let socket: SocketAddr = "192.0.2.1:80".parse().unwrap();
        let targets: [(ConnectTarget, Addresses); 7] = [
            ("192.0.2.1:80".parse().unwrap(), Ok(vec![socket])),
            (("192.0.2.1", 80).try_into().unwrap(), Ok(vec![socket])),
            ([socket, socket].try_into().unwrap(), Ok(vec![socket, socket])),
            ("[2001:db8::1]:80".parse().unwrap(), parsed(&["[2001:db8::1]:80"])),
            ("[fe80::1%1]:80".parse().unwrap(), parsed(&["[fe80::1%1]:80"])),
            ("[fe80::1%nowhere0]:80".parse().unwrap(), Err(ErrorKind::InvalidInput)),
            (UnixAddress::path("/run/x").unwrap().into(), Err(ErrorKind::InvalidInput)),
        ];
        for (target, expected) in targets {
            let found = Recorder::new();
            let recording = found.clone();
            let then = move |_: &EventLoop, result: io::Result<Vec<SocketAddr>>| {
                recording.record(result.map_err(|error| error.kind()));
            };
            let lookup = resolver.lookup(&target, then).unwrap();
            assert_eq!((found.len(), resolver.unfinished()), (0, 1), "{target:?}");
            turn(event_loop);
            assert_eq!(found.take(), [expected], "{target:?}");
            assert_eq!((lookup.is_pending(), resolver.unfinished()), (false, 0));
        }
        assert_eq!(addresses_of(event_loop, &resolver, "no port"), Err(ErrorKind::InvalidInput));
    });
}

#[test]
fn a_loop_that_runs_until_it_is_idle_waits_for_lookups() {
    with_loop(|event_loop| {
        let resolver = Resolver::new(event_loop).unwrap();
        let called = Count::default();
        let counting = called.clone();
        resolver.lookup("localhost:80", move |_, _| counting.add()).unwrap().detach();
        event_loop.run_until_idle().unwrap();
        assert_eq!(called.get(), 1);
    });
}

// --- Callbacks -----------------------------------------------------------------------------------

#[test]
fn a_dropped_lookup_drops_its_callback_at_once() {
    with_loop(|event_loop| {
        let resolver = Resolver::new(event_loop).unwrap();
        for target in ["127.0.0.1:80", "localhost:80"] {
            let drops = Count::default();
            let token = drops.drop_token();
            let lookup = resolver.lookup(target, move |_, _| {
                token.keep();
                unreachable!("it was cancelled");
            });
            drop(lookup.unwrap());
            assert_eq!((drops.get(), resolver.unfinished()), (1, 0), "{target}");
        }
        crate::support::client::turn_until_idle(event_loop);
    });
}

#[test]
fn a_callback_may_drop_its_own_lookup_and_others() {
    with_loop(|event_loop| {
        let resolver = Resolver::new(event_loop).unwrap();
        let (lookups, called) = (Rc::new(RefCell::new(Vec::new())), Count::default());
        for _ in 0..3 {
            let (dropping, counting) = (Rc::clone(&lookups), called.clone());
            let lookup = resolver.lookup("127.0.0.1:80", move |_, _| {
                counting.add();
                let all = dropping.take();
                drop(all);
            });
            lookups.borrow_mut().push(lookup.unwrap());
        }
        (0..3).for_each(|_| turn(event_loop));
        assert_eq!((called.get(), resolver.unfinished()), (1, 0));
    });
}

#[test]
fn panics_of_callbacks_and_their_values_are_contained() {
    with_catching_loop(|event_loop| {
        let resolver = Resolver::new(event_loop).unwrap();
        resolver.lookup("127.0.0.1:80", |_, _| panic!("on purpose")).unwrap().detach();
        let drops = Count::default();
        let [cancelled, called, refused] = [(); 3].map(|()| Bomb::new(&drops));
        drop(resolver.lookup("localhost:80", move |_, _| cancelled.keep()).unwrap());
        resolver.lookup("127.0.0.1:80", move |_, _| called.keep()).unwrap().detach();
        turn(event_loop);
        assert_eq!((drops.get(), event_loop.handle().counters().panics), (2, 3));
        let full = Resolver::builder().queue(0).build(event_loop).unwrap();
        let error = full.lookup("127.0.0.1:80", move |_, _| refused.keep()).unwrap_err();
        assert_eq!(error.reason(), ResolverError::Full);
        assert_eq!(resolver.unfinished(), 0);
        assert_eq!(io::Error::from(error).kind(), ErrorKind::WouldBlock);
        assert_eq!(drops.get(), 3);
    });
}

/// A name with two addresses of each family, on which nothing listens.
#[test]
fn the_addresses_of_a_name_alternate_between_families() {
    const BOTH_FAMILIES: &str = r#"
        exec unshare -rmn sh -ec '
            ip link set lo up
            ip address add fd00::2/128 dev lo nodad
            mount -t tmpfs names /mnt
            echo "hosts: files" > /mnt/nsswitch.conf
            for address in ::1 fd00::2 127.0.0.1 127.0.0.2; do echo "$address four"; done > /mnt/hosts
            for file in nsswitch.conf hosts; do mount --bind /mnt/$file /etc/$file; done
            exec "$@"' sh "$@""#;
    alone_after(BOTH_FAMILIES, || {
        let event_loop = EventLoop::new().unwrap();
        let resolver = Resolver::new(&event_loop).unwrap();
        let found = addresses_of(&event_loop, &resolver, "four:9").unwrap();
        assert_eq!(found.len(), 4, "{found:?}");
        let reports = Reports::new();
        let _client =
            TcpClient::connect(&event_loop, "four:9").reporting(&reports).serve_fn(|_, _| ()).unwrap();
        net::turn_until(&event_loop, || reports.len() == 5);
        let mut tried: Vec<_> = reports
            .take()
            .into_iter()
            .filter_map(|report| match report {
                Reported::Failed(address, ErrorKind::ConnectionRefused) => address,
                _ => None,
            })
            .collect();
        assert_eq!(tried[0], found[0], "the preferred address is the first");
        assert!(tried.windows(2).all(|two| two[0].is_ipv6() != two[1].is_ipv6()), "{tried:?}");
        tried.sort();
        let mut found = found;
        found.sort();
        assert_eq!(tried, found);
    });
}

// --- Clients -------------------------------------------------------------------------------------

#[test]
fn clients_share_a_resolver() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, loopback());
        let target = ("localhost", server.local_addr().unwrap().port());
        let resolver = Resolver::builder().cache(HOUR, 1).build(event_loop).unwrap();
        let connect = || {
            TcpClient::connect(event_loop, target)
                .timeout(LONG_TIMEOUT)
                .resolver(&resolver)
                .serve_fn(|_, _| ())
                .unwrap()
        };
        let clients = [connect(), connect(), connect()];
        turn(event_loop);
        assert_eq!(resolver.unfinished(), 3);
        net::turn_until(event_loop, || clients.iter().all(|client| client.handle().is_some()));
        assert!(format!("{resolver:?}").contains("cached: 1"), "{resolver:?}");
        let stopped = connect();
        turn(event_loop);
        drop(stopped);
        assert_eq!(resolver.unfinished(), 0);
    });
}

#[test]
fn a_client_fails_if_its_resolver_is_full_or_its_loop_has_ended() {
    with_watchdog(LIMIT, || {
        let old = EventLoop::new().unwrap();
        let ended = Resolver::new(&old).unwrap();
        drop(old);
        let event_loop = EventLoop::new().unwrap();
        let full = Resolver::builder().queue(0).build(&event_loop).unwrap();
        for (resolver, kind) in [(&full, ErrorKind::WouldBlock), (&ended, ErrorKind::BrokenPipe)] {
            let reports = Reports::new();
            let _client = TcpClient::connect(&event_loop, "localhost:80")
                .resolver(resolver)
                .reporting(&reports)
                .serve_fn(|_, _| ())
                .unwrap();
            net::turn_until(&event_loop, || reports.len() == 2);
            assert_eq!(
                reports.take(),
                [Reported::Failed(None, kind), Reported::RetriesExhausted(kind, 1, 1)]
            );
        }
    });
}

// --- Settings ------------------------------------------------------------------------------------

#[test]
fn a_resolver_needs_a_thread() {
    with_loop(|event_loop| {
        let built = Resolver::builder().threads(0).build(event_loop);
        assert_eq!(built.unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_lookup_after_the_end_of_its_loop_returns_the_callback() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let resolver = Resolver::new(&event_loop).unwrap();
        let called = Rc::new(Cell::new(false));
        let calling = Rc::clone(&called);
        resolver.reverse(IpAddr::from([127, 0, 0, 1]), move |_, _| calling.set(true)).unwrap().detach();
        drop(event_loop);
        assert_eq!(Rc::strong_count(&called), 1, "the callback is left");
        let refused = resolver.reverse(IpAddr::from([127, 0, 0, 1]), |_, _| ()).unwrap_err();
        assert_eq!(refused.reason(), ResolverError::LoopEnded);
        assert!(!called.get());
    });
}
