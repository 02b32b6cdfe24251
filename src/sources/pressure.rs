//! The kernel's notice that tasks are held up for want of memory, a processor, or a disk: pressure stall information, PSI
//! (Documentation/accounting/psi.rst of Linux).
//!
//! A trigger is an open file into which its terms were written; the kernel reports a priority event when they are met, once a
//! window at most, and the report is used up by being read.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::{EventLoop, Source};
use crate::readiness::{Interest, Readiness};
use crate::sources::Registration;

/// What tasks can be held up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PressureResource {
    /// A processor.
    Cpu,
    /// Memory: the kernel looks for pages to free, or brings back what it had to put out.
    Memory,
    /// A disk, or another device that is read and written in blocks.
    Io,
}

impl PressureResource {
    fn name(self) -> &'static str {
        match self {
            PressureResource::Cpu => "cpu",
            PressureResource::Memory => "memory",
            PressureResource::Io => "io",
        }
    }
}

impl fmt::Display for PressureResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The terms on which a loop is told of pressure: more than so much stall within such a window of time.
///
/// Unless told otherwise it is 150 ms within any 2 s, in the whole system.
///
/// ```no_run
/// use reveille::{EventLoop, PressureTrigger, PressureResource};
/// use std::time::Duration;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let _pressure = PressureTrigger::some(PressureResource::Memory)
///     .stall(Duration::from_millis(100))
///     .watch(&event_loop, |_| println!("memory is short: time to empty the caches"))?;
/// event_loop.run()
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is told before `watch` is called"]
pub struct PressureTrigger {
    resource: PressureResource,
    /// Whether all tasks must be held up.
    full: bool,
    group: Option<PathBuf>,
    stall: Duration,
    window: Duration,
}

impl PressureTrigger {
    /// For the time in which at least one task is held up.
    pub fn some(resource: PressureResource) -> PressureTrigger {
        let (stall, window) = (Duration::from_millis(150), Duration::from_secs(2));
        PressureTrigger { resource, full: false, group: None, stall, window }
    }

    /// For the time in which all tasks that could do something are held up at once. The system as a whole never counts any
    /// such time for [`Cpu`](PressureResource::Cpu).
    pub fn full(resource: PressureResource) -> PressureTrigger {
        PressureTrigger { full: true, ..PressureTrigger::some(resource) }
    }

    /// For the tasks of one group of cgroup v2, given as its directory, instead of for all.
    pub fn in_group(mut self, group: impl Into<PathBuf>) -> PressureTrigger {
        self.group = Some(group.into());
        self
    }

    /// How much stall within a window it takes. More than zero, at most the window, to the microsecond.
    pub fn stall(mut self, stall: Duration) -> PressureTrigger {
        self.stall = stall;
        self
    }

    /// The window, from 500 ms to 10 s, to the microsecond. Without CAP_SYS_RESOURCE the kernel takes only multiples of 2 s.
    pub fn window(mut self, window: Duration) -> PressureTrigger {
        self.window = window;
        self
    }

    /// Calls `callback` whenever the terms are met, once a window at most.
    ///
    /// A panic in the callback ends the source, as if it had been dropped.
    ///
    /// # Errors
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) for terms that are out of the bounds above.
    /// - [`Unsupported`](io::ErrorKind::Unsupported) if the kernel keeps no such figures (CONFIG_PSI, or `psi=1` at boot).
    /// - [`NotFound`](io::ErrorKind::NotFound) if there is no such group.
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied) without CAP_SYS_RESOURCE before Linux 6.5.
    pub fn watch(
        &self,
        event_loop: &EventLoop,
        callback: impl FnMut(&EventLoop) + 'static,
    ) -> io::Result<PressureWatch> {
        let callback: Callback = Contained::new(Box::new(callback));
        let trigger = self.open()?;
        let source = event_loop.register(Interest::PRIORITY, |id| {
            Rc::new(Trigger { id, trigger, callback: RefCell::new(callback) })
        })?;
        Ok(PressureWatch { registration: Registration::new(event_loop, source.id) })
    }

    fn open(&self) -> io::Result<OwnedFd> {
        let bounds = Duration::from_millis(500)..=Duration::from_secs(10);
        if !bounds.contains(&self.window) {
            return Err(invalid("a window of pressure lasts from 500 ms to 10 s"));
        }
        if self.stall.as_micros() == 0 || self.stall > self.window {
            return Err(invalid("the stall of a window is more than zero, and at most the window"));
        }
        let file = match &self.group {
            None => Path::new("/proc/pressure").join(self.resource.name()),
            Some(group) => group.join(format!("{}.pressure", self.resource.name())),
        };
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let trigger =
            rustix::fs::open(&file, flags, Mode::empty()).map_err(|error| self.refused(&file, error))?;
        let extent = if self.full { "full" } else { "some" };
        // The kernel puts its own end over the last byte.
        let terms = format!("{extent} {} {}\0", self.stall.as_micros(), self.window.as_micros());
        retry_on_intr(|| rustix::io::write(&trigger, terms.as_bytes()))
            .map_err(|error| self.refused(&file, error))?;
        Ok(trigger)
    }

    fn refused(&self, file: &Path, error: Errno) -> io::Error {
        let is_system = self.group.is_none();
        let (kind, why) = match error {
            Errno::NOENT | Errno::OPNOTSUPP if is_system => (
                io::ErrorKind::Unsupported,
                "the kernel keeps no pressure figures (CONFIG_PSI, psi=1)".into(),
            ),
            Errno::INVAL => (
                io::ErrorKind::InvalidInput,
                "without CAP_SYS_RESOURCE the kernel takes only windows of a multiple of 2 s".into(),
            ),
            Errno::PERM | Errno::ACCESS => (
                io::ErrorKind::PermissionDenied,
                format!("{error} (before Linux 6.5 it takes CAP_SYS_RESOURCE)"),
            ),
            error => (io::Error::from(error).kind(), error.to_string()),
        };
        io::Error::new(kind, format!("cannot watch {}: {why}", file.display()))
    }
}

/// A loop's being told of pressure, from [`PressureTrigger::watch`].
///
/// Dropping this ends it; [`detach`](PressureWatch::detach) leaves it to the loop. It ends by itself if its group is removed, or its
/// callback panics.
///
/// Bound to the loop's thread, like the loop.
#[must_use = "nothing is told any longer when this is dropped; `detach` leaves it to the loop"]
pub struct PressureWatch {
    registration: Registration,
}

impl PressureWatch {
    /// Whether it has not ended.
    pub fn is_open(&self) -> bool {
        self.registration.is_open()
    }

    /// Ends it: the callback is not called again.
    pub fn close(self) {}

    /// Leaves it to the loop, until that is dropped.
    pub fn detach(self) {
        self.registration.detach();
    }
}

impl fmt::Debug for PressureWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pressure").field("is_open", &self.is_open()).finish_non_exhaustive()
    }
}

type Callback = Contained<Box<dyn FnMut(&EventLoop)>>;

struct Trigger {
    id: ChannelId,
    trigger: OwnedFd,
    callback: RefCell<Callback>,
}

impl Source for Trigger {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.trigger.as_fd())
    }

    /// There is nothing to read: the poll that has reported it has used it up.
    fn on_ready(&self, event_loop: &EventLoop, ready: Readiness) {
        if ready.is_error() {
            event_loop.remove(self.id);
            return logger::call(|| log::warn!("pressure is no longer reported: its group was removed"));
        }
        event_loop.clear_ready(self.id, !Readiness::NONE);
        (self.callback.borrow_mut())(event_loop);
    }

    fn on_panic(&self, event_loop: &EventLoop) {
        event_loop.remove(self.id);
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
