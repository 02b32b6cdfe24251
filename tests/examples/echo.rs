//! The echo example as a program: its arguments, its output, and its behaviour on signals.

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

/// Starts the example and reads its first lines. Its grace period exceeds the time limit of a test,
/// so after a signal it ends only when its peers disconnect or a second signal arrives.
fn start(arguments: &[&str]) -> Server {
    let mut command = Command::new(example::program("echo"));
    let mut echo = Server::start(command.args(arguments).args(["--grace", "3600"]));
    assert_eq!(echo.line(), format!("try: nc {} {}", echo.address.ip(), echo.address.port()));
    echo
}

#[test]
fn invalid_arguments_are_rejected_with_the_usage() {
    let invalid: [&[&str]; 12] = [
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
    for arguments in invalid {
        let output = outcome_of(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let errors = text(&output.stderr);
        assert!(errors.starts_with("echo: ") && errors.contains("usage: echo "), "{arguments:?}: {errors}");
        let rejected = arguments.last().expect("an argument");
        assert!(errors.lines().next().unwrap().contains(rejected), "{arguments:?}: {errors}");
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn the_help_options_succeed() {
    for argument in ["--help", "-h"] {
        let output = outcome_of(&[argument]);
        assert!(output.status.success());
        assert!(text(&output.stdout).starts_with("usage: echo "), "{}", text(&output.stdout));
        assert_eq!(text(&output.stderr), "");
    }
}

#[test]
fn more_threads_than_descriptors_allow_are_reported() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$@\"", "sh"]).arg(example::program("echo"));
    let output = command.args(["--listen", "127.0.0.1:0", "--threads", "1000"]).output().expect("a shell");
    assert_eq!(output.status.code(), Some(1));
    let errors = text(&output.stderr);
    assert!(errors.starts_with("echo: cannot create the loop of the thread "), "{errors}");
    assert!(errors.ends_with(": Too many open files (os error 24)\n"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn an_address_in_use_is_reported_in_one_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = listener.local_addr().unwrap().to_string();
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
fn port_0_selects_a_free_port_and_prints_it() {
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
fn either_signal_ends_it_and_prints_the_totals() {
    with_watchdog(LIMIT, || {
        for signal in [Signal::TERM, Signal::INT] {
            for threads in ["1", "3"] {
                let echo = start(&["--listen", "127.0.0.1:0", "--threads", threads]);
                // This client sends nothing. With three loops it shares one with the last client.
                let silent = net::connect(echo.address);
                let mut clients: Vec<_> = (0..3).map(|_| net::connect(echo.address)).collect();
                for (number, client) in clients.iter_mut().enumerate() {
                    for _ in 0..=number {
                        net::exchange(client, [0; 100]);
                    }
                }
                // One client has disconnected. The others disconnect after the end of their input.
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
fn a_signal_directly_after_the_first_lines_ends_it() {
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
fn open_connections_do_not_outlast_the_grace_period() {
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

/// The server with a second signal ends. The one whose only signal came earlier keeps running.
#[test]
fn a_second_signal_does_not_wait_for_open_connections() {
    with_watchdog(LIMIT, || {
        let [mut signalled_once, signalled_twice] = [(); 2].map(|()| start(&["--listen", "127.0.0.1:0"]));
        let mut clients = [net::connect(signalled_once.address), net::connect(signalled_twice.address)];
        clients.iter_mut().for_each(net::assert_echoes);
        signalled_once.signal(Signal::TERM);
        // The server has handled the signal and waits for its client.
        assert_eq!(net::read_to_end(&mut clients[0]), b"");
        signalled_twice.signal(Signal::TERM);
        assert_eq!(net::read_to_end(&mut clients[1]), b"");
        signalled_twice.signal(Signal::INT);
        let (status, totals) = signalled_twice.end();
        assert!(signalled_once.is_running(), "one signal has ended it");
        assert_eq!(status.code(), Some(0));
        assert_eq!(totals, "1 connections, 1 messages, 14 bytes");
        drop(clients);
        let (status, totals) = signalled_once.end();
        assert_eq!(status.code(), Some(0));
        assert_eq!(totals, "1 connections, 1 messages, 14 bytes");
    });
}

#[test]
fn a_slow_reader_receives_all_replies_after_a_signal() {
    with_watchdog(LIMIT, || {
        for threads in ["1", "2"] {
            let echo = start(&["--listen", "127.0.0.1:0", "--threads", threads]);
            let mut client = net::connect(echo.address);
            let bytes = pattern(3 << 20);
            client.write_all(&bytes).unwrap();
            // Waits until the server has read all bytes.
            let (ours, theirs) = (client.local_addr().unwrap(), echo.address);
            net::until(|| {
                net::queues(ours, Some(theirs)).is_some_and(|client| client.unsent == 0)
                    && net::queues(theirs, Some(ours)).is_some_and(|server| server.unread == 0)
            });
            echo.signal(Signal::TERM);
            net::until(|| net::queues(theirs, None).is_none());
            let received = net::read_to_end(&mut client);
            assert!(
                received == bytes,
                "{} of {} bytes were echoed, or they differ",
                received.len(),
                bytes.len()
            );
            drop(client);
            let (status, totals) = echo.end();
            assert_eq!(status.code(), Some(0));
            assert!(totals.starts_with("1 connections, "), "{totals}");
            assert!(totals.ends_with(&format!(" messages, {} bytes", bytes.len())), "{totals}");
        }
    });
}
