//! Clients that cannot connect: their reports are complete, and each failure is reported once.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::support::alone::alone_after;
use crate::support::client::{
    FullBacklog, LONG_TIMEOUT, Refusing, Reported, Reporting, Reports, backoff, echo_server, loopback,
};
use crate::support::net::{self, Child, send_to_parent};
use crate::support::shortage::limit_descriptors;
use crate::support::{LIMIT, Recorder, turn, with_loop, with_watchdog};
use reveille::net::{AddressError, Backoff, ConnectAttempt, ConnectError, ConnectTarget, SendError};
use reveille::{EventLoop, TcpClient};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Runs a client that cannot connect. Returns its reports until its last attempt has failed.
#[track_caller]
fn reports_of_a_failure(
    event_loop: &EventLoop,
    target: impl TryInto<ConnectTarget, Error: Into<AddressError>>,
    timeout: Duration,
) -> Vec<Reported> {
    let reports = Reports::new();
    let client = TcpClient::connect(event_loop, target)
        .timeout(timeout)
        .reporting(&reports)
        .serve(|_| -> net::Script { unreachable!("no connection is possible") })
        .unwrap();
    assert_eq!(reports.take(), [], "an event was reported inside the call that creates the client");
    let gave_up = Cell::new(false);
    let mut all = Vec::new();
    net::turn_until(event_loop, || {
        all.extend(reports.take());
        gave_up.set(matches!(all.last(), Some(Reported::RetriesExhausted(..))));
        gave_up.get()
    });
    crate::support::client::turn_until_idle(event_loop);
    assert_eq!(reports.take(), [], "an event was reported after the end");
    assert!(client.handle().is_none());
    all
}

// --- One address ---------------------------------------------------------------------------------

#[test]
fn a_refused_connection_is_reported_once_with_its_address() {
    with_loop(|event_loop| {
        let refusing = Refusing::new();
        let reports = reports_of_a_failure(event_loop, refusing.address(), LONG_TIMEOUT);
        assert_eq!(
            reports,
            [
                Reported::Failed(Some(refusing.address()), ErrorKind::ConnectionRefused),
                Reported::RetriesExhausted(ErrorKind::ConnectionRefused, 1, 1),
            ]
        );
    });
}

#[test]
fn a_failure_names_target_address_and_kernel_error() {
    with_loop(|event_loop| {
        let refusing = Refusing::new();
        let kept = Rc::new(Cell::new(None));
        let keeping = Rc::clone(&kept);
        let number = Rc::new(Cell::new(None));
        let noted = Rc::clone(&number);
        let _client = TcpClient::connect(event_loop, refusing.address().to_string())
            .on_attempt(move |_, attempt: &ConnectAttempt<'_>| {
                noted.set(attempt.result.unwrap_err().raw_os_error())
            })
            .on_failure(move |_, error: ConnectError| keeping.set(Some(error)))
            .serve_fn(|_, _| ())
            .unwrap();
        let mut error = None;
        net::turn_until(event_loop, || {
            error = kept.take();
            error.is_some()
        });
        let error = error.unwrap();
        let address = refusing.address();
        assert_eq!(number.get(), Some(nix::libc::ECONNREFUSED));
        assert_eq!(error.target(), address.to_string());
        assert_eq!(error.failures()[0].address, Some(address.into()));
        assert_eq!(error.failures()[0].error.raw_os_error(), Some(nix::libc::ECONNREFUSED));
        let text = error.to_string();
        assert_eq!(text, format!("cannot connect to {address}: Connection refused (os error 111)"));
        assert!(error.source().is_some());
        let error = io::Error::from(error);
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::ConnectionRefused, text));
    });
}

#[test]
fn a_failure_names_its_rounds_and_the_addresses_of_a_list() {
    with_loop(|event_loop| {
        let refusing = [Refusing::new(), Refusing::new()];
        let [a, b] = [refusing[0].address(), refusing[1].address()];
        let texts = Recorder::new();
        let recorder = texts.clone();
        let _client = TcpClient::connect(event_loop, [a, b])
            .retry(backoff().max_retries(1))
            .on_failure(move |_, error| recorder.record(error.to_string()))
            .serve_fn(|_, _| ())
            .unwrap();
        net::turn_until(event_loop, || texts.len() > 0);
        let refused = "Connection refused (os error 111)";
        let expected = format!("cannot connect to {a}, {b} in 2 rounds: {a}: {refused}; {b}: {refused}");
        assert_eq!(texts.take(), [expected]);
    });
}

#[test]
#[should_panic(expected = "more than zero")]
fn a_timeout_of_zero_is_refused() {
    let event_loop = EventLoop::new().unwrap();
    let _ = TcpClient::connect(&event_loop, loopback()).timeout(Duration::ZERO);
}

/// connect(2) itself returns the error.
#[test]
fn an_unreachable_address_is_reported() {
    with_loop(|event_loop| {
        let broadcast: SocketAddr = "255.255.255.255:9".parse().unwrap();
        let reports = reports_of_a_failure(event_loop, broadcast, LONG_TIMEOUT);
        let kinds = [ErrorKind::NetworkUnreachable, ErrorKind::PermissionDenied];
        let [Reported::Failed(address, kind), Reported::RetriesExhausted(last, 1, 1)] = reports[..] else {
            panic!("{reports:?}");
        };
        assert_eq!((address, kind), (Some(broadcast), last));
        assert!(kinds.contains(&kind), "{kind}");
    });
}

#[test]
fn an_attempt_without_a_reply_times_out() {
    with_loop(|event_loop| {
        let silent = FullBacklog::new();
        let reports = reports_of_a_failure(event_loop, silent.address(), Duration::from_millis(5));
        assert_eq!(silent.waiting(), 1, "the backlog contains another connection");
        assert_eq!(
            reports,
            [
                Reported::Failed(Some(silent.address()), ErrorKind::TimedOut),
                Reported::RetriesExhausted(ErrorKind::TimedOut, 1, 1),
            ]
        );
    });
}

#[test]
fn an_unusable_local_address_is_reported() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, loopback());
        for (local, expected) in [
            ("192.0.2.1:0", ErrorKind::AddrNotAvailable), // for documentation, RFC 5737
            ("[::1]:0", ErrorKind::InvalidInput),         // of another family
        ] {
            let reports = Reports::new();
            let _client = TcpClient::connect(event_loop, server.local_addr().unwrap())
                .local_addr(local.parse().unwrap())
                .reporting(&reports)
                .serve_fn(|_, _| ())
                .unwrap();
            net::turn_until(event_loop, || reports.len() == 2);
            assert_eq!(
                reports.take(),
                [
                    Reported::Failed(Some(server.local_addr().unwrap()), expected),
                    Reported::RetriesExhausted(expected, 1, 1)
                ]
            );
        }
    });
}

#[test]
fn an_empty_target_is_quoted() {
    with_loop(|event_loop| {
        let text = Rc::new(RefCell::default());
        let failed = Rc::clone(&text);
        let client = TcpClient::connect(event_loop, "");
        let client = client.on_failure(move |_, error| failed.replace(error.to_string()).clear());
        let _client = client.serve_fn(|_, _| ()).unwrap();
        net::turn_until(event_loop, || !text.borrow().is_empty());
        let expected = "cannot connect to \"\": the port is missing, as in example.org:80";
        assert_eq!(*text.borrow(), expected);
    });
}

#[test]
fn a_socket_connected_to_itself_is_refused() {
    with_loop(|event_loop| {
        let address = Refusing::new().address();
        let reports = Reports::new();
        let _client = TcpClient::connect(event_loop, address)
            .local_addr(address)
            .reporting(&reports)
            .serve(|_| -> net::Script { unreachable!("connected to itself") })
            .unwrap();
        net::turn_until(event_loop, || reports.len() == 2);
        assert_eq!(
            reports.take(),
            [
                Reported::Failed(Some(address), ErrorKind::ConnectionRefused),
                Reported::RetriesExhausted(ErrorKind::ConnectionRefused, 1, 1),
            ]
        );
        // Nothing of it lingers, so the port is free for others, with SO_REUSEADDR or without. The
        // test does not bind it, since another process may have it by now.
        turn(event_loop);
        assert!(net::queues(address, Some(address)).is_none());
    });
}

/// The child: a process with few descriptors, and a client that needs one more.
#[test]
#[ignore = "runs only in a child process of another test"]
fn child_role() {
    if net::role().is_none() {
        return;
    }
    with_loop(|event_loop| {
        let refusing = Refusing::new();
        let maximum = getrlimit(Resource::Nofile).maximum;
        for target in [ConnectTarget::from(refusing.address()), "localhost:9".parse().unwrap()] {
            let before = getrlimit(Resource::Nofile).current;
            setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum }).expect("a lower limit");
            let reports = Reports::new();
            let client =
                TcpClient::connect(event_loop, target).reporting(&reports).serve_fn(|_, _| ()).unwrap();
            net::turn_until(event_loop, || reports.len() == 2);
            setrlimit(Resource::Nofile, Rlimit { current: before, maximum }).expect("the limit as it was");
            send_to_parent(format_args!("{:?}", reports.take()));
            drop(client);
        }
    });
}

#[test]
fn a_client_without_a_free_descriptor_reports_that() {
    with_watchdog(LIMIT, || {
        let mut child = Child::start("client");
        let reports = child.next_reply();
        assert!(reports.starts_with("[Failed("), "{reports}");
        assert!(reports.contains("RetriesExhausted(Uncategorized, 1, 1)"), "{reports}");
        // The system's resolver fails, and does not report why.
        let reports = child.next_reply();
        assert!(reports.starts_with("[Failed(None"), "{reports}");
    });
}

// --- All addresses, or none ----------------------------------------------------------------------

#[test]
fn a_failure_of_all_addresses_lists_them_all() {
    with_loop(|event_loop| {
        let nobodies = [Refusing::new(), Refusing::new(), Refusing::new()];
        let addresses: Vec<SocketAddr> = nobodies.iter().map(Refusing::address).collect();
        let reports = reports_of_a_failure(event_loop, addresses.clone(), LONG_TIMEOUT);
        let refused = ErrorKind::ConnectionRefused;
        let mut expected: Vec<_> =
            addresses.iter().map(|address| Reported::Failed(Some(*address), refused)).collect();
        expected.push(Reported::RetriesExhausted(refused, 1, 3));
        assert_eq!(reports, expected);
    });
}

#[test]
fn a_name_that_does_not_exist_is_reported() {
    with_loop(|event_loop| {
        // RFC 6761: this name does not exist.
        let reports = reports_of_a_failure(event_loop, "no-such-host.invalid:80", LONG_TIMEOUT);
        let [Reported::Failed(None, kind), Reported::RetriesExhausted(last, 1, 1)] = reports[..] else {
            panic!("{reports:?}");
        };
        assert_eq!(kind, last);
    });
}

#[test]
fn an_unreadable_target_is_a_failed_attempt_without_a_retry() {
    with_loop(|event_loop| {
        let none: &[SocketAddr] = &[];
        let texts = ["", "localhost", "localhost:", "localhost:80x", "localhost:65536", ":80"];
        let builders = texts.map(|text| TcpClient::connect(event_loop, text));
        for builder in builders.into_iter().chain([TcpClient::connect(event_loop, none)]) {
            let shown = format!("{builder:?}");
            let reports = Reports::new();
            let failure = Rc::new(RefCell::new(None));
            let reported = Rc::clone(&failure);
            let client = builder
                .reporting(&reports)
                .retry(Backoff::new())
                .on_failure(move |_, error| *reported.borrow_mut() = Some(error))
                .serve_fn(|_, _| ())
                .unwrap();
            client.send("never sent").unwrap();
            net::turn_until(event_loop, || failure.borrow().is_some());
            let error = failure.take().unwrap();
            assert_eq!((error.kind(), error.rounds()), (ErrorKind::InvalidInput, 1), "{shown}");
            assert!(error.to_string().starts_with("cannot connect to"), "{error}");
            assert_eq!((error.unsent(), error.calls()), ("never sent".len(), 0));
            assert_eq!(reports.take(), [Reported::Failed(None, ErrorKind::InvalidInput)], "{shown}");
            assert_eq!(client.send("late").unwrap_err().reason(), SendError::Closed);
        }
        assert_eq!(event_loop.next_deadline(), None);
    });
}

/// The name stands for two addresses, and the first one accepts. After that, lookups of the name
/// fail.
#[test]
fn a_failed_lookup_tries_no_earlier_address() {
    let script = r#"
        exec unshare -rm sh -ec '
            mount -t tmpfs hosts /mnt
            printf "127.0.0.1 two\n127.0.0.2 two\n" > /mnt/hosts
            mount --bind /mnt/hosts /etc/hosts
            exec "$@"' sh "$@""#;
    alone_after(script, || {
        let event_loop = EventLoop::new().unwrap();
        let server = echo_server(&event_loop, loopback());
        let reports = Reports::new();
        let client = TcpClient::connect(&event_loop, ("two", server.local_addr().unwrap().port()))
            .reconnect()
            .retry(backoff().max_retries(0))
            .reporting(&reports)
            .serve_fn(|_, _| ())
            .unwrap();
        net::turn_until(&event_loop, || reports.len() == 1);
        assert_eq!(reports.take(), [Reported::Connected(server.local_addr().unwrap())]);
        limit_descriptors(3);
        client.handle().expect("a session").close();
        net::turn_until(&event_loop, || reports.len() >= 2);
        let reports = reports.take();
        assert!(
            matches!(reports[..], [Reported::Failed(None, _), Reported::RetriesExhausted(_, 1, 1)]),
            "{reports:?}"
        );
    });
}
