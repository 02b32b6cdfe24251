//! The streams of child processes.

use std::io::ErrorKind;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Seen;
use crate::support::alone::alone_with_loop;
use crate::support::net::{open_descriptors, pattern, turn_until};
use crate::support::{KIB, MIB, Recorder, with_loop};
use reveille::net::ConnectionLimits;
use reveille::process::Child;
use reveille::signal::Signal;
use reveille::{ConnectionHandle, EventLoop, TcpConnection};

fn piped(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn spawn(event_loop: &EventLoop, command: &mut Command) -> Child {
    Child::spawn(event_loop, command, |_, _| ()).expect("a process")
}

#[test]
fn a_mebibyte_returns_byte_exact_through_cat() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let sent = pattern(MIB);
        let mut cat = spawn(event_loop, &mut piped("cat", &[]));
        let handler = seen.opening({
            let sent = sent.clone();
            move |conn| {
                conn.send_owned(sent).unwrap();
                conn.shutdown();
            }
        });
        cat.connect(event_loop, |_| handler).unwrap();
        event_loop.run_until_idle().unwrap();
        assert!(seen.input() == sent);
        assert_eq!((seen.ends(), seen.close()), (1, ("both ends have finished".to_owned(), 0)));
    });
}

#[test]
fn a_reader_that_pauses_after_each_message_loses_nothing() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let sent = pattern(MIB);
        let mut cat = spawn(event_loop, &mut piped("cat", &[]));
        let output = {
            let sent = sent.clone();
            move |conn: &TcpConnection<'_>| {
                conn.pause_reading();
                conn.send_owned(sent).unwrap();
                conn.shutdown();
            }
        };
        let handler = seen.opening(output);
        let connection: ConnectionHandle = cat.connect(event_loop, |_| handler).unwrap();
        // The pipes hold a part; the rest is queued, since nothing reads cat's output.
        turn_until(event_loop, || seen.opens() == 1);
        while !seen.is_closed() {
            let before = seen.received();
            connection.resume_reading();
            turn_until(event_loop, || seen.received() > before || seen.is_closed());
            connection.pause_reading();
            for _ in 0..3 {
                event_loop.run_once(Duration::ZERO).unwrap();
            }
        }
        assert!(seen.input() == sent);
        assert_eq!(seen.close().1, 0);
    });
}

#[test]
fn each_stream_of_a_child_can_be_a_connection() {
    with_loop(|event_loop| {
        let mut command = piped("sh", &["-c", "read line; echo out $line; echo err $line >&2"]);
        let mut child = spawn(event_loop, command.stderr(Stdio::piped()));
        let (input, output, errors) = (Seen::default(), Seen::default(), Seen::default());
        let handler = input.opening(|conn| {
            conn.send("hello\n").unwrap();
            conn.shutdown();
        });
        TcpConnection::adopt(event_loop, child.take_stdin().unwrap(), |_| handler).unwrap();
        let handler = output.handler();
        TcpConnection::adopt(event_loop, child.take_stdout().unwrap(), |_| handler).unwrap();
        let handler = errors.handler();
        TcpConnection::adopt(event_loop, child.take_stderr().unwrap(), |_| handler).unwrap();
        event_loop.run_until_idle().unwrap();
        assert_eq!(output.input(), b"out hello\n");
        assert_eq!(errors.input(), b"err hello\n");
        assert_eq!((input.ends(), output.ends(), errors.ends()), (0, 1, 1));
        for seen in [input, output, errors] {
            assert_eq!(seen.close(), ("both ends have finished".to_owned(), 0));
        }
    });
}

#[test]
fn a_child_with_one_pipe_is_connected_in_that_direction() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let mut command = Command::new("echo");
        let mut echo = spawn(event_loop, command.arg("hello").stdout(Stdio::piped()));
        let handler = seen.opening(|conn| {
            assert_eq!(conn.send("x").unwrap_err(), reveille::net::SendError::ShutDown);
        });
        echo.connect(event_loop, |_| handler).unwrap();
        let error = echo.connect(event_loop, |_| Seen::default().handler()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        event_loop.run_until_idle().unwrap();
        assert_eq!(seen.input(), b"hello\n");
        assert_eq!(seen.close().0, "both ends have finished");
    });
}

#[test]
fn a_child_killed_during_a_transfer_closes_with_its_unsent_bytes() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let statuses = Recorder::new();
        let recording = statuses.clone();
        let mut child = Child::spawn(event_loop, &mut piped("sleep", &["1000"]), move |_, status| {
            recording.record(status.unwrap().code());
        })
        .unwrap();
        let handler = seen.opening(|conn| conn.send_owned(vec![7; 4 * MIB]).unwrap());
        let connection = child.connect(event_loop, |_| handler).unwrap();
        turn_until(event_loop, || connection.unsent() > 0);
        child.kill(Signal::KILL).unwrap();
        event_loop.run_until_idle().unwrap();
        assert_eq!(statuses.take(), [None]);
        let (reason, unsent) = seen.close();
        assert!(reason.contains("Broken pipe"), "{reason}");
        // What sleep has not read is in the pipe, whose size the kernel chooses.
        assert!(unsent > 0 && unsent < 4 * MIB, "{unsent}");
    });
}

#[test]
fn output_of_a_child_is_delivered_though_it_does_not_read() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let mut child = spawn(event_loop, &mut piped("sh", &["-c", "exec <&-; echo first; echo last"]));
        // It is refused if the child has already closed its input.
        let handler = seen.opening(|conn| _ = conn.send_owned(vec![7; 4 * MIB]));
        child.connect(event_loop, |_| handler).unwrap();
        event_loop.run_until_idle().unwrap();
        assert_eq!(seen.input(), b"first\nlast\n");
        assert_eq!(seen.ends(), 1);
        assert!(seen.close().0.contains("Broken pipe"));
    });
}

#[test]
fn a_child_that_has_read_everything_is_a_normal_end() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let mut child = spawn(event_loop, &mut piped("sh", &["-c", "read line; echo $line"]));
        let handler = seen.opening(|conn| conn.send("hello\n").unwrap());
        child.connect(event_loop, |_| handler).unwrap();
        event_loop.run_until_idle().unwrap();
        assert_eq!(seen.input(), b"hello\n");
        assert_eq!(seen.close(), ("both ends have finished".to_owned(), 0));
    });
}

#[test]
fn a_slow_child_bounds_the_queue_and_pauses_reading() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let mut yes = spawn(event_loop, Command::new("yes").stdout(Stdio::piped()));
        let mut sleep = spawn(event_loop, Command::new("sleep").arg("1000").stdin(Stdio::piped()));
        let limits = ConnectionLimits::new().water_marks(64 * KIB, 16 * KIB);
        let (input, output) = (yes.take_stdout().unwrap(), sleep.take_stdin().unwrap());
        let handler = seen.echo();
        let builder = TcpConnection::builder(event_loop).limits(limits);
        let connection = builder.adopt_pipes(input, output, |_| handler).unwrap();
        // The pipe of sleep fills up, then the queue, then the connection stops reading.
        turn_until(event_loop, || connection.unsent() > 64 * KIB);
        let received = seen.received();
        event_loop.run_ready().unwrap();
        assert_eq!(seen.received(), received);
        yes.kill(Signal::KILL).unwrap();
        sleep.kill(Signal::KILL).unwrap();
        event_loop.run_until_idle().unwrap();
        assert!(seen.is_closed());
    });
}

#[test]
fn connections_of_children_leave_no_descriptor() {
    alone_with_loop(|event_loop| {
        let before = open_descriptors();
        for _ in 0..5 {
            let mut cat = spawn(event_loop, &mut piped("cat", &[]));
            let handler = Seen::default().opening(|conn| conn.shutdown());
            cat.connect(event_loop, |_| handler).unwrap();
            event_loop.run_until_idle().unwrap();
        }
        assert_eq!(open_descriptors(), before);
    });
}
