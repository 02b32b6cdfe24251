//! The end of a loop.

use std::mem;
use std::ptr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{CURRENT, EventLoop};
use crate::event_loop::containment::logger;

impl Drop for EventLoop {
    fn drop(&mut self) {
        // A handle that finds the loop on its own thread holds it for the length of a call; the last holder ends it, so that
        // what is closed here can still be told with a loop at hand.
        if Rc::strong_count(&self.inner) == 1 {
            if self.is_inherited() {
                self.abandon()
            } else {
                self.end()
            }
            if CURRENT.with_borrow(|current| ptr::eq(current.as_ptr(), Rc::as_ptr(&self.inner))) {
                EventLoop::set_current(Weak::new());
            }
        }
    }
}

impl EventLoop {
    /// In a forked child: drops what the loop's thread owns. Nobody is called, as nothing has ended for the parent, whose
    /// descriptors stay as they are. What other threads have a part in is left as it is, and never freed: they are not there any more, and
    /// may have been in the middle of a change.
    fn abandon(&self) {
        let inner = &*self.inner;
        inner.dropping.set(true);
        mem::forget(Arc::clone(&inner.shared));
        let ids = inner.channels.borrow().ids();
        for id in ids {
            let source = inner.channels.borrow_mut().remove(id);
            self.discard(source);
        }
        let local_tasks = inner.local_tasks.take();
        drop(local_tasks);
        let timers = inner.timers.borrow_mut().drain();
        drop(timers);
    }

    fn end(&self) {
        let inner = &*self.inner;
        inner.dropping.set(true);
        inner.shared.terminated.store(true, Relaxed);
        let tasks = inner.shared.tasks.close();
        loop {
            // An `on_close` may close others; nothing new is registered from here on, so this ends.
            let ids = inner.channels.borrow().ids();
            if ids.is_empty() {
                break;
            }
            for id in ids {
                let source = inner.channels.borrow().get(id).cloned();
                if let Some(source) = source {
                    self.catch("the end of a loop", || source.on_loop_end(self));
                    self.close_now(id);
                    self.discard(source);
                }
            }
        }
        let local_tasks = inner.local_tasks.take();
        let not_run = tasks.tasks.len() + local_tasks.tasks.len();
        inner.shared.counters.count_dropped(not_run);
        if not_run > 0 {
            logger::call(|| log::debug!("the loop is dropped with {not_run} tasks not run"));
        }
        drop((tasks, local_tasks));
        // Taken out of the borrow and the lock before they are dropped.
        let timers = inner.timers.borrow_mut().drain();
        drop(timers);
        let remote_timers = inner.shared.remote_timers.close();
        drop(remote_timers);
    }
}
