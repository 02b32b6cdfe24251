//! Threads that run one loop each: their names, how they end, and what they run before that.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::support::{Count, LIMIT, OnDrop, panic_of, wait_until_asleep, with_watchdog};
use reveille::{EventLoop, LoopHandle, LoopPool, LoopThread};

/// Runs `task` on the loop's thread and returns its result.
fn run_on_loop<R: Send + 'static>(
    handle: &LoopHandle,
    task: impl FnOnce(&EventLoop) -> R + Send + 'static,
) -> R {
    let (sender, receiver) = mpsc::channel();
    handle.queue_in_loop(move |event_loop| sender.send(task(event_loop)).unwrap()).unwrap();
    receiver.recv().unwrap()
}

fn name_of_thread(handle: &LoopHandle) -> String {
    run_on_loop(handle, |_| thread::current().name().expect("a name").to_owned())
}

#[test]
fn a_thread_has_its_name_and_runs_its_loop() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("a name longer than the kernel keeps").unwrap();
        assert_eq!(name_of_thread(thread.handle()), "a name longer than the kernel keeps");
        let handle = thread.handle().clone();
        assert!(!handle.is_in_loop_thread());
        assert!(run_on_loop(thread.handle(), move |_| handle.is_in_loop_thread()));
        assert_ne!(run_on_loop(thread.handle(), |_| thread::current().id()), thread::current().id());
    });
}

#[test]
fn a_name_with_a_zero_byte_is_refused() {
    assert_eq!(LoopThread::spawn("zero\0byte").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(LoopPool::new(2, "zero\0byte").unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_pool_without_threads_is_refused() {
    assert_eq!(LoopPool::new(0, "worker").unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn the_loop_exists_when_spawn_returns() {
    with_watchdog(LIMIT, || {
        for _ in 0..50 {
            let thread = LoopThread::spawn("loop").unwrap();
            let ran = Count::default();
            let r = ran.clone();
            thread.handle().queue_in_loop(move |_| r.add()).unwrap();
            thread.join().unwrap();
            assert_eq!(ran.get(), 1, "posted before the thread may have reached `run`");
        }
    });
}

#[test]
fn dropping_a_thread_runs_earlier_posts_and_ends_its_loop() {
    with_watchdog(LIMIT, || {
        for _ in 0..50 {
            let (thread, ran, drops) =
                (LoopThread::spawn("loop").unwrap(), Count::default(), Count::default());
            for _ in 0..100 {
                let (ran, token) = (ran.clone(), drops.drop_token());
                let task = move |_: &EventLoop| {
                    token.keep();
                    ran.add();
                };
                thread.handle().queue_in_loop(task).unwrap();
            }
            let token = drops.drop_token();
            thread.handle().run_after(Duration::MAX, move |_| token.keep()).unwrap();
            let handle = thread.handle().clone();
            drop(thread);
            assert_eq!((ran.get(), drops.get()), (100, 101));
            assert_eq!(handle.counters().tasks_dropped, 0);
            assert!(handle.queue_in_loop(|_| ()).is_err(), "the loop was dropped with its thread");
        }
    });
}

#[test]
fn a_sleeping_thread_ends_when_it_is_joined() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("loop").unwrap();
        wait_until_asleep(run_on_loop(thread.handle(), |_| rustix::thread::gettid()));
        thread.join().unwrap();
    });
}

#[test]
fn join_returns_the_result_of_run_after_a_quit() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("loop").unwrap();
        thread.join().unwrap();

        let thread = LoopThread::spawn("loop").unwrap();
        thread.handle().quit();
        while thread.handle().queue_in_loop(|_| ()).is_ok() {
            thread::yield_now();
        }
        thread.join().unwrap();
    });
}

#[test]
fn only_join_may_propagate_a_panic_of_the_threads_end() {
    with_watchdog(LIMIT, || {
        // The loop catches panics in callbacks. This panic is in the destructor of a callback that
        // the loop still owns. The loop may catch it as well. If it does not, the panic ends the
        // thread.
        let doomed = || {
            let thread = LoopThread::spawn("doomed").unwrap();
            let panics = OnDrop::new(|| panic!("a destructor panics"));
            thread.handle().run_after(Duration::MAX, move |_| panics.keep()).unwrap();
            thread
        };
        match catch_unwind(AssertUnwindSafe(|| doomed().join())) {
            Ok(result) => result.unwrap(),
            Err(payload) => assert_eq!(payload.downcast_ref(), Some(&"a destructor panics")),
        }
        drop(doomed());
    });
}

#[test]
fn a_panic_in_a_task_does_not_end_the_thread() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("loop").unwrap();
        thread.handle().queue_in_loop(|_| panic!("a task panics")).unwrap();
        assert_eq!(run_on_loop(thread.handle(), |event_loop| event_loop.handle().counters().panics), 1);
        thread.join().unwrap();
    });
}

#[test]
fn a_task_may_drop_or_join_its_own_thread() {
    with_watchdog(LIMIT, || {
        type End = fn(LoopThread);
        let ends: [End; 2] = [drop, |thread| thread.join().unwrap()];
        for end in ends {
            let thread = LoopThread::spawn("loop").unwrap();
            let handle = thread.handle().clone();
            let (dropped, is_dropped) = mpsc::channel();
            let signals_when_dropped = OnDrop::new(move || dropped.send(()).unwrap());
            handle.run_after(Duration::MAX, move |_| signals_when_dropped.keep()).unwrap();
            let ran = Count::default();
            let r = ran.clone();
            handle
                .queue_in_loop(move |event_loop| {
                    event_loop.queue_in_loop(move |_| r.add());
                    end(thread);
                })
                .unwrap();
            is_dropped.recv().unwrap();
            assert_eq!(ran.get(), 1, "what was queued before runs first");
            assert_eq!(handle.counters().panics, 0);
        }
    });
}

#[test]
fn a_task_may_drop_the_thread_of_another_loop() {
    with_watchdog(LIMIT, || {
        let (first, second) = (LoopThread::spawn("first").unwrap(), LoopThread::spawn("second").unwrap());
        let (handle, ran) = (first.handle().clone(), Count::default());
        let r = ran.clone();
        handle.queue_in_loop(move |_| r.add()).unwrap();
        second.handle().queue_in_loop(move |_| drop(first)).unwrap();
        second.join().unwrap();
        assert_eq!(ran.get(), 1);
        assert!(handle.queue_in_loop(|_| ()).is_err());
    });
}

#[test]
fn a_pool_numbers_its_threads_and_returns_them_round_robin() {
    with_watchdog(LIMIT, || {
        let pool = LoopPool::new(3, "worker").unwrap();
        let names: Vec<_> = pool.handles().map(name_of_thread).collect();
        assert_eq!(names, ["worker-0", "worker-1", "worker-2"]);
        assert_eq!(pool.handles().len(), 3);
        let dealt: Vec<_> = (0..7).map(|_| name_of_thread(pool.next())).collect();
        assert_eq!(
            dealt,
            ["worker-0", "worker-1", "worker-2", "worker-0", "worker-1", "worker-2", "worker-0"]
        );
    });
}

#[test]
fn a_pool_distributes_evenly_to_concurrent_callers() {
    with_watchdog(LIMIT, || {
        let pool = LoopPool::new(3, "worker").unwrap();
        let counts: Arc<Mutex<Vec<_>>> = Arc::default();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let counts = Arc::clone(&counts);
                        let task = move |_: &EventLoop| counts.lock().unwrap().push(thread::current().id());
                        pool.next().queue_in_loop(task).unwrap();
                    }
                });
            }
        });
        drop(pool);
        let counts = counts.lock().unwrap();
        let threads: HashSet<_> = counts.iter().collect();
        assert_eq!(threads.len(), 3);
        for thread in threads {
            assert_eq!(counts.iter().filter(|&id| id == thread).count(), 400);
        }
    });
}

#[test]
fn the_loops_of_a_pool_run_in_parallel() {
    with_watchdog(LIMIT, || {
        let pool = LoopPool::new(4, "worker").unwrap();
        // All loops are inside a task at the same time; otherwise none passes the barrier.
        let met = Arc::new(Barrier::new(5));
        for handle in pool.handles() {
            let met = Arc::clone(&met);
            handle.queue_in_loop(move |_| _ = met.wait()).unwrap();
        }
        met.wait();
    });
}

#[test]
fn the_loops_of_a_pool_end_in_parallel() {
    with_watchdog(LIMIT, || {
        // The last task of one loop ends only after the other loop has ended. This must work for
        // either loop.
        for (waits, ends) in [(0, 1), (1, 0)] {
            let pool = LoopPool::new(2, "worker").unwrap();
            let handles: Vec<_> = pool.handles().cloned().collect();
            let (dropped, is_dropped) = mpsc::channel();
            let signals_when_dropped = OnDrop::new(move || dropped.send(()).unwrap());
            handles[ends].run_after(Duration::MAX, move |_| signals_when_dropped.keep()).unwrap();
            handles[waits].queue_in_loop(move |_| is_dropped.recv().unwrap()).unwrap();
            drop(pool);
        }
    });
}

#[test]
fn dropping_a_pool_runs_earlier_posts() {
    with_watchdog(LIMIT, || {
        let (pool, ran) = (LoopPool::new(2, "worker").unwrap(), Count::default());
        for _ in 0..1_000 {
            let ran = ran.clone();
            pool.next().queue_in_loop(move |_| ran.add()).unwrap();
        }
        let handles: Vec<_> = pool.handles().cloned().collect();
        drop(pool);
        assert_eq!(ran.get(), 1_000);
        assert!(handles.iter().all(|handle| handle.queue_in_loop(|_| ()).is_err()));
    });
}

#[test]
fn a_pool_can_be_dropped_at_once() {
    with_watchdog(LIMIT, || {
        for _ in 0..200 {
            drop(LoopPool::new(2, "worker").unwrap());
        }
    });
}

#[test]
fn a_task_may_drop_the_pool_of_its_loop() {
    with_watchdog(LIMIT, || {
        for number in 0..2 {
            let pool = LoopPool::new(2, "worker").unwrap();
            let handles: Vec<_> = pool.handles().cloned().collect();
            let (dropped, is_dropped) = mpsc::channel();
            for handle in &handles {
                let dropped = dropped.clone();
                let signals_when_dropped = OnDrop::new(move || dropped.send(()).unwrap());
                handle.run_after(Duration::MAX, move |_| signals_when_dropped.keep()).unwrap();
            }
            handles[number].queue_in_loop(move |_| drop(pool)).unwrap();
            is_dropped.recv().unwrap();
            is_dropped.recv().unwrap();
            assert!(handles.iter().all(|handle| handle.counters().panics == 0));
        }
    });
}

#[test]
fn a_thread_never_has_two_loops() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("loop").unwrap();
        assert!(run_on_loop(thread.handle(), |_| EventLoop::new().is_err()));
        let here = EventLoop::new().unwrap();
        assert!(here.handle().is_in_loop_thread());
        let message = panic_of(|| here.run_in_loop(|_| panic!("on this thread")));
        assert_eq!(message, "on this thread");
    });
}
