//! Descriptors that are sent through Unix sockets: they arrive with their bytes, and none is left
//! over, however it ends.

mod support;

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use reveille::net::{CloseReason, SendStatus};
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpClient, TcpConnection, TcpServer};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::net::{self, Child, Journal, answer};
use support::unix::{abstract_name, connect};
use support::{LIMIT, Recorder, turn, with_loop, with_watchdog};

fn pipe() -> (File, File) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    (reader.into(), writer.into())
}

/// That no write end of the pipe is open any more, in any process or on its way to one. It waits
/// for that, as another test may be starting a program, which has all descriptors for a moment; one
/// that is left over hangs the test.
#[track_caller]
fn assert_closed(reader: &mut File) {
    support::wait_readable(&*reader);
    assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
}

/// Takes descriptors, and notes what it is called for.
struct Taker {
    most: usize,
    close: bool,
    told: Recorder<String>,
    taken: Recorder<OwnedFd>,
}

impl ConnectionHandler for Taker {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.accept_descriptors(self.most)
    }

    fn on_descriptors(&mut self, conn: &TcpConnection, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        self.told.record(format!("{} descriptors", descriptors.len()));
        descriptors.into_iter().for_each(|descriptor| self.taken.record(descriptor));
        if self.close {
            conn.close();
        }
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        self.told.record(String::from_utf8(input.take_all().to_vec()).unwrap());
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection, reason: &CloseReason) {
        self.told.record(match reason {
            CloseReason::Error(error) => format!("{:?}", error.kind()),
            reason => reason.to_string(),
        });
    }
}

struct Taking {
    server: TcpServer,
    told: Recorder<String>,
    taken: Recorder<OwnedFd>,
}

fn taking(event_loop: &EventLoop, most: usize, close: bool) -> Taking {
    let (told, taken) = (Recorder::new(), Recorder::new());
    let (telling, giving) = (told.clone(), taken.clone());
    let server = TcpServer::bind_unix(event_loop, abstract_name())
        .unwrap()
        .serve(move |_| Taker { most, close, told: telling.clone(), taken: giving.clone() })
        .unwrap();
    Taking { server, told, taken }
}

/// Sends as any other program might.
fn send_raw(client: &UnixStream, bytes: &[u8], descriptors: &[&File]) {
    let borrowed: Vec<_> = descriptors.iter().map(|pipe| pipe.as_fd()).collect();
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    let sent = rustix::net::sendmsg(client, &[IoSlice::new(bytes)], &mut control, SendFlags::empty());
    assert_eq!(sent, Ok(bytes.len()));
}

#[test]
fn a_descriptor_that_is_sent_arrives_before_its_bytes_and_works() {
    with_loop(|event_loop| {
        let Taking { server, told, taken } = taking(event_loop, 4, false);
        let (mut reader, writer) = pipe();
        let mut to_send = Some(writer);
        let _client = TcpClient::connect(event_loop, server.address())
            .serve(move |conn| {
                conn.send("before, ").unwrap();
                let descriptor = to_send.take().unwrap().into();
                assert_eq!(conn.send_with_descriptors("with", [descriptor]).unwrap(), SendStatus::Written);
                Journal::new().script()
            })
            .unwrap();
        net::turn_until(event_loop, || taken.len() == 1);
        turn(event_loop);
        assert_eq!(told.take(), ["1 descriptors", "before, with"]);
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
fn descriptors_come_with_the_send_that_they_belong_to() {
    with_loop(|event_loop| {
        let Taking { server, told, taken } = taking(event_loop, 2, false);
        let client = connect(&server);
        let (_reader, writer) = pipe();
        send_raw(&client, b"a", &[&writer]);
        send_raw(&client, b"b", &[&writer, &writer]);
        (&client).write_all(b"c").unwrap();
        net::turn_until(event_loop, || told.len() == 5);
        assert_eq!(told.take(), ["1 descriptors", "a", "2 descriptors", "b", "c"]);
        assert_eq!(taken.take().len(), 3);
    });
}

#[test]
fn descriptors_that_nobody_wants_are_closed_and_the_bytes_all_come() {
    with_loop(|event_loop| {
        let Taking { server, told, taken } = taking(event_loop, 0, false);
        let client = connect(&server);
        let (mut reader, writer) = pipe();
        // Each of these ends a read, with the next behind it and no new edge to come.
        for _ in 0..5 {
            send_raw(&client, b"x", &[&writer]);
        }
        drop(writer);
        net::turn_until(event_loop, || told.len() == 5);
        assert_eq!(told.take(), ["x"; 5]);
        assert_eq!(taken.len(), 0);
        assert_closed(&mut reader);
    });
}

/// As a framed connection, or one whose author has thought of nothing.
#[test]
fn a_handler_that_does_not_take_what_it_has_asked_for_leaks_nothing() {
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
fn more_descriptors_than_are_taken_close_the_connection_and_are_closed() {
    for (most, sent) in [(1, 2), (1, 3), (2, 3), (4, 64)] {
        with_loop(move |event_loop| {
            let Taking { server, told, taken } = taking(event_loop, most, false);
            let client = connect(&server);
            let (mut reader, writer) = pipe();
            send_raw(&client, b"x", &vec![&writer; sent]);
            drop(writer);
            net::turn_until(event_loop, || told.len() == 1);
            assert_eq!(told.take(), ["InvalidData"], "{sent} of {most}");
            assert_eq!(taken.len(), 0);
            assert_closed(&mut reader);
        });
    }
}

/// The child: a server that is sent three descriptors when it has room for one.
#[test]
#[ignore = "is run in a process of its own by the test below"]
fn child_role() {
    if net::role().is_none() {
        return;
    }
    with_loop(|event_loop| {
        let Taking { server, told, taken } = taking(event_loop, 4, false);
        let client = connect(&server);
        net::turn_until(event_loop, || server.counters().accepted == 1);
        let (mut reader, writer) = pipe();
        let next = File::open("/dev/null").unwrap().as_raw_fd();
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(next as u64 + 1), maximum }).unwrap();
        send_raw(&client, b"x", &[&writer, &writer, &writer]);
        drop(writer);
        net::turn_until(event_loop, || told.len() > 0);
        turn(event_loop);
        assert_eq!(taken.len(), 0);
        assert_closed(&mut reader);
        answer(told.take().join(", "));
    });
}

#[test]
fn descriptors_for_which_there_is_no_room_are_not_lost_without_a_word() {
    with_watchdog(LIMIT, || {
        let mut child = Child::start("server");
        assert_eq!(child.hear(), "InvalidData");
    });
}

#[test]
fn a_connection_that_is_closed_over_its_descriptors_hears_no_more_bytes() {
    with_loop(|event_loop| {
        let Taking { server, told, taken } = taking(event_loop, 1, true);
        let client = connect(&server);
        let (mut reader, writer) = pipe();
        send_raw(&client, b"x", &[&writer]);
        send_raw(&client, b"y", &[&writer]);
        drop(writer);
        net::turn_until(event_loop, || told.len() == 2);
        turn(event_loop);
        assert_eq!(told.take(), ["1 descriptors", "closed by this end"]);
        taken.take();
        assert_closed(&mut reader);
    });
}

#[test]
fn descriptors_that_are_queued_keep_their_place_among_the_bytes() {
    const BEFORE: usize = 1 << 20;
    with_loop(|event_loop| {
        let (mut reader, writer) = pipe();
        let mut to_send = Some(writer);
        let server = TcpServer::bind_unix(event_loop, abstract_name())
            .unwrap()
            .serve(move |conn| {
                assert_eq!(conn.send(vec![b'.'; BEFORE]).unwrap(), SendStatus::Queued);
                let descriptor = to_send.take().unwrap().into();
                assert_eq!(conn.send_with_descriptors("|with", [descriptor]).unwrap(), SendStatus::Queued);
                assert_eq!(conn.send("|after").unwrap(), SendStatus::Queued);
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
        let _client = TcpClient::connect(event_loop, server.address())
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
fn descriptors_that_cannot_be_sent_any_more_are_closed_with_the_connection() {
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
                    assert_eq!(conn.send_with_descriptors("x", some(250)).unwrap(), SendStatus::Queued);
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
fn a_tcp_connection_has_neither_credentials_nor_descriptors() {
    with_loop(|event_loop| {
        let asked = Recorder::new();
        let asking = asked.clone();
        let server = TcpServer::bind(event_loop, "127.0.0.1:0")
            .unwrap()
            .serve(move |conn| {
                asking.record(conn.peer_credentials().unwrap_err().kind());
                asking.record(conn.accept_descriptors(1).unwrap_err().kind());
                asking.record(conn.send_with_descriptors("x", [pipe().0.into()]).unwrap_err().kind());
                Journal::new().script()
            })
            .unwrap();
        let _client = net::connect(server.local_addr());
        net::turn_until(event_loop, || asked.len() == 3);
        assert_eq!(asked.take(), [ErrorKind::Unsupported; 3]);
    });
}
