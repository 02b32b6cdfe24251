//! Regular files and devices that epoll rejects.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;

use super::{Seen, pipe};
use crate::support::folder::Folder;
use crate::support::net::{pattern, turn_until};
use crate::support::{MIB, with_loop};
use reveille::TcpConnection;

#[test]
fn a_regular_file_is_read_to_its_end() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let content = pattern(MIB);
        fs::write(folder.join("file"), &content).unwrap();
        let seen = Seen::default();
        let handler = seen.handler();
        TcpConnection::adopt(event_loop, File::open(folder.join("file")).unwrap(), |_| handler).unwrap();
        event_loop.run_until_idle().unwrap();
        assert!(seen.input() == content);
        assert_eq!((seen.ends(), seen.close().0.as_str()), (1, "both ends have finished"));
    });
}

#[test]
fn a_file_is_read_in_turns_with_other_sources() {
    with_loop(|event_loop| {
        let zero = File::open("/dev/zero").unwrap();
        let seen = Seen::default();
        let handler = seen.handler();
        let endless = TcpConnection::adopt(event_loop, zero, |_| handler).unwrap();
        let (input, to_input) = pipe();
        let other = Seen::default();
        let handler = other.handler();
        TcpConnection::adopt(event_loop, input, |_| handler).unwrap();
        drop(to_input);
        turn_until(event_loop, || other.is_closed() && seen.received() > 0);
        // A paused input costs no turns.
        endless.pause_reading();
        event_loop.run_ready().unwrap();
        let received = seen.received();
        event_loop.run_ready().unwrap();
        assert_eq!(seen.received(), received);
        endless.close();
        event_loop.run_until_idle().unwrap();
    });
}

#[test]
fn dev_null_is_an_empty_input_and_takes_all_output() {
    with_loop(|event_loop| {
        let input = File::open("/dev/null").unwrap();
        let output = OpenOptions::new().write(true).open("/dev/null").unwrap();
        let seen = Seen::default();
        let handler = seen.opening(|conn| conn.send_owned(vec![0; 4 * MIB]).unwrap());
        TcpConnection::adopt_pipes(event_loop, input, output, |_| handler).unwrap();
        event_loop.run_until_idle().unwrap();
        assert_eq!((seen.ends(), seen.close()), (1, ("both ends have finished".to_owned(), 0)));
    });
}

#[test]
fn output_to_a_file_is_written_in_order() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let content = pattern(MIB);
        fs::write(folder.join("source"), &content).unwrap();
        let source = File::open(folder.join("source")).unwrap();
        // An appending file takes no sendfile(2).
        let output = OpenOptions::new().append(true).create(true).open(folder.join("copy")).unwrap();
        let seen = Seen::default();
        let handler = seen.opening(|conn| {
            conn.send("before").unwrap();
            conn.send_file(source, 0, MIB as u64).unwrap();
            conn.send_vectored(&[std::io::IoSlice::new(b"af"), std::io::IoSlice::new(b"ter")]).unwrap();
            conn.notify_drained();
            conn.shutdown();
        });
        TcpConnection::adopt(event_loop, output, |_| handler).unwrap();
        event_loop.run_until_idle().unwrap();
        assert!(fs::read(folder.join("copy")).unwrap() == [b"before", &content[..], b"after"].concat());
        assert_eq!(seen.close(), ("both ends have finished".to_owned(), 0));
    });
}

#[test]
fn a_full_device_closes_with_its_error_and_counts_the_bytes() {
    with_loop(|event_loop| {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let seen = Seen::default();
        let handler = seen.opening(|conn| conn.send("lost").unwrap());
        TcpConnection::adopt(event_loop, OwnedFd::from(full), |_| handler).unwrap();
        event_loop.run_until_idle().unwrap();
        let (reason, unsent) = seen.close();
        assert!(reason.contains("No space left"), "{reason}");
        assert_eq!(unsent, 4);
    });
}
