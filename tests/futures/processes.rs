//! Exits of processes and signals as futures.

use std::io::ErrorKind;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::task::Context;

use crate::support::alone::alone;
use crate::support::futures::{CountingWaker, block_on, run};
use crate::support::{Count, LIMIT, turn, with_loop, with_watchdog};
use reveille::EventLoop;
use reveille::process::Child;
use reveille::signal::{Signal, SignalStream};
use rustix::process::kill_process;
use rustix::thread::gettid;

/// Sends the signal to this thread, so it has been handled when this returns.
fn raise(signal: Signal) {
    kill_process(gettid(), rustix::process::Signal::from_named_raw(signal.as_raw()).unwrap()).unwrap();
}

/// A process that runs until its standard input ends.
fn waiting() -> Command {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped());
    command
}

#[test]
fn an_exit_status_is_returned_by_each_wait() {
    with_loop(|event_loop| {
        run(event_loop, async {
            let mut child = Child::spawn_async(Command::new("sh").args(["-c", "exit 3"])).unwrap();
            assert_eq!(child.wait().await.unwrap().code(), Some(3));
            assert_eq!(child.wait().await.unwrap().code(), Some(3));
            assert!(!child.is_running());
        });
    });
}

#[test]
fn a_dropped_wait_loses_no_exit_status() {
    with_loop(|event_loop| {
        let mut child = Child::spawn_async(&mut waiting()).unwrap();
        let wakes = Count::default();
        {
            let mut wait = pin!(child.wait());
            let waker = CountingWaker::waker(&wakes);
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            // The exit wakes the future, which is not polled again.
        }
        drop(child.take_stdin());
        event_loop.run_until_idle().unwrap();
        assert!(run(event_loop, async move { child.wait().await }).unwrap().success());
    });
}

#[test]
fn a_child_with_a_callback_cannot_be_awaited() {
    with_loop(|event_loop| {
        let mut child = Child::spawn(event_loop, &mut Command::new("true"), |_, _| ()).unwrap();
        assert_eq!(block_on(child.wait()).unwrap_err().kind(), ErrorKind::InvalidInput);
        event_loop.run_until_idle().unwrap();
    });
}

#[test]
fn the_end_of_the_loop_ends_a_wait_for_a_process() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let mut child = Child::spawn_async(&mut waiting()).unwrap();
        let wakes = Count::default();
        let waker = CountingWaker::waker(&wakes);
        {
            let mut wait = pin!(child.wait());
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            drop(event_loop);
            assert_eq!(wakes.get(), 1);
            assert!(block_on(wait).is_err());
        }
        assert_eq!(block_on(child.wait()).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn signals_between_two_waits_are_kept_each_once() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let mut signals = SignalStream::new([Signal::HUP, Signal::TERM]).unwrap();
        raise(Signal::TERM);
        turn(&event_loop);
        raise(Signal::HUP);
        raise(Signal::TERM);
        turn(&event_loop);
        run(&event_loop, async move {
            assert_eq!(signals.recv().await.unwrap(), Signal::TERM);
            assert_eq!(signals.recv().await.unwrap(), Signal::HUP);
            raise(Signal::HUP);
            assert_eq!(signals.recv().await.unwrap(), Signal::HUP);
        });
    });
}

#[test]
fn a_dropped_wait_loses_no_signal() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let mut signals = SignalStream::new([Signal::TERM]).unwrap();
        let wakes = Count::default();
        let waker = CountingWaker::waker(&wakes);
        {
            let mut wait = pin!(signals.recv());
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            raise(Signal::TERM);
            (0..3).for_each(|_| turn(&event_loop));
            assert_eq!(wakes.get(), 1);
        }
        assert_eq!(run(&event_loop, async move { signals.recv().await }).unwrap(), Signal::TERM);
    });
}

#[test]
fn the_end_of_the_loop_ends_a_wait_for_a_signal() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let mut signals = SignalStream::new([Signal::TERM]).unwrap();
        let wakes = Count::default();
        let waker = CountingWaker::waker(&wakes);
        let mut wait = pin!(signals.recv());
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(event_loop);
        assert_eq!(wakes.get(), 1);
        assert_eq!(block_on(wait).unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}
