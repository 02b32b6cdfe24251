//! The event indices of a shared ring, and a ring of numbers around them, in a model.
//!
//! The lines under test are those of the library's `shared_ring/event_index.rs`. What a ring needs besides, where its bytes
//! lie and what is checked of them, does not depend on the order of steps.

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::epoll::Epoll;

/// What the models use of the event indices; the documentation is there.
#[expect(missing_docs, reason = "documented where they are implemented, in event_index.rs")]
pub trait Indices: 'static {
    fn move_on(position: &AtomicU64, mark: &AtomicU64, from: u64, to: u64) -> bool;
    fn set_mark(position: &AtomicU64, mark: &AtomicU64, at: u64) -> u64;
    fn load_acquire(position: &AtomicU64) -> u64;
}

/// Builds the copy of the event indices in the module `$source` on loom's words, as [`Indices`] called `Marks`.
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

        /// This copy of the event indices, on loom's words.
        #[derive(Debug)]
        pub struct Marks;

        impl $crate::doorbell::Indices for Marks {
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

/// A ring of numbers, each a step of the positions, and what its two sides sleep in.
#[derive(Debug)]
pub struct Shared {
    tail: AtomicU64,
    tail_mark: AtomicU64,
    head: AtomicU64,
    head_mark: AtomicU64,
    places: Vec<AtomicU64>,
    /// Where the consumer sleeps, and the producer without room.
    pub consumer: Epoll,
    /// The other one's.
    pub producer: Epoll,
}

impl Shared {
    /// An empty ring with so many places. Its consumer begins asleep, its producer awake.
    pub fn new(places: u64) -> Arc<Shared> {
        Arc::new(Shared {
            tail: AtomicU64::new(0),
            tail_mark: AtomicU64::new(0),
            head: AtomicU64::new(0),
            head_mark: AtomicU64::new(u64::MAX),
            places: (0..places).map(|_| AtomicU64::new(0)).collect(),
            consumer: Epoll::default(),
            producer: Epoll::default(),
        })
    }

    /// Has the consumer begin awake.
    pub fn consumer_is_awake(&self) {
        self.tail_mark.store(u64::MAX, Relaxed);
    }

    /// The producer's whole life: the numbers from 1 to `count`. Answers how often it has slept for want of room.
    pub fn produce<I: Indices>(&self, count: u64) -> usize {
        let places = self.places.len() as u64;
        let mut sleeps = 0;
        for tail in 0..count {
            let mut head = I::load_acquire(&self.head);
            while tail - head == places {
                head = I::set_mark(&self.head, &self.head_mark, tail - places);
                if tail - head == places {
                    self.producer.poll(true);
                    self.producer.drain();
                    sleeps += 1;
                    head = I::load_acquire(&self.head);
                }
            }
            self.places[(tail % places) as usize].store(tail + 1, Relaxed);
            if I::move_on(&self.tail, &self.tail_mark, tail, tail + 1) {
                self.consumer.write();
            }
        }
        sleeps
    }

    /// The consumer's whole life: it takes `count` numbers, which must be those that were put there. Answers how often it has
    /// slept.
    pub fn consume<I: Indices>(&self, count: u64) -> usize {
        let places = self.places.len() as u64;
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
            let number = self.places[(head % places) as usize].load(Relaxed);
            assert_eq!(number, head + 1, "a number that was not put there");
            if I::move_on(&self.head, &self.head_mark, head, head + 1) {
                self.producer.write();
            }
        }
        sleeps
    }
}
