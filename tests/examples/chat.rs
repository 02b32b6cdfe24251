//! The chat example as a program.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;

use crate::support::example::Server;
use crate::support::{LIMIT, example, net, with_watchdog};
use rustix::process::Signal;

fn start(threads: &str) -> Server {
    let mut command = Command::new(example::program("chat"));
    let mut chat =
        Server::start(command.args(["--listen", "127.0.0.1:0", "--grace", "3600", "--threads", threads]));
    assert_eq!(chat.line(), format!("try: nc {} {}", chat.address.ip(), chat.address.port()));
    chat
}

/// A client that reads lines.
struct Guest(BufReader<TcpStream>);

impl Guest {
    /// Connects, and waits until the guest is in the lobby under this name.
    fn enter(chat: &Server, name: &str) -> Guest {
        let mut guest = Guest(BufReader::new(net::connect(chat.address)));
        assert!(guest.line().ends_with(" is in lobby"));
        guest.say(&format!("/nick {name}"));
        assert!(guest.line().ends_with(&format!(" is now {name}")));
        guest
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// Skips lines until this one.
    #[track_caller]
    fn hears(&mut self, expected: &str) {
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "the connection ended before `{expected}`");
            if line == expected {
                return;
            }
        }
    }

    #[track_caller]
    fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).expect("a server that reads");
    }
}

#[test]
fn a_line_reaches_all_guests_of_the_room_only() {
    with_watchdog(LIMIT, || {
        for threads in ["1", "2", "3"] {
            let chat = start(threads);
            let [mut ann, mut ben, mut eve] = ["ann", "ben", "eve"].map(|name| Guest::enter(&chat, name));
            eve.say("/join garden");
            eve.hears("* eve is in garden");
            ann.hears("* eve has left");
            ben.hears("* eve has left");
            ann.say("hello");
            for guest in [&mut ann, &mut ben] {
                assert_eq!(guest.line(), "ann: hello");
            }
            eve.say("where is everybody?");
            assert_eq!(eve.line(), "eve: where is everybody?");
            ben.say("/join garden");
            assert_eq!(eve.line(), "* ben is in garden");
            drop(ben);
            assert_eq!(eve.line(), "* ben has left");
        }
    });
}

#[test]
fn invalid_commands_and_control_characters_reach_nobody() {
    with_watchdog(LIMIT, || {
        let chat = start("2");
        let mut ann = Guest::enter(&chat, "ann");
        for command in ["/nick", "/nick two words", "/join ", "/nick \x1b[31m", "/shout"] {
            ann.say(command);
            assert_eq!(ann.line(), "* the commands are: /nick NAME and /join ROOM");
        }
        ann.say("a\x1b[31mb");
        assert_eq!(ann.line(), "ann: a [31mb");
        ann.say(&"x".repeat(2000));
        assert_eq!(ann.line(), "* the line is longer than 1000 bytes");
        assert_eq!(ann.line(), "");
    });
}

#[test]
fn a_guest_who_does_not_read_is_removed() {
    with_watchdog(LIMIT, || {
        let chat = start("2");
        let mut ann = Guest::enter(&chat, "ann");
        let silent = net::connect_with_small_receive_buffer(chat.address);
        let mut number = None;
        while number.is_none() {
            let line = ann.line();
            number = line
                .strip_suffix(" is in lobby")
                .and_then(|line| line.strip_prefix("* guest"))
                .map(str::to_owned);
        }
        let left = format!("* guest{} has left", number.expect("a number"));
        // Each line is read before the next one, so `ann` is not removed.
        let text = "x".repeat(900);
        loop {
            ann.say(&text);
            let line = ann.line();
            if line == left {
                break;
            }
            assert_eq!(line.len(), "ann: ".len() + text.len());
        }
        drop(silent);
    });
}

#[test]
fn a_signal_ends_it_and_prints_the_totals() {
    with_watchdog(LIMIT, || {
        for signal in [Signal::TERM, Signal::INT] {
            let chat = start("2");
            let mut guests = ["ann", "ben"].map(|name| Guest::enter(&chat, name));
            guests[0].say("hello");
            guests[0].hears("ann: hello");
            chat.signal(signal);
            for mut guest in guests {
                while !guest.line().is_empty() {}
            }
            let (status, totals) = chat.end();
            assert_eq!(status.code(), Some(0));
            assert_eq!(totals, "2 guests, 3 lines");
        }
    });
}
