//! A bounded mailbox that blocks producers: which posts are accepted and when, and which are
//! refused at the end.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use crate::support::mailbox::{post, with_mailbox};
use crate::support::{
    Count, LIMIT, assert_posts_keep_their_order, on_another_thread, turn, wait_until_asleep, with_watchdog,
};
use reveille::task::{MailboxLimit, PostError};
use reveille::{EventLoop, LoopHandle};
use rustix::thread::Pid;

const GONE: Result<(), PostError> = Err(PostError::LoopEnded);

/// A thread that posts, and a flag that is set once its post has returned.
struct Poster<'scope> {
    id: Pid,
    posted: Arc<AtomicBool>,
    thread: ScopedJoinHandle<'scope, Result<(), PostError>>,
}

impl<'scope> Poster<'scope> {
    /// Starts a thread that posts a task. The task increments `ran`.
    fn start(scope: &'scope Scope<'scope, '_>, handle: &LoopHandle, ran: &Count) -> Poster<'scope> {
        let (id_sender, id_receiver) = mpsc::channel();
        let posted = Arc::new(AtomicBool::new(false));
        let (handle, ran, p) = (handle.clone(), ran.clone(), Arc::clone(&posted));
        let thread = scope.spawn(move || {
            id_sender.send(rustix::thread::gettid()).unwrap();
            let result = handle.queue_in_loop(move |_| ran.add()).map_err(|error| error.reason());
            p.store(true, SeqCst);
            result
        });
        Poster { id: id_receiver.recv().unwrap(), posted, thread }
    }

    /// Waits until the thread sleeps. It can sleep only in its post.
    #[track_caller]
    fn assert_waits(&self) {
        wait_until_asleep(self.id);
        assert!(!self.posted.load(SeqCst));
    }
}

#[test]
fn a_producer_beyond_the_limit_waits_for_the_next_batch() {
    for capacity in [1, 4] {
        with_mailbox(MailboxLimit::Block(capacity), move |event_loop| {
            let (handle, ran) = (event_loop.handle(), Count::default());
            thread::scope(|scope| {
                for round in 1..=20 {
                    on_another_thread(|| (0..capacity).for_each(|_| post(&handle).unwrap()));
                    let poster = Poster::start(scope, &handle, &ran);
                    poster.assert_waits();
                    assert_eq!(handle.counters().tasks_posted as usize, round * capacity + ran.get());
                    turn(event_loop);
                    assert_eq!(poster.thread.join().unwrap(), Ok(()));
                    assert_eq!(ran.get(), round - 1, "it came too late for that batch");
                    turn(event_loop);
                    assert_eq!(ran.get(), round);
                }
            });
            assert_eq!(handle.counters().tasks_refused, 0);
        });
    }
}

#[test]
fn a_producer_that_waited_wakes_the_loop() {
    with_mailbox(MailboxLimit::Block(1), |event_loop| {
        let (handle, ran) = (event_loop.handle(), Count::default());
        thread::scope(|scope| {
            for round in 1..=20 {
                on_another_thread(|| post(&handle).unwrap());
                let poster = Poster::start(scope, &handle, &ran);
                poster.assert_waits();
                turn(event_loop);
                // Whether the post is accepted before this or during it, the loop does not sleep
                // over it.
                while ran.get() < round {
                    event_loop.run_once(None).unwrap();
                }
                assert_eq!(poster.thread.join().unwrap(), Ok(()));
            }
        });
    });
}

#[test]
fn each_batch_admits_waiting_producers_up_to_the_limit() {
    with_mailbox(MailboxLimit::Block(2), |event_loop| {
        let (handle, ran) = (event_loop.handle(), Count::default());
        on_another_thread(|| (0..2).for_each(|_| post(&handle).unwrap()));
        thread::scope(|scope| {
            let posters: Vec<_> = (0..5).map(|_| Poster::start(scope, &handle, &ran)).collect();
            posters.iter().for_each(Poster::assert_waits);
            for (waited_for, ran_by_then) in [(4, 0), (6, 2), (7, 4)] {
                turn(event_loop);
                assert_eq!(ran.get(), ran_by_then);
                while handle.counters().tasks_posted < waited_for {
                    thread::yield_now();
                }
                let waiting: Vec<_> = posters.iter().filter(|poster| !poster.thread.is_finished()).collect();
                assert!(waiting.len() as u64 >= 7 - waited_for);
                assert_eq!(handle.counters().tasks_posted, waited_for, "and the others still wait");
            }
            turn(event_loop);
            assert_eq!(ran.get(), 5);
            assert!(posters.into_iter().all(|poster| poster.thread.join().unwrap().is_ok()));
        });
        assert_eq!(handle.counters().longest_batch, 2);
    });
}

#[test]
fn waiting_producers_are_refused_when_the_loop_is_dropped() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().mailbox(MailboxLimit::Block(2)).build().unwrap();
        let (handle, ran) = (event_loop.handle(), Count::default());
        on_another_thread(|| (0..2).for_each(|_| post(&handle).unwrap()));
        thread::scope(|scope| {
            let posters: Vec<_> = (0..3).map(|_| Poster::start(scope, &handle, &ran)).collect();
            posters.iter().for_each(Poster::assert_waits);
            drop(event_loop);
            for poster in posters {
                assert_eq!(poster.thread.join().unwrap(), GONE);
            }
        });
        assert_eq!(ran.get(), 0);
        let counters = handle.counters();
        assert_eq!((counters.tasks_posted, counters.tasks_dropped, counters.tasks_refused), (2, 2, 3));
    });
}

#[test]
fn a_refused_waiting_producer_gets_its_task_back() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().mailbox(MailboxLimit::Block(1)).build().unwrap();
        let (handle, called) = (event_loop.handle(), Count::default());
        on_another_thread(|| post(&handle).unwrap());
        thread::scope(|scope| {
            let (id_sender, id_receiver) = mpsc::channel();
            let (handle, c) = (handle.clone(), called.clone());
            let producer = scope.spawn(move || {
                id_sender.send(rustix::thread::gettid()).unwrap();
                let refused = handle.queue_in_loop(move |_| c.add()).unwrap_err();
                EventLoop::new().unwrap().run_in_loop(refused.into_inner());
            });
            wait_until_asleep(id_receiver.recv().unwrap());
            drop(event_loop);
            producer.join().unwrap();
        });
        assert_eq!(called.get(), 1);
    });
}

#[test]
fn a_batch_dropped_at_quit_frees_its_capacity() {
    with_watchdog(LIMIT, || {
        let builder = EventLoop::builder().mailbox(MailboxLimit::Block(1)).drop_tasks_on_quit();
        let event_loop = builder.build().unwrap();
        let (handle, ran) = (event_loop.handle(), Count::default());
        on_another_thread(|| post(&handle).unwrap());
        thread::scope(|scope| {
            let poster = Poster::start(scope, &handle, &ran);
            poster.assert_waits();
            event_loop.quit();
            event_loop.run().unwrap();
            assert_eq!(poster.thread.join().unwrap(), Ok(()));
        });
        drop(event_loop);
        assert_eq!(ran.get(), 0);
        assert_eq!(handle.counters().tasks_dropped, 2);
    });
}

#[test]
fn waiting_producers_keep_their_order_and_lose_nothing() {
    // Each batch of eight requires a context switch. A busy machine makes few of them in a minute.
    with_watchdog(LIMIT * 5, || {
        let event_loop =
            &EventLoop::builder().propagate_panics().mailbox(MailboxLimit::Block(8)).build().unwrap();
        let posted = assert_posts_keep_their_order(event_loop, 50_000);
        let counters = event_loop.handle().counters();
        assert_eq!(counters.tasks_run, posted);
        assert_eq!(counters.tasks_refused, 0);
        assert!(counters.longest_batch <= 8, "{counters:?}");
    });
}

#[test]
fn internal_tasks_do_not_use_the_mailboxs_capacity() {
    with_mailbox(MailboxLimit::Block(1), |event_loop| {
        let (handle, ran) = (event_loop.handle(), Count::default());
        // More internal tasks than the capacity for tasks.
        on_another_thread(|| (0..10).for_each(|_| _ = handle.run_after(Duration::MAX, |_| ()).unwrap()));
        assert_eq!(on_another_thread(|| post(&handle)), Ok(()), "and does not wait");
        thread::scope(|scope| {
            let poster = Poster::start(scope, &handle, &ran);
            poster.assert_waits();
            on_another_thread(|| _ = handle.run_after(Duration::MAX, |_| ()).unwrap());
            turn(event_loop);
            assert_eq!(poster.thread.join().unwrap(), Ok(()));
            turn(event_loop);
        });
        assert_eq!(ran.get(), 1);
    });
}
