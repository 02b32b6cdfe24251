//! The drop of a loop.

use std::mem;
use std::ptr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::EventLoop;
use super::current::CURRENT;
use crate::event_loop::containment::logger;

impl Drop for EventLoop {
    #[inline]
    fn drop(&mut self) {
        // While a handle or a stream is used on the loop's own thread, it holds a second reference
        // to the loop. Only the drop of the last reference ends the loop, so the callbacks called
        // there can still use it.
        if Rc::strong_count(&self.inner) == 1 {
            self.drop_last();
        }
    }
}

impl EventLoop {
    #[cold]
    fn drop_last(&mut self) {
        if !self.is_inherited() {
            self.run_at_end();
        }
        // A hook may have forked.
        if self.is_inherited() {
            self.abandon()
        } else {
            self.end()
        }
        if CURRENT.with_borrow(|current| ptr::eq(current.as_ptr(), Rc::as_ptr(&self.inner))) {
            EventLoop::set_current(Weak::new());
        }
    }

    /// In a forked child: drops the state owned by the loop's thread. No callback is called, since
    /// nothing has ended in the parent, whose descriptors stay open. State shared with other
    /// threads is left as it is and never freed: those threads do not exist in the child, and may
    /// have been changing it.
    fn abandon(&self) {
        let inner = &*self.inner;
        inner.dropping.set(true);
        inner.queues_specially.set(true);
        mem::forget(Arc::clone(&inner.shared));
        let ids = inner.channels.borrow().ids();
        for id in ids {
            let source = inner.channels.borrow_mut().remove(id);
            self.discard(source);
        }
        self.drop_futures();
        let local_tasks = inner.local_tasks.take();
        drop(local_tasks);
        let timers = inner.timers.borrow_mut().drain();
        drop(timers);
    }

    fn end(&self) {
        let inner = &*self.inner;
        inner.dropping.set(true);
        inner.queues_specially.set(true);
        inner.shared.ended.store(true, Relaxed);
        let tasks = inner.shared.tasks.close();
        inner.shared.deliveries.close();
        self.run_deliveries();
        // Before the sources: futures own some of them.
        self.drop_futures();
        loop {
            // An `on_close` may close other channels. No channel can be registered any more, so
            // this terminates.
            let ids = inner.channels.borrow().ids();
            if ids.is_empty() {
                break;
            }
            for id in ids {
                let source = inner.channels.borrow().get(id).cloned();
                if let Some(source) = source {
                    self.catch_in("a loop-end callback", &*source, || source.on_loop_end(self));
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
        // Taken out of the borrow and the lock before the drop.
        let timers = inner.timers.borrow_mut().drain();
        drop(timers);
        let remote_timers = inner.shared.remote_timers.close();
        drop(remote_timers);
        inner.shared.observation.pulse().end_loop();
    }
}
