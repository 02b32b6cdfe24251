//! The echo example as its users meet it: arguments, what it prints, what it does on a signal.

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Output};

use crate::support::example::Server;
use crate::support::net::{self, pattern};
use crate::support::{LIMIT, example, with_watchdog};
use rustix::process::Signal;

fn outcome_of(arguments: &[&str]) -> Output {
    example::outcome_of("echo", arguments)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Starts the example, and reads what it prints first. After a signal it waits longer than a test
/// may take, so that only its peers and a second signal end it.
fn start(arguments: &[&str]) -> Server {
    let mut command = Command::new(example::program("echo"));
    let mut echo = Server::start(command.args(arguments).args(["--grace", "3600"]));
    assert_eq!(echo.line(), format!("try: nc {} {}", echo.address.ip(), echo.address.port()));
    echo
}

#[test]
fn arguments_that_are_none_are_answered_with_the_usage() {
    let wrong: [&[&str]; 12] = [
        &["--nonsense"],
        &["2007"],
        &["--listen"],
        &["--listen", "127.0.0.1"],
        &["--listen", "127.0.0.1:port"],
        &["--listen", "127.0.0.1:99999"],
        &["--listen", "nowhere"],
        &["--threads"],
        &["--threads", "0"],
        &["--threads", "many"],
        &["--grace"],
        &["--grace", "-1"],
    ];
    for arguments in wrong {
        let output = outcome_of(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let errors = text(&output.stderr);
        assert!(errors.starts_with("echo: ") && errors.contains("usage: echo "), "{arguments:?}: {errors}");
        let culprit = arguments.last().expect("an argument");
        assert!(errors.lines().next().unwrap().contains(culprit), "{arguments:?}: {errors}");
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn help_is_no_error() {
    for argument in ["--help", "-h"] {
        let output = outcome_of(&[argument]);
        assert!(output.status.success());
        assert!(text(&output.stdout).starts_with("usage: echo "), "{}", text(&output.stdout));
        assert_eq!(text(&output.stderr), "");
    }
}

#[test]
fn an_address_that_is_taken_is_one_line_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = taken.local_addr().unwrap().to_string();
    for more in [&[][..], &["--threads", "2"]] {
        let output = outcome_of(&[&["--listen", in_use.as_str()], more].concat());
        assert_eq!(output.status.code(), Some(1));
        let errors = text(&output.stderr);
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.starts_with("echo: ") && errors.contains(&in_use), "{errors}");
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn port_0_is_one_that_is_free_and_is_told() {
    with_watchdog(LIMIT, || {
        let echo = start(&["--listen", "127.0.0.1:0"]);
        let other = start(&["--listen", "127.0.0.1:0", "--threads", "2"]);
        assert_ne!(echo.address.port(), 0);
        assert_ne!(echo.address, other.address);
        net::assert_echoes(&mut net::connect(echo.address));
        net::assert_echoes(&mut net::connect(other.address));
    });
}

#[test]
fn either_signal_ends_it_with_the_totals() {
    with_watchdog(LIMIT, || {
        for signal in [Signal::TERM, Signal::INT] {
            for threads in ["1", "3"] {
                let echo = start(&["--listen", "127.0.0.1:0", "--threads", threads]);
                // One never says anything. Of three loops it is on that of the last of the others.
                let silent = net::connect(echo.address);
                let mut clients: Vec<_> = (0..3).map(|_| net::connect(echo.address)).collect();
                for (number, client) in clients.iter_mut().enumerate() {
                    for _ in 0..=number {
                        net::exchange(client, [0; 100]);
                    }
                }
                // One has gone by then, and the others go when they are told to.
                drop(clients.remove(0));
                clients.push(silent);
                echo.signal(signal);
                for client in &mut clients {
                    assert_eq!(net::read_to_end(client), b"");
                }
                drop(clients);
                let (status, totals) = echo.end();
                assert_eq!(status.code(), Some(0));
                assert_eq!(totals, "4 connections, 6 messages, 600 bytes");
            }
        }
    });
}

#[test]
fn a_signal_is_heeded_as_soon_as_it_has_said_where_it_listens() {
    with_watchdog(LIMIT, || {
        for _ in 0..10 {
            let echo = start(&["--listen", "127.0.0.1:0"]);
            echo.signal(Signal::TERM);
            let (status, totals) = echo.end();
            assert_eq!(status.code(), Some(0));
            assert_eq!(totals, "0 connections, 0 messages, 0 bytes");
        }
    });
}

#[test]
fn peers_that_stay_are_cut_off_when_the_grace_is_over() {
    with_watchdog(LIMIT, || {
        let mut command = Command::new(example::program("echo"));
        let mut echo = Server::start(command.args(["--listen", "127.0.0.1:0", "--grace", "0"]));
        echo.line();
        let mut client = net::connect(echo.address);
        net::assert_echoes(&mut client);
        echo.signal(Signal::TERM);
        let (status, totals) = echo.end();
        assert_eq!(status.code(), Some(0));
        assert_eq!(totals, "1 connections, 1 messages, 14 bytes");
    });
}

/// The one that gets a second signal ends, and one that got its only signal earlier goes on.
#[test]
fn a_second_signal_does_not_wait_for_peers_that_stay() {
    with_watchdog(LIMIT, || {
        let [mut patient, hurried] = [(); 2].map(|()| start(&["--listen", "127.0.0.1:0"]));
        let mut clients = [net::connect(patient.address), net::connect(hurried.address)];
        clients.iter_mut().for_each(net::assert_echoes);
        patient.signal(Signal::TERM);
        // It has taken the signal, and waits for its client.
        assert_eq!(net::read_to_end(&mut clients[0]), b"");
        hurried.signal(Signal::TERM);
        assert_eq!(net::read_to_end(&mut clients[1]), b"");
        hurried.signal(Signal::INT);
        let (status, totals) = hurried.end();
        assert!(patient.is_running(), "one signal does not end it");
        assert_eq!(status.code(), Some(0));
        assert_eq!(totals, "1 connections, 1 messages, 14 bytes");
        drop(clients);
        let (status, totals) = patient.end();
        assert_eq!(status.code(), Some(0));
        assert_eq!(totals, "1 connections, 1 messages, 14 bytes");
    });
}

#[test]
fn a_slow_reader_gets_all_that_it_is_owed_before_the_end() {
    with_watchdog(LIMIT, || {
        for threads in ["1", "2"] {
            let echo = start(&["--listen", "127.0.0.1:0", "--threads", threads]);
            let mut client = net::connect(echo.address);
            let bytes = pattern(3 << 20);
            client.write_all(&bytes).unwrap();
            // The server has read all of it, and has taken it upon itself to send it back.
            let (ours, theirs) = (client.local_addr().unwrap(), echo.address);
            net::until(|| {
                net::queues(ours, Some(theirs)).is_some_and(|client| client.unsent == 0)
                    && net::queues(theirs, Some(ours)).is_some_and(|server| server.unread == 0)
            });
            echo.signal(Signal::TERM);
            net::until(|| net::queues(theirs, None).is_none());
            let received = net::read_to_end(&mut client);
            assert!(received == bytes, "{} of {} bytes came back", received.len(), bytes.len());
            drop(client);
            let (status, totals) = echo.end();
            assert_eq!(status.code(), Some(0));
            assert!(totals.starts_with("1 connections, "), "{totals}");
            assert!(totals.ends_with(&format!(" messages, {} bytes", bytes.len())), "{totals}");
        }
    });
}
