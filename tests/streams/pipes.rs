//! Pipes and FIFOs.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;

use super::{Seen, pipe};
use crate::support::folder::Folder;
use crate::support::net::{pattern, turn_until, until};
use crate::support::{MIB, with_loop};
use reveille::net::Address;
use reveille::{ConnectionHandle, EventLoop, TcpConnection};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, mknodat};

/// Two pipes, connected as the input and the output of `handler`. Returns the other ends.
fn connected(event_loop: &EventLoop, seen: &Seen) -> (ConnectionHandle, File, File) {
    let ((input, to_input), (from_output, output)) = (pipe(), pipe());
    let handler = seen.handler();
    let connection = TcpConnection::adopt_pipes(event_loop, input, output, |_| handler).unwrap();
    (connection, File::from(to_input), File::from(from_output))
}

fn is_nonblocking(fd: impl AsFd) -> bool {
    fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
}

#[test]
fn a_shutdown_closes_the_output_and_input_continues() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let (connection, mut to_input, mut from_output) = connected(event_loop, &seen);
        connection.send("last words").unwrap();
        connection.shutdown();
        event_loop.run_ready().unwrap();
        let mut output = String::new();
        from_output.read_to_string(&mut output).unwrap();
        assert_eq!(output, "last words");
        to_input.write_all(b"still heard").unwrap();
        turn_until(event_loop, || seen.received() == 11);
        drop(to_input);
        event_loop.run_until_idle().unwrap();
        assert_eq!(seen.close(), ("both ends have finished".to_owned(), 0));
    });
}

#[test]
fn a_closed_connection_closes_both_pipes() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let (connection, mut to_input, mut from_output) = connected(event_loop, &seen);
        event_loop.run_ready().unwrap();
        connection.close();
        event_loop.run_until_idle().unwrap();
        assert_eq!(from_output.read(&mut [0; 1]).unwrap(), 0);
        // A process that another test is starting has a copy of the read end for a moment.
        until(|| to_input.write(b"x").is_err_and(|error| error.kind() == ErrorKind::BrokenPipe));
    });
}

#[test]
fn an_output_without_a_reader_closes_with_broken_pipe() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let (reader, output) = pipe();
        let handler = seen.handler();
        TcpConnection::adopt(event_loop, output, |_| handler).unwrap();
        event_loop.run_ready().unwrap();
        assert!(!seen.is_closed());
        drop(reader);
        event_loop.run_until_idle().unwrap();
        let (reason, unsent) = seen.close();
        assert!(reason.contains("Broken pipe") && unsent == 0, "{reason}");
        assert_eq!(seen.ends(), 0);
    });
}

#[test]
fn a_blocked_output_continues_when_it_is_read() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let sent = pattern(MIB);
        let (connection, to_input, mut from_output) = connected(event_loop, &seen);
        connection.send(sent.clone()).unwrap();
        connection.shutdown();
        turn_until(event_loop, || connection.unsent() > 0);
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            from_output.read_to_end(&mut received).unwrap();
            received
        });
        turn_until(event_loop, || connection.unsent() == 0);
        drop(to_input);
        event_loop.run_until_idle().unwrap();
        assert!(reader.join().unwrap() == sent);
    });
}

#[test]
fn a_file_is_sent_to_a_pipe_between_other_output() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let content = pattern(MIB);
        std::fs::write(folder.join("file"), &content).unwrap();
        let file = File::open(folder.join("file")).unwrap();
        let seen = Seen::default();
        let (from_output, output) = pipe();
        let handler = seen.opening(|conn| {
            conn.send("before").unwrap();
            conn.send_file(file, 0, MIB as u64).unwrap();
            conn.send("after").unwrap();
            conn.shutdown();
        });
        TcpConnection::adopt(event_loop, output, |_| handler).unwrap();
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            File::from(from_output).read_to_end(&mut received).unwrap();
            received
        });
        event_loop.run_until_idle().unwrap();
        assert!(reader.join().unwrap() == [b"before", &content[..], b"after"].concat());
        assert_eq!(seen.close(), ("both ends have finished".to_owned(), 0));
    });
}

#[test]
fn a_fifo_delivers_several_writers_until_the_last_closes() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let path = folder.join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        // A FIFO without a writer blocks the open, or has not ended.
        let input =
            OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&path).unwrap();
        let seen = Seen::default();
        let handler = seen.handler();
        TcpConnection::adopt(event_loop, input, |_| handler).unwrap();
        event_loop.run_ready().unwrap();
        assert_eq!((seen.opens(), seen.ends()), (1, 0));
        let open = || OpenOptions::new().write(true).open(&path).unwrap();
        let (mut one, mut other) = (open(), open());
        one.write_all(b"one,").unwrap();
        drop(one);
        turn_until(event_loop, || seen.received() == 4);
        other.write_all(b"other").unwrap();
        drop(other);
        event_loop.run_until_idle().unwrap();
        assert_eq!(seen.input(), b"one,other");
        assert_eq!(seen.ends(), 1);
    });
}

#[test]
fn a_fifo_opened_for_both_directions_has_no_end() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let path = folder.join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let open = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let seen = Seen::default();
        let handler = seen.handler();
        let connection = TcpConnection::adopt(event_loop, open(), |_| handler).unwrap();
        for _ in 0..2 {
            let before = seen.received();
            OpenOptions::new().write(true).open(&path).unwrap().write_all(b"x").unwrap();
            turn_until(event_loop, || seen.received() > before);
        }
        assert_eq!(seen.ends(), 0);
        connection.close();
        event_loop.run_until_idle().unwrap();
    });
}

#[test]
fn the_mode_of_a_shared_pipe_is_not_changed() {
    with_loop(|event_loop| {
        let (input, to_input) = pipe();
        let shared = input.try_clone().unwrap();
        let seen = Seen::default();
        let handler = seen.handler();
        TcpConnection::adopt(event_loop, input, |_| handler).unwrap();
        assert!(!is_nonblocking(&shared));
        File::from(to_input).write_all(b"hello").unwrap();
        event_loop.run_until_idle().unwrap();
        assert_eq!((seen.input(), seen.ends()), (b"hello".to_vec(), 1));
    });
}

#[test]
fn a_mode_that_had_to_be_changed_is_restored_at_the_close() {
    with_loop(|event_loop| {
        // A pipe whose writers are gone cannot be opened again without losing its end.
        let (input, to_input) = pipe();
        let shared = input.try_clone().unwrap();
        drop(to_input);
        let seen = Seen::default();
        let handler = seen.handler();
        TcpConnection::adopt(event_loop, input, |_| handler).unwrap();
        assert!(is_nonblocking(&shared));
        event_loop.run_until_idle().unwrap();
        assert_eq!(seen.ends(), 1);
        assert!(!is_nonblocking(&shared));
    });
}

#[test]
fn methods_of_sockets_are_unsupported_on_pipes() {
    with_loop(|event_loop| {
        let (input, to_input) = pipe();
        let seen = Seen::default();
        let handler = seen.opening(|conn| {
            let kinds = [
                conn.local_address().unwrap_err().kind(),
                conn.local_addr().unwrap_err().kind(),
                conn.peer_addr().unwrap_err().kind(),
                conn.peer_credentials().unwrap_err().kind(),
                conn.set_nodelay(true).unwrap_err().kind(),
                conn.set_quickack(true).unwrap_err().kind(),
                conn.set_keep_alive(None).unwrap_err().kind(),
                conn.set_user_timeout(std::time::Duration::ZERO).unwrap_err().kind(),
                conn.tcp_info().unwrap_err().kind(),
                conn.unacknowledged().unwrap_err().kind(),
                conn.accept_descriptors(1).unwrap_err().kind(),
            ];
            assert_eq!(kinds, [std::io::ErrorKind::Unsupported; 11]);
            assert_eq!(*conn.peer_address(), Address::Unaddressed);
            assert_eq!(conn.undelivered().unwrap(), 0);
            assert!(format!("{conn:?}").contains("Unaddressed"));
        });
        TcpConnection::adopt(event_loop, input, |_| handler).unwrap();
        drop(to_input);
        event_loop.run_until_idle().unwrap();
        assert_eq!(seen.close().0, "both ends have finished");
    });
}

#[test]
fn a_relay_between_pipes_and_a_pair_forwards_both_directions() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let (piped, mut to_input, mut from_output) = connected(event_loop, &Seen::default());
        let handler = seen.echo();
        let target = Rc::new(piped);
        let linking = {
            let target = Rc::clone(&target);
            Seen::default().opening(move |conn| conn.relay_to(&target).unwrap())
        };
        event_loop.run_ready().unwrap();
        TcpConnection::pair(event_loop, |_| linking, |_| handler).unwrap();
        to_input.write_all(b"ping").unwrap();
        turn_until(event_loop, || seen.received() == 4);
        event_loop.run_ready().unwrap();
        let mut back = [0; 4];
        from_output.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"ping");
        drop(to_input);
        event_loop.run_until_idle().unwrap();
        assert_eq!(from_output.read(&mut back).unwrap(), 0);
        assert_eq!((seen.ends(), seen.close().0.as_str()), (1, "both ends have finished"));
    });
}
