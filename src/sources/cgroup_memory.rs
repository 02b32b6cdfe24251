//! Memory notifications of control groups: usage thresholds in cgroup v1, memory events in cgroup
//! v2.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::{Description, EventLoop, Registration, Source};
use crate::eventfd::EventFd;
use crate::readiness::{Interest, Readiness};
use crate::sources::watcher::{FileChange, FileChanges, Watcher};

/// A memory usage threshold of a cgroup v1 group.
///
/// The kernel signals an [`EventFd`] of this source whenever usage rises above the threshold or
/// falls below it, and once when the group is removed. The callback distinguishes the cases by
/// reading `memory.usage_in_bytes`.
///
/// Dropping this closes the source; [`detach`](MemoryThreshold::detach) leaves it to the loop.
/// Bound to the loop's thread, like the loop.
///
/// ```no_run
/// use reveille::EventLoop;
/// use reveille::pressure::MemoryThreshold;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let group = "/sys/fs/cgroup/memory/workers";
/// let _threshold = MemoryThreshold::new(&event_loop, group, 512 << 20, |_, crossings| {
///     println!("the workers' usage has crossed 512 MiB ({crossings} crossings)");
/// })?;
/// event_loop.run()
/// # }
/// ```
///
/// See Documentation/admin-guide/cgroup-v1/memory.rst of Linux, section 9. Most current systems
/// have only cgroup v2; use [`MemoryEvents`] there.
#[must_use = "dropping this closes the source; `detach` leaves it to the loop"]
pub struct MemoryThreshold {
    registration: Registration<Threshold>,
}

type Callback = Contained<Box<dyn FnMut(&EventLoop, u64)>>;

struct Threshold {
    id: ChannelId,
    crossings: EventFd,
    callback: RefCell<Callback>,
}

impl MemoryThreshold {
    /// Calls `callback` with the number of crossings when the memory usage of `group` has crossed
    /// `bytes`. The kernel counts usage in whole pages. `group` is a directory below the mount
    /// point of the memory controller.
    ///
    /// A panic in the callback closes the source.
    ///
    /// # Errors
    /// - [`Unsupported`](io::ErrorKind::Unsupported) if `group` is not a memory group of cgroup v1,
    ///   or the kernel does not support thresholds for it.
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied) if another user owns the group.
    /// - EMFILE if the process has no free descriptor.
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
                unsupported(group, "is no memory group of cgroup v1 that supports thresholds", &error)
            }
            kind => io::Error::new(kind, format!("no threshold for {}: {error}", group.display())),
        };
        let crossings = EventFd::new(0)?;
        let usage = fs::File::open(group.join("memory.usage_in_bytes")).map_err(refused)?;
        // The kernel resolves both descriptors during this write, and holds references to what they
        // refer to until the eventfd is closed.
        let request = format!("{} {} {bytes}", crossings.as_raw_fd(), usage.as_raw_fd());
        let control = fs::File::options().write(true).open(group.join("cgroup.event_control"));
        control
            .and_then(|control| io::Write::write_all(&mut &control, request.as_bytes()))
            .map_err(refused)?;
        let threshold = event_loop.register(Interest::READABLE, |id| {
            Rc::new(Threshold { id, crossings, callback: RefCell::new(callback) })
        })?;
        Ok(MemoryThreshold { registration: Registration::new(event_loop, threshold.id, &threshold) })
    }
}

user_value!(MemoryThreshold, registration);

impl Source for Threshold {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.crossings.as_fd())
    }

    fn describe(&self) -> Description {
        Description::of("a memory threshold")
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
}

/// Counters of a group's `memory.events`: how often each memory limit has taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryCounts {
    /// Memory below `memory.low` was reclaimed, since no unprotected memory was left.
    pub low: u64,
    /// Usage exceeded `memory.high`, and the group was throttled.
    pub high: u64,
    /// Usage reached `memory.max`.
    pub max: u64,
    /// Usage reached the limit and an allocation was about to fail.
    pub oom: u64,
    /// Processes of the group killed by the OOM killer.
    pub oom_kill: u64,
}

impl MemoryCounts {
    /// Reads the current counts of a group.
    ///
    /// # Errors
    /// Same as [`MemoryEvents::new`].
    pub fn of(group: impl AsRef<Path>) -> io::Result<MemoryCounts> {
        let group = group.as_ref();
        let text = fs::read_to_string(events_of(group)).map_err(|error| no_events(group, error))?;
        Ok(MemoryCounts::parse(&text))
    }

    /// Parses lines of a name and a count. Unknown names, of later kernels, are ignored.
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

/// The memory events of a cgroup v2 group, reported when their counts change.
///
/// Dropping this closes the source; [`detach`](MemoryEvents::detach) leaves it to the loop. The
/// source closes itself if the group is removed or the callback panics. Bound to the loop's thread,
/// like the loop.
///
/// ```no_run
/// use reveille::EventLoop;
/// use reveille::pressure::MemoryEvents;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let _events = MemoryEvents::new(&event_loop, "/sys/fs/cgroup/workers", |_, counts| {
///     println!("throttled {} times, {} processes killed", counts.high, counts.oom_kill);
/// })?;
/// event_loop.run()
/// # }
/// ```
///
/// See Documentation/admin-guide/cgroup-v2.rst of Linux, `memory.events`.
#[must_use = "dropping this closes the source; `detach` leaves it to the loop"]
pub struct MemoryEvents {
    watcher: Watcher,
}

impl MemoryEvents {
    /// Calls `callback` with the counts of `group`, a group's directory, whenever they change. The
    /// kernel reports changes at most every 10 ms, so one call may cover several.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if `group` has no `memory.events`: it is not a
    /// cgroup v2 group, it is the root, or its parent does not have the memory controller enabled.
    /// Otherwise same as [`Watcher::new`] and [`Watcher::watch`].
    pub fn new(
        event_loop: &EventLoop,
        group: impl AsRef<Path>,
        mut callback: impl FnMut(&EventLoop, MemoryCounts) + 'static,
    ) -> io::Result<MemoryEvents> {
        let group = group.as_ref().to_owned();
        // The watch is added before the first read, so that no change is missed.
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
}

user_value!(MemoryEvents, watcher);

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
