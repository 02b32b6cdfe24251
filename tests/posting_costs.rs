//! What a post costs: heap blocks on the thread that posts and on the loop's, and writes to the eventfd.

// A global allocator can be counted in no other way.
#![allow(unsafe_code)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use reveille::{EventLoop, LoopHandle, LoopThread, Mailbox};
use support::{LIMIT, turn, unread_wakes, until_asleep, with_loop, with_watchdog};

// --- Heap blocks ----------------------------------------------------------------------------------

/// The system's allocator, with a count of what each thread asks of it.
struct Counting;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Blocks {
    allocated: usize,
    freed: usize,
}

const NONE: Blocks = Blocks { allocated: 0, freed: 0 };

thread_local! {
    // Made at compile time and never dropped, so that counting does not itself allocate.
    static BLOCKS: Cell<Blocks> = const { Cell::new(NONE) };
}

fn count(allocated: usize, freed: usize) {
    // Without effect while the thread ends and has no locals any longer.
    let _ = BLOCKS.try_with(|blocks| {
        let before = blocks.get();
        blocks.set(Blocks { allocated: before.allocated + allocated, freed: before.freed + freed });
    });
}

// SAFETY: every method passes its arguments on to the system's allocator as they are, and returns what that returns. What they
// do besides touches nothing but a thread-local of plain numbers, and neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, 0);
        // SAFETY: the caller keeps the contract of `alloc`, which is that of the call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, 0);
        // SAFETY: as above, of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, 1);
        // SAFETY: `pointer` came from one of these methods with this layout, as the caller promises, and so from the system's
        // allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(1, 1);
        // SAFETY: as for `dealloc`, and `new_size` is the caller's to vouch for.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `doing` asks of the allocator on this thread.
fn blocks_of(doing: impl FnOnce()) -> Blocks {
    let before = BLOCKS.get();
    doing();
    let after = BLOCKS.get();
    Blocks { allocated: after.allocated - before.allocated, freed: after.freed - before.freed }
}

/// In each of the first rounds the queues may grow to the length that they have from then on.
const WARM_UP: usize = 4;
const ROUNDS: usize = 12;
const TASKS: usize = 100;

/// A task that captures so many words, and nothing else.
fn task<const WORDS: usize>() -> impl FnOnce(&EventLoop) + Send + 'static {
    let words = [WORDS; WORDS];
    let task = move |_: &EventLoop| _ = black_box(words);
    assert_eq!(size_of_val(&task), WORDS * size_of::<usize>());
    task
}

/// The blocks of a round of posts on the thread that posts, and on the loop's thread that runs them.
#[derive(Debug, PartialEq, Eq)]
struct Round {
    posting: Blocks,
    running: Blocks,
}

impl Round {
    const FREE: Round = Round { posting: NONE, running: NONE };

    /// A block a task, made where it is posted and given up where it is run.
    const BOXED: Round = Round {
        posting: Blocks { allocated: TASKS, freed: 0 },
        running: Blocks { allocated: 0, freed: TASKS },
    };
}

/// What each round costs once the queues have grown, with `post` called on another thread.
fn rounds_from_another_thread(event_loop: &EventLoop, post: impl Fn(&LoopHandle) + Sync) -> Vec<Round> {
    let handle = event_loop.handle();
    let (before, after) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        let posting = scope.spawn(|| {
            let mut posting = [NONE; ROUNDS];
            for round in &mut posting {
                before.wait();
                *round = blocks_of(|| (0..TASKS).for_each(|_| post(&handle)));
                after.wait();
            }
            posting
        });
        let mut running = [NONE; ROUNDS];
        for round in &mut running {
            before.wait();
            after.wait();
            *round = blocks_of(|| turn(event_loop));
        }
        let posting = posting.join().unwrap();
        let rounds = posting.into_iter().zip(running).skip(WARM_UP);
        rounds.map(|(posting, running)| Round { posting, running }).collect()
    })
}

/// As [`rounds_from_another_thread`], with `post` called on the loop's own.
fn rounds_on_the_loops_thread(event_loop: &EventLoop, post: impl Fn(&EventLoop)) -> Vec<Round> {
    let rounds = (0..ROUNDS).map(|_| {
        let posting = blocks_of(|| (0..TASKS).for_each(|_| post(event_loop)));
        let running = blocks_of(|| turn(event_loop));
        Round { posting, running }
    });
    rounds.skip(WARM_UP).collect()
}

#[track_caller]
fn assert_all(rounds: &[Round], expected: &Round) {
    assert_eq!(rounds.len(), ROUNDS - WARM_UP);
    assert!(rounds.iter().all(|round| round == expected), "not {expected:?}: {rounds:?}");
}

#[test]
fn a_small_task_from_another_thread_allocates_nothing_on_either_thread() {
    for mailbox in [Mailbox::Unbounded, Mailbox::Refuse(TASKS), Mailbox::Block(TASKS)] {
        with_watchdog(LIMIT, || {
            let event_loop = EventLoop::builder().mailbox(mailbox).build().unwrap();
            fn post<const WORDS: usize>(handle: &LoopHandle) {
                handle.queue_in_loop(task::<WORDS>()).unwrap();
            }
            for post in [post::<0>, post::<1>, post::<2>, post::<3>, post::<4>] {
                assert_all(&rounds_from_another_thread(&event_loop, post), &Round::FREE);
            }
            let run = |handle: &LoopHandle| handle.run_in_loop(task::<4>()).unwrap();
            assert_all(&rounds_from_another_thread(&event_loop, run), &Round::FREE);
            // All kinds of captures count as what they are, and not only plain words.
            let shared = Arc::new(0);
            let counted = |handle: &LoopHandle| {
                let shared = (Arc::clone(&shared), [1_usize; 3]);
                handle.queue_in_loop(move |_| _ = black_box(&shared)).unwrap();
            };
            assert_all(&rounds_from_another_thread(&event_loop, counted), &Round::FREE);
            assert_eq!(event_loop.handle().counters().tasks_run, (7 * ROUNDS * TASKS) as u64);
        });
    }
}

#[test]
fn a_small_task_through_the_handle_on_the_loops_own_thread_allocates_nothing() {
    with_loop(|event_loop| {
        fn post<const WORDS: usize>(event_loop: &EventLoop) {
            event_loop.handle().queue_in_loop(task::<WORDS>()).unwrap();
        }
        for post in [post::<0>, post::<1>, post::<4>] {
            assert_all(&rounds_on_the_loops_thread(event_loop, post), &Round::FREE);
        }
        assert_eq!(event_loop.handle().counters().tasks_run, (3 * ROUNDS * TASKS) as u64);
    });
}

#[test]
fn a_small_task_through_the_loop_itself_allocates_nothing_and_need_not_be_send() {
    with_loop(|event_loop| {
        let not_send = Rc::new(Cell::new(0));
        let post = |event_loop: &EventLoop| {
            let (not_send, words) = (Rc::clone(&not_send), [1; 3]);
            let task = move |_: &EventLoop| not_send.set(not_send.get() + black_box(words)[0]);
            assert_eq!(size_of_val(&task), 4 * size_of::<usize>());
            event_loop.queue_in_loop(task);
        };
        assert_all(&rounds_on_the_loops_thread(event_loop, post), &Round::FREE);
        assert_eq!(not_send.get(), ROUNDS * TASKS);
        assert_eq!(Rc::strong_count(&not_send), 1);
    });
}

#[test]
fn a_small_task_that_a_task_queues_allocates_nothing() {
    with_loop(|event_loop| {
        let posting = Rc::new(Cell::new(NONE));
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            let seen = Rc::clone(&posting);
            event_loop.queue_in_loop(move |event_loop| {
                seen.set(blocks_of(|| (0..TASKS).for_each(|_| event_loop.queue_in_loop(task::<4>()))));
            });
            turn(event_loop);
            let running = blocks_of(|| turn(event_loop));
            if round >= WARM_UP {
                rounds.push(Round { posting: posting.get(), running });
            }
        }
        assert_all(&rounds, &Round::FREE);
    });
}

#[test]
fn a_larger_task_allocates_once_and_is_freed_where_it_runs() {
    with_loop(|event_loop| {
        fn post<const WORDS: usize>(handle: &LoopHandle) {
            handle.queue_in_loop(task::<WORDS>()).unwrap();
        }
        for post in [post::<5>, post::<8>, post::<100>] {
            assert_all(&rounds_from_another_thread(event_loop, post), &Round::BOXED);
            let here = |event_loop: &EventLoop| post(&event_loop.handle());
            assert_all(&rounds_on_the_loops_thread(event_loop, here), &Round::BOXED);
        }
        let queue = |event_loop: &EventLoop| event_loop.queue_in_loop(task::<5>());
        assert_all(&rounds_on_the_loops_thread(event_loop, queue), &Round::BOXED);
    });
}

#[test]
fn a_task_that_is_given_back_costs_no_block_whatever_its_size() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().mailbox(Mailbox::Refuse(1)).build().unwrap();
        let handle = event_loop.handle();
        let refused = || {
            let fill = handle.queue_in_loop(|_| ());
            fill.unwrap();
            blocks_of(|| {
                assert!(handle.queue_in_loop(task::<4>()).is_err());
                assert!(handle.queue_in_loop(task::<100>()).is_err());
            })
        };
        assert_eq!(thread::scope(|scope| scope.spawn(refused).join().unwrap()), NONE);
        assert_eq!(refused(), NONE, "on the loop's own thread");
    });
}

// --- Writes to the eventfd ------------------------------------------------------------------------

fn wakes(handle: &LoopHandle) -> u64 {
    handle.counters().wakes
}

const MILLION: usize = 1_000_000;
const PRODUCERS: usize = 4;

#[test]
fn a_million_posts_to_a_loop_that_is_held_up_by_a_task_write_nothing() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let before_and_after = Rc::new(Cell::new(None));
        let result = Rc::clone(&before_and_after);
        event_loop.queue_in_loop(move |event_loop| {
            let handle = event_loop.handle();
            // The turn has ended the sleep that was announced, and read what was written for it.
            let before = (wakes(&handle), unread_wakes(event_loop));
            thread::scope(|scope| {
                for _ in 0..PRODUCERS {
                    scope.spawn(|| {
                        (0..MILLION / PRODUCERS).for_each(|_| handle.queue_in_loop(|_| ()).unwrap());
                    });
                }
            });
            result.set(Some((before, (wakes(&handle), unread_wakes(event_loop)))));
        });
        turn(event_loop);
        let (before, after) = before_and_after.get().expect("the task has run");
        assert_eq!(before.1, 0);
        assert_eq!(after, before);
        turn(event_loop);
        assert_eq!(handle.counters().longest_batch, MILLION as u64);
        assert_eq!(handle.counters().tasks_run, 1 + MILLION as u64);
    });
}

#[test]
fn a_million_posts_to_a_loop_that_always_has_work_write_nothing() {
    with_loop(|event_loop| {
        /// Leaves the loop work of its own after every turn, so that it never announces a sleep.
        fn keep_busy(event_loop: &EventLoop, until: Arc<AtomicBool>) {
            if until.load(SeqCst) {
                event_loop.quit();
            } else {
                event_loop.queue_in_loop(move |event_loop| keep_busy(event_loop, until));
            }
        }
        let handle = event_loop.handle();
        let enough = Arc::new(AtomicBool::new(false));
        keep_busy(event_loop, Arc::clone(&enough));
        thread::scope(|scope| {
            let (handle, enough) = (&handle, &enough);
            scope.spawn(move || {
                while handle.counters().batches == 0 {
                    thread::yield_now();
                }
                let before = wakes(handle);
                thread::scope(|scope| {
                    for _ in 0..PRODUCERS {
                        scope.spawn(|| {
                            (0..MILLION / PRODUCERS).for_each(|_| handle.queue_in_loop(|_| ()).unwrap());
                        });
                    }
                });
                assert_eq!(wakes(handle) - before, 0);
                enough.store(true, SeqCst);
            });
            event_loop.run().unwrap();
        });
        assert!(handle.counters().tasks_run > MILLION as u64);
    });
}

#[test]
fn however_many_threads_post_between_two_turns_one_of_them_writes_once() {
    const ROUNDS: u64 = 200;
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let (before, after) = (Barrier::new(PRODUCERS + 1), Barrier::new(PRODUCERS + 1));
        thread::scope(|scope| {
            for _ in 0..PRODUCERS {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        before.wait();
                        (0..5).for_each(|_| handle.queue_in_loop(|_| ()).unwrap());
                        after.wait();
                    }
                });
            }
            for round in 0..ROUNDS {
                turn(event_loop);
                assert_eq!((wakes(&handle), unread_wakes(event_loop)), (round, 0));
                before.wait();
                after.wait();
                assert_eq!((wakes(&handle), unread_wakes(event_loop)), (round + 1, 1));
            }
        });
        turn(event_loop);
        assert_eq!(handle.counters().tasks_run, ROUNDS * 5 * PRODUCERS as u64);
        assert_eq!((wakes(&handle), unread_wakes(event_loop)), (ROUNDS, 0));
    });
}

#[test]
fn however_many_tasks_the_loops_own_thread_queues_between_two_turns_it_writes_once() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        for round in 0..20 {
            assert_eq!((wakes(&handle), unread_wakes(event_loop)), (round, 0));
            for _ in 0..5 {
                event_loop.queue_in_loop(|_| ());
                handle.queue_in_loop(|_| ()).unwrap();
            }
            assert_eq!((wakes(&handle), unread_wakes(event_loop)), (round + 1, 1));
            turn(event_loop);
        }
    });
}

#[test]
fn however_many_threads_post_to_a_sleeping_loop_one_of_them_writes_once() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("loop").unwrap();
        let handle = thread.handle();
        let loops = handle.call(|_| rustix::thread::gettid()).unwrap();
        let (before, after) = (Barrier::new(PRODUCERS + 1), Barrier::new(PRODUCERS + 1));
        let posted = Arc::new(AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..PRODUCERS {
                scope.spawn(|| {
                    for round in 1..=50 {
                        before.wait();
                        let all_posted = Arc::clone(&posted);
                        // Whichever runs first keeps the loop awake until the last is there.
                        let hold = move |_: &EventLoop| {
                            while all_posted.load(SeqCst) < round * PRODUCERS {
                                thread::yield_now();
                            }
                        };
                        handle.queue_in_loop(hold).unwrap();
                        posted.fetch_add(1, SeqCst);
                        after.wait();
                    }
                });
            }
            for _ in 0..50 {
                until_asleep(loops);
                let wakes_before = wakes(handle);
                before.wait();
                after.wait();
                assert_eq!(wakes(handle), wakes_before + 1);
            }
        });
        thread.join().unwrap();
    });
}

#[test]
fn errands_and_quit_end_a_sleep_with_one_write_as_tasks_do() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        let post_all = || {
            handle.run_after(Duration::MAX, |_| ()).unwrap();
            handle.quit();
            handle.queue_in_loop(|_| ()).unwrap();
            handle.quit();
        };
        thread::scope(|scope| scope.spawn(post_all).join().unwrap());
        assert_eq!((wakes(&handle), unread_wakes(event_loop)), (1, 1));
        event_loop.run().unwrap();
        assert_eq!((wakes(&handle), unread_wakes(event_loop)), (1, 0));
        handle.quit();
        assert_eq!((wakes(&handle), unread_wakes(event_loop)), (2, 1));
    });
}

#[test]
fn a_post_in_a_turn_that_nobody_woke_writes_nothing() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        for round in 1..=20 {
            // The loop has announced that it sleeps, and a timer ends that instead of a post.
            let fired = Rc::new(Cell::new(None));
            let (f, h) = (Rc::clone(&fired), handle.clone());
            event_loop.run_after(Duration::from_micros(200), move |event_loop| {
                thread::scope(|scope| scope.spawn(|| h.queue_in_loop(|_| ()).unwrap()).join().unwrap());
                event_loop.queue_in_loop(|_| ());
                f.set(Some((wakes(&h), unread_wakes(event_loop))));
            });
            event_loop.run_once(None).unwrap();
            assert_eq!(fired.get(), Some((0, 0)));
            assert_eq!(handle.counters().tasks_run, 2 * round);
        }
    });
}
