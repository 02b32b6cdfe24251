//! The outcome of each task, compared with the loop's counters: tasks of every size, from every
//! source, among panics, at quit and when the loop is dropped.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::tasks::{NO_TASKS, Tasks, tasks};
use crate::support::{
    Count, LIMIT, OnDrop, on_another_thread, panic_of, turn, with_catching_loop, with_loop, with_watchdog,
};
use reveille::task::MailboxLimit;
use reveille::{EventLoop, EventLoopBuilder, LoopHandle};

/// The numbers of tasks of one test, by outcome.
struct Outcomes {
    made: AtomicUsize,
    run: AtomicUsize,
    dropped: AtomicUsize,
}

const TESTS: usize = 8;

/// Indexed by the number of the test. The number is part of the type of the captured value, so that
/// a value of size zero can be counted too.
static OUTCOMES: [Outcomes; TESTS] = [const {
    Outcomes { made: AtomicUsize::new(0), run: AtomicUsize::new(0), dropped: AtomicUsize::new(0) }
}; TESTS];

/// A value that a task captures, of any size including zero.
struct Captured<const TEST: usize, const WORDS: usize>([usize; WORDS]);

impl<const TEST: usize, const WORDS: usize> Captured<TEST, WORDS> {
    fn new() -> Self {
        OUTCOMES[TEST].made.fetch_add(1, SeqCst);
        Captured([usize::MAX - WORDS; WORDS])
    }

    fn record_run(&self) {
        self.assert_intact();
        OUTCOMES[TEST].run.fetch_add(1, SeqCst);
    }

    fn assert_intact(&self) {
        assert!(self.0.iter().all(|&word| word == usize::MAX - WORDS), "a captured value was altered");
    }
}

impl<const TEST: usize, const WORDS: usize> Drop for Captured<TEST, WORDS> {
    fn drop(&mut self) {
        OUTCOMES[TEST].dropped.fetch_add(1, SeqCst);
        self.assert_intact();
    }
}

fn task<const TEST: usize, const WORDS: usize>() -> impl FnOnce(&EventLoop) + Send + 'static {
    let captured = Captured::<TEST, WORDS>::new();
    let task = move |_: &EventLoop| captured.record_run();
    assert_eq!(size_of_val(&task), WORDS * size_of::<usize>());
    task
}

const SIZES: usize = 5;

/// Posts a task of each size. Returns the number of accepted tasks. Refused tasks are dropped here.
fn post<const TEST: usize>(handle: &LoopHandle) -> usize {
    [
        handle.queue_in_loop(task::<TEST, 0>()).is_ok(),
        handle.queue_in_loop(task::<TEST, 1>()).is_ok(),
        handle.queue_in_loop(task::<TEST, 4>()).is_ok(),
        handle.queue_in_loop(task::<TEST, 5>()).is_ok(),
        handle.queue_in_loop(task::<TEST, 100>()).is_ok(),
    ]
    .into_iter()
    .filter(|accepted| *accepted)
    .count()
}

/// Same as [`post`], on the loop itself.
fn queue<const TEST: usize>(event_loop: &EventLoop) {
    event_loop.queue_in_loop(task::<TEST, 0>());
    event_loop.queue_in_loop(task::<TEST, 1>());
    event_loop.queue_in_loop(task::<TEST, 4>());
    event_loop.queue_in_loop(task::<TEST, 5>());
    event_loop.queue_in_loop(task::<TEST, 100>());
}

/// Posts tasks of each size from another thread, from this thread, and on the loop itself.
fn post_everywhere<const TEST: usize>(event_loop: &EventLoop) -> usize {
    let handle = event_loop.handle();
    let accepted = on_another_thread(|| post::<TEST>(&handle)) + post::<TEST>(&handle);
    queue::<TEST>(event_loop);
    accepted + SIZES
}

/// The numbers of tasks made, run and dropped since the test began.
fn outcomes<const TEST: usize>() -> (usize, usize, usize) {
    let Outcomes { made, run, dropped } = &OUTCOMES[TEST];
    (made.load(SeqCst), run.load(SeqCst), dropped.load(SeqCst))
}

fn dropping(builder: EventLoopBuilder) -> EventLoop {
    builder.drop_tasks_on_quit().build().unwrap()
}

#[test]
fn a_task_of_any_size_is_run_once_and_dropped_once() {
    with_loop(|event_loop| {
        for round in 1..=3 {
            assert_eq!(post_everywhere::<0>(event_loop), 15);
            assert_eq!(outcomes::<0>(), (15 * round, 15 * (round - 1), 15 * (round - 1)));
            turn(event_loop);
            assert_eq!(outcomes::<0>(), (15 * round, 15 * round, 15 * round));
        }
        assert_eq!(
            tasks(&event_loop.handle()),
            Tasks { posted: 45, run: 45, batches: 3, longest: 15, ..NO_TASKS }
        );
    });
}

/// Posts a small and a large task that panic in the middle of each queue's part of a batch.
fn post_panics_among_others<const TEST: usize>(event_loop: &EventLoop) {
    let handle = event_loop.handle();
    post_everywhere::<TEST>(event_loop);
    let (small, large) = (Captured::<TEST, 2>::new(), Captured::<TEST, 50>::new());
    on_another_thread(|| {
        let panics = move |_: &EventLoop| {
            small.record_run();
            panic!("small");
        };
        handle.queue_in_loop(panics).unwrap();
    });
    event_loop.queue_in_loop(move |_| {
        large.record_run();
        panic!("large");
    });
    post_everywhere::<TEST>(event_loop);
}

#[test]
fn a_caught_panic_does_not_affect_other_tasks() {
    with_catching_loop(|event_loop| {
        post_panics_among_others::<1>(event_loop);
        turn(event_loop);
        assert_eq!(outcomes::<1>(), (32, 32, 32));
        let handle = event_loop.handle();
        assert_eq!(tasks(&handle), Tasks { posted: 32, run: 32, batches: 1, longest: 32, ..NO_TASKS });
        assert_eq!(handle.counters().panics, 2);
        turn(event_loop);
        assert_eq!(outcomes::<1>(), (32, 32, 32));
    });
}

#[test]
fn a_propagated_panic_does_not_affect_other_tasks() {
    with_loop(|event_loop| {
        post_panics_among_others::<2>(event_loop);
        assert_eq!(panic_of(|| turn(event_loop)), "small");
        assert_eq!(outcomes::<2>(), (32, 32, 32));
        let handle = event_loop.handle();
        assert_eq!(tasks(&handle), Tasks { posted: 32, run: 32, batches: 1, longest: 32, ..NO_TASKS });
        assert_eq!(handle.counters().panics, 2);
        turn(event_loop);
        assert_eq!(outcomes::<2>(), (32, 32, 32));
    });
}

#[test]
fn pending_tasks_of_any_size_are_dropped_once_and_counted() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        post_everywhere::<3>(&event_loop);
        turn(&event_loop);
        post_everywhere::<3>(&event_loop);
        drop(event_loop);
        assert_eq!(outcomes::<3>(), (30, 15, 30));
        let mut expected = Tasks { posted: 30, run: 15, dropped: 15, batches: 1, longest: 15, ..NO_TASKS };
        assert_eq!(tasks(&handle), expected);
        assert_eq!(post::<3>(&handle), 0);
        assert_eq!(outcomes::<3>(), (35, 15, 35), "a refused task was not returned intact");
        expected.refused = 5;
        assert_eq!(tasks(&handle), expected);
    });
}

#[test]
fn drop_tasks_on_quit_drops_pending_tasks_once_and_counts_them() {
    with_watchdog(LIMIT, || {
        let event_loop = dropping(EventLoop::builder());
        let handle = event_loop.handle();
        assert_eq!(post_everywhere::<4>(&event_loop), 15);
        turn(&event_loop);
        assert_eq!(outcomes::<4>(), (15, 15, 15), "tasks did not run without a request to quit");
        post_everywhere::<4>(&event_loop);
        event_loop.quit();
        post_everywhere::<4>(&event_loop);
        event_loop.run().unwrap();
        assert_eq!(outcomes::<4>(), (45, 15, 45));
        let expected = Tasks { posted: 45, run: 15, dropped: 30, batches: 2, longest: 30, ..NO_TASKS };
        assert_eq!(tasks(&handle), expected);
        // The request has been honoured; tasks are no longer dropped.
        post_everywhere::<4>(&event_loop);
        turn(&event_loop);
        assert_eq!(outcomes::<4>(), (60, 30, 60));
        drop(event_loop);
        assert_eq!(outcomes::<4>(), (60, 30, 60));
    });
}

#[test]
fn drop_tasks_on_quit_runs_the_batch_and_drops_later_tasks() {
    with_watchdog(LIMIT, || {
        let event_loop = dropping(EventLoop::builder().propagate_panics());
        let (ran, late) = (Count::default(), Count::default());
        let (r, l) = (ran.clone(), late.clone());
        event_loop.queue_in_loop(move |event_loop| {
            event_loop.quit();
            event_loop.queue_in_loop(move |_| l.add());
        });
        event_loop.queue_in_loop(move |_| r.add());
        event_loop.run().unwrap();
        assert_eq!((ran.get(), late.get()), (1, 0));
        let expected = Tasks { posted: 3, run: 2, dropped: 1, batches: 2, longest: 2, ..NO_TASKS };
        assert_eq!(tasks(&event_loop.handle()), expected);
    });
}

#[test]
fn internal_tasks_run_at_quit_even_if_tasks_are_dropped() {
    with_watchdog(LIMIT, || {
        let event_loop = dropping(EventLoop::builder().propagate_panics());
        let (handle, fired) = (event_loop.handle(), Count::default());
        let timers = || {
            let (once, every) = (fired.clone(), fired.clone());
            handle.run_at(Instant::now(), move |_| once.add()).unwrap();
            handle.run_every(Duration::from_nanos(1), move |_| every.add()).unwrap();
        };
        timers();
        on_another_thread(timers);
        let local = event_loop.run_after(Duration::MAX, |_| ());
        assert!(on_another_thread(|| handle.cancel(local)));
        event_loop.queue_in_loop(|_| panic!("dropped"));
        event_loop.quit();
        event_loop.run().unwrap();
        assert!(!event_loop.cancel(local), "cancelled by the internal task");
        assert_eq!(fired.get(), 0, "armed only in the last phases of that turn");
        turn(&event_loop);
        assert_eq!(fired.get(), 4);
        assert_eq!(tasks(&handle), Tasks { posted: 1, dropped: 1, batches: 1, longest: 1, ..NO_TASKS });
    });
}

#[test]
fn a_panicking_destructor_does_not_affect_drops_at_quit() {
    with_watchdog(LIMIT, || {
        let event_loop = dropping(EventLoop::builder());
        let (handle, drops) = (event_loop.handle(), Count::default());
        for round in 0..6 {
            let token = drops.drop_token();
            let panics = (round % 3 == 1).then(|| OnDrop::new(|| panic!("on purpose")));
            let task = move |_: &EventLoop| {
                token.keep();
                drop(panics);
            };
            if round < 3 {
                event_loop.queue_in_loop(task);
            } else {
                on_another_thread(|| handle.queue_in_loop(task).unwrap());
            }
        }
        event_loop.quit();
        event_loop.run().unwrap();
        assert_eq!((drops.get(), handle.counters().panics), (6, 2));
        assert_eq!(tasks(&handle), Tasks { posted: 6, dropped: 6, batches: 1, longest: 6, ..NO_TASKS });
    });
}

/// Several threads post while the loop runs. The first of them requests the loop to quit, and the
/// loop is then dropped.
#[track_caller]
fn race<const TEST: usize>(builders: impl Fn(usize) -> EventLoopBuilder) {
    const ROUNDS: usize = 60;
    const PRODUCERS: usize = 3;
    for round in 0..ROUNDS {
        let before = outcomes::<TEST>();
        let event_loop = builders(round).build().unwrap();
        let handle = event_loop.handle();
        let start = Barrier::new(PRODUCERS + 1);
        let accepted: usize = thread::scope(|scope| {
            let producers: Vec<_> = (0..PRODUCERS)
                .map(|number| {
                    let (start, handle) = (&start, &handle);
                    scope.spawn(move || {
                        start.wait();
                        let mut accepted = 0;
                        if number == 0 {
                            (0..round % 7).for_each(|_| accepted += post::<TEST>(handle));
                            handle.quit();
                        }
                        // Posts until the loop has been dropped. A full mailbox does not end this.
                        while handle.run_after(Duration::MAX, |_| ()).is_ok() {
                            accepted += post::<TEST>(handle);
                            thread::yield_now();
                        }
                        accepted += post::<TEST>(handle);
                        accepted
                    })
                })
                .collect();
            start.wait();
            event_loop.run().unwrap();
            drop(event_loop);
            producers.into_iter().map(|producer| producer.join().unwrap()).sum()
        });
        let after = outcomes::<TEST>();
        let (made, run, dropped) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
        assert_eq!(dropped, made, "round {round}: each is dropped once");
        let counted = handle.counters();
        assert_eq!(counted.tasks_posted, accepted as u64, "round {round}");
        assert_eq!(counted.tasks_run, run as u64, "round {round}");
        assert_eq!(counted.tasks_posted, counted.tasks_run + counted.tasks_dropped, "round {round}");
        // Plus the last timer of each thread.
        let given_back = made - accepted + PRODUCERS;
        assert_eq!(counted.tasks_refused, given_back as u64, "round {round}");
    }
}

fn mailbox_of(round: usize) -> MailboxLimit {
    [MailboxLimit::Unbounded, MailboxLimit::Refuse(3), MailboxLimit::Block(2)][round % 3]
}

#[test]
fn posts_that_race_with_quit_are_accounted_for() {
    with_watchdog(LIMIT, || race::<5>(|round| EventLoop::builder().mailbox(mailbox_of(round))));
}

#[test]
fn posts_that_race_with_a_dropping_quit_are_accounted_for() {
    with_watchdog(LIMIT, || {
        race::<6>(|round| EventLoop::builder().mailbox(mailbox_of(round)).drop_tasks_on_quit());
    });
}

#[test]
fn posts_that_race_with_a_drop_are_accounted_for() {
    with_watchdog(LIMIT, || {
        for round in 0..90 {
            let before = outcomes::<7>();
            let event_loop = EventLoop::builder().mailbox(mailbox_of(round)).build().unwrap();
            let (handle, start) = (event_loop.handle(), Barrier::new(4));
            let accepted: usize = thread::scope(|scope| {
                let producers: Vec<_> = (0..3)
                    .map(|_| {
                        scope.spawn(|| {
                            start.wait();
                            (0..round % 40).map(|_| post::<7>(&handle)).sum::<usize>()
                        })
                    })
                    .collect();
                start.wait();
                drop(event_loop);
                producers.into_iter().map(|producer| producer.join().unwrap()).sum()
            });
            let after = outcomes::<7>();
            let made = after.0 - before.0;
            assert_eq!((after.1, after.2 - before.2), (0, made), "round {round}");
            let (accepted, refused) = (accepted as u64, (made - accepted) as u64);
            let expected = Tasks { posted: accepted, dropped: accepted, refused, ..NO_TASKS };
            assert_eq!(tasks(&handle), expected, "round {round}");
        }
    });
}
