//! A model of a shared ring: the event indices, and a ring of numbers around them.
//!
//! The code under test is the library's `shared_ring/event_index.rs`. The rest of a ring is not
//! modelled: how it locates and checks bytes does not depend on the order of steps.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::epoll::Epoll;

/// The event index functions that the models use.
#[expect(missing_docs, reason = "documented in event_index.rs")]
pub trait Indices: 'static {
    fn move_on(position: &AtomicU64, mark: &AtomicU64, from: u64, to: u64) -> bool;
    fn set_mark(position: &AtomicU64, mark: &AtomicU64, at: u64) -> u64;
    fn load_acquire(position: &AtomicU64) -> u64;
}

/// Builds the copy of the event indices in the module `$source` on loom's atomics. The result is a
/// type `Marks`, which implements [`Indices`].
macro_rules! words_on_loom {
    ($source:ident) => {
        use loom::sync::atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
            fence,
        };

        use $source::Word;

        impl Word for AtomicU64 {
            fn load_relaxed(&self) -> u64 {
                self.load(Relaxed)
            }

            fn store_relaxed(&self, value: u64) {
                self.store(value, Relaxed);
            }

            fn load_acquire(&self) -> u64 {
                self.load(Acquire)
            }

            fn store_release(&self, value: u64) {
                self.store(value, Release);
            }

            fn fence() {
                fence(SeqCst);
            }
        }

        /// This copy of the event indices, on loom's atomics.
        #[derive(Debug)]
        pub struct Marks;

        impl $crate::shared_ring::Indices for Marks {
            fn move_on(position: &AtomicU64, mark: &AtomicU64, from: u64, to: u64) -> bool {
                $source::move_on(position, mark, from, to)
            }

            fn set_mark(position: &AtomicU64, mark: &AtomicU64, at: u64) -> u64 {
                $source::set_mark(position, mark, at)
            }

            fn load_acquire(position: &AtomicU64) -> u64 {
                position.load_acquire()
            }
        }
    };
}

/// A ring of numbers, and the polls in which its two sides sleep. Each number advances a position
/// by 1.
#[derive(Debug)]
pub struct Shared {
    tail: AtomicU64,
    tail_mark: AtomicU64,
    head: AtomicU64,
    head_mark: AtomicU64,
    slots: Vec<AtomicU64>,
    /// The poll in which the consumer sleeps.
    pub consumer: Epoll,
    /// The poll in which the producer sleeps while the ring is full.
    pub producer: Epoll,
}

impl Shared {
    /// An empty ring with `slots` slots. The consumer starts as asleep and the producer as awake.
    pub fn new(slots: u64) -> Arc<Shared> {
        Arc::new(Shared {
            tail: AtomicU64::new(0),
            tail_mark: AtomicU64::new(0),
            head: AtomicU64::new(0),
            head_mark: AtomicU64::new(u64::MAX),
            slots: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            consumer: Epoll::default(),
            producer: Epoll::default(),
        })
    }

    /// Makes the consumer start as awake. Must be called before the threads start.
    pub fn mark_consumer_awake(&self) {
        self.tail_mark.store(u64::MAX, Relaxed);
    }

    /// Runs the producer: sends the numbers from 1 to `count`. Returns how often it slept because
    /// the ring was full.
    pub fn produce<I: Indices>(&self, count: u64) -> usize {
        let slots = self.slots.len() as u64;
        let mut sleeps = 0;
        for tail in 0..count {
            let mut head = I::load_acquire(&self.head);
            while tail - head == slots {
                head = I::set_mark(&self.head, &self.head_mark, tail - slots);
                if tail - head == slots {
                    self.producer.poll(true);
                    self.producer.drain();
                    sleeps += 1;
                    head = I::load_acquire(&self.head);
                }
            }
            self.slots[(tail % slots) as usize].store(tail + 1, Relaxed);
            if I::move_on(&self.tail, &self.tail_mark, tail, tail + 1) {
                self.consumer.write();
            }
        }
        sleeps
    }

    /// Runs the consumer: takes `count` numbers and checks that they are the numbers sent. Returns
    /// how often it slept because the ring was empty.
    pub fn consume<I: Indices>(&self, count: u64) -> usize {
        let slots = self.slots.len() as u64;
        let mut sleeps = 0;
        let mut tail = 0;
        for head in 0..count {
            if head == tail {
                tail = I::load_acquire(&self.tail);
            }
            while head == tail {
                tail = I::set_mark(&self.tail, &self.tail_mark, head);
                if head == tail {
                    self.consumer.poll(true);
                    self.consumer.drain();
                    sleeps += 1;
                    tail = I::load_acquire(&self.tail);
                }
            }
            let number = self.slots[(head % slots) as usize].load(Relaxed);
            assert_eq!(number, head + 1, "the consumer took a number that was not sent");
            if I::move_on(&self.head, &self.head_mark, head, head + 1) {
                self.producer.write();
            }
        }
        sleeps
    }
}
