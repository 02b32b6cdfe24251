//! Clients: how they connect, and what they report when they cannot.

mod support;

use std::cell::Cell;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use reveille::{
    Attempt, ConnectError, EventLoop, SendError, State, Target, TcpClient, TcpConnection, TcpServer,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use support::client::{Refusing, Reported, Reporting, Reports, Silent};
use support::net::{self, Child, End, Journal, Told, answer, message};
use support::{LIMIT, Recorder, turn, with_loop, with_watchdog};

/// More than any attempt here needs.
const LONG: Duration = Duration::from_secs(30);

fn echo_server(event_loop: &EventLoop) -> TcpServer {
    TcpServer::bind(event_loop, "127.0.0.1:0")
        .unwrap()
        .on_message(|conn, input| conn.send(input.take_all()))
        .unwrap()
}

fn sends_hello(conn: &TcpConnection<'_>) -> io::Result<()> {
    conn.send("hello")?;
    Ok(())
}

/// A client that connects to nobody, and what it reports until it gives up.
#[track_caller]
fn reports_of_a_failure(
    event_loop: &EventLoop,
    target: impl Into<Target>,
    timeout: Duration,
) -> Vec<Reported> {
    let reports = Reports::new();
    let client = TcpClient::connect(event_loop, target)
        .timeout(timeout)
        .reporting(&reports)
        .serve(|_| -> net::Script { unreachable!("there is nobody") })
        .unwrap();
    assert_eq!(reports.take(), [], "nothing is reported from inside the call that makes the client");
    let gave_up = Cell::new(false);
    let mut all = Vec::new();
    net::turn_until(event_loop, || {
        all.extend(reports.take());
        gave_up.set(matches!(all.last(), Some(Reported::GaveUp(..))));
        gave_up.get()
    });
    support::client::turn_to_rest(event_loop);
    assert_eq!(reports.take(), [], "something is reported after the end");
    assert!(client.handle().is_none());
    all
}

// --- Connections ----------------------------------------------------------------------------------

#[test]
fn a_client_connects_and_is_answered() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop);
        let (journal, reports) = (Journal::new(), Reports::new());
        let (writing, before) = (journal.clone(), reports.clone());
        let connected = vec![Reported::Connected(server.local_addr())];
        let client = TcpClient::connect(event_loop, server.local_addr())
            .reporting(&reports)
            .serve(move |conn| {
                assert_eq!(before.take(), connected, "before the handler is made");
                assert_eq!(conn.state(), State::Open);
                writing.script().on_open(sends_hello).on_message(|conn, input| {
                    assert_eq!(input.take_all(), b"hello");
                    conn.shutdown();
                })
            })
            .unwrap();
        net::turn_until(event_loop, || matches!(journal.of(0).last(), Some(Told::Close(_))));
        assert_eq!(
            journal.of(0),
            [Told::Open, message("hello"), Told::PeerShutdown, Told::Close(End::Finished)]
        );
        assert_eq!(reports.take(), [], "the attempt has been reported once");
        support::client::turn_to_rest(event_loop);
        drop(client);
        journal.assert_whole_lives(1);
    });
}

#[test]
fn a_clients_connection_has_the_addresses_and_the_options_it_was_told() {
    with_loop(|event_loop| {
        for nodelay in [true, false] {
            let server = echo_server(event_loop);
            let address = server.local_addr();
            let seen = Recorder::new();
            let seeing = seen.clone();
            let journal = Journal::new();
            let client = TcpClient::connect(event_loop, address)
                .local_addr("127.0.0.5:0".parse().unwrap())
                .nodelay(nodelay)
                .serve(move |conn| {
                    assert_eq!(conn.peer_addr(), Some(address));
                    assert_ne!(conn.local_addr().unwrap().port(), 0);
                    seeing.record(conn.local_addr().unwrap().ip());
                    assert_eq!(SockRef::from(&conn.as_fd()).tcp_nodelay().unwrap(), nodelay);
                    journal.script()
                })
                .unwrap();
            net::turn_until(event_loop, || seen.len() == 1);
            assert_eq!(seen.take(), ["127.0.0.5".parse::<IpAddr>().unwrap()]);
            drop(client);
        }
    });
}

#[test]
fn a_client_keeps_to_the_limits_it_was_told() {
    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve({
            let journal = Journal::new();
            move |_| journal.script().on_open(|conn| conn.send(vec![7; 3000]))
        });
        let journal = Journal::new();
        let writing = journal.clone();
        let client = TcpClient::connect(event_loop, server.as_ref().unwrap().local_addr())
            .max_unsent(1000)
            .max_unread(2000)
            .serve(move |conn| {
                assert_eq!(conn.send([0; 1001]), Err(SendError::Full));
                conn.send([0; 1000]).unwrap();
                writing.script().terse().on_message(|_, _| ())
            })
            .unwrap();
        net::turn_until(event_loop, || matches!(journal.of(0).last(), Some(Told::Close(_))));
        let end = journal.end_of(0);
        assert!(matches!(end, End::Error(ErrorKind::StorageFull, _)), "{end:?}");
        drop(client);
    });
}

#[test]
fn other_threads_speak_to_a_client_through_its_handle() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop);
        let received = Recorder::new();
        let receiving = received.clone();
        let client = TcpClient::connect(event_loop, server.local_addr())
            .on_message(move |_, input| receiving.record(input.take_all().to_vec()))
            .unwrap();
        assert!(client.handle().is_none(), "not connected yet");
        net::turn_until(event_loop, || client.handle().is_some());
        let handle = client.handle().unwrap();
        std::thread::spawn(move || handle.send("from afar")).join().unwrap().unwrap();
        net::turn_until(event_loop, || received.len() > 0);
        assert_eq!(received.take(), [b"from afar"]);
        client.handle().unwrap().close();
        net::turn_until(event_loop, || client.handle().is_none());
    });
}

#[test]
fn what_a_peer_sends_before_its_end_is_received_by_a_client() {
    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve({
            let journal = Journal::new();
            move |_| {
                journal.script().on_open(|conn| {
                    conn.send("all there is").unwrap();
                    conn.shutdown();
                })
            }
        });
        let journal = Journal::new();
        let writing = journal.clone();
        let _client = TcpClient::connect(event_loop, server.as_ref().unwrap().local_addr())
            .serve(move |_| writing.script().on_message(|_, input| input.clear()))
            .unwrap();
        net::turn_until(event_loop, || matches!(journal.of(0).last(), Some(Told::Close(_))));
        assert_eq!(
            journal.of(0),
            [Told::Open, message("all there is"), Told::PeerShutdown, Told::Close(End::Finished)]
        );
    });
}

// --- Failures -------------------------------------------------------------------------------------

#[test]
fn a_refused_connection_is_reported_once_with_its_address() {
    with_loop(|event_loop| {
        let nobody = Refusing::new();
        let reports = reports_of_a_failure(event_loop, nobody.address(), LONG);
        assert_eq!(
            reports,
            [
                Reported::Failed(Some(nobody.address()), ErrorKind::ConnectionRefused),
                Reported::GaveUp(ErrorKind::ConnectionRefused, 1, 1),
            ]
        );
    });
}

#[test]
fn a_failure_names_the_target_the_address_and_the_kernels_error() {
    with_loop(|event_loop| {
        let nobody = Refusing::new();
        let kept = Rc::new(Cell::new(None));
        let keeping = Rc::clone(&kept);
        let number = Rc::new(Cell::new(None));
        let noted = Rc::clone(&number);
        let _client = TcpClient::connect(event_loop, nobody.address().to_string())
            .on_attempt(move |_, attempt: &Attempt<'_>| noted.set(attempt.result.unwrap_err().raw_os_error()))
            .on_failure(move |_, error: ConnectError| keeping.set(Some(error)))
            .on_message(|_, _| ())
            .unwrap();
        let mut error = None;
        net::turn_until(event_loop, || {
            error = kept.take();
            error.is_some()
        });
        let error = error.unwrap();
        let address = nobody.address();
        assert_eq!(number.get(), Some(nix::libc::ECONNREFUSED));
        assert_eq!(error.target(), address.to_string());
        assert_eq!(error.failures()[0].address, Some(address.into()));
        assert_eq!(error.failures()[0].error.raw_os_error(), Some(nix::libc::ECONNREFUSED));
        let text = error.to_string();
        assert_eq!(
            text,
            format!("cannot connect to {address}: {address}: Connection refused (os error 111)")
        );
        assert!(error.source().is_some());
        let error = io::Error::from(error);
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::ConnectionRefused, text));
    });
}

/// The kernel says so at once, when the socket is told to connect.
#[test]
fn an_unreachable_address_is_reported() {
    with_loop(|event_loop| {
        let everybody: SocketAddr = "255.255.255.255:9".parse().unwrap();
        let reports = reports_of_a_failure(event_loop, everybody, LONG);
        let kinds = [ErrorKind::NetworkUnreachable, ErrorKind::PermissionDenied];
        let [Reported::Failed(address, kind), Reported::GaveUp(last, 1, 1)] = reports[..] else {
            panic!("{reports:?}");
        };
        assert_eq!((address, kind), (Some(everybody), last));
        assert!(kinds.contains(&kind), "{kind}");
    });
}

#[test]
fn an_attempt_that_gets_no_answer_is_timed_out() {
    with_loop(|event_loop| {
        let silent = Silent::new();
        let reports = reports_of_a_failure(event_loop, silent.address(), Duration::from_millis(5));
        assert_eq!(silent.waiting(), 1, "somebody else has been answered");
        assert_eq!(
            reports,
            [
                Reported::Failed(Some(silent.address()), ErrorKind::TimedOut),
                Reported::GaveUp(ErrorKind::TimedOut, 1, 1),
            ]
        );
    });
}

#[test]
fn a_local_address_that_cannot_be_had_is_reported() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop);
        for (local, expected) in [
            ("192.0.2.1:0", ErrorKind::AddrNotAvailable), // for documentation, RFC 5737
            ("[::1]:0", ErrorKind::InvalidInput),         // of another family
        ] {
            let reports = Reports::new();
            let _client = TcpClient::connect(event_loop, server.local_addr())
                .local_addr(local.parse().unwrap())
                .reporting(&reports)
                .on_message(|_, _| ())
                .unwrap();
            net::turn_until(event_loop, || reports.len() == 2);
            assert_eq!(
                reports.take(),
                [Reported::Failed(Some(server.local_addr()), expected), Reported::GaveUp(expected, 1, 1)]
            );
        }
    });
}

#[test]
fn a_socket_that_is_connected_to_itself_is_refused() {
    with_loop(|event_loop| {
        let address = Refusing::new().address();
        let reports = Reports::new();
        let _client = TcpClient::connect(event_loop, address)
            .local_addr(address)
            .reporting(&reports)
            .serve(|_| -> net::Script { unreachable!("there is nobody but itself") })
            .unwrap();
        net::turn_until(event_loop, || reports.len() == 2);
        assert_eq!(
            reports.take(),
            [
                Reported::Failed(Some(address), ErrorKind::ConnectionRefused),
                Reported::GaveUp(ErrorKind::ConnectionRefused, 1, 1),
            ]
        );
        // Nothing of it lingers, so the port is free for who wants it, SO_REUSEADDR or not.
        turn(event_loop);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&address.into()).expect("a free port");
    });
}

/// The child: a process with few descriptors, and a client that needs one more.
#[test]
#[ignore = "is run in a process of its own by the tests of this file"]
fn child_role() {
    if net::role().is_none() {
        return;
    }
    with_loop(|event_loop| {
        let nobody = Refusing::new();
        let maximum = getrlimit(Resource::Nofile).maximum;
        for target in [Target::from(nobody.address()), Target::from("localhost:9")] {
            let before = getrlimit(Resource::Nofile).current;
            setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum }).expect("a lower limit");
            let reports = Reports::new();
            let client =
                TcpClient::connect(event_loop, target).reporting(&reports).on_message(|_, _| ()).unwrap();
            net::turn_until(event_loop, || reports.len() == 2);
            setrlimit(Resource::Nofile, Rlimit { current: before, maximum }).expect("the limit as it was");
            answer(format_args!("{:?}", reports.take()));
            drop(client);
        }
    });
}

#[test]
fn a_client_without_a_descriptor_to_be_had_reports_that() {
    with_watchdog(LIMIT, || {
        let mut child = Child::start("client");
        for _ in 0..2 {
            let reports = child.hear();
            assert!(reports.starts_with("[Failed("), "{reports}");
            assert!(reports.contains("GaveUp(Uncategorized, 1, 1)"), "{reports}");
        }
    });
}

#[test]
fn a_target_that_cannot_be_read_is_refused_at_once() {
    with_loop(|event_loop| {
        let none: &[SocketAddr] = &[];
        let targets: [Target; 7] = [
            "".into(),
            "localhost".into(),
            "localhost:".into(),
            "localhost:http".into(),
            "localhost:65536".into(),
            (":80").into(),
            none.into(),
        ];
        for target in targets {
            let shown = format!("{target:?}");
            let refused =
                TcpClient::connect(event_loop, target).on_message(|_, _| ()).expect_err("no such target");
            assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{shown}");
            assert!(refused.to_string().starts_with("cannot connect to"), "{refused}");
        }
        assert_eq!(event_loop.next_deadline(), None);
    });
}

// --- Several addresses ----------------------------------------------------------------------------

#[test]
fn addresses_are_tried_in_turn_until_one_answers() {
    with_loop(|event_loop| {
        let (nobody, silent, server) = (Refusing::new(), Silent::new(), echo_server(event_loop));
        let untried = Refusing::new();
        let addresses = vec![nobody.address(), silent.address(), server.local_addr(), untried.address()];
        let reports = Reports::new();
        let client = TcpClient::connect(event_loop, addresses)
            .timeout(Duration::from_millis(100))
            .reporting(&reports)
            .on_message(|_, _| ())
            .unwrap();
        net::turn_until(event_loop, || client.handle().is_some());
        assert_eq!(
            reports.take(),
            [
                Reported::Failed(Some(nobody.address()), ErrorKind::ConnectionRefused),
                Reported::Failed(Some(silent.address()), ErrorKind::TimedOut),
                Reported::Connected(server.local_addr()),
            ]
        );
    });
}

#[test]
fn when_all_addresses_have_failed_the_failure_has_them_all() {
    with_loop(|event_loop| {
        let nobodies = [Refusing::new(), Refusing::new(), Refusing::new()];
        let addresses: Vec<SocketAddr> = nobodies.iter().map(Refusing::address).collect();
        let reports = reports_of_a_failure(event_loop, addresses.clone(), LONG);
        let refused = ErrorKind::ConnectionRefused;
        let mut expected: Vec<_> =
            addresses.iter().map(|address| Reported::Failed(Some(*address), refused)).collect();
        expected.push(Reported::GaveUp(refused, 1, 3));
        assert_eq!(reports, expected);
    });
}

// --- Names ----------------------------------------------------------------------------------------

#[test]
fn a_name_is_looked_up() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop);
        let reports = Reports::new();
        let client = TcpClient::connect(event_loop, ("localhost", server.local_addr().port()))
            .timeout(LONG)
            .reporting(&reports)
            .on_message(|_, _| ())
            .unwrap();
        turn(event_loop);
        assert!(format!("{client:?}").contains("looking up"), "{client:?}");
        net::turn_until(event_loop, || client.handle().is_some());
        // The machine may have other addresses for it, which are tried first then.
        assert_eq!(reports.take().last(), Some(&Reported::Connected(server.local_addr())));
    });
}

#[test]
fn a_name_that_does_not_exist_is_reported() {
    with_loop(|event_loop| {
        // RFC 6761: this name exists nowhere.
        let reports = reports_of_a_failure(event_loop, "no-such-host.invalid:80", LONG);
        let [Reported::Failed(None, kind), Reported::GaveUp(last, 1, 1)] = reports[..] else {
            panic!("{reports:?}");
        };
        assert_eq!(kind, last);
    });
}

#[test]
fn a_name_that_cannot_even_be_asked_for_is_reported() {
    with_loop(|event_loop| {
        let reports = reports_of_a_failure(event_loop, ("no\0name", 80), LONG);
        assert_eq!(
            reports,
            [
                Reported::Failed(None, ErrorKind::InvalidInput),
                Reported::GaveUp(ErrorKind::InvalidInput, 1, 1)
            ]
        );
    });
}

#[test]
fn an_address_is_never_looked_up() {
    with_loop(|event_loop| {
        let port = Refusing::new().address().port();
        let targets: [Target; 5] = [
            format!("127.0.0.1:{port}").into(),
            ("127.0.0.1", port).into(),
            format!("[::1]:{port}").into(),
            ("::1", port).into(),
            (IpAddr::from([127, 0, 0, 1]), port).into(),
        ];
        for target in targets {
            let client = TcpClient::connect(event_loop, target).on_message(|_, _| ()).unwrap();
            turn(event_loop);
            assert!(!format!("{client:?}").contains("looking up"), "{client:?}");
        }
    });
}

/// The resolver is asked with the loop turning, or this would not end.
#[test]
fn a_lookup_does_not_keep_the_loop_waiting() {
    with_loop(|event_loop| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let port = server.local_addr().unwrap().port();
                TcpClient::connect(event_loop, ("localhost", port)).on_message(|_, _| ()).unwrap()
            })
            .collect();
        turn(event_loop);
        let looking_up = clients.iter().filter(|client| format!("{client:?}").contains("looking up")).count();
        assert_eq!(looking_up, 8, "all of them are asked in one turn");
        net::turn_until(event_loop, || clients.iter().all(|client| client.handle().is_some()));
    });
}

// --- Both on one loop -----------------------------------------------------------------------------

#[test]
fn clients_and_server_of_one_loop_serve_each_other() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop);
        let journal = Journal::new();
        let clients: Vec<_> = (0..50)
            .map(|_| {
                let writing = journal.clone();
                TcpClient::connect(event_loop, server.local_addr())
                    .serve(move |_| {
                        writing.script().on_open(sends_hello).on_message(|conn, input| {
                            if input.len() == 5 {
                                input.clear();
                                conn.close();
                            }
                        })
                    })
                    .unwrap()
            })
            .collect();
        net::turn_until(event_loop, || {
            (0..50).all(|number| matches!(journal.of(number).last(), Some(Told::Close(_))))
        });
        journal.assert_whole_lives(50);
        net::turn_until(event_loop, || server.open_connections() == 0);
        drop(clients);
    });
}
