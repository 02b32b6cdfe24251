//! The addresses of Unix sockets: which names are valid, and when the path of a server is removed.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use crate::support::net::{self, Journal};
use crate::support::unix::{Folder, abstract_name, connect, echo_server, read_exact};
use crate::support::{Recorder, turn, with_loop};
use reveille::net::UnixAddress;
use reveille::{Buffer, TcpClient, TcpConnection, TcpServer};
use socket2::{Domain, SockAddr, Socket, Type};

// --- Addresses -----------------------------------------------------------------------------------

#[test]
fn both_ends_know_their_addresses_and_refuse_tcp_features() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let path = folder.path("addresses");
        let seen = Recorder::new();
        let (at_server, at_client) = (seen.clone(), seen.clone());
        let see = |conn: &TcpConnection, seen: &Recorder<String>| {
            assert_eq!(conn.peer_addr().unwrap_err().kind(), ErrorKind::Unsupported);
            assert_eq!(conn.local_addr().unwrap_err().kind(), ErrorKind::Unsupported);
            assert!(conn.tcp_info().is_err());
            assert!(conn.set_nodelay(true).is_err());
            seen.record(format!("{} {}", conn.peer_address(), conn.local_address().unwrap()));
        };
        let _server = TcpServer::bind_unix(event_loop, &path)
            .unwrap()
            .serve(move |conn| {
                see(conn, &at_server);
                Journal::new().script()
            })
            .unwrap();
        let _client = TcpClient::connect(event_loop, UnixAddress::path(&path).unwrap())
            .serve(move |conn| {
                see(conn, &at_client);
                Journal::new().script()
            })
            .unwrap();
        net::turn_until(event_loop, || seen.len() == 2);
        let (path, mut seen) = (path.display(), seen.take());
        seen.sort();
        assert_eq!(seen, [format!("{path} unnamed"), format!("unnamed {path}")]);
    });
}

#[test]
fn addresses_are_displayed_in_the_systems_notation() {
    assert_eq!(UnixAddress::path("/run/x.sock").unwrap().to_string(), "/run/x.sock");
    assert_eq!(UnixAddress::path("@x").unwrap().as_path(), Some(Path::new("@x")));
    assert_eq!(UnixAddress::abstract_name("x").unwrap().to_string(), "@x");
    assert_eq!(UnixAddress::abstract_name(b"x\0\xff").unwrap().to_string(), "@x\\x00\\xff");
    assert_eq!(UnixAddress::abstract_name("x").unwrap().as_abstract_name(), Some(&b"x"[..]));
}

#[test]
fn an_invalid_name_is_refused_at_once() {
    with_loop(|event_loop| {
        let long = |n: usize| "x".repeat(n);
        let paths = [long(108), String::new(), "a\0b".to_owned()].map(UnixAddress::path);
        let names = [long(108), String::new()].map(UnixAddress::abstract_name);
        for refused in paths.into_iter().chain(names) {
            let error = std::io::Error::from(refused.unwrap_err());
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        let refused = TcpServer::bind_unix(event_loop, long(120).as_str()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(refused.to_string().contains("107 bytes, and not 120"), "{refused}");
        assert!(UnixAddress::path(long(107)).is_ok() && UnixAddress::abstract_name(long(107)).is_ok());
    });
}

#[test]
fn the_longest_path_works_for_servers_and_clients() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let fill = |n: usize| folder.path(&"x".repeat(n - folder.0.as_os_str().len() - 1));
        let seen = Recorder::new();
        let seeing = seen.clone();
        let server = TcpServer::bind_unix(event_loop, fill(107))
            .unwrap()
            .serve(move |conn| {
                seeing.record((conn.local_address().unwrap(), conn.peer_address().clone()));
                Journal::new().script()
            })
            .unwrap();
        assert_eq!(server.local_address().to_string(), fill(107).display().to_string());
        let connect_from = |path: &Path| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            // The standard library refuses 108 bytes, and the kernel accepts them.
            let address = rustix::net::SocketAddrUnix::new(path).unwrap();
            rustix::net::bind(&socket, &address).unwrap();
            socket.connect(&SockAddr::unix(fill(107)).unwrap()).unwrap();
            socket
        };
        let _clients = [connect_from(&fill(106)), connect_from(&fill(108))];
        net::turn_until(event_loop, || seen.len() == 2);
        let seen = seen.take();
        assert_eq!(seen[0].0, *server.local_address());
        assert_eq!(seen[0].1.as_unix().unwrap().as_path(), Some(&*fill(106)));
        assert!(seen[1].1.as_unix().unwrap().is_unnamed(), "the kernel returned a name");
    });
}

// --- Paths ---------------------------------------------------------------------------------------

#[test]
fn a_path_is_removed_when_its_server_ends() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let path = folder.path("dropped");
        let server = echo_server(event_loop, &path);
        assert!(path.exists());
        drop(server);
        turn(event_loop);
        assert!(!path.exists(), "after a drop");

        let server = echo_server(event_loop, &path);
        let ended = Recorder::new();
        let handle = server.handle();
        server.stop(Duration::from_secs(60), |event_loop, _| event_loop.quit());
        event_loop.run().unwrap();
        assert!(!path.exists(), "after a stop");
        assert_eq!(handle.local_address().to_string(), path.display().to_string());
        ended.record(());
    });
    let folder = Folder::new();
    let path = folder.path("with the loop");
    let listening = path.clone();
    with_loop(move |event_loop| {
        // The server is never dropped, so the end of the loop has to remove the path.
        std::mem::forget(echo_server(event_loop, &listening));
        assert!(listening.exists());
    });
    assert!(!path.exists(), "with the loop");
}

#[test]
fn a_replaced_path_is_not_removed() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let path = folder.path("taken over");
        let server = echo_server(event_loop, &path);
        fs::rename(&path, folder.path("moved")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(server);
        turn(event_loop);
        assert!(path.exists());
    });
}

#[test]
fn a_second_server_at_an_address_is_an_error() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        for address in [UnixAddress::path(folder.path("one")).unwrap(), abstract_name()] {
            let server = echo_server(event_loop, address.clone());
            for replace in [false, true] {
                let builder = TcpServer::bind_unix(event_loop, address.clone()).unwrap();
                let builder = if replace { builder.replace_stale() } else { builder };
                let error = builder.serve_fn(|_, _| ()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::AddrInUse);
                assert!(error.to_string().contains(&format!("cannot listen on {address}: ")), "{error}");
            }
            let mut client = connect(&server);
            client.write_all(b"x").unwrap();
            net::turn_until(event_loop, || crate::support::is_readable(&client));
            assert_eq!(read_exact(&mut client, 1), b"x", "the first is none the worse for it");
        }
    });
}

#[test]
fn only_a_stale_socket_is_replaced_and_only_on_request() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let path = folder.path("stale");
        drop(UnixListener::bind(&path).unwrap());
        let serve = |path: &Path, replace| {
            let builder = TcpServer::bind_unix(event_loop, path).unwrap();
            let builder = if replace { builder.replace_stale() } else { builder };
            builder.serve_fn(|conn: &TcpConnection, input: &mut Buffer| conn.send(input.take_all()))
        };
        let error = serve(&path, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains("replace_stale"), "{error}");
        let server = serve(&path, true).expect("a stale socket");
        let mut client = connect(&server);
        client.write_all(b"x").unwrap();
        net::turn_until(event_loop, || crate::support::is_readable(&client));
        assert_eq!(read_exact(&mut client, 1), b"x");

        let file = folder.path("a file");
        fs::write(&file, "precious").unwrap();
        let error = serve(&file, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains("is not a socket"), "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    });
}

#[test]
fn a_path_has_its_configured_mode() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        for mode in [0o600, 0o666] {
            let path = folder.path("mode");
            let builder = TcpServer::bind_unix(event_loop, &path).unwrap().path_mode(mode);
            let server = builder.serve_fn(|_, _| ()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            drop(server);
            turn(event_loop);
        }
    });
}
