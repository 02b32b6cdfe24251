//! The kernel's notice of how much memory a control group uses: thresholds in cgroup v1, counts of events in cgroup v2.

use std::cell::RefCell;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::{EventLoop, Source};
use crate::eventfd::EventFd;
use crate::readiness::{Interest, Readiness};
use crate::sources::Registration;
use crate::sources::watcher::{FileChange, FileChanges, Watcher};

/// A threshold for the memory that a group of cgroup v1 uses, whose crossing is told.
///
/// The kernel signals an [`EventFd`] of this value whenever the use goes above the threshold or falls below it, and once more
/// when the group is removed. Which of these it was is for the callback to find out (`memory.usage_in_bytes`).
///
/// Dropping this ends it; [`detach`](MemoryThreshold::detach) leaves it to the loop. Bound to the loop's thread, like the loop.
///
/// ```no_run
/// use reveille::{EventLoop, MemoryThreshold};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let group = "/sys/fs/cgroup/memory/workers";
/// let _threshold = MemoryThreshold::new(&event_loop, group, 512 << 20, |_, crossings| {
///     println!("the workers have crossed half a gigabyte, {crossings} times since they last did");
/// })?;
/// event_loop.run()
/// # }
/// ```
///
/// See Documentation/admin-guide/cgroup-v1/memory.rst of Linux, section 9. Systems of today mostly have cgroup v2 alone, where
/// there are [`MemoryEvents`].
#[must_use = "nothing is told any longer when this is dropped; `detach` leaves it to the loop"]
pub struct MemoryThreshold {
    registration: Registration,
}

type Callback = Contained<Box<dyn FnMut(&EventLoop, u64)>>;

struct Threshold {
    id: ChannelId,
    crossings: EventFd,
    callback: RefCell<Callback>,
}

impl MemoryThreshold {
    /// Calls `callback` with the number of crossings when the memory that `group` uses has crossed `bytes`, which the kernel counts
    /// in whole pages. `group` is a directory under the one where the memory controller is mounted.
    ///
    /// A panic in the callback ends the source, as if it had been dropped.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if `group` is no memory group of cgroup v1, or the kernel has no thresholds
    /// for it; [`PermissionDenied`](io::ErrorKind::PermissionDenied) if it is somebody else's; EMFILE if descriptors have run
    /// out.
    pub fn new(
        event_loop: &EventLoop,
        group: impl AsRef<Path>,
        bytes: u64,
        callback: impl FnMut(&EventLoop, u64) + 'static,
    ) -> io::Result<MemoryThreshold> {
        let callback: Callback = Contained::new(Box::new(callback));
        let group = group.as_ref();
        let refused = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::Unsupported => {
                unsupported(group, "is no memory group of cgroup v1 with thresholds", &error)
            }
            kind => io::Error::new(kind, format!("no threshold for {}: {error}", group.display())),
        };
        let crossings = EventFd::new(0)?;
        let usage = fs::File::open(group.join("memory.usage_in_bytes")).map_err(refused)?;
        // The kernel looks the two descriptors up within this call, and keeps what they stand for until the eventfd is closed.
        let terms = format!("{} {} {bytes}", crossings.as_raw_fd(), usage.as_raw_fd());
        let control = fs::File::options().write(true).open(group.join("cgroup.event_control"));
        control.and_then(|control| io::Write::write_all(&mut &control, terms.as_bytes())).map_err(refused)?;
        let threshold = event_loop.register(Interest::READABLE, |id| {
            Rc::new(Threshold { id, crossings, callback: RefCell::new(callback) })
        })?;
        Ok(MemoryThreshold { registration: Registration::new(event_loop, threshold.id) })
    }

    /// Whether crossings are still told: the callback has not panicked, and the loop is there.
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

impl fmt::Debug for MemoryThreshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryThreshold").field("is_open", &self.is_open()).finish_non_exhaustive()
    }
}

impl Source for Threshold {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.crossings.as_fd())
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        event_loop.clear_ready(self.id, !Readiness::NONE);
        match self.crossings.read() {
            Ok(crossings) => (self.callback.borrow_mut())(event_loop, crossings),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                event_loop.remove(self.id);
                logger::call(|| log::error!("a memory threshold can no longer be read: {error}"));
            }
        }
    }

    fn on_panic(&self, event_loop: &EventLoop) {
        event_loop.remove(self.id);
    }
}

/// How often the limits of a group's memory have come into play, as `memory.events` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryCounts {
    /// Memory below `memory.low` was taken away, since there was no other.
    pub low: u64,
    /// The group went past `memory.high`, and was slowed down.
    pub high: u64,
    /// The group came to `memory.max`.
    pub max: u64,
    /// The group was about to fail an allocation at its limit.
    pub oom: u64,
    /// Processes of the group that were killed for want of memory.
    pub oom_kill: u64,
}

impl MemoryCounts {
    /// The counts of a group now.
    ///
    /// # Errors
    /// As [`MemoryEvents::new`].
    pub fn of(group: impl AsRef<Path>) -> io::Result<MemoryCounts> {
        let group = group.as_ref();
        let text = fs::read_to_string(events_of(group)).map_err(|error| no_events(group, error))?;
        Ok(MemoryCounts::parse(&text))
    }

    /// Lines of a name and a count. Names that are not known are for later kernels to explain.
    fn parse(text: &str) -> MemoryCounts {
        let mut counts = MemoryCounts::default();
        for line in text.lines() {
            let Some((name, count)) = line.split_once(' ') else { continue };
            let Ok(count) = count.trim().parse() else { continue };
            match name {
                "low" => counts.low = count,
                "high" => counts.high = count,
                "max" => counts.max = count,
                "oom" => counts.oom = count,
                "oom_kill" => counts.oom_kill = count,
                _ => {}
            }
        }
        counts
    }
}

/// The memory events of a group of cgroup v2, told when their counts change.
///
/// Dropping this ends it; [`detach`](MemoryEvents::detach) leaves it to the loop. It ends by itself if the group is removed, or the
/// callback panics. Bound to the loop's thread, like the loop.
///
/// ```no_run
/// use reveille::{EventLoop, MemoryEvents};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let _events = MemoryEvents::new(&event_loop, "/sys/fs/cgroup/workers", |_, counts| {
///     println!("slowed down {} times, {} processes killed", counts.high, counts.oom_kill);
/// })?;
/// event_loop.run()
/// # }
/// ```
///
/// See Documentation/admin-guide/cgroup-v2.rst of Linux, `memory.events`.
#[must_use = "nothing is told any longer when this is dropped; `detach` leaves it to the loop"]
#[derive(Debug)]
pub struct MemoryEvents {
    watcher: Watcher,
}

impl MemoryEvents {
    /// Calls `callback` with the counts of `group`, the group's directory, whenever they have changed. The kernel tells of changes
    /// at most every 10 ms, so one call may stand for several.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if `group` has no `memory.events`: it is no group of cgroup v2, or its root,
    /// or its parent does not have the memory controller enabled; else as [`Watcher::new`] and [`Watcher::watch`].
    pub fn new(
        event_loop: &EventLoop,
        group: impl AsRef<Path>,
        mut callback: impl FnMut(&EventLoop, MemoryCounts) + 'static,
    ) -> io::Result<MemoryEvents> {
        let group = group.as_ref().to_owned();
        // Watched before it is read, so that no change falls between.
        let known = Rc::new(RefCell::new(MemoryCounts::default()));
        let (last, path) = (Rc::clone(&known), group.clone());
        let watcher = Watcher::new(event_loop, move |event| match MemoryCounts::of(&path) {
            _ if event.change() == FileChange::WatchRemoved => event.close(),
            Ok(counts) if counts == last.replace(counts) => {}
            Ok(counts) => callback(event.event_loop(), counts),
            Err(error) => {
                event.close();
                logger::call(|| log::warn!("memory events are no longer reported: {error}"));
            }
        })?;
        watcher.watch(events_of(&group), FileChanges::MODIFIED).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => no_events(&group, error),
            _ => error,
        })?;
        *known.borrow_mut() = MemoryCounts::of(&group)?;
        Ok(MemoryEvents { watcher })
    }

    /// Whether changes are still told.
    pub fn is_open(&self) -> bool {
        self.watcher.is_open()
    }

    /// Ends it: the callback is not called again.
    pub fn close(self) {}

    /// Leaves it to the loop, until that is dropped.
    pub fn detach(self) {
        self.watcher.detach();
    }
}

fn events_of(group: &Path) -> PathBuf {
    group.join("memory.events")
}

fn no_events(group: &Path, error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => unsupported(group, "is no group of cgroup v2 with memory events", &error),
        kind => io::Error::new(kind, format!("no memory events of {}: {error}", group.display())),
    }
}

fn unsupported(group: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{} {what}: {error}", group.display()))
}
