//! Random trees of futures that spawn, join, abort, panic, yield, wait for times and for wake-ups
//! of threads, on two loops that end at a random moment. Every future is dropped exactly once, on
//! its loop, and every handle has a result.

use std::future::poll_fn;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::task::{Poll, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::support::futures::block_on;
use crate::support::random::Random;
use crate::support::{LIMIT, with_watchdog};
use reveille::task::{self, JoinError, JoinHandle};
use reveille::{EventLoop, LoopHandle, LoopThread, time};

/// What all futures of a run share.
#[derive(Default)]
struct Accounts {
    created: AtomicUsize,
    dropped: AtomicUsize,
    dropped_elsewhere: AtomicUsize,
}

/// A part of a future that knows its loop's thread.
struct Tracked {
    accounts: Arc<Accounts>,
    /// Not known until the first poll.
    home: Option<ThreadId>,
}

impl Tracked {
    fn new(accounts: &Arc<Accounts>) -> Tracked {
        accounts.created.fetch_add(1, SeqCst);
        Tracked { accounts: Arc::clone(accounts), home: None }
    }

    fn enter(&mut self) {
        self.home = Some(thread::current().id());
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.accounts.dropped.fetch_add(1, SeqCst);
        if self.home.is_some_and(|home| home != thread::current().id()) {
            self.accounts.dropped_elsewhere.fetch_add(1, SeqCst);
        }
    }
}

#[derive(Clone)]
struct World {
    accounts: Arc<Accounts>,
    loops: [LoopHandle; 2],
    /// A thread that wakes what it receives.
    waking: mpsc::Sender<Waker>,
}

type Boxed = Pin<Box<dyn Future<Output = usize> + Send>>;

/// A random future, whose result is the number of futures that ended in its part of the tree.
fn tree(world: World, seed: u64, depth: usize) -> Boxed {
    let mut tracked = Tracked::new(&world.accounts);
    Box::pin(async move {
        tracked.enter();
        let mut random = Random::new(seed);
        let mut children: Vec<JoinHandle<usize>> = Vec::new();
        let mut ended = 1;
        for _ in 0..random.below(8) {
            match random.below(10) {
                0..=2 if depth > 0 => {
                    let child = tree(world.clone(), random.next(), depth - 1);
                    match random.below(3) {
                        0 => children.push(task::spawn_local(child)),
                        1 => children.extend(world.loops[random.below(2)].spawn(child).ok()),
                        _ => {
                            let made = move |_: &EventLoop| async move {
                                let held = std::rc::Rc::new(child);
                                std::rc::Rc::into_inner(held).unwrap().await
                            };
                            children.extend(world.loops[random.below(2)].spawn_with(made).ok());
                        }
                    }
                }
                3 => task::yield_now().await,
                4 => time::sleep(Duration::from_micros(random.below(300) as u64)).await,
                5 => {
                    let mut is_woken = false;
                    let waking = world.waking.clone();
                    poll_fn(|context| {
                        if std::mem::replace(&mut is_woken, true) {
                            return Poll::Ready(());
                        }
                        let _ = waking.send(context.waker().clone());
                        Poll::Pending
                    })
                    .await;
                }
                6 if !children.is_empty() => {
                    let child = children.swap_remove(random.below(children.len()));
                    ended += child.await.unwrap_or(0);
                }
                7 if !children.is_empty() => children[random.below(children.len())].abort(),
                8 if !children.is_empty() => drop(children.pop()),
                9 if random.below(4) == 0 => resume_unwind(Box::new(seed)),
                _ => {}
            }
        }
        for child in children {
            match child.await {
                Ok(more) => ended += more,
                Err(JoinError::Aborted | JoinError::LoopEnded) => {}
                Err(JoinError::Panicked(payload)) => assert!(payload.is::<u64>()),
                Err(other) => panic!("{other}"),
            }
        }
        ended
    })
}

fn run_trees(seed: u64) {
    let mut random = Random::new(seed);
    let accounts = Arc::new(Accounts::default());
    let (waking, to_wake) = mpsc::channel::<Waker>();
    let waker_thread = thread::spawn(move || {
        let mut kept = Vec::new();
        for waker in to_wake {
            waker.wake_by_ref();
            kept.push(waker);
        }
        // After the loops have ended.
        kept.iter().for_each(Waker::wake_by_ref);
    });
    let threads = [LoopThread::spawn("one").unwrap(), LoopThread::spawn("two").unwrap()];
    let loops = [threads[0].handle().clone(), threads[1].handle().clone()];
    let world = World { accounts: Arc::clone(&accounts), loops: loops.clone(), waking };
    let roots: Vec<_> = (0..20)
        .filter_map(|_| loops[random.below(2)].spawn(tree(world.clone(), random.next(), 4)).ok())
        .collect();
    for root in &roots {
        if random.below(4) == 0 {
            root.abort();
        }
    }
    // The loops end now, or when some or all of the roots have ended.
    let awaited = [0, random.below(21), 20][random.below(3)];
    for root in roots.into_iter().take(awaited) {
        let _ = block_on(root);
    }
    drop(world);
    drop(threads);
    waker_thread.join().unwrap();
    assert!(accounts.created.load(SeqCst) >= 20);
    assert_eq!(accounts.created.load(SeqCst), accounts.dropped.load(SeqCst));
    assert_eq!(accounts.dropped_elsewhere.load(SeqCst), 0);
}

#[test]
fn every_future_of_a_random_tree_is_dropped_once_on_its_loop() {
    with_watchdog(LIMIT, || {
        for seed in 0..40 {
            run_trees(seed);
        }
    });
}
