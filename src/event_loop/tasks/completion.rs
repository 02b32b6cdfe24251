//! A callback that completes a future of the same thread.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::wait_list::wake;
use crate::event_loop::containment::Contained;
use crate::event_loop::process_mark::ProcessMark;

struct Shared<T> {
    result: Option<Contained<T>>,
    waker: Option<Contained<Waker>>,
    is_settled: bool,
    /// In a forked child nothing is completed, and no waker is called.
    process: ProcessMark,
}

/// The callback's end. Dropping it without a result completes the future with `None`: the source
/// has dropped its callback.
pub(crate) struct Completer<T>(Rc<RefCell<Shared<T>>>);

/// The future's end: completes with what the callback got. In a forked child it completes with
/// `None`, unless there is a result. Dropping it drops a result that exists, and a later one.
pub(crate) struct Completion<T>(Rc<RefCell<Shared<T>>>);

/// A callback's end and a future.
pub(crate) fn completion<T>() -> (Completer<T>, Completion<T>) {
    let process = ProcessMark::current();
    let shared = Rc::new(RefCell::new(Shared { result: None, waker: None, is_settled: false, process }));
    (Completer(Rc::clone(&shared)), Completion(shared))
}

impl<T> Completer<T> {
    pub(crate) fn complete(self, result: T) {
        let result = Contained::new(result);
        // The future has been dropped: the result is dropped with nothing borrowed.
        if Rc::strong_count(&self.0) > 1 {
            self.0.borrow_mut().result = Some(result);
        }
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        let (waker, process) = {
            let mut shared = self.0.borrow_mut();
            shared.is_settled = true;
            (shared.waker.take(), shared.process)
        };
        match waker {
            // In a forked child, a waker may take a lock that a thread of the parent held.
            Some(waker) if !process.is_current() => std::mem::forget(waker),
            Some(waker) => wake(waker),
            None => {}
        }
    }
}

impl<T> Unpin for Completion<T> {}

impl<T> Future for Completion<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let settled = {
            let mut shared = self.0.borrow_mut();
            let is_settled = shared.is_settled || !shared.process.is_current();
            is_settled.then(|| shared.result.take())
        };
        if let Some(result) = settled {
            return Poll::Ready(result.map(Contained::into_inner));
        }
        let is_known = |waker: &Contained<Waker>| waker.will_wake(context.waker());
        if !self.0.borrow().waker.as_ref().is_some_and(is_known) {
            // Wakers are user code, so they are cloned and dropped with nothing borrowed.
            let waker = Contained::new(context.waker().clone());
            let replaced = self.0.borrow_mut().waker.replace(waker);
            drop(replaced);
        }
        Poll::Pending
    }
}

impl<T> Drop for Completion<T> {
    fn drop(&mut self) {
        let left = {
            let mut shared = self.0.borrow_mut();
            (shared.waker.take(), shared.result.take())
        };
        drop(left);
    }
}
