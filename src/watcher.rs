//! Changes of files and directories, as the kernel's inotify tells them (inotify(7)).
//!
//! The kernel names a watch by a number, which it does not give again before it has used up all others. So the number names the
//! watch also after its end, and events of one that was taken back are known for what they are and passed over.

mod change;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

pub use self::change::{FileChange, FileChanges};
use crate::channel_table::ChannelId;
use crate::containment::Contained;
use crate::event_loop::{EventLoop, Source};
use crate::readiness::{Interest, Readiness};
use crate::registration::Registration;

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
/// Bound to the loop's thread, like the loop. Costs one descriptor, whatever the number of watches, and one read for many events.
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
    watches: Weak<Watches>,
}

/// The name of one watch of one [`Watcher`]. Never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatchId {
    watcher: u64,
    number: i32,
}

type Callback = Contained<Box<dyn FnMut(&FileEvent<'_>)>>;

struct Watches {
    id: ChannelId,
    /// Tells this watcher's watches from those of others, on other loops too.
    name: u64,
    inotify: OwnedFd,
    /// The paths, as they were given.
    paths: RefCell<HashMap<i32, Rc<Path>>>,
    callback: RefCell<Callback>,
}

impl Watcher {
    /// A watcher that watches nothing yet. `callback` is told of every change.
    ///
    /// A panic in the callback ends the watcher, as if it had been dropped.
    ///
    /// # Errors
    /// [`QuotaExceeded`](io::ErrorKind::QuotaExceeded) if the user has as many of these as the system allows
    /// (`fs.inotify.max_user_instances`, usually 128), or the process as many descriptors; else what the kernel says.
    pub fn new(
        event_loop: &EventLoop,
        callback: impl FnMut(&FileEvent<'_>) + 'static,
    ) -> io::Result<Watcher> {
        let callback: Callback = Contained::new(Box::new(callback));
        let inotify =
            inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(|error| match error {
                Errno::MFILE => quota(
                    "no more watchers: this user's inotify instances (fs.inotify.max_user_instances) \
                 or this process's descriptors are used up",
                ),
                error => error.into(),
            })?;
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let name = NAMES.fetch_add(1, Relaxed);
        let watches = event_loop.register(Interest::READABLE, |id| {
            Rc::new(Watches {
                id,
                name,
                inotify,
                paths: RefCell::default(),
                callback: RefCell::new(callback),
            })
        })?;
        let registration = Registration::new(event_loop, watches.id);
        Ok(Watcher { registration, watches: Rc::downgrade(&watches) })
    }

    /// Watches the file or directory at `path`, following symbolic links, for `changes` from now on.
    ///
    /// # Errors
    /// - [`NotFound`](io::ErrorKind::NotFound) if there is no such path; also if the watcher has been closed by a panic, or its
    ///   loop has gone.
    /// - [`AlreadyExists`](io::ErrorKind::AlreadyExists) if this watcher watches that file, by whatever name. The kernel would
    ///   let the new watch take the place of the old one.
    /// - [`QuotaExceeded`](io::ErrorKind::QuotaExceeded) (ENOSPC) if the user has as many watches as the system allows
    ///   (`fs.inotify.max_user_watches`).
    /// - [`PermissionDenied`](io::ErrorKind::PermissionDenied) if the file may not be read.
    pub fn watch(&self, path: impl AsRef<Path>, changes: FileChanges) -> io::Result<WatchId> {
        let watches = self.watches.upgrade().filter(|_| self.registration.is_open());
        let closed = || io::Error::new(io::ErrorKind::NotFound, "the watcher is closed");
        watches.ok_or_else(closed)?.watch(path.as_ref(), changes)
    }

    /// Ends a watch: no change is told for it any longer, not even one that has happened. Answers whether it was there.
    pub fn unwatch(&self, id: WatchId) -> bool {
        // The inotify instance of an inherited loop is the parent's as well.
        self.is_open() && self.watches.upgrade().is_some_and(|watches| watches.unwatch(id))
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
        let watches = self.watches.upgrade().map_or(0, |watches| watches.paths.borrow().len());
        f.debug_struct("Watcher").field("watches", &watches).finish_non_exhaustive()
    }
}

/// What a watcher's callback is told, and what it can do about it.
pub struct FileEvent<'a> {
    event_loop: &'a EventLoop,
    watches: &'a Watches,
    change: FileChange,
    is_directory: bool,
    /// None for an overflow.
    watch: Option<(WatchId, &'a Path)>,
    name: Option<&'a OsStr>,
}

impl<'a> FileEvent<'a> {
    /// The loop.
    pub fn event_loop(&self) -> &'a EventLoop {
        self.event_loop
    }

    /// What has happened.
    pub fn change(&self) -> FileChange {
        self.change
    }

    /// Which watch it is told for; `None` for an [`Overflow`](FileChange::Overflow).
    pub fn watch_id(&self) -> Option<WatchId> {
        self.watch.map(|(id, _)| id)
    }

    /// The name in the watched directory; `None` if it is the watched file itself that has changed.
    ///
    /// In the bytes of the file system, which need not be UTF-8.
    pub fn name(&self) -> Option<&'a OsStr> {
        self.name
    }

    /// The path that was given to [`watch`](Watcher::watch), and the name in it if there is one. Empty for an
    /// [`Overflow`](FileChange::Overflow).
    pub fn path(&self) -> PathBuf {
        let watched = self.watch.map_or(Path::new(""), |(_, path)| path);
        self.name.map_or_else(|| watched.to_owned(), |name| watched.join(name))
    }

    /// Whether it has happened to a directory. Not known, and `false`, for [`SelfDeleted`](FileChange::SelfDeleted) and the changes
    /// after it.
    pub fn is_directory(&self) -> bool {
        self.is_directory
    }

    /// As [`Watcher::watch`].
    ///
    /// # Errors
    /// As [`Watcher::watch`].
    pub fn watch(&self, path: impl AsRef<Path>, changes: FileChanges) -> io::Result<WatchId> {
        self.watches.watch(path.as_ref(), changes)
    }

    /// As [`Watcher::unwatch`].
    pub fn unwatch(&self, id: WatchId) -> bool {
        self.watches.unwatch(id)
    }

    /// Ends the watcher: its callback is not called again.
    pub fn close(&self) {
        self.event_loop.remove(self.watches.id);
    }
}

impl fmt::Debug for FileEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileEvent")
            .field("change", &self.change)
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl Watches {
    fn watch(&self, path: &Path, changes: FileChanges) -> io::Result<WatchId> {
        let flags = changes.to_flags() | WatchFlags::MASK_CREATE;
        let number = inotify::add_watch(&self.inotify, path, flags).map_err(|error| match error {
            Errno::NOSPC => quota(&format!(
                "cannot watch {}: this user's watches are used up (fs.inotify.max_user_watches)",
                path.display()
            )),
            Errno::EXIST => io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} is watched by this watcher already", path.display()),
            ),
            error => {
                let error = io::Error::from(error);
                io::Error::new(error.kind(), format!("cannot watch {}: {error}", path.display()))
            }
        })?;
        self.paths.borrow_mut().insert(number, path.into());
        Ok(WatchId { watcher: self.name, number })
    }

    fn unwatch(&self, id: WatchId) -> bool {
        if id.watcher != self.name || self.paths.borrow_mut().remove(&id.number).is_none() {
            return false;
        }
        // The kernel may have ended it by itself, which is yet to be read.
        if let Err(error) = inotify::remove_watch(&self.inotify, id.number) {
            log::debug!("a watch has gone before it was taken back: {error}");
        }
        true
    }

    fn tell(&self, event_loop: &EventLoop, event: &inotify::Event<'_>) {
        let (flags, number) = (event.events(), event.wd());
        let Some(change) = FileChange::from_flags(flags, event.cookie()) else { return };
        let path = match change {
            FileChange::Overflow => None,
            FileChange::WatchRemoved => self.paths.borrow_mut().remove(&number),
            _ => self.paths.borrow().get(&number).cloned(),
        };
        if path.is_none() && change != FileChange::Overflow {
            return;
        }
        let event = FileEvent {
            event_loop,
            watches: self,
            change,
            is_directory: flags.contains(ReadFlags::ISDIR),
            watch: path.as_deref().map(|path| (WatchId { watcher: self.name, number }, path)),
            name: event.file_name().map(|name| OsStr::from_bytes(name.to_bytes())),
        };
        (self.callback.borrow_mut())(&event);
    }
}

impl Source for Watches {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.inotify.as_fd())
    }

    /// Reads a buffer full, and another if that was little. With more to come the others have their turn first.
    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        const ENOUGH: usize = 64;
        let mut bytes = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut bytes);
        let mut told = 0;
        while told < ENOUGH || !reader.is_buffer_empty() {
            match reader.next() {
                Ok(event) => self.tell(event_loop, &event),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return event_loop.clear_ready(self.id, !Readiness::NONE),
                Err(error) => {
                    log::error!("changes of files can no longer be read: {error}");
                    event_loop.remove(self.id);
                }
            }
            if !event_loop.is_registered(self.id) {
                return;
            }
            told += 1;
        }
    }

    fn on_panic(&self, event_loop: &EventLoop) {
        event_loop.remove(self.id);
    }
}

fn quota(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, message)
}
