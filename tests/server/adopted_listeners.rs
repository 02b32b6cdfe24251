//! Servers on sockets that listened before: of the standard library, and shared with another
//! process.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use crate::support::clock::HOUR;
use crate::support::net::{self, assert_echoes};
use crate::support::unix::{self, Folder};
use crate::support::{Recorder, with_loop};
use reveille::net::LoadBalancing;
use reveille::{EventLoop, TcpServer};
use rustix::fs::OFlags;
use rustix::io::FdFlags;

fn echo(event_loop: &EventLoop, listener: impl Into<OwnedFd> + From<OwnedFd>) -> TcpServer {
    let builder = TcpServer::from_listener(event_loop, listener).expect("a listener");
    builder.serve_fn(|conn, input| conn.send(input.take_all())).expect("a server")
}

/// Turns the loop while another thread uses the client.
fn while_turning<R: Send>(event_loop: &EventLoop, client: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let client = scope.spawn(client);
        net::turn_until(event_loop, || client.is_finished());
        client.join().expect("the client failed")
    })
}

#[test]
fn a_listener_of_the_standard_library_serves() {
    with_loop(|event_loop| {
        let listener = TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0")).unwrap();
        let (address, duplicate) = (listener.local_addr().unwrap(), listener.try_clone().unwrap());
        // It waits in the backlog meanwhile.
        let mut early = net::connect(address);
        let server = echo(event_loop, listener);
        assert_eq!(server.local_addr().unwrap(), address);
        assert_eq!(server.local_addresses(), [address.into()]);
        assert!(rustix::fs::fcntl_getfl(&duplicate).unwrap().contains(OFlags::NONBLOCK));
        while_turning(event_loop, || {
            assert_echoes(&mut early);
            assert_echoes(&mut net::connect(address));
        });
        assert_eq!(server.counters().accepted, 2);
    });
}

#[test]
fn a_descriptor_becomes_close_on_exec() {
    with_loop(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&listener);
        rustix::io::fcntl_setfd(&listener, FdFlags::empty()).unwrap();
        let _server = echo(event_loop, listener);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("the flags");
        let flags = u32::from_str_radix(line.trim(), 8).expect("an octal number");
        assert_eq!(flags & OFlags::CLOEXEC.bits(), OFlags::CLOEXEC.bits());
    });
}

#[test]
fn an_adopted_socket_still_listens_in_its_other_process() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let path = folder.path("socket");
        // The duplicate stands for the socket in the other process.
        let listener = UnixListener::bind(&path).unwrap();
        let other = listener.try_clone().unwrap();
        let server = echo(event_loop, listener);
        let mut client = unix::connect(&server);
        while_turning(event_loop, || {
            std::io::Write::write_all(&mut client, b"hello").unwrap();
            assert_eq!(unix::read_exact(&mut client, 5), b"hello");
        });
        let waiting = unix::connect(&server);
        let stopped = Recorder::new();
        let record = stopped.clone();
        server.stop(HOUR, move |_, _| record.record("stopped"));
        drop(client);
        net::turn_until(event_loop, || stopped.len() == 1);
        // The path is still there, and the backlog was left to the next server.
        let next = echo(event_loop, other);
        let mut late = unix::connect(&next);
        net::turn_until(event_loop, || next.counters().accepted == 2);
        while_turning(event_loop, || {
            std::io::Write::write_all(&mut late, b"hello").unwrap();
            assert_eq!(unix::read_exact(&mut late, 5), b"hello");
        });
        drop((waiting, late, next));
        assert!(path.exists(), "the path of an adopted socket was removed");
    });
}

#[test]
fn the_end_of_the_server_closes_an_adopted_tcp_listener() {
    with_loop(|event_loop| {
        for threads in [1, 2] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = TcpServer::from_listener(event_loop, listener).unwrap().threads(threads);
            drop(server.serve_fn(|_, _| ()).unwrap());
            assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            TcpListener::bind(address).expect("a free address");
        }
    });
}

#[test]
fn an_adopted_listener_cannot_have_a_listener_per_loop() {
    with_loop(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let duplicate = listener.try_clone().unwrap();
        let builder = TcpServer::builder(event_loop).listen("127.0.0.1:0").listener(listener).threads(2);
        let served = builder.load_balancing(LoadBalancing::ListenerPerLoop).serve_fn(|_, _| ());
        let error = served.expect_err("an adopted listener per loop");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(error.to_string(), "an adopted socket cannot have a listener per loop");
        assert!(!rustix::fs::fcntl_getfl(&duplicate).unwrap().contains(OFlags::NONBLOCK));
    });
}
