//! Watches an eventfd on the loop, with a callback for each count read.

use std::any::type_name_of_val;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::{Description, EventLoop, Registration, Source};
use crate::eventfd::EventFd;
use crate::readiness::{Interest, Readiness};

/// Maximum number of reads in one turn. One read empties a plain eventfd; a semaphore takes one
/// read per unit.
const READS_PER_TURN: usize = 64;

/// A watched eventfd, from [`EventFd::watch`].
///
/// Dropping this stops the watch and closes the loop's descriptor. Other descriptors of the same
/// counter, such as [clones](EventFd::try_clone), stay open. The callback itself may drop it.
///
/// Bound to the loop's thread, like the loop. A writer in another thread or process uses a
/// descriptor of its own.
#[must_use = "dropping this stops the watch"]
pub struct EventFdSource {
    registration: Registration<EventFdWatch>,
}

type OnCount = dyn FnMut(&EventLoop, u64);

struct EventFdWatch {
    id: ChannelId,
    eventfd: EventFd,
    /// The type of the callback.
    name: &'static str,
    on_count: RefCell<Contained<Box<OnCount>>>,
}

impl EventFd {
    /// Watches the counter on a loop, and calls `on_count` with each value read from it, never 0.
    ///
    /// A plain eventfd is read until empty, so writes that arrive together are reported as one call
    /// with their sum. A [semaphore](crate::io::EventFdBuilder::semaphore) causes one call with 1
    /// for each unit, at most 64 per turn, so that a large count does not starve other channels.
    /// Units that another reader takes first are not reported here.
    ///
    /// A counter that is already above 0 is reported. A blocking eventfd works the same: the loop
    /// never sleeps in a read of it.
    ///
    /// A panic in `on_count` stops the watch. So does a read error, such as that of a descriptor
    /// that is not an eventfd (see [`EventFd::read`]); it is logged.
    ///
    /// # Errors
    /// The error of epoll_ctl(2): ENOSPC if the user has reached `fs.epoll.max_user_watches`,
    /// ENOMEM, or [`PermissionDenied`](io::ErrorKind::PermissionDenied) for the descriptor of a
    /// file or directory. On error the eventfd is closed.
    ///
    /// # Examples
    /// ```
    /// use reveille::{EventFd, EventLoop};
    ///
    /// let event_loop = EventLoop::new()?;
    /// let eventfd = EventFd::new(0)?;
    /// let writer = eventfd.try_clone()?;
    /// let _source = eventfd.watch(&event_loop, |event_loop, count| {
    ///     assert_eq!(count, 3);
    ///     event_loop.quit();
    /// })?;
    /// writer.write(2)?;
    /// writer.signal()?;
    /// event_loop.run()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn watch(
        self,
        event_loop: &EventLoop,
        on_count: impl FnMut(&EventLoop, u64) + 'static,
    ) -> io::Result<EventFdSource> {
        let name = type_name_of_val(&on_count);
        let on_count = RefCell::new(Contained::new(Box::new(on_count) as Box<OnCount>));
        let watch = event_loop
            .register(Interest::READABLE, |id| Rc::new(EventFdWatch { id, eventfd: self, name, on_count }))?;
        Ok(EventFdSource { registration: Registration::new(event_loop, watch.id, &watch) })
    }
}

impl EventFdSource {
    /// Whether the eventfd is still watched. A panic in the callback, a read error, and the end of
    /// the loop stop the watch.
    pub fn is_open(&self) -> bool {
        self.registration.is_open()
    }

    /// Calls `f` with the eventfd. Returns `None` once it is not watched any longer. A count read
    /// here is not reported to the callback.
    pub fn with<R>(&self, f: impl FnOnce(&EventFd) -> R) -> Option<R> {
        self.registration.with(|_, watch| f(&watch.eventfd))
    }

    /// Excludes the eventfd from what [`run_until_idle`](EventLoop::run_until_idle) waits for. Its
    /// callback is called as long as the loop runs.
    pub fn exclude_from_idle(&self) {
        self.registration.exclude_from_idle();
    }

    /// Ends the effect of [`exclude_from_idle`](Self::exclude_from_idle).
    pub fn include_in_idle(&self) {
        self.registration.include_in_idle();
    }

    /// Stops the watch: the callback is not called again. The descriptor is closed at once; if this
    /// is called inside the callback, after the callback returns.
    pub fn close(self) {}
}

impl fmt::Debug for EventFdSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventFdSource").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

impl Source for EventFdWatch {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.eventfd.as_fd())
    }

    fn describe(&self) -> Description {
        Description::of("a watched eventfd").handler(self.name)
    }

    /// Reads until the counter is zero; every later write raises a new edge.
    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        for _ in 0..READS_PER_TURN {
            match self.eventfd.try_read() {
                Ok(count) => {
                    if self.eventfd.is_plain() {
                        // The counter is known to be zero, which saves a read that would return
                        // `WouldBlock`.
                        event_loop.clear_ready(self.id, !Readiness::NONE);
                        return (self.on_count.borrow_mut())(event_loop, count);
                    }
                    (self.on_count.borrow_mut())(event_loop, count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return event_loop.clear_ready(self.id, !Readiness::NONE);
                }
                Err(error) => {
                    event_loop.remove(self.id);
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
}
