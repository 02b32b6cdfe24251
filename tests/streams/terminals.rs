//! Terminals: raw mode, sizes, and connections of pseudo-terminals.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use super::Seen;
use crate::support::net::turn_until;
use crate::support::{KIB, Recorder, with_loop};
use reveille::TcpConnection;
use reveille::io::Terminal;
use rustix::fs::{Mode, OFlags, fcntl_getfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// The master of a new pseudo-terminal, and its slave: the terminal of a program.
pub(super) fn pty() -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
    (master, slave)
}

pub(super) fn is_canonical(terminal: impl AsFd) -> bool {
    tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO)
}

pub(super) fn is_nonblocking(fd: impl AsFd) -> bool {
    fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
}

#[test]
fn raw_mode_is_restored_on_drop() {
    let (_master, slave) = pty();
    let terminal = Terminal::new(&slave).unwrap();
    assert!(is_canonical(&slave));
    let raw = terminal.raw_mode().unwrap();
    assert!(!is_canonical(&slave));
    drop(terminal);
    assert!(!is_canonical(&slave));
    drop(raw);
    assert!(is_canonical(&slave));
}

#[test]
fn the_last_of_several_raw_modes_restores_the_first() {
    for in_order in [true, false] {
        let (_master, slave) = pty();
        let terminal = Terminal::new(&slave).unwrap();
        let (first, second) = (terminal.raw_mode().unwrap(), terminal.raw_mode().unwrap());
        let (earlier, later) = if in_order { (first, second) } else { (second, first) };
        drop((terminal, earlier));
        assert!(!is_canonical(&slave));
        drop(later);
        assert!(is_canonical(&slave), "{in_order}");
    }
}

#[test]
fn raw_mode_begins_anew_after_it_was_restored() {
    let (_master, slave) = pty();
    let terminal = Terminal::new(&slave).unwrap();
    for _ in 0..2 {
        let raw = terminal.raw_mode().unwrap();
        assert!(!is_canonical(&slave));
        drop(raw);
        assert!(is_canonical(&slave));
    }
}

#[test]
fn raw_mode_is_restored_on_panic() {
    let (_master, slave) = pty();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _raw = Terminal::new(&slave).unwrap().raw_mode().unwrap();
        assert!(is_canonical(&slave), "it panics here");
    }));
    assert!(panicked.is_err());
    assert!(is_canonical(&slave));
}

#[test]
fn what_is_not_a_terminal_is_an_error() {
    let error = Terminal::new(File::open("/dev/null").unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn changes_of_the_size_are_reported() {
    crate::support::alone::alone_with_loop(|event_loop| {
        let (master, slave) = pty();
        let set = |rows, columns| {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            tcsetwinsize(&master, size).unwrap();
        };
        set(24, 80);
        let terminal = Terminal::new(&slave).unwrap();
        assert_eq!(terminal.window_size().unwrap().to_string(), "80x24");
        let sizes = Recorder::new();
        let recording = sizes.clone();
        let _resizes = terminal
            .on_resize(event_loop, move |_, size| recording.record((size.rows, size.columns)))
            .unwrap();
        set(50, 132);
        // This process is not in the foreground of that terminal, so the kernel does not signal it.
        let this = rustix::process::getpid();
        rustix::process::kill_process(this, rustix::process::Signal::WINCH).unwrap();
        turn_until(event_loop, || sizes.len() > 0);
        assert_eq!(sizes.take(), [(50, 132)]);
    });
}

#[test]
fn keys_arrive_one_by_one_in_raw_mode() {
    with_loop(|event_loop| {
        let (master, slave) = pty();
        let _raw = Terminal::new(&slave).unwrap().raw_mode().unwrap();
        let seen = Seen::default();
        let handler = seen.echo();
        let connection = TcpConnection::adopt(event_loop, slave, |_| handler).unwrap();
        let mut user = File::from(master);
        for (n, key) in [b"a", b"\x03", b"\r"].into_iter().enumerate() {
            user.write_all(key).unwrap();
            turn_until(event_loop, || seen.received() == n + 1);
            let mut echo = [0; 1];
            user.read_exact(&mut echo).unwrap();
            assert_eq!(&echo, key);
        }
        connection.close();
        event_loop.run_until_idle().unwrap();
    });
}

/// As on a serial line: 8-bit data, and no character with a meaning for the terminal.
#[test]
fn all_byte_values_pass_a_raw_terminal_in_both_directions() {
    with_loop(|event_loop| {
        let (master, slave) = pty();
        let _raw = Terminal::new(&slave).unwrap().raw_mode().unwrap();
        let seen = Seen::default();
        let handler = seen.echo();
        let connection = TcpConnection::adopt(event_loop, slave, |_| handler).unwrap();
        let sent: Vec<u8> = (0..=255).cycle().take(64 * KIB).collect();
        let (mut writer, mut reader) = (File::from(master.try_clone().unwrap()), File::from(master));
        let mut returned = vec![0; sent.len()];
        let written = sent.clone();
        let writing = thread::spawn(move || writer.write_all(&written).unwrap());
        let reading = thread::spawn(move || {
            reader.read_exact(&mut returned).unwrap();
            returned
        });
        turn_until(event_loop, || reading.is_finished());
        writing.join().unwrap();
        assert!(seen.input() == sent && reading.join().unwrap() == sent);
        connection.close();
        event_loop.run_until_idle().unwrap();
    });
}

#[test]
fn all_lines_of_a_canonical_terminal_are_delivered() {
    with_loop(|event_loop| {
        let (master, slave) = pty();
        let seen = Seen::default();
        let handler = seen.handler();
        // A read returns one line, and the next one raises no edge.
        let mut user = File::from(master);
        user.write_all(b"one\ntwo\nthree\n").unwrap();
        TcpConnection::adopt(event_loop, slave, |_| handler).unwrap();
        turn_until(event_loop, || seen.received() == 14);
        user.write_all(b"\x04").unwrap();
        turn_until(event_loop, || seen.is_closed());
        assert_eq!(seen.input(), b"one\ntwo\nthree\n");
        assert_eq!(seen.ends(), 1);
    });
}

#[test]
fn a_closed_slave_is_the_end_of_the_masters_input() {
    with_loop(|event_loop| {
        let (master, slave) = pty();
        let seen = Seen::default();
        let handler = seen.handler();
        TcpConnection::adopt(event_loop, master, |_| handler).unwrap();
        let mut program = File::from(slave);
        program.write_all(b"last words").unwrap();
        turn_until(event_loop, || seen.received() == 10);
        drop(program);
        event_loop.run_until_idle().unwrap();
        assert_eq!(seen.ends(), 1);
        assert_eq!(seen.close(), ("both ends have finished".to_owned(), 0));
    });
}

#[test]
fn a_terminal_that_hangs_up_is_the_end_of_input() {
    with_loop(|event_loop| {
        let (master, slave) = pty();
        let seen = Seen::default();
        let handler = seen.handler();
        let output = slave.try_clone().unwrap();
        TcpConnection::adopt_pipes(event_loop, slave, output, |_| handler).unwrap();
        event_loop.run_ready().unwrap();
        drop(master);
        event_loop.run_until_idle().unwrap();
        assert_eq!(seen.ends(), 1);
        assert!(seen.is_closed());
    });
}

#[test]
fn the_mode_of_a_shared_terminal_is_not_changed() {
    with_loop(|event_loop| {
        let (master, slave) = pty();
        // As the standard streams of a shell and its programs.
        let shell = slave.try_clone().unwrap();
        let output = slave.try_clone().unwrap();
        let seen = Seen::default();
        let handler = seen.handler();
        let connection = TcpConnection::adopt_pipes(event_loop, slave, output, |_| handler).unwrap();
        assert!(!is_nonblocking(&shell));
        event_loop.run_ready().unwrap();
        connection.close();
        event_loop.run_until_idle().unwrap();
        assert!(!is_nonblocking(&shell));
        drop(master);
    });
}

#[test]
fn the_mode_of_a_master_is_restored_at_the_close() {
    with_loop(|event_loop| {
        let (master, _slave) = pty();
        let shared = master.try_clone().unwrap();
        let handler = Seen::default().handler();
        let connection = TcpConnection::adopt(event_loop, master, |_| handler).unwrap();
        assert!(is_nonblocking(&shared));
        connection.close();
        event_loop.run_until_idle().unwrap();
        assert!(!is_nonblocking(&shared));
    });
}

#[test]
fn a_blocked_terminal_receives_all_output() {
    with_loop(|event_loop| {
        let (master, slave) = pty();
        let _raw = Terminal::new(&slave).unwrap().raw_mode().unwrap();
        let sent = crate::support::net::pattern(256 * KIB);
        let seen = Seen::default();
        let handler = {
            let sent = sent.clone();
            seen.opening(move |conn| conn.send_owned(sent).unwrap())
        };
        let connection = TcpConnection::adopt(event_loop, slave, |_| handler).unwrap();
        turn_until(event_loop, || connection.unsent() > 0);
        let len = sent.len();
        let reader = thread::spawn(move || {
            let mut received = vec![0; len];
            File::from(master).read_exact(&mut received).unwrap();
            received
        });
        turn_until(event_loop, || connection.unsent() == 0);
        assert!(reader.join().unwrap() == sent);
        event_loop.run_until_idle().unwrap();
    });
}
