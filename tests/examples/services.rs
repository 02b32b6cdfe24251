//! The examples services and services_client as programs, and their modules.

#[path = "../../examples/services_client/check.rs"]
mod check;
#[path = "../../examples/services/clock.rs"]
mod clock;
#[path = "../../examples/services/guard.rs"]
mod guard;
#[path = "../../examples/services/pattern.rs"]
mod pattern;
#[path = "../../examples/services/replies.rs"]
mod replies;
#[path = "../../examples/services/service.rs"]
mod service;

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::example::{self, Server};
use crate::support::{LIMIT, net, with_watchdog};
use rustix::process::Signal;

use check::{PIECE, Text};
use guard::{EXCESS, Guard, REPLIES, Refusal};
use service::Service;

const NAMES: [&str; 6] = ["echo", "discard", "daytime", "qotd", "chargen", "time"];

/// The server, and the address of each service: `echo tcp`, `echo udp` and so on.
fn start(arguments: &[&str]) -> (Server, HashMap<String, SocketAddr>) {
    let mut command = Command::new(example::program("services"));
    let mut server = Server::start(command.args(["--listen", "127.0.0.1:0"]).args(arguments));
    let mut addresses = HashMap::from([("echo tcp".to_owned(), server.address)]);
    loop {
        let line = server.line();
        if line.starts_with("try: ") {
            assert_eq!(line, format!("try: services_client --connect {} echo", server.address));
            return (server, addresses);
        }
        let (name, address) = line.split_once(" on ").expect("an address");
        addresses.insert(name.to_owned(), address.parse().expect("an address"));
    }
}

fn client(address: SocketAddr, arguments: &[&str]) -> Output {
    let mut command = Command::new(example::program("services_client"));
    command.args(["--connect", &address.to_string()]).args(arguments).stdin(Stdio::null());
    command.output().expect("the example")
}

#[test]
fn the_client_verifies_each_service_over_tcp_and_udp() {
    with_watchdog(LIMIT, || {
        let (server, addresses) = start(&["--report", "3600"]);
        for name in NAMES {
            for transport in ["tcp", "udp"] {
                let mut arguments = vec!["--bytes", "200000", "--timeout", "60", name];
                if transport == "udp" {
                    arguments.insert(0, "--udp");
                }
                let output = client(addresses[&format!("{name} {transport}")], &arguments);
                let (text, errors) =
                    (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                assert!(output.status.success(), "{name} over {transport}: {errors}");
                let expected = match name {
                    "echo" => "echo: 200000 bytes verified",
                    "discard" => "discard: 200000 bytes sent",
                    "chargen" => " bytes verified",
                    "daytime" | "time" => " UTC\n",
                    _ => "\n",
                };
                assert!(text.contains(expected), "{name} over {transport}: {text}");
            }
        }
        server.signal(Signal::TERM);
        let (status, totals) = server.end();
        assert_eq!(status.code(), Some(0));
        assert!(totals.starts_with("6 connections, ") && totals.ends_with(" 0 refused"), "{totals}");
    });
}

#[test]
fn a_datagram_from_a_port_of_a_service_gets_no_reply() {
    with_watchdog(LIMIT, || {
        let (server, addresses) = start(&[]);
        let echo = addresses["echo udp"];
        // The port of chargen at another address, as if it were another machine with the services.
        let other = UdpSocket::bind(("127.43.0.1", addresses["chargen udp"].port())).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for socket in [&other, &client] {
            socket.set_read_timeout(Some(net::LIMIT)).unwrap();
            socket.send_to(b"datagram", echo).unwrap();
        }
        // Datagrams are processed in order, so a reply to the first one would have been sent.
        assert_eq!(client.recv(&mut [0; 64]).unwrap(), 8);
        other.set_nonblocking(true).unwrap();
        assert!(other.recv(&mut [0; 64]).is_err());
        server.signal(Signal::INT);
        assert_eq!(server.end().1, "0 connections, 0 bytes, 2 datagrams, 1 refused");
    });
}

#[test]
fn discard_prints_its_throughput_and_a_stop_ends_chargen() {
    with_watchdog(LIMIT, || {
        let (mut server, addresses) = start(&["--grace", "3600"]);
        net::connect(addresses["discard tcp"]).write_all(&[0; 1000]).unwrap();
        let line = server.line();
        assert!(line.starts_with("discard: ") && line.ends_with(" MiB/s, 1000 bytes"), "{line}");
        // This client reads a part, and then nothing until its end.
        let mut chargen = net::connect(addresses["chargen tcp"]);
        assert_eq!(net::read_exact(&mut chargen, pattern::PERIOD), pattern::text(0, pattern::PERIOD));
        server.signal(Signal::TERM);
        assert_eq!(server.end().1, "2 connections, 1000 bytes, 0 datagrams, 0 refused");
    });
}

#[test]
fn the_client_detects_wrong_bytes_and_a_missing_reply() {
    with_watchdog(LIMIT, || {
        // It sends `reply` to each connection, whatever it receives.
        let serve = |reply: Vec<u8>| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            thread::spawn(move || {
                let (mut connection, _) = listener.accept().unwrap();
                let _ = connection.write_all(&reply);
                // The client ends the connection.
                let _ = std::io::copy(&mut connection, &mut std::io::sink());
            });
            address
        };
        let mut wrong = pattern::text(0, 200_000);
        wrong[150_000] ^= 1;
        for (name, reply, error) in [
            ("chargen", wrong.clone(), "byte 150000 is wrong"),
            ("echo", wrong, "byte 150000 is wrong"),
            ("discard", vec![0], "more bytes received than sent"),
            ("echo", pattern::text(0, 200_001), "more bytes received than sent"),
        ] {
            let output = client(serve(reply), &["--bytes", "200000", name]);
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{name}: {errors}");
            assert!(errors.starts_with("services_client: ") && errors.contains(error), "{name}: {errors}");
        }
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let output = client(silent.local_addr().unwrap(), &["--udp", "--timeout", "1", "time"]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "services_client: the service did not reply within 1 s\n"
        );
    });
}

// --- The modules ---------------------------------------------------------------------------------

#[test]
fn dates_are_those_of_the_gregorian_calendar() {
    for (seconds, date) in [
        (0, "1970-01-01 00:00:00 UTC"),
        (951_782_399, "2000-02-28 23:59:59 UTC"),
        (951_782_400, "2000-02-29 00:00:00 UTC"),
        (1_709_251_199, "2024-02-29 23:59:59 UTC"),
        (2_147_483_648, "2038-01-19 03:14:08 UTC"),
        (4_107_542_400, "2100-03-01 00:00:00 UTC"),
    ] {
        assert_eq!(clock::daytime(seconds), date);
    }
}

#[test]
fn a_time_of_32_bits_is_the_one_nearest_to_now() {
    // 2036-02-07 06:28:16, when the seconds since 1900 wrap around.
    let wrap = 2_085_978_496;
    assert_eq!((clock::time(0), clock::time(wrap)), ([0x83, 0xaa, 0x7e, 0x80], [0; 4]));
    for seconds in [100, wrap - 1, wrap, wrap + 1] {
        for now in [seconds - 100, seconds, seconds + 100] {
            assert_eq!(check::seconds_of(clock::time(seconds), now), Some(seconds));
        }
    }
    assert_eq!(check::seconds_of([0x83, 0xaa, 0x7e, 0x7f], 0), None);
    assert_eq!(check::date(&clock::time(wrap), clock::now()).unwrap(), "2036-02-07 06:28:16 UTC");
    assert!(check::date(b"12345", 0).is_err());
}

#[test]
fn the_lines_of_chargen_are_those_of_the_rfc() {
    let text = String::from_utf8(pattern::text(0, pattern::PERIOD)).unwrap();
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), pattern::LINES);
    assert!(lines.iter().all(|line| line.len() == 72));
    assert!(lines[0].starts_with(" !\"#$%") && lines[1].starts_with("!\"#$%&"));
    assert!(lines[94].starts_with("~ !\"#"));
    assert_eq!(pattern::text(pattern::PERIOD, 100), pattern::text(0, 100));
}

#[test]
fn a_reply_without_text_is_an_error() {
    assert!(check::only_text(b"\r\n").is_err());
    assert_eq!(check::only_text(b"Friday\r\n").unwrap(), "Friday");
}

#[test]
fn a_wrong_byte_is_found_wherever_it_is() {
    let text = Text::new();
    let mut bytes = pattern::text(1000, 2 * PIECE);
    assert!(text.verify(1000, &bytes).is_ok() && text.verify(1001, &bytes).is_err());
    for wrong in [0, PIECE - 1, PIECE, 2 * PIECE - 1] {
        bytes[wrong] ^= 1;
        let error = text.verify(1000, &bytes).unwrap_err().to_string();
        assert_eq!(error, format!("byte {} is wrong", 1000 + wrong));
        bytes[wrong] ^= 1;
    }
}

#[test]
fn datagrams_of_chargen_have_any_line_and_length() {
    let text = Text::new();
    let datagrams: Vec<Vec<u8>> = (0..1000).map(|_| replies::chargen()).collect();
    for datagram in &datagrams {
        text.verify_lines(datagram).unwrap();
    }
    let lengths = || datagrams.iter().map(Vec::len);
    assert!(lengths().min() < Some(100) && lengths().max() > Some(400));
    assert!(text.verify_lines(&pattern::text(0, 513)).is_err());
    assert!(text.verify_lines(b"\r\n").is_err() && text.verify_lines(b"ac").is_err());
    assert_eq!(check::text(b"a\x1bb\r\nc\r\n"), "a?b\nc");
    assert_eq!(
        check::summary("x", 1 << 20, "sent", Duration::from_secs(2)),
        "x: 1048576 bytes sent, 0.5 MiB/s"
    );
}

#[test]
fn replies_are_those_of_now() {
    let text = |reply: Vec<u8>| String::from_utf8(reply).unwrap();
    let before = clock::now();
    let (daytime, time) = (text(replies::daytime()), replies::time());
    let dates = (before..=clock::now()).map(clock::daytime);
    assert!(dates.clone().any(|date| daytime == format!("{date}\r\n")));
    assert!(dates.into_iter().any(|date| check::date(&time, before).unwrap() == date));
    let quote = text(replies::quote());
    assert!(quote.ends_with(".\r\n") && quote.len() < 512);
}

#[test]
fn the_guard_refuses_services_and_exceeded_budgets() {
    let begin = Instant::now();
    let mut guard = Guard::new(begin);
    guard.add_own_port(2019);
    for port in [0, 7, 1023, 2019] {
        assert_eq!(guard.admit(begin, port, 1, 1), Err(Refusal::ServicePort));
    }
    assert_eq!(guard.admit(begin, 1024, 1, 1), Ok(()));
    for _ in 1..REPLIES {
        assert_eq!(guard.admit(begin, 2007, 5, 5), Ok(()));
    }
    assert_eq!(guard.admit(begin, 2007, 5, 5), Err(Refusal::TooManyReplies));
    let later = begin + Duration::from_millis(500);
    for _ in 0..REPLIES / 2 {
        assert_eq!(guard.admit(later, 2007, 5, 5), Ok(()));
    }
    assert_eq!(guard.admit(later, 2007, 5, 5), Err(Refusal::TooManyReplies));
    // The budget of a long pause is that of one second.
    let later = later + Duration::from_secs(1000);
    for _ in 0..EXCESS / 512 {
        assert_eq!(guard.admit(later, 2007, 0, 512), Ok(()));
    }
    assert_eq!(guard.admit(later, 2007, 0, 512), Err(Refusal::TooMuchExcess));
    // A reply that is not longer than the datagram is still sent.
    assert_eq!(guard.admit(later, 2007, 512, 512), Ok(()));
    let next = later + Duration::from_secs(1);
    assert_eq!(guard.admit(next, 2007, 0, EXCESS as usize), Ok(()));
}

#[test]
fn services_have_names_and_assigned_ports() {
    let names = Service::ALL.map(|service| service.to_string());
    assert_eq!(names, NAMES);
    assert!(NAMES.iter().zip(Service::ALL).all(|(name, service)| name.parse() == Ok(service)));
    assert_eq!("users".parse::<Service>(), Err(()));
    assert_eq!(Service::ALL.map(Service::assigned_port), [7, 9, 13, 17, 19, 37]);
}
