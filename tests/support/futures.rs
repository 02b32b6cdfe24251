//! Futures that a test controls, and executors that are not the crate's.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use reveille::{EventLoop, task};

use super::Count;

/// Runs the loop until the future has ended, and returns its result.
#[track_caller]
pub(crate) fn run<T: 'static>(event_loop: &EventLoop, future: impl Future<Output = T> + 'static) -> T {
    let result = Rc::new(RefCell::new(None));
    let stored = Rc::clone(&result);
    event_loop.spawn_local(async move {
        let output = future.await;
        stored.replace(Some(output));
        task::with_loop(EventLoop::quit);
    });
    event_loop.run().expect("a run");
    result.take().expect("the loop has ended before the future")
}

/// Runs a future on this thread, without a loop.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Polls a future once, with a waker that does nothing.
pub(crate) fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// A waker that counts.
pub(crate) struct CountingWaker(pub(crate) Count);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.add();
    }
}

impl CountingWaker {
    pub(crate) fn waker(count: &Count) -> Waker {
        Waker::from(Arc::new(CountingWaker(count.clone())))
    }
}

/// Futures wait until it is opened. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    is_open: Arc<AtomicBool>,
    waker: Arc<Mutex<Option<Waker>>>,
    pub(crate) polls: Count,
}

impl Gate {
    /// Waits. Each poll is counted and stores its waker.
    pub(crate) fn wait(&self) -> impl Future<Output = ()> + Send + use<> {
        let gate = self.clone();
        poll_fn(move |context| {
            gate.polls.add();
            *gate.waker.lock().unwrap() = Some(context.waker().clone());
            if gate.is_open.load(SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        })
    }

    /// The waker of the last poll.
    pub(crate) fn waker(&self) -> Waker {
        self.waker.lock().unwrap().clone().expect("the future has not been polled")
    }

    /// Lets the futures pass, without a wake-up.
    pub(crate) fn unlock(&self) {
        self.is_open.store(true, SeqCst);
    }

    /// Lets the future pass, and wakes it.
    pub(crate) fn open(&self) {
        self.unlock();
        self.waker().wake();
    }
}
