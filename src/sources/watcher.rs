//! Changes of files and directories, reported by inotify(7).

mod change;
mod instance;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::inotify::ReadFlags;

pub use self::change::{FileChange, FileChanges};
use self::instance::Instance;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::{Description, EventLoop, Registration, Source};
use crate::readiness::{Interest, Readiness};

/// Watches files and directories, and reports their changes to one callback.
///
/// Dropping this removes all its watches; [`detach`](Watcher::detach) leaves them to the loop.
///
/// A watch of a directory covers its direct entries, not the levels below. To cover those, watch
/// new directories as they are created, for which the callback has [`FileEvent::watch`]; then list
/// them, to find the entries created before the watch was added. A watch follows the file, not its
/// name: if another file is moved over a watched file, the watch reports
/// [`Attributes`](FileChange::Attributes) and [`SelfDeleted`](FileChange::SelfDeleted). To follow a
/// name, watch the directory. Changes on a network file system are reported only if this machine
/// makes them; most changes in /proc and /sys are not reported at all.
///
/// Events are reported in the kernel's order. The kernel coalesces successive equal events. Events
/// are lost only with an [`Overflow`](FileChange::Overflow).
///
/// Bound to the loop's thread, like the loop. All watchers of a loop share one descriptor (an
/// inotify instance), which is closed with the last watcher; one read returns many events. Several
/// watchers may watch the same file, each for its own set of changes. Changes that only a removed
/// watcher had requested may still wake the loop while another one watches the same file.
///
/// ```
/// use reveille::EventLoop;
/// use reveille::fs::{FileChange, FileChanges, Watcher};
/// use std::fs;
///
/// # fn main() -> std::io::Result<()> {
/// # let folder = std::env::temp_dir().join(format!("reveille-doc-{}", std::process::id()));
/// # fs::create_dir_all(&folder)?;
/// let event_loop = EventLoop::new()?;
/// let watcher = Watcher::new(&event_loop, |event| {
///     assert_eq!(event.change(), FileChange::Created);
///     assert_eq!(event.name(), Some("new".as_ref()));
///     event.event_loop().quit();
/// })?;
/// watcher.watch(&folder, FileChanges::CREATED)?;
/// fs::write(folder.join("new"), "")?;
/// event_loop.run()?;
/// # fs::remove_dir_all(&folder)?;
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping this removes the watches; `detach` leaves them to the loop"]
pub struct Watcher {
    registration: Registration<WatcherSource>,
}

/// Identifies one watch of one [`Watcher`]. Ids are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatchId {
    watcher: u64,
    number: u64,
}

type Callback = Contained<Box<dyn FnMut(&FileEvent<'_>)>>;

/// A watcher as a source of its loop. It has no descriptor: the instance delivers its events.
struct WatcherSource {
    id: ChannelId,
    /// Unique among the watchers of all loops.
    number: u64,
    instance: Rc<Instance>,
    /// Maps the number of each watch to the kernel's watch descriptor.
    watches: RefCell<BTreeMap<u64, i32>>,
    callback: RefCell<Callback>,
}

/// An event, as delivered to a watcher.
struct WatcherEvent<'a> {
    change: FileChange,
    flags: ReadFlags,
    name: Option<&'a OsStr>,
    /// `None` for an overflow.
    watch: Option<(WatchId, Rc<Path>)>,
}

impl Watcher {
    /// Creates a watcher without watches. `callback` is called with every change.
    ///
    /// A panic in the callback closes the watcher.
    ///
    /// # Errors
    /// Only the first watcher of a loop can fail: with
    /// [`QuotaExceeded`](io::ErrorKind::QuotaExceeded) if the user has reached the limit of inotify
    /// instances (`fs.inotify.max_user_instances`, 128 by default) or the process that of
    /// descriptors; otherwise with the error of inotify_init1(2) or epoll_ctl(2).
    pub fn new(
        event_loop: &EventLoop,
        callback: impl FnMut(&FileEvent<'_>) + 'static,
    ) -> io::Result<Watcher> {
        let callback: Callback = Contained::new(Box::new(callback));
        let instance = Instance::of(event_loop)?;
        let number = instance::next_number();
        let callback = RefCell::new(callback);
        let watcher = event_loop.register(Interest::EMPTY, |id| {
            Rc::new(WatcherSource { id, number, instance, watches: RefCell::default(), callback })
        })?;
        watcher.instance.add(&watcher);
        Ok(Watcher { registration: Registration::new(event_loop, watcher.id, &watcher) })
    }

    /// Watches the file or directory at `path`, following symbolic links, for `changes` from now
    /// on.
    ///
    /// # Errors
    /// - [`NotFound`](io::ErrorKind::NotFound) if `path` does not exist; also if a panic has closed
    ///   the watcher, or its loop has ended.
    /// - [`AlreadyExists`](io::ErrorKind::AlreadyExists) if this watcher already watches that file,
    ///   under any name.
    /// - [`QuotaExceeded`](io::ErrorKind::QuotaExceeded) (ENOSPC) if the user has reached the limit
    ///   of watches (`fs.inotify.max_user_watches`).
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied) if the file is not readable.
    pub fn watch(&self, path: impl AsRef<Path>, changes: FileChanges) -> io::Result<WatchId> {
        let closed = || io::Error::new(io::ErrorKind::NotFound, "the watcher is closed");
        self.registration.with(|_, watcher| watcher.watch(path.as_ref(), changes)).ok_or_else(closed)?
    }

    /// Removes a watch: no further change is reported for it, not even one that has been made
    /// already. Returns whether the watch existed.
    pub fn unwatch(&self, id: WatchId) -> bool {
        // A forked process shares the inotify instance of an inherited loop with its parent.
        self.registration.with(|_, watcher| watcher.unwatch(id)).unwrap_or(false)
    }

    /// Whether changes are still reported: neither has the callback panicked nor the loop been
    /// dropped.
    pub fn is_open(&self) -> bool {
        self.registration.is_open()
    }

    /// Excludes the watcher from what [`run_until_idle`](EventLoop::run_until_idle) waits for. Its
    /// callback is called as long as the loop runs.
    pub fn exclude_from_idle(&self) {
        self.registration.exclude_from_idle();
    }

    /// Ends the effect of [`exclude_from_idle`](Self::exclude_from_idle).
    pub fn include_in_idle(&self) {
        self.registration.include_in_idle();
    }

    /// Removes all watches: the callback is not called again.
    pub fn close(self) {}

    /// Leaves the watches to the loop, until the callback closes them or the loop is dropped.
    pub fn detach(self) {
        self.registration.detach();
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let watches = self.registration.source().map_or(0, |watcher| watcher.watches.borrow().len());
        f.debug_struct("Watcher").field("watches", &watches).finish_non_exhaustive()
    }
}

/// The argument of a watcher's callback: the change, and access to the watcher.
pub struct FileEvent<'a> {
    event_loop: &'a EventLoop,
    watcher: &'a Rc<WatcherSource>,
    event: &'a WatcherEvent<'a>,
}

impl<'a> FileEvent<'a> {
    /// The loop.
    pub fn event_loop(&self) -> &'a EventLoop {
        self.event_loop
    }

    /// The change.
    pub fn change(&self) -> FileChange {
        self.event.change
    }

    /// The watch that reports it; `None` for an [`Overflow`](FileChange::Overflow).
    pub fn watch_id(&self) -> Option<WatchId> {
        self.event.watch.as_ref().map(|(id, _)| *id)
    }

    /// The entry of the watched directory; `None` if the watched file itself has changed.
    ///
    /// The name consists of the file system's bytes, which need not be UTF-8.
    pub fn name(&self) -> Option<&'a OsStr> {
        self.event.name
    }

    /// The path given to [`watch`](Watcher::watch), joined with the name if there is one. Empty for
    /// an [`Overflow`](FileChange::Overflow).
    pub fn path(&self) -> PathBuf {
        let watched = self.event.watch.as_ref().map_or(Path::new(""), |(_, path)| path);
        self.name().map_or_else(|| watched.to_owned(), |name| watched.join(name))
    }

    /// Whether a directory was affected. Unknown, and `false`, for
    /// [`SelfDeleted`](FileChange::SelfDeleted) and the variants after it.
    pub fn is_directory(&self) -> bool {
        let WatcherEvent { change, flags, .. } = self.event;
        flags.contains(ReadFlags::ISDIR) && change.has_directory_flag()
    }

    /// Same as [`Watcher::watch`].
    ///
    /// # Errors
    /// Same as [`Watcher::watch`].
    pub fn watch(&self, path: impl AsRef<Path>, changes: FileChanges) -> io::Result<WatchId> {
        self.watcher.watch(path.as_ref(), changes)
    }

    /// Same as [`Watcher::unwatch`].
    pub fn unwatch(&self, id: WatchId) -> bool {
        self.watcher.unwatch(id)
    }

    /// Closes the watcher: its callback is not called again.
    pub fn close(&self) {
        self.event_loop.remove(self.watcher.id);
    }
}

impl fmt::Debug for FileEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileEvent")
            .field("change", &self.change())
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl WatcherSource {
    fn watch(self: &Rc<Self>, path: &Path, changes: FileChanges) -> io::Result<WatchId> {
        let (number, watch) = self.instance.watch(self, path, changes)?;
        self.watches.borrow_mut().insert(number, watch);
        Ok(WatchId { watcher: self.number, number })
    }

    fn unwatch(&self, id: WatchId) -> bool {
        let watch =
            (id.watcher == self.number).then(|| self.watches.borrow_mut().remove(&id.number)).flatten();
        if let Some(watch) = watch {
            self.instance.unwatch(id.number, watch);
        }
        watch.is_some()
    }

    /// Removes a watch that the kernel has removed.
    fn remove_watch(&self, number: u64) {
        self.watches.borrow_mut().remove(&number);
    }

    /// Calls the callback, unless the watcher has been closed. A panic closes this watcher and no
    /// other.
    fn call(self: &Rc<Self>, event_loop: &EventLoop, event: &WatcherEvent<'_>) {
        if !event_loop.is_registered(self.id) {
            return;
        }
        let event = FileEvent { event_loop, watcher: self, event };
        let called = event_loop.catch("a watcher's callback", || (self.callback.borrow_mut())(&event));
        if called.is_none() {
            event_loop.remove(self.id);
        }
    }
}

impl Drop for WatcherSource {
    fn drop(&mut self) {
        self.instance.remove(self.number, self.watches.take());
    }
}

/// Registered for its id only: the instance calls its callback.
impl Source for WatcherSource {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn describe(&self) -> Description {
        Description::of("a watcher")
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        event_loop.clear_ready(self.id, !Readiness::NONE);
    }
}

fn quota(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, message)
}
