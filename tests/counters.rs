//! What a loop counts, held against what became of each task.

mod support;

use std::cell::RefCell;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use reveille::{
    Builder, Channel, ConnectionHandle, Counters, EventLoop, Interest, LoopHandle, LoopThread, Mailbox,
    TcpServer,
};
use support::{
    Count, LIMIT, OnDrop, net, on_another_thread, panic_of, turn, with_catching_loop, with_loop,
    with_watchdog,
};

/// Every figure about tasks; all are there, so that a test of one also says that the others stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tasks {
    posted: u64,
    run: u64,
    dropped: u64,
    refused: u64,
    batches: u64,
    longest: u64,
}

fn tasks(handle: &LoopHandle) -> Tasks {
    let counters = handle.counters();
    Tasks {
        posted: counters.tasks_posted,
        run: counters.tasks_run,
        dropped: counters.tasks_dropped,
        refused: counters.tasks_refused,
        batches: counters.batches,
        longest: counters.longest_batch,
    }
}

const NO_TASKS: Tasks = Tasks { posted: 0, run: 0, dropped: 0, refused: 0, batches: 0, longest: 0 };

// --- Each figure ----------------------------------------------------------------------------------

#[test]
fn a_new_loop_and_its_idle_turns_count_nothing() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        assert_eq!(handle.counters(), Counters::default());
        (0..10).for_each(|_| turn(event_loop));
        assert_eq!(handle.counters(), Counters::default());
    });
}

#[test]
fn a_task_counts_as_posted_at_once_and_as_run_when_it_has_run() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        event_loop.queue_in_loop(|_| ());
        assert_eq!(tasks(&handle), Tasks { posted: 1, ..NO_TASKS });
        handle.queue_in_loop(|_| ()).unwrap();
        assert_eq!(tasks(&handle), Tasks { posted: 2, ..NO_TASKS });
        on_another_thread(|| handle.queue_in_loop(|_| ()).unwrap());
        assert_eq!(tasks(&handle), Tasks { posted: 3, ..NO_TASKS });
        on_another_thread(|| handle.run_in_loop(|_| ()).unwrap());
        assert_eq!(tasks(&handle), Tasks { posted: 4, ..NO_TASKS });
        turn(event_loop);
        assert_eq!(tasks(&handle), Tasks { posted: 4, run: 4, batches: 1, longest: 4, ..NO_TASKS });
        // What runs at once is never posted.
        event_loop.run_in_loop(|_| ());
        handle.run_in_loop(|_| ()).unwrap();
        assert_eq!(tasks(&handle).posted, 4);
    });
}

#[test]
fn the_longest_batch_is_as_long_as_what_was_queued_before_the_turn() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let mut sum = 0;
        for (batch, longest) in [(1, 1), (5, 5), (3, 5), (1_000, 1_000), (999, 1_000)] {
            for number in 0..batch {
                match number % 2 {
                    0 => event_loop.queue_in_loop(|_| ()),
                    _ => on_another_thread(|| handle.queue_in_loop(|_| ()).unwrap()),
                }
            }
            let batches = tasks(&handle).batches;
            turn(event_loop);
            turn(event_loop);
            sum += batch;
            let expected = Tasks { posted: sum, run: sum, batches: batches + 1, longest, ..NO_TASKS };
            assert_eq!(tasks(&handle), expected);
        }
    });
}

#[test]
fn what_a_task_queues_is_of_the_next_batch() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        event_loop.queue_in_loop(|event_loop| {
            (0..3).for_each(|_| event_loop.queue_in_loop(|_| ()));
        });
        turn(event_loop);
        assert_eq!(tasks(&handle), Tasks { posted: 4, run: 1, batches: 1, longest: 1, ..NO_TASKS });
        turn(event_loop);
        assert_eq!(tasks(&handle), Tasks { posted: 4, run: 4, batches: 2, longest: 3, ..NO_TASKS });
    });
}

#[test]
fn a_panic_is_counted_once_wherever_it_happens() {
    with_catching_loop(|event_loop| {
        let handle = event_loop.handle();
        let panics = || handle.counters().panics;
        event_loop.queue_in_loop(|_| panic!("on purpose"));
        turn(event_loop);
        assert_eq!(panics(), 1, "a task");
        on_another_thread(|| handle.queue_in_loop(|_| panic!("on purpose")).unwrap());
        turn(event_loop);
        assert_eq!(panics(), 2, "a task of another thread");
        event_loop.run_at(Instant::now(), |_| panic!("on purpose"));
        turn(event_loop);
        assert_eq!(panics(), 3, "a timer");
        on_another_thread(|| _ = handle.run_at(Instant::now(), |_| panic!("on purpose")).unwrap());
        turn(event_loop);
        turn(event_loop);
        assert_eq!(panics(), 4, "a timer of a handle");
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let channel = Channel::new(event_loop, ours, Interest::WRITABLE, |_| panic!("on purpose")).unwrap();
        turn(event_loop);
        turn(event_loop);
        assert_eq!(panics(), 5, "a channel, which is closed");
        drop(channel);
        let panics_when_dropped = OnDrop::new(|| panic!("on purpose"));
        event_loop.queue_in_loop(move |_| panics_when_dropped.keep());
        turn(event_loop);
        assert_eq!(panics(), 6, "a destructor");
        assert_eq!(tasks(&handle), Tasks { posted: 3, run: 3, batches: 3, longest: 1, ..NO_TASKS });
    });
}

#[test]
fn the_crates_own_errands_are_counted_nowhere() {
    thread_local!(static OPENED: RefCell<Option<ConnectionHandle>> = const { RefCell::new(None) });
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let timers = || {
            handle.run_after(Duration::ZERO, |_| ()).unwrap();
            let id = handle.run_every(Duration::MAX, |_| ()).unwrap();
            assert_eq!(tasks(&handle), NO_TASKS);
            assert!(handle.cancel(id));
        };
        timers();
        on_another_thread(timers);
        let local = event_loop.run_after(Duration::MAX, |_| ());
        assert!(on_another_thread(|| handle.cancel(local)));
        turn(event_loop);
        turn(event_loop);

        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let server = server.on_message(|conn, input| {
            OPENED.set(Some(conn.handle()));
            conn.send(input.take_all())
        });
        let server = server.unwrap();
        let mut client = net::connect(server.local_addr());
        client.write_all(b"hello").unwrap();
        let connection = loop {
            event_loop.run_once(None).unwrap();
            if let Some(connection) = OPENED.take() {
                break connection;
            }
        };
        on_another_thread(|| {
            connection.send(", and more").unwrap();
            connection.shutdown();
        });
        turn(event_loop);
        assert_eq!(net::read_to_end(&mut client), b"hello, and more");
        server.stop(Duration::ZERO, |event_loop, _| event_loop.quit());
        event_loop.run().unwrap();
        handle.quit();
        event_loop.run().unwrap();
        assert_eq!(tasks(&handle), NO_TASKS);
        assert_eq!(handle.counters().panics, 0);
    });
}

#[test]
fn timers_that_a_loop_has_not_seen_are_not_counted_when_it_is_dropped() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, drops) = (event_loop.handle(), Count::default());
        let (here, there) = (drops.drop_token(), drops.drop_token());
        handle.run_after(Duration::MAX, move |_| here.keep()).unwrap();
        on_another_thread(|| _ = handle.run_every(Duration::MAX, move |_| there.keep()).unwrap());
        drop(event_loop);
        assert_eq!(drops.get(), 2);
        assert_eq!(tasks(&handle), NO_TASKS);
    });
}

#[test]
fn every_task_that_is_given_back_is_counted_as_refused_and_as_nothing_else() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().mailbox(Mailbox::Refuse(2)).build().unwrap();
        let handle = event_loop.handle();
        let post = || handle.queue_in_loop(|_| ()).is_ok();
        let accepted = on_another_thread(|| (0..5).filter(|_| post()).count());
        assert_eq!((accepted, tasks(&handle)), (2, Tasks { posted: 2, refused: 3, ..NO_TASKS }));
        let accepted = (0..5).filter(|_| post()).count();
        assert_eq!((accepted, tasks(&handle)), (2, Tasks { posted: 4, refused: 6, ..NO_TASKS }));
        drop(event_loop);
        assert_eq!(tasks(&handle), Tasks { posted: 4, dropped: 4, refused: 6, ..NO_TASKS });
        assert!(!post());
        assert!(!on_another_thread(post));
        assert_eq!(tasks(&handle), Tasks { posted: 4, dropped: 4, refused: 8, ..NO_TASKS });
    });
}

#[test]
fn the_counters_are_there_when_the_loop_has_gone_and_on_any_thread() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("loop").unwrap();
        let handle = thread.handle().clone();
        for _ in 0..10 {
            handle.call(|_| ()).unwrap();
        }
        let other = handle.clone();
        thread.join().unwrap();
        let seen = on_another_thread(|| handle.counters());
        assert_eq!(seen, other.counters());
        assert_eq!((seen.tasks_posted, seen.tasks_run, seen.batches, seen.longest_batch), (10, 10, 10, 1));
    });
}

#[test]
fn each_loop_counts_for_itself() {
    with_loop(|event_loop| {
        let other = LoopThread::spawn("other").unwrap();
        other.handle().call(|_| ()).unwrap();
        assert_eq!(event_loop.handle().counters(), Counters::default());
        event_loop.queue_in_loop(|_| ());
        assert_eq!(other.handle().counters().tasks_posted, 1);
    });
}

#[test]
fn what_is_read_while_the_loop_works_is_never_more_than_there_was_and_never_goes_back() {
    const POSTS: u64 = 200_000;
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let about_to_post = AtomicU64::new(0);
        let end = AtomicBool::new(false);
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut before = handle.counters();
                while !end.load(SeqCst) {
                    let now = handle.counters();
                    let at_most = about_to_post.load(SeqCst);
                    assert!(now.tasks_posted <= at_most, "{now:?}, when {at_most} had been posted");
                    assert!(
                        now.tasks_run <= at_most && now.longest_batch <= at_most && now.batches <= at_most
                    );
                    assert!(now.tasks_posted >= before.tasks_posted, "{now:?} after {before:?}");
                    assert!(now.tasks_run >= before.tasks_run, "{now:?} after {before:?}");
                    assert!(now.wakes >= before.wakes && now.batches >= before.batches);
                    before = now;
                }
            });
            scope.spawn(|| {
                // Also if an assertion fails, or that would be a hang.
                let quits = handle.clone();
                let _quit = OnDrop::new(move || quits.quit());
                for _ in 0..POSTS {
                    about_to_post.fetch_add(1, SeqCst);
                    handle.queue_in_loop(|_| ()).unwrap();
                }
            });
            event_loop.run().unwrap();
            end.store(true, SeqCst);
            watcher.join().unwrap();
        });
        assert_eq!((tasks(&handle).posted, tasks(&handle).run), (POSTS, POSTS));
    });
}

#[test]
fn a_task_that_has_not_begun_is_not_counted_as_run() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let in_first = Arc::new(AtomicU64::new(u64::MAX));
        let (h, seen) = (handle.clone(), Arc::clone(&in_first));
        event_loop.queue_in_loop(move |_| seen.store(h.counters().tasks_run, SeqCst));
        (0..9).for_each(|_| event_loop.queue_in_loop(|_| ()));
        turn(event_loop);
        let counted = in_first.load(SeqCst);
        assert!(counted <= 1, "{counted} in the first task of ten");
        assert_eq!(tasks(&handle).run, 10);
    });
}

// --- Fates ----------------------------------------------------------------------------------------

/// What became of the witnesses of one test.
struct Fates {
    made: AtomicUsize,
    run: AtomicUsize,
    dropped: AtomicUsize,
}

const TESTS: usize = 8;

/// By the number that a test gives its witnesses: it is a part of their type, so that one without a size can be counted too.
static FATES: [Fates; TESTS] =
    [const { Fates { made: AtomicUsize::new(0), run: AtomicUsize::new(0), dropped: AtomicUsize::new(0) } };
        TESTS];

/// Of any size, also none.
struct Witness<const TEST: usize, const WORDS: usize>([usize; WORDS]);

impl<const TEST: usize, const WORDS: usize> Witness<TEST, WORDS> {
    fn new() -> Self {
        FATES[TEST].made.fetch_add(1, SeqCst);
        Witness([usize::MAX - WORDS; WORDS])
    }

    fn see_run(&self) {
        self.assert_intact();
        FATES[TEST].run.fetch_add(1, SeqCst);
    }

    fn assert_intact(&self) {
        assert!(self.0.iter().all(|&word| word == usize::MAX - WORDS), "the captures came through");
    }
}

impl<const TEST: usize, const WORDS: usize> Drop for Witness<TEST, WORDS> {
    fn drop(&mut self) {
        FATES[TEST].dropped.fetch_add(1, SeqCst);
        self.assert_intact();
    }
}

fn task<const TEST: usize, const WORDS: usize>() -> impl FnOnce(&EventLoop) + Send + 'static {
    let witness = Witness::<TEST, WORDS>::new();
    let task = move |_: &EventLoop| witness.see_run();
    assert_eq!(size_of_val(&task), WORDS * size_of::<usize>());
    task
}

const SIZES: usize = 5;

/// Posts a task of each size. Answers how many are accepted; the others are dropped here.
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

/// As [`post`], on the loop itself.
fn queue<const TEST: usize>(event_loop: &EventLoop) {
    event_loop.queue_in_loop(task::<TEST, 0>());
    event_loop.queue_in_loop(task::<TEST, 1>());
    event_loop.queue_in_loop(task::<TEST, 4>());
    event_loop.queue_in_loop(task::<TEST, 5>());
    event_loop.queue_in_loop(task::<TEST, 100>());
}

/// Tasks of each size from another thread, from this one and on the loop itself.
fn post_everywhere<const TEST: usize>(event_loop: &EventLoop) -> usize {
    let handle = event_loop.handle();
    let accepted = on_another_thread(|| post::<TEST>(&handle)) + post::<TEST>(&handle);
    queue::<TEST>(event_loop);
    accepted + SIZES
}

/// So many were made, run and dropped, since the test began.
fn fates<const TEST: usize>() -> (usize, usize, usize) {
    let Fates { made, run, dropped } = &FATES[TEST];
    (made.load(SeqCst), run.load(SeqCst), dropped.load(SeqCst))
}

fn dropping(builder: Builder) -> EventLoop {
    builder.drop_tasks_on_quit(true).build().unwrap()
}

#[test]
fn a_task_of_any_size_is_run_once_and_dropped_once() {
    with_loop(|event_loop| {
        for round in 1..=3 {
            assert_eq!(post_everywhere::<0>(event_loop), 15);
            assert_eq!(fates::<0>(), (15 * round, 15 * (round - 1), 15 * (round - 1)));
            turn(event_loop);
            assert_eq!(fates::<0>(), (15 * round, 15 * round, 15 * round));
        }
        assert_eq!(
            tasks(&event_loop.handle()),
            Tasks { posted: 45, run: 45, batches: 3, longest: 15, ..NO_TASKS }
        );
    });
}

/// A panic in the middle of each queue's part of a batch, of a small and of a large task.
fn post_panics_among_others<const TEST: usize>(event_loop: &EventLoop) {
    let handle = event_loop.handle();
    post_everywhere::<TEST>(event_loop);
    let (small, large) = (Witness::<TEST, 2>::new(), Witness::<TEST, 50>::new());
    on_another_thread(|| {
        let panics = move |_: &EventLoop| {
            small.see_run();
            panic!("small");
        };
        handle.queue_in_loop(panics).unwrap();
    });
    event_loop.queue_in_loop(move |_| {
        large.see_run();
        panic!("large");
    });
    post_everywhere::<TEST>(event_loop);
}

#[test]
fn a_panic_midway_through_a_batch_costs_no_other_task_its_run_or_its_drop() {
    with_catching_loop(|event_loop| {
        post_panics_among_others::<1>(event_loop);
        turn(event_loop);
        assert_eq!(fates::<1>(), (32, 32, 32));
        let handle = event_loop.handle();
        assert_eq!(tasks(&handle), Tasks { posted: 32, run: 32, batches: 1, longest: 32, ..NO_TASKS });
        assert_eq!(handle.counters().panics, 2);
        turn(event_loop);
        assert_eq!(fates::<1>(), (32, 32, 32));
    });
}

#[test]
fn a_panic_that_goes_on_out_of_the_loop_costs_no_other_task_its_run_or_its_drop() {
    with_loop(|event_loop| {
        post_panics_among_others::<2>(event_loop);
        assert_eq!(panic_of(|| turn(event_loop)), "small");
        assert_eq!(fates::<2>(), (32, 32, 32));
        let handle = event_loop.handle();
        assert_eq!(tasks(&handle), Tasks { posted: 32, run: 32, batches: 1, longest: 32, ..NO_TASKS });
        assert_eq!(handle.counters().panics, 2);
        turn(event_loop);
        assert_eq!(fates::<2>(), (32, 32, 32));
    });
}

#[test]
fn a_task_of_any_size_that_has_not_run_is_dropped_once_with_the_loop_and_counted() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        post_everywhere::<3>(&event_loop);
        turn(&event_loop);
        post_everywhere::<3>(&event_loop);
        drop(event_loop);
        assert_eq!(fates::<3>(), (30, 15, 30));
        let mut expected = Tasks { posted: 30, run: 15, dropped: 15, batches: 1, longest: 15, ..NO_TASKS };
        assert_eq!(tasks(&handle), expected);
        assert_eq!(post::<3>(&handle), 0);
        assert_eq!(fates::<3>(), (35, 15, 35), "what is given back is whole, and the caller's to drop");
        expected.refused = 5;
        assert_eq!(tasks(&handle), expected);
    });
}

#[test]
fn tasks_that_wait_at_quit_are_dropped_once_and_counted_if_the_loop_was_told_to() {
    with_watchdog(LIMIT, || {
        let event_loop = dropping(EventLoop::builder());
        let handle = event_loop.handle();
        assert_eq!(post_everywhere::<4>(&event_loop), 15);
        turn(&event_loop);
        assert_eq!(fates::<4>(), (15, 15, 15), "without a quit they run");
        post_everywhere::<4>(&event_loop);
        event_loop.quit();
        post_everywhere::<4>(&event_loop);
        event_loop.run().unwrap();
        assert_eq!(fates::<4>(), (45, 15, 45));
        let expected = Tasks { posted: 45, run: 15, dropped: 30, batches: 2, longest: 30, ..NO_TASKS };
        assert_eq!(tasks(&handle), expected);
        // The request is done, and with it the dropping.
        post_everywhere::<4>(&event_loop);
        turn(&event_loop);
        assert_eq!(fates::<4>(), (60, 30, 60));
        drop(event_loop);
        assert_eq!(fates::<4>(), (60, 30, 60));
    });
}

#[test]
fn a_task_that_quits_ends_its_batch_and_what_it_and_others_left_is_dropped_if_the_loop_was_told_to() {
    with_watchdog(LIMIT, || {
        let event_loop = dropping(EventLoop::builder().propagate_panics(true));
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
fn errands_are_done_at_quit_also_if_tasks_are_dropped() {
    with_watchdog(LIMIT, || {
        let event_loop = dropping(EventLoop::builder().propagate_panics(true));
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
        assert!(!event_loop.cancel(local), "cancelled by the errand");
        assert_eq!(fired.get(), 0, "armed only in the last phases of that turn");
        turn(&event_loop);
        assert_eq!(fired.get(), 4);
        assert_eq!(tasks(&handle), Tasks { posted: 1, dropped: 1, batches: 1, longest: 1, ..NO_TASKS });
    });
}

#[test]
fn a_destructor_that_panics_costs_no_other_task_its_drop_at_quit() {
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

/// Several threads post while the loop is run until the first of them asks it to quit, and is then dropped.
#[track_caller]
fn race<const TEST: usize>(builders: impl Fn(usize) -> Builder) {
    const ROUNDS: usize = 60;
    const PRODUCERS: usize = 3;
    for round in 0..ROUNDS {
        let before = fates::<TEST>();
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
                        // Until the loop has gone, which a full mailbox does not mean.
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
        let after = fates::<TEST>();
        let (made, run, dropped) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
        assert_eq!(dropped, made, "round {round}: each is dropped once");
        let counted = handle.counters();
        assert_eq!(counted.tasks_posted, accepted as u64, "round {round}");
        assert_eq!(counted.tasks_run, run as u64, "round {round}");
        assert_eq!(counted.tasks_posted, counted.tasks_run + counted.tasks_dropped, "round {round}");
        // And the last timer of each thread.
        let given_back = made - accepted + PRODUCERS;
        assert_eq!(counted.tasks_refused, given_back as u64, "round {round}");
    }
}

fn mailbox_of(round: usize) -> Mailbox {
    [Mailbox::Unbounded, Mailbox::Refuse(3), Mailbox::Block(2)][round % 3]
}

#[test]
fn posts_that_race_with_quit_and_the_end_of_the_loop_are_all_accounted_for() {
    with_watchdog(LIMIT, || race::<5>(|round| EventLoop::builder().mailbox(mailbox_of(round))));
}

#[test]
fn posts_that_race_with_a_quit_that_drops_and_the_end_of_the_loop_are_all_accounted_for() {
    with_watchdog(LIMIT, || {
        race::<6>(|round| EventLoop::builder().mailbox(mailbox_of(round)).drop_tasks_on_quit(true));
    });
}

#[test]
fn posts_that_race_with_the_end_of_a_loop_that_is_never_run_are_all_accounted_for() {
    with_watchdog(LIMIT, || {
        for round in 0..90 {
            let before = fates::<7>();
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
            let after = fates::<7>();
            let made = after.0 - before.0;
            assert_eq!((after.1, after.2 - before.2), (0, made), "round {round}");
            let (accepted, refused) = (accepted as u64, (made - accepted) as u64);
            let expected = Tasks { posted: accepted, dropped: accepted, refused, ..NO_TASKS };
            assert_eq!(tasks(&handle), expected, "round {round}");
        }
    });
}
