//! Servers with several listeners: shared limits, counters and loops, and one stop.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use crate::support::client::Refusing;
use crate::support::clock::HOUR;
use crate::support::net::{self, End, Host, Journal, assert_echoes};
use crate::support::unix::{Folder, abstract_name, connect_to, read_exact};
use crate::support::{LIMIT, with_loop, with_watchdog};
use reveille::net::{Address, LoadBalancing, StopReport, TcpServerBuilder, UnixAddress};
use reveille::{EventLoop, TcpServer};
use rustix::fs::OFlags;

/// Two addresses that the server binds, and an adopted listener.
fn three_listeners(event_loop: &EventLoop) -> TcpServerBuilder<'_> {
    let builder = TcpServer::builder(event_loop).listen("127.0.0.1:0").listen("127.0.0.1:0");
    builder.listener(TcpListener::bind("127.0.0.1:0").unwrap())
}

fn addresses(host: &Host) -> Vec<SocketAddr> {
    let addresses = host.request(|_, server| server.as_ref().expect("a server").addresses().to_vec());
    addresses.iter().map(|address| address.as_inet().expect("an IP address")).collect()
}

#[track_caller]
fn assert_unbound(addresses: &[SocketAddr]) {
    for address in addresses {
        let refused = TcpStream::connect(address).expect_err("a listener is left");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        TcpListener::bind(address).expect("a free address");
    }
}

#[test]
fn all_listeners_serve_and_end_with_one_stop() {
    with_watchdog(LIMIT, || {
        for threads in [1, 3] {
            let journal = Journal::new();
            let writing = journal.clone();
            let host = Host::new(move |event_loop| {
                three_listeners(event_loop).threads(threads).serve(move |_| writing.script())
            });
            let addresses = addresses(&host);
            assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 3, "{addresses:?}");
            assert_eq!(host.address(), addresses[0]);
            let mut clients: Vec<TcpStream> =
                addresses.iter().map(|address| net::connect(*address)).collect();
            clients.iter_mut().for_each(assert_echoes);
            assert_eq!(host.open_connections(), 3);

            let (report, reported) = mpsc::channel::<StopReport>();
            host.request(move |_, server| {
                let server = server.take().expect("a server");
                assert_eq!(server.counters().accepted, 3);
                server.stop(HOUR, move |_, outcome| report.send(outcome).unwrap());
            });
            assert_unbound(&addresses);
            for client in &mut clients {
                assert_eq!(net::read_to_end(client), b"");
            }
            drop(clients);
            let report = reported.recv_timeout(net::LIMIT).expect("a report");
            assert_eq!((report.drained, report.aborted), (3, 0));
            drop(host);
            journal.assert_opened_and_closed_once(3);
        }
    });
}

#[test]
fn the_maximum_of_connections_is_that_of_all_listeners() {
    with_watchdog(LIMIT, || {
        for threads in [1, 2] {
            let journal = Journal::new();
            let writing = journal.clone();
            let host = Host::new(move |event_loop| {
                let builder = three_listeners(event_loop).max_connections(2).threads(threads);
                builder.serve(move |_| writing.script())
            });
            let addresses = addresses(&host);
            let mut first = net::connect(addresses[0]);
            assert_echoes(&mut first);
            let mut second = net::connect(addresses[1]);
            assert_echoes(&mut second);
            // It waits in the backlog of the third listener until a connection of another one ends.
            let mut third = net::connect(addresses[2]);
            third.write_all(b"waiting").unwrap();
            assert_eq!(host.open_connections(), 2);
            assert_eq!(journal.handlers(), 2);
            drop(first);
            assert_eq!(net::read_exact(&mut third, 7), b"waiting");
            // And back: each listener is woken.
            let mut fourth = net::connect(addresses[0]);
            fourth.write_all(b"fourth").unwrap();
            drop(third);
            assert_eq!(net::read_exact(&mut fourth, 6), b"fourth");
            assert_echoes(&mut second);
            assert_eq!(host.request(|_, server| server.as_ref().unwrap().counters().accepted), 4);
        }
    });
}

#[test]
fn pausing_applies_to_all_listeners() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            three_listeners(event_loop).serve_fn(|conn, input| conn.send(input.take_all()))
        });
        host.request(|_, server| server.as_ref().unwrap().pause_accepting());
        let mut clients: Vec<TcpStream> = addresses(&host).into_iter().map(net::connect).collect();
        clients.iter_mut().for_each(|client| client.write_all(b"paused").unwrap());
        host.request(|_, _| ());
        assert_eq!(host.open_connections(), 0);
        host.request(|_, server| server.as_ref().unwrap().resume_accepting());
        clients.iter_mut().for_each(|client| assert_eq!(net::read_exact(client, 6), b"paused"));
    });
}

#[test]
fn connections_of_all_listeners_are_distributed_together() {
    with_watchdog(LIMIT, || {
        let (sender, threads) = mpsc::channel();
        let host = Host::new(move |event_loop| {
            three_listeners(event_loop).threads(3).serve(move |_| {
                sender.send(thread::current().name().unwrap_or_default().to_owned()).unwrap();
                Journal::new().script()
            })
        });
        // One connection through each listener: each is served by the next loop.
        let clients: Vec<TcpStream> = addresses(&host).into_iter().map(net::connect).collect();
        let used: BTreeSet<String> =
            clients.iter().map(|_| threads.recv_timeout(net::LIMIT).expect("a connection")).collect();
        assert_eq!(used.len(), 3, "{used:?}");
    });
}

#[test]
fn each_loop_accepts_from_each_address() {
    with_watchdog(LIMIT, || {
        let journal = Journal::new();
        let writing = journal.clone();
        let host = Host::new(move |event_loop| {
            let builder = TcpServer::builder(event_loop).listen("127.0.0.1:0").listen("127.0.0.1:0");
            let builder = builder.threads(2).load_balancing(LoadBalancing::ListenerPerLoop);
            builder.serve(move |_| {
                assert!(thread::current().name().unwrap().starts_with("reveille-"));
                writing.script()
            })
        });
        let addresses = addresses(&host);
        let mut clients: Vec<TcpStream> =
            (0..8).map(|number| net::connect(addresses[number % addresses.len()])).collect();
        clients.iter_mut().for_each(assert_echoes);
        host.request(|_, server| drop(server.take()));
        assert_unbound(&addresses);
        (0..8).for_each(|number| assert_eq!(journal.end_of(number), End::Stopped));
    });
}

#[test]
fn a_server_listens_on_tcp_and_unix_sockets() {
    with_watchdog(LIMIT, || {
        let name = abstract_name();
        let address = name.clone();
        let host = Host::new(move |event_loop| {
            let builder = TcpServer::builder(event_loop).listen("127.0.0.1:0").listen(name);
            builder.serve_fn(|conn, input| conn.send(input.take_all()))
        });
        let addresses = host.request(|_, server| server.as_ref().unwrap().handle().addresses().to_vec());
        assert_eq!(addresses, [host.address().into(), Address::Unix(address.clone())]);
        assert_echoes(&mut host.connect());
        let mut client = connect_to(&address);
        client.write_all(b"hello").unwrap();
        assert_eq!(read_exact(&mut client, 5), b"hello");
    });
}

#[test]
fn a_builder_reports_its_first_error_and_listens_nowhere() {
    with_loop(|event_loop| {
        let (refusing, folder) = (Refusing::new(), Folder::new());
        let builder = || TcpServer::builder(event_loop).listen(refusing.address());
        let error_of = |builder: TcpServerBuilder<'_>| {
            let error = builder.serve_fn(|_, _| ()).expect_err("no server");
            refusing.assert_refuses();
            (error.kind(), error.to_string())
        };
        let file = File::open("/dev/null").unwrap();
        let message = "cannot adopt a listener: the descriptor is not a socket".to_owned();
        assert_eq!(error_of(builder().listener(file).listen("nonsense")), (ErrorKind::InvalidInput, message));
        let (kind, message) = error_of(builder().listen("nonsense"));
        assert!(kind == ErrorKind::InvalidInput && message.contains("nonsense"), "{message}");
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let (kind, message) = error_of(builder().listen(taken.local_addr().unwrap()));
        assert!(
            kind == ErrorKind::AddrInUse && message.starts_with("cannot listen on 127.0.0.1:"),
            "{message}"
        );
        let path = UnixAddress::path(folder.path("none/socket")).unwrap();
        assert_eq!(error_of(builder().listen(path)).0, ErrorKind::NotFound);
        let (kind, message) = error_of(TcpServer::builder(event_loop));
        assert_eq!(kind, ErrorKind::InvalidInput);
        assert_eq!(message, "a server needs an address or a socket to listen on");
        // The address that could be bound is free, and the failed bind left adopted sockets alone.
        let duplicate = taken.try_clone().unwrap();
        error_of(builder().listener(duplicate).listen(taken.local_addr().unwrap()));
        assert!(!rustix::fs::fcntl_getfl(&taken).unwrap().contains(OFlags::NONBLOCK));
    });
}
