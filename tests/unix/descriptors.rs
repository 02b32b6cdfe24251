//! Descriptors that are sent through Unix sockets: they arrive with their bytes, and none is
//! leaked, however the connection ends.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::support::net::{self, Child, Journal, assert_queued, assert_written, send_to_parent};
use crate::support::unix::{abstract_name, connect};
use crate::support::{LIMIT, Recorder, turn, with_loop, with_watchdog};
use reveille::net::CloseReason;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpClient, TcpConnection, TcpServer};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn pipe() -> (File, File) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    (reader.into(), writer.into())
}

/// Waits until no write end of the pipe is open any more, in any process or in transit. The wait is
/// necessary because another test may be starting a program, which has all descriptors for a
/// moment. A leaked descriptor hangs the test.
#[track_caller]
fn assert_closed(reader: &mut File) {
    crate::support::wait_readable(&*reader);
    assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
}

/// Takes descriptors, and records its callbacks.
struct Taker {
    limit: usize,
    close: bool,
    events: Recorder<String>,
    taken: Recorder<OwnedFd>,
}

impl ConnectionHandler for Taker {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.accept_descriptors(self.limit)
    }

    fn on_descriptors(&mut self, conn: &TcpConnection, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        self.events.record(format!("{} descriptors", descriptors.len()));
        descriptors.into_iter().for_each(|descriptor| self.taken.record(descriptor));
        if self.close {
            conn.close();
        }
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        self.events.record(String::from_utf8(input.take_all().to_vec()).unwrap());
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection, reason: &CloseReason) {
        self.events.record(match reason {
            CloseReason::Error(error) => format!("{:?}", error.kind()),
            reason => reason.to_string(),
        });
    }
}

struct Taking {
    server: TcpServer,
    events: Recorder<String>,
    taken: Recorder<OwnedFd>,
}

fn taking(event_loop: &EventLoop, limit: usize, close: bool) -> Taking {
    let (events, taken) = (Recorder::new(), Recorder::new());
    let (recording, giving) = (events.clone(), taken.clone());
    let server = TcpServer::bind_unix(event_loop, abstract_name())
        .unwrap()
        .serve(move |_| Taker { limit, close, events: recording.clone(), taken: giving.clone() })
        .unwrap();
    Taking { server, events, taken }
}

/// Sends with a plain system call, as another program might.
fn send_raw(client: &UnixStream, bytes: &[u8], descriptors: &[&File]) {
    let borrowed: Vec<_> = descriptors.iter().map(|pipe| pipe.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    let sent = rustix::net::sendmsg(client, &[IoSlice::new(bytes)], &mut control, SendFlags::empty());
    assert_eq!(sent, Ok(bytes.len()));
}

#[test]
fn a_descriptor_arrives_before_its_bytes_and_works() {
    with_loop(|event_loop| {
        let Taking { server, events, taken } = taking(event_loop, 4, false);
        let (mut reader, writer) = pipe();
        let mut to_send = Some(writer);
        let _client = TcpClient::connect(event_loop, server.local_address())
            .serve(move |conn| {
                conn.send("before, ").unwrap();
                let descriptor = to_send.take().unwrap().into();
                assert_written(conn, conn.send_with_descriptors("with", [descriptor]));
                Journal::new().script()
            })
            .unwrap();
        net::turn_until(event_loop, || taken.len() == 1);
        turn(event_loop);
        assert_eq!(events.take(), ["1 descriptors", "before, with"]);
        let descriptor = taken.take().remove(0);
        let flags = rustix::io::fcntl_getfd(&descriptor).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "another program would inherit it");
        let mut writer = File::from(descriptor);
        writer.write_all(b"through").unwrap();
        drop(writer);
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "through");
    });
}

#[test]
fn descriptors_arrive_with_their_own_send() {
    with_loop(|event_loop| {
        let Taking { server, events, taken } = taking(event_loop, 2, false);
        let client = connect(&server);
        let (_reader, writer) = pipe();
        send_raw(&client, b"a", &[&writer]);
        send_raw(&client, b"b", &[&writer, &writer]);
        (&client).write_all(b"c").unwrap();
        net::turn_until(event_loop, || events.len() == 5);
        assert_eq!(events.take(), ["1 descriptors", "a", "2 descriptors", "b", "c"]);
        assert_eq!(taken.take().len(), 3);
    });
}

#[test]
fn unwanted_descriptors_are_closed_and_all_bytes_arrive() {
    with_loop(|event_loop| {
        let Taking { server, events, taken } = taking(event_loop, 0, false);
        let client = connect(&server);
        let (mut reader, writer) = pipe();
        // Each of these ends a read. The next one follows without a new edge.
        for _ in 0..5 {
            send_raw(&client, b"x", &[&writer]);
        }
        drop(writer);
        net::turn_until(event_loop, || events.len() == 5);
        assert_eq!(events.take(), ["x"; 5]);
        assert_eq!(taken.len(), 0);
        assert_closed(&mut reader);
    });
}

/// Same as a framed connection, or a handler that ignores descriptors.
#[test]
fn a_handler_that_ignores_descriptors_leaks_nothing() {
    struct Careless(Recorder<()>);
    impl ConnectionHandler for Careless {
        fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
            input.clear();
            self.0.record(());
            Ok(())
        }
    }
    with_loop(|event_loop| {
        let messages = Recorder::new();
        let counting = messages.clone();
        let server = TcpServer::bind_unix(event_loop, abstract_name())
            .unwrap()
            .serve(move |conn| {
                conn.accept_descriptors(usize::MAX).unwrap();
                Careless(counting.clone())
            })
            .unwrap();
        let client = connect(&server);
        let (mut reader, writer) = pipe();
        send_raw(&client, b"x", &[&writer, &writer]);
        drop(writer);
        net::turn_until(event_loop, || messages.len() == 1);
        assert_closed(&mut reader);
    });
}

#[test]
fn too_many_descriptors_close_the_connection_without_leaks() {
    for (limit, sent) in [(1, 2), (1, 3), (2, 3), (4, 64)] {
        with_loop(move |event_loop| {
            let Taking { server, events, taken } = taking(event_loop, limit, false);
            let client = connect(&server);
            let (mut reader, writer) = pipe();
            send_raw(&client, b"x", &vec![&writer; sent]);
            drop(writer);
            net::turn_until(event_loop, || events.len() == 1);
            assert_eq!(events.take(), ["InvalidData"], "{sent} of {limit}");
            assert_eq!(taken.len(), 0);
            assert_closed(&mut reader);
        });
    }
}

/// The child: a server with one free descriptor that is sent three.
#[test]
#[ignore = "runs only in a child process of another test"]
fn child_role() {
    if net::role().is_none() {
        return;
    }
    with_loop(|event_loop| {
        let Taking { server, events, taken } = taking(event_loop, 4, false);
        let client = connect(&server);
        net::turn_until(event_loop, || server.counters().accepted == 1);
        let (mut reader, writer) = pipe();
        let next = File::open("/dev/null").unwrap().as_raw_fd();
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(next as u64 + 1), maximum }).unwrap();
        send_raw(&client, b"x", &[&writer, &writer, &writer]);
        drop(writer);
        net::turn_until(event_loop, || events.len() > 0);
        turn(event_loop);
        assert_eq!(taken.len(), 0);
        assert_closed(&mut reader);
        send_to_parent(events.take().join(", "));
    });
}

#[test]
fn descriptors_beyond_the_process_limit_are_reported() {
    with_watchdog(LIMIT, || {
        let mut child = Child::start("server");
        assert_eq!(child.next_reply(), "InvalidData");
    });
}

#[test]
fn a_connection_closed_in_on_descriptors_gets_no_bytes() {
    with_loop(|event_loop| {
        let Taking { server, events, taken } = taking(event_loop, 1, true);
        let client = connect(&server);
        let (mut reader, writer) = pipe();
        send_raw(&client, b"x", &[&writer]);
        send_raw(&client, b"y", &[&writer]);
        drop(writer);
        net::turn_until(event_loop, || events.len() == 2);
        turn(event_loop);
        assert_eq!(events.take(), ["1 descriptors", "closed by this end"]);
        taken.take();
        assert_closed(&mut reader);
    });
}

#[test]
fn queued_descriptors_keep_their_position_among_the_bytes() {
    const BEFORE: usize = 1 << 20;
    with_loop(|event_loop| {
        let (mut reader, writer) = pipe();
        let mut to_send = Some(writer);
        let server = TcpServer::bind_unix(event_loop, abstract_name())
            .unwrap()
            .serve(move |conn| {
                assert_queued(conn, conn.send(vec![b'.'; BEFORE]));
                let descriptor = to_send.take().unwrap().into();
                assert_queued(conn, conn.send_with_descriptors("|with", [descriptor]));
                assert_queued(conn, conn.send("|after"));
                Journal::new().script()
            })
            .unwrap();

        struct Seeker(Vec<u8>, Recorder<(usize, Vec<OwnedFd>)>, Recorder<Vec<u8>>);
        impl ConnectionHandler for Seeker {
            fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
                conn.accept_descriptors(1)
            }
            fn on_descriptors(&mut self, _: &TcpConnection, descriptors: Vec<OwnedFd>) -> io::Result<()> {
                self.1.record((self.0.len(), descriptors));
                Ok(())
            }
            fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
                self.0.extend(input.take_all());
                if self.0.ends_with(b"|after") {
                    self.2.record(std::mem::take(&mut self.0));
                }
                Ok(())
            }
        }
        let (found, all) = (Recorder::new(), Recorder::new());
        let (finding, reading) = (found.clone(), all.clone());
        let _client = TcpClient::connect(event_loop, server.local_address())
            .serve(move |_| Seeker(Vec::new(), finding.clone(), reading.clone()))
            .unwrap();
        net::turn_until(event_loop, || all.len() == 1);
        let all = all.take().remove(0);
        assert_eq!(all.len(), BEFORE + 11);
        assert_eq!(all[BEFORE..], *b"|with|after");
        let mut found = found.take();
        assert_eq!(found.len(), 1);
        let (at, descriptors) = found.remove(0);
        assert!(at <= BEFORE, "after its bytes, of which the first is at {BEFORE}: at {at}");
        drop(descriptors);
        assert_closed(&mut reader);
    });
}

#[test]
fn unsent_descriptors_are_closed_with_the_connection() {
    with_loop(|event_loop| {
        let (mut reader, writer) = pipe();
        let refused = Recorder::new();
        let refusing = refused.clone();
        let server = TcpServer::bind_unix(event_loop, abstract_name())
            .unwrap()
            .serve(move |conn| {
                conn.send(vec![0; 1 << 20]).unwrap();
                let some = |n: usize| (0..n).map(|_| writer.try_clone().unwrap().into()).collect::<Vec<_>>();
                for _ in 0..4 {
                    assert_queued(conn, conn.send_with_descriptors("x", some(250)));
                }
                let refusals = [
                    conn.send_with_descriptors("x", some(1)),
                    conn.send_with_descriptors("x", some(254)),
                    conn.send_with_descriptors("x", some(0)),
                    conn.send_with_descriptors("", some(1)),
                ];
                refusals.into_iter().for_each(|sent| refusing.record(sent.unwrap_err().kind()));
                Journal::new().script()
            })
            .unwrap();
        let client = connect(&server);
        net::turn_until(event_loop, || refused.len() == 4);
        let mut expected = [ErrorKind::InvalidInput; 4];
        expected[0] = ErrorKind::WouldBlock;
        assert_eq!(refused.take(), expected);
        drop(client);
        net::turn_until(event_loop, || server.open_connections() == 0);
        drop(server);
        turn(event_loop);
        assert_closed(&mut reader);
    });
}

#[test]
fn tcp_has_neither_credentials_nor_descriptors() {
    with_loop(|event_loop| {
        let errors = Recorder::new();
        let recording = errors.clone();
        let server = TcpServer::bind(event_loop, "127.0.0.1:0")
            .unwrap()
            .serve(move |conn| {
                recording.record(conn.peer_credentials().unwrap_err().kind());
                recording.record(conn.accept_descriptors(1).unwrap_err().kind());
                recording.record(conn.send_with_descriptors("x", [pipe().0.into()]).unwrap_err().kind());
                Journal::new().script()
            })
            .unwrap();
        let _client = net::connect(server.local_addr().unwrap());
        net::turn_until(event_loop, || errors.len() == 3);
        assert_eq!(errors.take(), [ErrorKind::Unsupported; 3]);
    });
}
