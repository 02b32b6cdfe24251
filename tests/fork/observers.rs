//! Hooks, metrics and watchdogs in forked children. Each test runs in its own process.

use std::io::ErrorKind;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::alone::alone;
use crate::support::forked::{exit_child_and_wait, fork_process, in_child};
use crate::support::{Count, turn};
use reveille::EventLoop;
use reveille::observe::Watchdog;

const LIMIT: Duration = Duration::from_millis(20);

#[test]
fn a_child_drops_its_loop_without_the_hook_at_the_end() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let ended = Count::default();
        let counting = ended.clone();
        event_loop.at_end(move |_| counting.add()).unwrap().detach();
        let (seen, mut event_loop) = (ended.clone(), Some(event_loop));
        in_child(|| {
            let error = event_loop.as_ref().unwrap().before_wait(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            drop(event_loop.take());
            assert_eq!(seen.get(), 0);
        });
        drop(event_loop);
        assert_eq!(ended.get(), 1);
    });
}

#[test]
fn hooks_may_fork() {
    alone(|| {
        for kind in 0..2 {
            let event_loop = EventLoop::new().unwrap();
            let (mut hook, later) = (Some(fork_process), Count::default());
            let counting = later.clone();
            let fork = move |_: &EventLoop| {
                if let Some(fork) = hook.take() {
                    fork();
                }
            };
            let forking = if kind == 0 { event_loop.before_wait(fork) } else { event_loop.after_wait(fork) };
            let counting = event_loop.before_wait(move |_| counting.add());
            event_loop.quit();
            let result = event_loop.run();
            let (succeeded, calls) = (result.as_ref().is_ok(), later.get());
            let mut owned = Some((event_loop, forking, counting));
            exit_child_and_wait(|| {
                assert_eq!(result.as_ref().unwrap_err().kind(), ErrorKind::Unsupported);
                assert_eq!(later.get(), kind, "the child does not continue the turn");
                drop(owned.take());
            });
            // The parent continues, up to the last call before `run` returns.
            assert!(succeeded && calls > kind, "{calls} calls");
        }
        // At the end of a loop.
        let event_loop = EventLoop::new().unwrap();
        let later = Count::default();
        let counting = later.clone();
        event_loop.at_end(|_| fork_process()).unwrap().detach();
        event_loop.at_end(move |_| counting.add()).unwrap().detach();
        drop(event_loop);
        let calls = later.get();
        exit_child_and_wait(|| {
            assert_eq!(later.get(), 0);
            turn(&EventLoop::new().unwrap());
        });
        assert_eq!(calls, 1);
    });
}

#[test]
fn a_callback_of_a_watched_loop_may_fork() {
    alone(|| {
        let (reports, reported) = mpsc::channel();
        let watchdog = Watchdog::with_report(LIMIT, move |blocked| reports.send(blocked.is_over()).unwrap());
        let mut watchdog = Some(watchdog.unwrap());
        let event_loop = EventLoop::builder().metrics().build().unwrap();
        let handle = event_loop.handle();
        watchdog.as_ref().unwrap().watch(&handle);
        event_loop.queue_in_loop(|event_loop| {
            fork_process();
            event_loop.quit();
        });
        let result = event_loop.run();
        let succeeded = result.is_ok();
        let mut event_loop = Some(event_loop);
        exit_child_and_wait(|| {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Unsupported);
            handle.enable_metrics();
            assert!(handle.metrics().is_some());
            watchdog.as_ref().unwrap().watch(&handle);
            drop((watchdog.take(), event_loop.take()));
            // The child has a watchdog of its own.
            let own = EventLoop::new().unwrap();
            let (reports, reported) = mpsc::channel();
            let watchdog = Watchdog::with_report(LIMIT, move |_| reports.send(()).unwrap()).unwrap();
            watchdog.watch(&own.handle());
            own.queue_in_loop(move |_| reported.recv().unwrap());
            turn(&own);
        });
        // That of the parent still reports.
        assert!(succeeded);
        let event_loop = event_loop.unwrap();
        event_loop.queue_in_loop(move |_| _ = reported.iter().find(|is_over| !is_over));
        turn(&event_loop);
        drop(event_loop);
        drop(watchdog);
    });
}
