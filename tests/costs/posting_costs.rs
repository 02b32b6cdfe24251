//! The heap allocations of a post, on the posting thread and on the loop's thread.

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::thread;

use crate::support::counting::{Counts, counts};
use crate::support::{LIMIT, turn, with_loop, with_watchdog};
use reveille::task::MailboxLimit;
use reveille::{EventLoop, LoopHandle};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Blocks {
    allocated: u64,
    freed: u64,
}

const NONE: Blocks = Blocks { allocated: 0, freed: 0 };

/// Returns the allocations and frees that `call` makes on this thread.
fn blocks_of(call: impl FnOnce()) -> Blocks {
    let before = counts();
    call();
    let Counts { allocated, freed, .. } = counts() - before;
    Blocks { allocated, freed }
}

/// The rounds in which the queues may still grow to their final capacity.
const WARM_UP: usize = 4;
const ROUNDS: usize = 12;
/// The tasks of a round.
const TASKS: usize = 100;

/// A task that captures `WORDS` machine words, and nothing else.
fn task<const WORDS: usize>() -> impl FnOnce(&EventLoop) + Send + 'static {
    let words = [WORDS; WORDS];
    let task = move |_: &EventLoop| _ = black_box(words);
    assert_eq!(size_of_val(&task), WORDS * size_of::<usize>());
    task
}

/// The blocks allocated and freed in one round of posts: on the posting thread, and on the loop's
/// thread, which runs the tasks.
#[derive(Debug, PartialEq, Eq)]
struct Round {
    posting: Blocks,
    running: Blocks,
}

impl Round {
    const FREE: Round = Round { posting: NONE, running: NONE };

    /// One block for each task, allocated where it is posted and freed where it is run.
    const BOXED: Round = Round {
        posting: Blocks { allocated: TASKS as u64, freed: 0 },
        running: Blocks { allocated: 0, freed: TASKS as u64 },
    };
}

/// Returns the cost of each round after the queues have grown. `post` is called on another thread.
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

/// Same as [`rounds_from_another_thread`], with `post` called on the loop's own thread.
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
    assert!(rounds.iter().all(|round| round == expected), "a round is not {expected:?}: {rounds:?}");
}

#[test]
fn a_small_task_from_another_thread_allocates_nothing() {
    for mailbox in [MailboxLimit::Unbounded, MailboxLimit::Refuse(TASKS), MailboxLimit::Block(TASKS)] {
        with_watchdog(LIMIT, move || {
            let event_loop = EventLoop::builder().mailbox(mailbox).build().unwrap();
            fn post<const WORDS: usize>(handle: &LoopHandle) {
                handle.queue_in_loop(task::<WORDS>()).unwrap();
            }
            for post in [post::<0>, post::<1>, post::<2>, post::<3>, post::<4>] {
                assert_all(&rounds_from_another_thread(&event_loop, post), &Round::FREE);
            }
            let run = |handle: &LoopHandle| handle.run_in_loop(task::<4>()).unwrap();
            assert_all(&rounds_from_another_thread(&event_loop, run), &Round::FREE);
            // Captures with a destructor count by their size too.
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
fn a_small_task_through_a_local_handle_allocates_nothing() {
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
fn a_small_local_task_allocates_nothing() {
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
            let measured = Rc::clone(&posting);
            event_loop.queue_in_loop(move |event_loop| {
                measured.set(blocks_of(|| (0..TASKS).for_each(|_| event_loop.queue_in_loop(task::<4>()))));
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
fn a_refused_task_of_any_size_allocates_nothing() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().mailbox(MailboxLimit::Refuse(1)).build().unwrap();
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
        assert_eq!(refused(), NONE, "a post on the loop's own thread allocated");
    });
}
