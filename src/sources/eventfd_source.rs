//! An eventfd on a loop: a callback for each count.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::{Rc, Weak};

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::{EventLoop, Source, WeakLoop};
use crate::eventfd::EventFd;
use crate::readiness::{Interest, Readiness};

/// What is read in one turn. A plain eventfd is empty after one read; of a semaphore each unit is one.
const READS_A_TURN: usize = 64;

/// An eventfd on a loop, for as long as this value lives: from [`EventFd::watch`].
///
/// Dropping it ends the watch and closes the loop's descriptor; others of the same counter, such as
/// [clones](EventFd::try_clone), stay. The callback itself may drop it.
///
/// Bound to the loop's thread, like the loop. Whoever is to signal from another thread or process has a descriptor of its own.
#[must_use = "an eventfd is not watched any longer when this is dropped"]
pub struct EventFdSource {
    event_loop: WeakLoop,
    core: Weak<Core>,
}

type OnCount = dyn FnMut(&EventLoop, u64);

struct Core {
    id: ChannelId,
    eventfd: EventFd,
    on_count: RefCell<Contained<Box<OnCount>>>,
}

impl EventFd {
    /// Watches the counter on a loop, and calls `on_count` with what it reads from it, never 0.
    ///
    /// A plain eventfd is read empty, so signals that come together are one call with their sum. Each unit of a
    /// [semaphore](crate::EventFdBuilder::semaphore) is a call with 1, up to 64 a turn of the loop, so that a large count does not
    /// keep other channels waiting. Units that another reader takes first are not seen here.
    ///
    /// What is there already counts. A blocking eventfd is watched as well as any other, without the loop ever sleeping in it.
    ///
    /// A panic in `on_count` ends the watch; so does an error of a read, with a word in the log, as for a descriptor that is no
    /// eventfd (see [`EventFd::read`]).
    ///
    /// # Errors
    /// What the kernel says when it cannot watch the descriptor (epoll_ctl(2)): ENOSPC if the user watches as many as
    /// `fs.epoll.max_user_watches` allows, ENOMEM, EPERM if it is that of a file or directory. It is closed then.
    ///
    /// # Examples
    /// ```
    /// use reveille::{EventFd, EventLoop};
    ///
    /// let event_loop = EventLoop::new()?;
    /// let eventfd = EventFd::new(0)?;
    /// let signals = eventfd.try_clone()?;
    /// let _source = eventfd.watch(&event_loop, |event_loop, count| {
    ///     assert_eq!(count, 3);
    ///     event_loop.quit();
    /// })?;
    /// signals.write(2)?;
    /// signals.signal()?;
    /// event_loop.run()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn watch(
        self,
        event_loop: &EventLoop,
        on_count: impl FnMut(&EventLoop, u64) + 'static,
    ) -> io::Result<EventFdSource> {
        let on_count = RefCell::new(Contained::new(Box::new(on_count) as Box<OnCount>));
        let core =
            event_loop.register(Interest::READABLE, |id| Rc::new(Core { id, eventfd: self, on_count }))?;
        Ok(EventFdSource { event_loop: event_loop.downgrade(), core: Rc::downgrade(&core) })
    }
}

impl EventFdSource {
    /// Whether the eventfd is still watched. A panic in the callback, an error of a read, and the end of the loop end that.
    pub fn is_open(&self) -> bool {
        self.with(|_| ()).is_some()
    }

    /// Lends the eventfd for a call; `None` once it is not watched any longer. What is read from it here is not seen by the
    /// callback.
    pub fn with<R>(&self, f: impl FnOnce(&EventFd) -> R) -> Option<R> {
        let core = self.core.upgrade()?;
        let is_there = self.event_loop.with(|event_loop| event_loop.is_registered(core.id))?;
        is_there.then(|| f(&core.eventfd))
    }

    /// Ends the watch: the callback is not called again. The descriptor is closed at once, or, from inside the callback, when
    /// that has returned.
    pub fn close(self) {}
}

impl Drop for EventFdSource {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            self.event_loop.with(|event_loop| core.close(event_loop));
        }
    }
}

impl fmt::Debug for EventFdSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventFdSource").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

impl Core {
    fn close(&self, event_loop: &EventLoop) {
        event_loop.remove(self.id);
    }
}

impl Source for Core {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.eventfd.as_fd())
    }

    /// Reads until the counter is at zero; every later write raises a new edge.
    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        for _ in 0..READS_A_TURN {
            match self.eventfd.try_read() {
                Ok(count) => {
                    if self.eventfd.is_plain() {
                        // That was all of it, which saves the read that would say so.
                        event_loop.clear_ready(self.id, !Readiness::NONE);
                        return (self.on_count.borrow_mut())(event_loop, count);
                    }
                    (self.on_count.borrow_mut())(event_loop, count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return event_loop.clear_ready(self.id, !Readiness::NONE);
                }
                Err(error) => {
                    self.close(event_loop);
                    return logger::recurring("an eventfd that cannot be read", |left_out| {
                        log::error!("an eventfd can no longer be read: {error}{left_out}");
                    });
                }
            }
            if !event_loop.is_registered(self.id) {
                return; // Closed by the callback.
            }
        }
    }

    fn on_panic(&self, event_loop: &EventLoop) {
        self.close(event_loop);
    }
}
