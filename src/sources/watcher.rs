//! Changes of files and directories, as the kernel's inotify tells them (inotify(7)).

mod change;
mod instance;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};

use rustix::fs::inotify::ReadFlags;

pub use self::change::{FileChange, FileChanges};
use self::instance::Instance;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, Source};
use crate::readiness::{Interest, Readiness};
use crate::sources::Registration;

/// Files and directories whose changes are told to one callback.
///
/// Dropping this ends all its watches; [`detach`](Watcher::detach) leaves them to the loop.
///
/// A watched directory tells of what is directly in it, not of what is further below: watch new directories as they come, which
/// the callback can do through its [event](FileEvent::watch), and look into them then, for what was there before the watch. A
/// watch is for the file and not for its name: a file that another one was moved over is told as
/// [`Attributes`](FileChange::Attributes) and [`SelfDeleted`](FileChange::SelfDeleted), so watch the directory if you mean the
/// name. Changes on a network file system are told only if they are made on this machine, and those of /proc and /sys mostly
/// not at all.
///
/// Events come in the order in which the kernel noted them; of several that are equal and follow one another it keeps one. None is
/// lost but with an [`Overflow`](FileChange::Overflow).
///
/// Bound to the loop's thread, like the loop. All watchers of a loop share one descriptor (an inotify instance), which is closed
/// with the last of them, and one read brings many events. Several may watch the same file; each has the changes that it asks
/// for. What another watcher has asked for of the same file may still wake the loop after that one has ended.
///
/// ```
/// use reveille::{EventLoop, FileChange, FileChanges, Watcher};
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
#[must_use = "the watches end when this is dropped; `detach` leaves them to the loop"]
pub struct Watcher {
    registration: Registration,
    member: Weak<Member>,
}

/// The name of one watch of one [`Watcher`]. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatchId {
    watcher: u64,
    number: u64,
}

type Callback = Contained<Box<dyn FnMut(&FileEvent<'_>)>>;

/// A watcher on its loop. It has no descriptor of its own: events come from the instance.
struct Member {
    id: ChannelId,
    /// Tells this watcher from others, on other loops too.
    number: u64,
    instance: Rc<Instance>,
    /// The numbers of its watches, with the kernel's.
    watches: RefCell<BTreeMap<u64, i32>>,
    callback: RefCell<Callback>,
}

/// An event as a watcher gets it.
struct Happened<'a> {
    change: FileChange,
    flags: ReadFlags,
    name: Option<&'a OsStr>,
    /// None for an overflow.
    watch: Option<(WatchId, Rc<Path>)>,
}

impl Watcher {
    /// A watcher that watches nothing yet. `callback` is called with every change.
    ///
    /// A panic in the callback ends the watcher, as if it had been dropped.
    ///
    /// # Errors
    /// Those of the first watcher of a loop: [`QuotaExceeded`](io::ErrorKind::QuotaExceeded) if the user has as many inotify
    /// instances as the system allows (`fs.inotify.max_user_instances`, 128 by default), or the process as many descriptors; else
    /// what the kernel says.
    pub fn new(
        event_loop: &EventLoop,
        callback: impl FnMut(&FileEvent<'_>) + 'static,
    ) -> io::Result<Watcher> {
        let callback: Callback = Contained::new(Box::new(callback));
        let instance = Instance::of(event_loop)?;
        let number = instance::next_number();
        let callback = RefCell::new(callback);
        let member = event_loop.register(Interest::EMPTY, |id| {
            Rc::new(Member { id, number, instance, watches: RefCell::default(), callback })
        })?;
        member.instance.add(&member);
        let registration = Registration::new(event_loop, member.id);
        Ok(Watcher { registration, member: Rc::downgrade(&member) })
    }

    /// Watches the file or directory at `path`, following symbolic links, for `changes` from now on.
    ///
    /// # Errors
    /// - [`NotFound`](io::ErrorKind::NotFound) if there is no such path; also if the watcher has been closed by a panic, or its
    ///   loop has gone.
    /// - [`AlreadyExists`](io::ErrorKind::AlreadyExists) if this watcher watches that file, by whatever name.
    /// - [`QuotaExceeded`](io::ErrorKind::QuotaExceeded) (ENOSPC) if the user has as many watches as the system allows
    ///   (`fs.inotify.max_user_watches`).
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied) if the file may not be read.
    pub fn watch(&self, path: impl AsRef<Path>, changes: FileChanges) -> io::Result<WatchId> {
        let member = self.member.upgrade().filter(|_| self.registration.is_open());
        let closed = || io::Error::new(io::ErrorKind::NotFound, "the watcher is closed");
        member.ok_or_else(closed)?.watch(path.as_ref(), changes)
    }

    /// Ends a watch: no change is told for it any longer, not even one that has happened. Answers whether it was there.
    pub fn unwatch(&self, id: WatchId) -> bool {
        // The inotify instance of an inherited loop is the parent's as well.
        self.is_open() && self.member.upgrade().is_some_and(|member| member.unwatch(id))
    }

    /// Whether changes are still told: the callback has not panicked, and the loop is there.
    pub fn is_open(&self) -> bool {
        self.registration.is_open()
    }

    /// Ends all watches: the callback is not called again.
    pub fn close(self) {}

    /// Leaves the watches to the loop, until the callback closes them or the loop is dropped.
    pub fn detach(self) {
        self.registration.detach();
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let watches = self.member.upgrade().map_or(0, |member| member.watches.borrow().len());
        f.debug_struct("Watcher").field("watches", &watches).finish_non_exhaustive()
    }
}

/// What a watcher's callback is told, and what it can do about it.
pub struct FileEvent<'a> {
    event_loop: &'a EventLoop,
    member: &'a Rc<Member>,
    happened: &'a Happened<'a>,
}

impl<'a> FileEvent<'a> {
    /// The loop.
    pub fn event_loop(&self) -> &'a EventLoop {
        self.event_loop
    }

    /// What has happened.
    pub fn change(&self) -> FileChange {
        self.happened.change
    }

    /// Which watch it is told for; `None` for an [`Overflow`](FileChange::Overflow).
    pub fn watch_id(&self) -> Option<WatchId> {
        self.happened.watch.as_ref().map(|(id, _)| *id)
    }

    /// The name in the watched directory; `None` if it is the watched file itself that has changed.
    ///
    /// In the bytes of the file system, which need not be UTF-8.
    pub fn name(&self) -> Option<&'a OsStr> {
        self.happened.name
    }

    /// The path that was given to [`watch`](Watcher::watch), and the name in it if there is one. Empty for an
    /// [`Overflow`](FileChange::Overflow).
    pub fn path(&self) -> PathBuf {
        let watched = self.happened.watch.as_ref().map_or(Path::new(""), |(_, path)| path);
        self.name().map_or_else(|| watched.to_owned(), |name| watched.join(name))
    }

    /// Whether it has happened to a directory. Not known, and `false`, for [`SelfDeleted`](FileChange::SelfDeleted) and the changes
    /// after it.
    pub fn is_directory(&self) -> bool {
        let Happened { change, flags, .. } = self.happened;
        flags.contains(ReadFlags::ISDIR) && change.says_of_what()
    }

    /// As [`Watcher::watch`].
    ///
    /// # Errors
    /// As [`Watcher::watch`].
    pub fn watch(&self, path: impl AsRef<Path>, changes: FileChanges) -> io::Result<WatchId> {
        self.member.watch(path.as_ref(), changes)
    }

    /// As [`Watcher::unwatch`].
    pub fn unwatch(&self, id: WatchId) -> bool {
        self.member.unwatch(id)
    }

    /// Ends the watcher: its callback is not called again.
    pub fn close(&self) {
        self.event_loop.remove(self.member.id);
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

impl Member {
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

    /// The kernel has ended a watch.
    fn forget(&self, number: u64) {
        self.watches.borrow_mut().remove(&number);
    }

    /// Calls back, unless the watcher has been closed meanwhile. A panic ends it, and no other.
    fn call(self: &Rc<Self>, event_loop: &EventLoop, happened: &Happened<'_>) {
        if !event_loop.is_registered(self.id) {
            return;
        }
        let event = FileEvent { event_loop, member: self, happened };
        let called = event_loop.catch("a watcher's callback", || (self.callback.borrow_mut())(&event));
        if called.is_none() {
            event_loop.remove(self.id);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.instance.remove(self.number, self.watches.take());
    }
}

/// Its place on the loop. The instance calls it.
impl Source for Member {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        event_loop.clear_ready(self.id, !Readiness::NONE);
    }

    fn on_panic(&self, event_loop: &EventLoop) {
        event_loop.remove(self.id);
    }
}

fn quota(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, message)
}
