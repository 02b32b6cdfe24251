//! Futures, wakers and handles in a forked child. Each test runs in its own process.

use std::future::pending;
use std::task::Poll;

use crate::support::alone::alone;
use crate::support::forked::in_child;
use crate::support::futures::{Gate, poll_once, run};
use crate::support::{Count, turn, wakes};
use reveille::task::{CallError, JoinError, PostError};
use reveille::{EventLoop, LoopThread};

#[test]
fn a_child_can_use_inherited_wakers_and_handles_without_effect() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let (gate, drops) = (Gate::default(), Count::default());
        let (wait, token) = (gate.wait(), drops.drop_token());
        let mut joined = event_loop.spawn_local(async move {
            wait.await;
            token.keep();
        });
        let mut ended = event_loop.spawn_local(async { 5 });
        turn(&event_loop);
        let handle = event_loop.handle();
        let mut inherited = Some(event_loop);
        in_child(|| {
            let written = wakes(&handle);
            gate.waker().wake();
            joined.abort();
            assert!(matches!(poll_once(&mut joined), Poll::Ready(Err(JoinError::LoopEnded))));
            assert!(matches!(poll_once(&mut ended), Poll::Ready(Ok(5))));
            assert_eq!(handle.spawn(async {}).unwrap_err().reason(), PostError::LoopEnded);
            assert_eq!(poll_once(&mut handle.call_async(|_| ())), Poll::Ready(Err(CallError::LoopEnded)));
            let own = EventLoop::new().unwrap();
            assert_eq!(run(&own, async { 7 }), 7);
            let mut refused = inherited.as_ref().unwrap().spawn_local(pending::<()>());
            assert!(matches!(poll_once(&mut refused), Poll::Ready(Err(JoinError::LoopEnded))));
            gate.waker().wake();
            turn(&own);
            drop(inherited.take());
            assert_eq!(drops.get(), 1);
            assert_eq!(run(&own, async { 8 }), 8);
            assert_eq!((gate.polls.get(), wakes(&handle)), (1, written));
        });
        gate.open();
        turn(inherited.as_ref().unwrap());
        assert!(matches!(poll_once(&mut joined), Poll::Ready(Ok(()))));
        assert!(matches!(poll_once(&mut ended), Poll::Ready(Ok(5))));
    });
}

#[test]
fn a_child_does_not_wait_for_the_parents_calls() {
    alone(|| {
        let thread = LoopThread::spawn("parent").unwrap();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let mut waiting = Some(thread.handle().call_async(move |_| _ = held.recv()));
        let mut joined = Some(thread.handle().spawn(pending::<()>()).unwrap());
        assert!(poll_once(waiting.as_mut().unwrap()).is_pending());
        in_child(|| {
            assert_eq!(poll_once(waiting.as_mut().unwrap()), Poll::Ready(Err(CallError::LoopEnded)));
            assert!(matches!(poll_once(joined.as_mut().unwrap()), Poll::Ready(Err(JoinError::LoopEnded))));
            drop((waiting.take(), joined.take()));
        });
        drop(hold);
    });
}

#[test]
fn a_future_that_forks_leaves_the_loop_to_its_parent() {
    alone(|| {
        let mut event_loop = Some(EventLoop::new().unwrap());
        let polls = Count::default();
        let counting = polls.clone();
        let forking = event_loop.as_ref().unwrap();
        forking.spawn_local(async { crate::support::forked::fork_process() });
        forking.spawn_local(async move { counting.add() });
        let result = forking.run_once(std::time::Duration::ZERO);
        crate::support::forked::exit_child_and_wait(|| {
            assert_eq!(result.as_ref().unwrap_err().kind(), std::io::ErrorKind::Unsupported);
            assert_eq!(polls.get(), 0);
            drop(event_loop.take());
        });
        result.unwrap();
        assert_eq!(polls.get(), 1);
    });
}
