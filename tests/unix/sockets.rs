//! Servers and clients on Unix sockets: what they share with TCP, and what is specific to them.

use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process;
use std::time::Duration;

use crate::support::net::{self, End, HandlerCall, Journal, Script, assert_queued, message, pattern, reason};
use crate::support::unix::{Folder, abstract_name, connect, echo_server, read_exact};
use crate::support::{Recorder, on_another_thread, turn, with_loop};
use reveille::net::{ConnectionLimits, LoadBalancing, UnixAddress, WithError};
use reveille::{Buffer, ConnectionHandler, LoopThread, TcpClient, TcpConnection, TcpServer};
use socket2::{Domain, SockAddr, Socket, Type};

fn has_ended(journal: &Journal) -> bool {
    matches!(journal.of(0).last(), Some(HandlerCall::Close(_)))
}

// --- Servers and clients -------------------------------------------------------------------------

#[test]
fn a_server_echoes_at_a_path_and_an_abstract_name() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        for address in [UnixAddress::path(folder.path("echo")).unwrap(), abstract_name()] {
            let server = echo_server(event_loop, address.clone());
            assert_eq!(server.local_address().as_unix(), Some(&address));
            let mut client = connect(&server);
            client.write_all(b"hello").unwrap();
            net::turn_until(event_loop, || server.counters().accepted == 1);
            turn(event_loop);
            assert_eq!(read_exact(&mut client, 5), b"hello");
        }
    });
}

#[test]
fn calls_reach_the_handlers_at_both_ends_of_a_unix_socket() {
    with_loop(|event_loop| {
        let (serving, calling) = (Journal::new(), Journal::new());
        let (server_side, client_side) = (serving.clone(), calling.clone());
        let handles = Recorder::new();
        let opened = handles.clone();
        let server = TcpServer::bind_unix(event_loop, abstract_name()).unwrap().serve(move |conn| {
            opened.record(conn.handle());
            server_side.script().on_message(|_, input| input.clear())
        });
        let server = server.unwrap();
        let client = TcpClient::connect(event_loop, server.local_address())
            .serve(move |_| client_side.script().on_message(|_, input| input.clear()))
            .unwrap();
        net::turn_until(event_loop, || handles.len() == 1 && client.handle().is_some());
        let (accepted, connected) = (handles.take().remove(0), client.handle().unwrap());
        on_another_thread(|| {
            for (handle, bytes) in [(&accepted, "from the server"), (&connected, "from the client")] {
                let call = move |script: &mut Script, conn: &TcpConnection<'_>| {
                    assert_eq!(script.number(), 0);
                    conn.send(bytes)
                };
                handle.with(call).unwrap();
                assert_eq!(reason(handle.with(|_: &mut String, _| ())), Err(WithError::WrongHandler));
            }
        });
        net::turn_until(event_loop, || {
            calling.of(0).contains(&message("from the server"))
                && serving.of(0).contains(&message("from the client"))
        });
        client.stop();
        assert_eq!(reason(connected.with(|_: &mut Script, _| ())), Err(WithError::Closed));
    });
}

#[test]
fn each_half_of_a_unix_connection_closes_separately() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        for address in [UnixAddress::path(folder.path("halves")).unwrap(), abstract_name()] {
            let (serving, calling) = (Journal::new(), Journal::new());
            let (server_side, client_side) = (serving.clone(), calling.clone());
            let _server = TcpServer::bind_unix(event_loop, address.clone())
                .unwrap()
                .serve(move |_| {
                    server_side.script().on_message(|_, input| input.clear()).on_peer_shutdown(|conn| {
                        conn.send("bye").unwrap();
                        conn.shutdown();
                    })
                })
                .unwrap();
            let _client = TcpClient::connect(event_loop, address)
                .serve(move |_| {
                    client_side.script().on_message(|_, input| input.clear()).on_open(|conn| {
                        conn.send("hello").unwrap();
                        conn.shutdown();
                    })
                })
                .unwrap();
            net::turn_until(event_loop, || has_ended(&serving) && has_ended(&calling));
            let end = [HandlerCall::PeerShutdown, HandlerCall::Close(End::Finished)];
            assert_eq!(serving.of(0)[..2], [HandlerCall::Open, message("hello")]);
            assert_eq!(serving.of(0)[2..], end);
            assert_eq!(calling.of(0)[..2], [HandlerCall::Open, message("bye")]);
            assert_eq!(calling.of(0)[2..], end);
        }
    });
}

#[test]
fn large_transfers_arrive_whole_in_both_directions() {
    const BYTES: usize = 6 << 20;
    with_loop(|event_loop| {
        let server = echo_server(event_loop, abstract_name());
        let got = Recorder::new();
        let getting = got.clone();

        struct Sender(Recorder<Vec<u8>>);
        impl ConnectionHandler for Sender {
            fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
                assert_queued(conn, conn.send(pattern(BYTES)));
                Ok(())
            }
            fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
                if input.len() == BYTES {
                    self.0.record(input.take_all().to_vec());
                }
                Ok(())
            }
        }
        let _client = TcpClient::connect(event_loop, server.local_address())
            .limits(ConnectionLimits::new().water_marks(2 * BYTES, 0))
            .serve(move |_| Sender(getting.clone()))
            .unwrap();
        net::turn_until(event_loop, || got.len() == 1);
        assert!(got.take() == [pattern(BYTES)], "other bytes than were sent");
    });
}

#[test]
fn an_orderly_close_waits_for_the_peer_to_read() {
    with_loop(|event_loop| {
        let journal = Journal::new();
        let writing = journal.clone();
        let server = TcpServer::bind_unix(event_loop, abstract_name())
            .unwrap()
            .serve(move |_| {
                writing.script().on_open(|conn| {
                    conn.send("last words").unwrap();
                    conn.close_gracefully(Duration::from_secs(60));
                })
            })
            .unwrap();
        let mut client = connect(&server);
        client.shutdown(Shutdown::Write).unwrap();
        net::turn_until(event_loop, || journal.handlers() == 1);
        for _ in 0..5 {
            turn(event_loop);
        }
        assert_eq!(journal.of(0), [HandlerCall::Open], "the peer has read nothing");
        assert_eq!(read_exact(&mut client, 10), b"last words");
        net::turn_until(event_loop, || has_ended(&journal));
        assert_eq!(journal.end_of(0), End::Finished);
    });
}

#[test]
fn loop_threads_serve_a_unix_socket_with_one_listener() {
    with_loop(|event_loop| {
        let builder = |address| TcpServer::bind_unix(event_loop, address).unwrap().threads(2);
        let server = builder(abstract_name()).serve_fn(|conn, input| conn.send(input.take_all())).unwrap();
        for _ in 0..3 {
            let mut client = connect(&server);
            client.write_all(b"hello").unwrap();
            net::turn_until(event_loop, || crate::support::is_readable(&client));
            assert_eq!(read_exact(&mut client, 5), b"hello");
        }
        let each = builder(abstract_name()).load_balancing(LoadBalancing::ListenerPerLoop);
        assert_eq!(each.serve_fn(|_, _| ()).unwrap_err().kind(), ErrorKind::Unsupported);
    });
}

// --- Credentials, limits and errors --------------------------------------------------------------

#[test]
fn each_end_sees_the_credentials_of_the_other() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let (at_server, at_client) = (seen.clone(), seen.clone());
        let server = TcpServer::bind_unix(event_loop, abstract_name())
            .unwrap()
            .serve(move |conn| {
                at_server.record(conn.peer_credentials().unwrap());
                Journal::new().script()
            })
            .unwrap();
        let _client = TcpClient::connect(event_loop, server.local_address())
            .serve(move |conn| {
                at_client.record(conn.peer_credentials().unwrap());
                Journal::new().script()
            })
            .unwrap();
        net::turn_until(event_loop, || seen.len() == 2);
        for peer in seen.take() {
            assert_eq!(peer.pid, Some(process::id()));
            assert_eq!(peer.uid, rustix::process::getuid().as_raw());
            assert_eq!(peer.gid, rustix::process::getgid().as_raw());
        }
    });
}

#[test]
fn the_limit_per_address_applies_per_user() {
    with_loop(|event_loop| {
        let builder = TcpServer::bind_unix(event_loop, abstract_name()).unwrap().max_per_address(1);
        let server = builder.serve_fn(|_, _| ()).unwrap();
        let _clients = [connect(&server), connect(&server)];
        net::turn_until(event_loop, || server.counters().rejected_by_address == 1);
        assert_eq!(server.counters().accepted, 1);
    });
}

#[test]
fn a_failed_unix_connection_reports_its_reason() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let failure_of = |path: &Path, local: bool| {
            let failures = Recorder::new();
            let recording = failures.clone();
            let mut builder = TcpClient::connect(event_loop, UnixAddress::path(path).unwrap());
            if local {
                builder = builder.local_addr("127.0.0.1:0".parse().unwrap());
            }
            let _client =
                builder.on_failure(move |_, error| recording.record(error)).serve_fn(|_, _| ()).unwrap();
            net::turn_until(event_loop, || failures.len() == 1);
            let error = failures.take().remove(0);
            let tried = error.failures()[0].address.as_ref().unwrap();
            assert_eq!(tried.to_string(), path.display().to_string());
            error.kind()
        };
        assert_eq!(failure_of(&folder.path("nothing"), false), ErrorKind::NotFound);
        let left = folder.path("left");
        drop(UnixListener::bind(&left).unwrap());
        assert_eq!(failure_of(&left, false), ErrorKind::ConnectionRefused);
        assert_eq!(failure_of(&left, true), ErrorKind::InvalidInput);

        let full = folder.path("full");
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&full).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let _first = UnixStream::connect(&full).unwrap();
        assert_eq!(failure_of(&full, false), ErrorKind::WouldBlock);
    });
}

#[test]
fn a_unix_server_may_run_on_a_loop_thread() {
    crate::support::with_watchdog(crate::support::LIMIT, || {
        let folder = Folder::new();
        let path = folder.path("thread");
        let thread = LoopThread::spawn("unix").unwrap();
        let at = path.clone();
        thread.handle().call(move |event_loop| std::mem::forget(echo_server(event_loop, &at))).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"hello").unwrap();
        assert_eq!(read_exact(&mut client, 5), b"hello");
        drop(thread);
        assert!(!path.exists());
    });
}
