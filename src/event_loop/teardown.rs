//! The end of a loop.

use std::rc::Rc;

use super::EventLoop;

impl Drop for EventLoop {
    fn drop(&mut self) {
        // A handle that finds the loop on its own thread holds it for the length of a call; the last holder ends it, so that
        // what is closed here can still be told with a loop at hand.
        if Rc::strong_count(&self.inner) == 1 {
            self.end();
        }
    }
}

impl EventLoop {
    fn end(&self) {
        let inner = &*self.inner;
        inner.ending.set(true);
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
                    source.on_loop_end(self);
                    self.close_now(id);
                    self.discard(source);
                }
            }
        }
        let local_tasks = inner.local_tasks.take();
        let not_run = tasks.tasks.len() + local_tasks.tasks.len();
        inner.shared.tally.count_dropped(not_run);
        if not_run > 0 {
            log::debug!("the loop is dropped with {not_run} tasks not run");
        }
        // One by one, so that a destructor that panics costs no other its turn, nor the caller the rest of the drop.
        tasks.errands.into_iter().chain(tasks.tasks).for_each(|task| self.discard(task));
        local_tasks.errands.into_iter().chain(local_tasks.tasks).for_each(|task| self.discard(task));
        let timers = inner.timers.borrow_mut().drain();
        timers.into_iter().for_each(|timer| self.discard(timer));
        let remote_timers = inner.shared.remote_timers.close();
        remote_timers.into_iter().flatten().for_each(|timer| self.discard(timer));
    }
}
