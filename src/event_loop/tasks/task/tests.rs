use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use super::*;

/// Counts its drops, and has a size that the test chooses.
struct Token<const WORDS: usize> {
    drops: Arc<AtomicUsize>,
    _ballast: [usize; WORDS],
}

fn token<const WORDS: usize>() -> (Token<WORDS>, Arc<AtomicUsize>) {
    let drops = Arc::new(AtomicUsize::new(0));
    (Token { drops: Arc::clone(&drops), _ballast: [7; WORDS] }, drops)
}

impl<const WORDS: usize> Drop for Token<WORDS> {
    fn drop(&mut self) {
        assert!(self._ballast.iter().all(|word| *word == 7), "the captures are unchanged");
        self.drops.fetch_add(1, Relaxed);
    }
}

fn each_end<const WORDS: usize>() {
    // Called.
    let (captured, drops) = token::<WORDS>();
    let task = Task::<Cell<u32>>::new(move |seen| {
        let _captured = &captured;
        seen.set(seen.get() + 1);
    });
    let seen = Cell::new(0);
    assert_eq!(drops.load(Relaxed), 0);
    task.call(&seen);
    assert_eq!((seen.get(), drops.load(Relaxed)), (1, 1));

    // Dropped.
    let (captured, drops) = token::<WORDS>();
    drop(Task::<()>::new(move |_| drop(captured)));
    assert_eq!(drops.load(Relaxed), 1);

    // Panicked, while it held its captures.
    let (captured, drops) = token::<WORDS>();
    let task = Task::<()>::new(move |_| {
        let _captured = captured;
        panic!("on purpose");
    });
    assert!(catch_unwind(AssertUnwindSafe(|| task.call(&()))).is_err());
    assert_eq!(drops.load(Relaxed), 1);

    // Called on another thread, from a vector that has grown.
    let (captured, drops) = token::<WORDS>();
    let mut tasks: Vec<SendTask<()>> = (0..100).map(|_| SendTask::new(|_| ())).collect();
    tasks.push(SendTask::new(move |_| drop(captured)));
    thread::spawn(move || tasks.drain(..).for_each(|task| task.call(&()))).join().unwrap();
    assert_eq!(drops.load(Relaxed), 1);
}

#[test]
fn every_closure_is_dropped_exactly_once() {
    each_end::<0>();
    each_end::<1>();
    each_end::<3>(); // the largest that fits, with the counter's word
    each_end::<4>();
    each_end::<100>();
}

#[test]
fn a_closure_without_captures_is_called() {
    thread_local!(static SEEN: Cell<u32> = const { Cell::new(0) });
    Task::<()>::new(|_| SEEN.set(SEEN.get() + 1)).call(&());
    assert_eq!(SEEN.get(), 1);
}

#[test]
fn captures_keep_their_values_and_alignment() {
    #[repr(align(64))]
    struct Aligned(u8);
    let (aligned, bytes, half) = (Aligned(9), [1_u8, 2, 3, 4, 5], 77_u16);
    let seen = Rc::new(Cell::new(0));
    let (first, second) = (Rc::clone(&seen), Rc::clone(&seen));
    Task::<()>::new(move |_| {
        assert_eq!(&raw const aligned as usize % 64, 0);
        first.set(first.get() + i32::from(aligned.0));
    })
    .call(&());
    Task::<()>::new(move |_| {
        second.set(second.get() + i32::from(half) + bytes.iter().map(|byte| i32::from(*byte)).sum::<i32>());
    })
    .call(&());
    assert_eq!(seen.get(), 9 + 77 + 15);
}

#[test]
fn four_words_fit_and_five_do_not() {
    assert!(fits::<[usize; 4]>() && fits::<()>() && fits::<[u8; 32]>());
    assert!(!fits::<[usize; 5]>() && !fits::<[u8; 33]>() && !fits::<u128>());
}

#[test]
fn a_panicking_destructor_runs_once() {
    struct Bad(Arc<AtomicUsize>);
    impl Drop for Bad {
        fn drop(&mut self) {
            self.0.fetch_add(1, Relaxed);
            panic!("on purpose");
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    let bad = Bad(Arc::clone(&drops));
    let task = Task::<()>::new(move |_| drop(bad));
    drop(task);
    let bad = Bad(Arc::clone(&drops));
    let task = Task::<()>::new(move |_| drop(bad));
    assert!(catch_unwind(AssertUnwindSafe(|| task.call(&()))).is_err());
    assert_eq!(drops.load(Relaxed), 2);
}
