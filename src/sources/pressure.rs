//! Pressure stall information (PSI): the kernel reports that tasks stall for lack of memory, CPU or
//! I/O (Documentation/accounting/psi.rst of Linux).
//!
//! A trigger is an open file to which its threshold was written. The kernel raises a priority event
//! when the threshold is exceeded, at most once per window. Polling the event consumes it.

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
use crate::event_loop::{Description, EventLoop, Registration, Source};
use crate::readiness::{Interest, Readiness};

/// A resource that tasks can stall on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PressureResource {
    /// CPU time.
    Cpu,
    /// Memory: reclaim, and reading back reclaimed pages.
    Memory,
    /// Block I/O.
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

/// A PSI trigger: fires when tasks stall for more than `stall` within any `window`.
///
/// Default: 150 ms within 2 s, for the whole system.
///
/// ```no_run
/// use reveille::EventLoop;
/// use reveille::pressure::{PressureResource, PressureTrigger};
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
#[must_use = "the trigger has no effect before `watch` is called"]
pub struct PressureTrigger {
    resource: PressureResource,
    /// Whether all tasks must stall.
    full: bool,
    group: Option<PathBuf>,
    stall: Duration,
    window: Duration,
}

impl PressureTrigger {
    /// Counts the time in which at least one task stalls.
    pub fn some(resource: PressureResource) -> PressureTrigger {
        let (stall, window) = (Duration::from_millis(150), Duration::from_secs(2));
        PressureTrigger { resource, full: false, group: None, stall, window }
    }

    /// Counts the time in which all non-idle tasks stall at once. For
    /// [`Cpu`](PressureResource::Cpu) this time is always zero for the system as a whole.
    pub fn full(resource: PressureResource) -> PressureTrigger {
        PressureTrigger { full: true, ..PressureTrigger::some(resource) }
    }

    /// Counts only the tasks of one cgroup v2 group, given by its directory.
    pub fn in_group(mut self, group: impl Into<PathBuf>) -> PressureTrigger {
        self.group = Some(group.into());
        self
    }

    /// The stall time within a window that fires the trigger: more than zero, at most the window,
    /// in whole microseconds. Default: 150 ms.
    pub fn stall(mut self, stall: Duration) -> PressureTrigger {
        self.stall = stall;
        self
    }

    /// The window, from 500 ms to 10 s, in whole microseconds. Without CAP_SYS_RESOURCE the kernel
    /// accepts only multiples of 2 s. Default: 2 s.
    pub fn window(mut self, window: Duration) -> PressureTrigger {
        self.window = window;
        self
    }

    /// Calls `callback` whenever the trigger fires, at most once per window.
    ///
    /// A panic in the callback closes the source.
    ///
    /// # Errors
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) if the stall or the window is out of bounds.
    /// - [`Unsupported`](io::ErrorKind::Unsupported) if the kernel has PSI disabled (CONFIG_PSI, or
    ///   `psi=1` at boot).
    /// - [`NotFound`](io::ErrorKind::NotFound) if the group does not exist.
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied) without CAP_SYS_RESOURCE before
    ///   Linux 6.5.
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
        Ok(PressureWatch { registration: Registration::new(event_loop, source.id, &source) })
    }

    fn open(&self) -> io::Result<OwnedFd> {
        let bounds = Duration::from_millis(500)..=Duration::from_secs(10);
        if !bounds.contains(&self.window) {
            return Err(invalid("the window of a pressure trigger must be from 500 ms to 10 s"));
        }
        if self.stall.as_micros() == 0 || self.stall > self.window {
            return Err(invalid("the stall must be more than zero and at most the window"));
        }
        let file = match &self.group {
            None => Path::new("/proc/pressure").join(self.resource.name()),
            Some(group) => group.join(format!("{}.pressure", self.resource.name())),
        };
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let trigger =
            rustix::fs::open(&file, flags, Mode::empty()).map_err(|error| self.refused(&file, error))?;
        let extent = if self.full { "full" } else { "some" };
        // The kernel overwrites the last byte with a terminating zero.
        let threshold = format!("{extent} {} {}\0", self.stall.as_micros(), self.window.as_micros());
        retry_on_intr(|| rustix::io::write(&trigger, threshold.as_bytes()))
            .map_err(|error| self.refused(&file, error))?;
        Ok(trigger)
    }

    fn refused(&self, file: &Path, error: Errno) -> io::Error {
        let is_system = self.group.is_none();
        let (kind, why) = match error {
            Errno::NOENT | Errno::OPNOTSUPP if is_system => (
                io::ErrorKind::Unsupported,
                "pressure stall information is disabled in the kernel (CONFIG_PSI, psi=1)".into(),
            ),
            Errno::INVAL => (
                io::ErrorKind::InvalidInput,
                "without CAP_SYS_RESOURCE the window must be a multiple of 2 s".into(),
            ),
            Errno::PERM | Errno::ACCESS => (
                io::ErrorKind::PermissionDenied,
                format!("{error} (before Linux 6.5 this requires CAP_SYS_RESOURCE)"),
            ),
            error => (io::Error::from(error).kind(), error.to_string()),
        };
        io::Error::new(kind, format!("cannot watch {}: {why}", file.display()))
    }
}

/// A pressure trigger watched by a loop, from [`PressureTrigger::watch`].
///
/// Dropping this closes the source; [`detach`](PressureWatch::detach) leaves it to the loop. The
/// source closes itself if its group is removed or its callback panics.
///
/// Bound to the loop's thread, like the loop.
#[must_use = "dropping this closes the source; `detach` leaves it to the loop"]
pub struct PressureWatch {
    registration: Registration<Trigger>,
}

user_value!(PressureWatch, registration);

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

    fn describe(&self) -> Description {
        Description::of("a pressure trigger")
    }

    /// Nothing needs to be read: the poll that reported the event has consumed it.
    fn on_ready(&self, event_loop: &EventLoop, ready: Readiness) {
        if ready.is_error() {
            event_loop.remove(self.id);
            return logger::call(|| log::warn!("pressure is no longer reported: the group was removed"));
        }
        event_loop.clear_ready(self.id, !Readiness::NONE);
        (self.callback.borrow_mut())(event_loop);
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
