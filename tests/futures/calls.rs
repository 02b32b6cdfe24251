//! Calls whose results are awaited, by any executor.

use std::sync::mpsc;
use std::thread;

use crate::support::calls::with_loop_thread;
use crate::support::futures::{CountingWaker, block_on, poll_once, run};
use crate::support::{Count, LIMIT, on_another_thread, turn, with_catching_loop, with_watchdog};
use reveille::task::{CallError, MailboxLimit};
use reveille::{EventLoop, LoopThread};

#[test]
fn a_call_is_awaited_by_a_thread_and_by_another_loop() {
    with_loop_thread(|handle| {
        let called = handle.clone();
        assert_eq!(block_on(handle.call_async(|_| 5)), Ok(5));
        let other = EventLoop::new().unwrap();
        let home = thread::current().id();
        let id = run(&other, async move { called.call_async(|_| thread::current().id()).await });
        assert_ne!(id.unwrap(), home);
    });
}

#[test]
fn a_call_is_awaited_by_tokio() {
    with_loop_thread(|handle| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = handle.clone();
        let sum = runtime.block_on(async move {
            let mut sum = 0;
            for number in 0..100 {
                sum += handle.call_async(move |_| number).await.unwrap();
                let joined = handle.spawn(async move { number }).unwrap();
                sum += tokio::spawn(joined).await.unwrap().unwrap();
            }
            sum
        });
        assert_eq!(sum, 9900);
    });
}

#[test]
fn awaited_calls_and_posts_of_a_thread_keep_their_order() {
    with_loop_thread(|handle| {
        let (sender, receiver) = mpsc::channel();
        let calls = (0..10).map(|number| {
            let (called, posted) = (sender.clone(), sender.clone());
            let call = handle.call_async(move |_| called.send(2 * number).unwrap());
            handle.queue_in_loop(move |_| posted.send(2 * number + 1).unwrap()).unwrap();
            call
        });
        let calls: Vec<_> = calls.collect();
        calls.into_iter().for_each(|call| block_on(call).unwrap());
        assert_eq!(Vec::from_iter(receiver.into_iter().take(20)), Vec::from_iter(0..20));
    });
}

#[test]
fn dropping_the_future_cancels_only_the_wait() {
    with_catching_loop(|event_loop| {
        let (ran, drops) = (Count::default(), Count::default());
        let (counting, token, handle) = (ran.clone(), drops.drop_token(), event_loop.handle());
        on_another_thread(move || {
            let mut call = handle.call_async(move |_| {
                counting.add();
                token
            });
            assert!(poll_once(&mut call).is_pending());
        });
        turn(event_loop);
        assert_eq!((ran.get(), drops.get()), (1, 1));
    });
}

#[test]
fn a_call_on_its_own_loop_runs_at_once() {
    with_catching_loop(|event_loop| {
        let ran = Count::default();
        let counting = ran.clone();
        let call = event_loop.handle().call_async(move |_| counting.add());
        assert_eq!(ran.get(), 1);
        assert_eq!(block_on(call), Ok(()));
        let panicked = event_loop.handle().call_async(|_| panic!("expected"));
        assert_eq!(block_on(panicked), Err::<(), _>(CallError::Panicked));
    });
}

#[test]
fn a_call_without_a_result_says_why() {
    with_watchdog(LIMIT, || {
        for limit in [MailboxLimit::Refuse(1), MailboxLimit::Block(1)] {
            let event_loop = EventLoop::builder().mailbox(limit).build().unwrap();
            let (handle, wakes) = (event_loop.handle(), Count::default());
            let (mut first, second) =
                on_another_thread(|| (handle.call_async(|_| 1), handle.call_async(|_| 2)));
            assert_eq!(block_on(second), Err(CallError::Full));
            let waker = CountingWaker::waker(&wakes);
            let mut context = std::task::Context::from_waker(&waker);
            assert!(std::pin::Pin::new(&mut first).poll(&mut context).is_pending());
            drop(event_loop);
            assert_eq!(wakes.get(), 1);
            assert_eq!(block_on(first), Err(CallError::LoopEnded));
            assert_eq!(block_on(handle.call_async(|_| 3)), Err(CallError::LoopEnded));
        }
        let thread = LoopThread::spawn("panics").unwrap();
        let panicked = block_on(thread.handle().call_async(|_| -> u8 { panic!("expected") }));
        assert_eq!(panicked, Err(CallError::Panicked));
        assert_eq!(block_on(thread.handle().call_async(|_| 4)), Ok(4));
    });
}
