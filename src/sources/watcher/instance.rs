//! The inotify instance of a loop. All watchers of a loop share it, since the number of instances
//! per user is limited (`fs.inotify.max_user_instances`).
//!
//! The kernel has one watch per file and instance, regardless of the number of watchers. So each
//! watch of a watcher is an [`Entry`] of a kernel watch, which reports the union of what its
//! entries request. An event is delivered to those entries that request it and are older than it.
//! For the comparison of ages, entries, watchers and reads of the kernel's queue are numbered from
//! one sequence.
//!
//! The kernel reuses a watch descriptor only after it has used all others. So events of a removed
//! watch are recognised and skipped.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::change::{FileChange, FileChanges};
use super::{WatchId, WatcherEvent, WatcherSource, quota};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::logger;
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::trimming::slack::release_if_empty;
use crate::event_loop::{Description, EventLoop, Source, WeakLoop};
use crate::readiness::{Interest, Readiness};

/// Numbers are unique across loops and never reused.
static SEQUENCE: AtomicU64 = AtomicU64::new(1);

pub(super) fn next_number() -> u64 {
    SEQUENCE.fetch_add(1, Relaxed)
}

thread_local! {
    /// The instance of this thread's loop, while it has a watcher.
    static CURRENT: RefCell<Weak<Instance>> = const { RefCell::new(Weak::new()) };
}

pub(super) struct Instance {
    id: ChannelId,
    event_loop: WeakLoop,
    inotify: OwnedFd,
    /// The process that created this. A forked process shares the kernel's watches with it, and
    /// must not remove any.
    process: ProcessMark,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// The watchers, by number.
    watchers: BTreeMap<u64, Weak<WatcherSource>>,
    /// The entries of each kernel watch, in the order of their numbers.
    watches: BTreeMap<i32, Vec<Entry>>,
    /// Events that have been read and not yet delivered.
    queue: VecDeque<QueuedEvent>,
}

/// One watch of one watcher.
#[derive(Clone)]
struct Entry {
    number: u64,
    watcher: Weak<WatcherSource>,
    path: Rc<Path>,
    changes: FileChanges,
}

/// An event that was read before a new entry was added, so that the entry does not receive it.
struct QueuedEvent {
    flags: ReadFlags,
    watch: i32,
    cookie: u32,
    name: Option<OsString>,
    before: u64,
}

/// An event to be delivered to the entries with numbers below `before`.
struct Event<'a> {
    flags: ReadFlags,
    watch: i32,
    cookie: u32,
    name: Option<&'a OsStr>,
    before: u64,
}

impl Instance {
    /// Returns the instance of the loop; creates it if there is none.
    ///
    /// # Errors
    /// Same as [`Watcher::new`](super::Watcher::new).
    pub(super) fn of(event_loop: &EventLoop) -> io::Result<Rc<Instance>> {
        // During thread exit the thread-local may have been destroyed; then the instance is not
        // shared.
        let current = CURRENT.try_with(|current| current.borrow().upgrade()).ok().flatten();
        let is_open = |instance: &Rc<Instance>| {
            instance.event_loop.with(|event_loop| event_loop.is_registered(instance.id)).unwrap_or(false)
        };
        if let Some(instance) = current.filter(is_open) {
            return Ok(instance);
        }
        let inotify =
            inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(|error| match error {
                Errno::MFILE => quota(
                    "no more loops with watchers: this user's inotify instances \
                 (fs.inotify.max_user_instances) or this process's descriptors are used up",
                ),
                error => error.into(),
            })?;
        let instance = event_loop.register(Interest::READABLE, |id| {
            let event_loop = event_loop.downgrade();
            let process = ProcessMark::current();
            Rc::new(Instance { id, event_loop, inotify, process, state: RefCell::default() })
        })?;
        // The watchers count.
        event_loop.set_counted(instance.id, false);
        let _ = CURRENT.try_with(|current| *current.borrow_mut() = Rc::downgrade(&instance));
        Ok(instance)
    }

    pub(super) fn add(&self, watcher: &Rc<WatcherSource>) {
        self.state.borrow_mut().watchers.insert(watcher.number, Rc::downgrade(watcher));
    }

    /// Removes a watcher, and closes the instance with the last one.
    pub(super) fn remove(&self, watcher: u64, watches: BTreeMap<u64, i32>) {
        watches.into_iter().for_each(|(number, watch)| self.unwatch(number, watch));
        let is_last = {
            let watchers = &mut self.state.borrow_mut().watchers;
            watchers.remove(&watcher);
            watchers.is_empty()
        };
        if is_last {
            self.event_loop.with(|event_loop| event_loop.remove(self.id));
        }
    }

    /// Adds an entry. Returns its number and the kernel's watch descriptor.
    ///
    /// # Errors
    /// Same as [`Watcher::watch`](super::Watcher::watch).
    pub(super) fn watch(
        &self,
        watcher: &Rc<WatcherSource>,
        path: &Path,
        changes: FileChanges,
    ) -> io::Result<(u64, i32)> {
        let flags = changes.to_flags();
        let add = |flags| inotify::add_watch(&self.inotify, path, flags);
        let watch = match add(flags | WatchFlags::MASK_CREATE) {
            // Keep the changes that other entries request.
            Err(Errno::EXIST) => add(flags | WatchFlags::MASK_ADD),
            added => added,
        };
        let watch = watch.map_err(|error| cannot_watch(path, error))?;
        let others = {
            let state = self.state.borrow();
            let entries = state.watches.get(&watch).map_or(&[][..], Vec::as_slice);
            if entries.iter().any(|entry| entry.watcher.as_ptr() == Rc::as_ptr(watcher)) {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    format!("{} is watched by this watcher already", path.display()),
                ));
            }
            !entries.is_empty()
        };
        if others {
            // Earlier events, which are for the other entries, must not reach the new entry.
            self.read_ahead();
        }
        let number = next_number();
        let entry = Entry { number, watcher: Rc::downgrade(watcher), path: path.into(), changes };
        self.state.borrow_mut().watches.entry(watch).or_default().push(entry);
        Ok((number, watch))
    }

    pub(super) fn unwatch(&self, number: u64, watch: i32) {
        let is_last = {
            let watches = &mut self.state.borrow_mut().watches;
            let Some(entries) = watches.get_mut(&watch) else { return };
            entries.retain(|entry| entry.number != number);
            let is_last = entries.is_empty();
            if is_last {
                watches.remove(&watch);
            }
            is_last
        };
        if is_last && self.process.is_current() {
            // The kernel may have removed it already, with the event for that still unread.
            if let Err(error) = inotify::remove_watch(&self.inotify, watch) {
                logger::call(|| log::debug!("a watch has gone before it was taken back: {error}"));
            }
        }
    }

    /// Reads the kernel's queue, for delivery in the next turn to the entries that exist now.
    fn read_ahead(&self) {
        let mut bytes = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut bytes);
        let before = SEQUENCE.load(Relaxed);
        let queue = &mut self.state.borrow_mut().queue;
        loop {
            match reader.next() {
                Ok(event) => queue.push_back(QueuedEvent {
                    flags: event.events(),
                    watch: event.wd(),
                    cookie: event.cookie(),
                    name: event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned()),
                    before,
                }),
                Err(Errno::INTR) => {}
                // The loop's own read handles the error.
                Err(_) => break,
            }
        }
        if !queue.is_empty() {
            self.event_loop.with(|event_loop| event_loop.add_ready(self.id, Readiness::READABLE));
        }
    }

    /// Calls the callback of each entry that requests the event.
    fn deliver(&self, event_loop: &EventLoop, event: &Event<'_>) {
        let Some(change) = FileChange::from_flags(event.flags, event.cookie) else { return };
        let mut watcher_event = WatcherEvent { change, flags: event.flags, name: event.name, watch: None };
        let mut last = 0;
        if change == FileChange::Overflow {
            while let Some(watcher) = self.next_watcher(&mut last, event.before) {
                watcher.call(event_loop, &watcher_event);
            }
            return;
        }
        let is_removed = change == FileChange::WatchRemoved;
        while let Some(entry) = self.next_entry(event.watch, &mut last, event.before, is_removed) {
            let Some(watcher) = entry.watcher.upgrade() else { continue };
            if is_removed {
                watcher.remove_watch(entry.number);
            }
            if change.is_always_reported() || entry.changes.has(event.flags) {
                let id = WatchId { watcher: watcher.number, number: entry.number };
                watcher_event.watch = Some((id, Rc::clone(&entry.path)));
                watcher.call(event_loop, &watcher_event);
            }
        }
    }

    /// The watcher with the next number after `last`, if it is older than the event.
    fn next_watcher(&self, last: &mut u64, before: u64) -> Option<Rc<WatcherSource>> {
        let state = self.state.borrow();
        let mut later = state.watchers.range(*last + 1..before.max(*last + 1));
        later.find_map(|(number, watcher)| {
            *last = *number;
            watcher.upgrade()
        })
    }

    /// The entry with the next number after `last`, if it is older than the event. Removes the
    /// entry if the kernel has removed the watch.
    fn next_entry(&self, watch: i32, last: &mut u64, before: u64, is_removed: bool) -> Option<Entry> {
        let watches = &mut self.state.borrow_mut().watches;
        let entries = watches.get_mut(&watch)?;
        let at = entries.iter().position(|entry| entry.number > *last && entry.number < before)?;
        *last = entries[at].number;
        if !is_removed {
            return Some(entries[at].clone());
        }
        let entry = entries.remove(at);
        if entries.is_empty() {
            watches.remove(&watch);
        }
        Some(entry)
    }

    fn next_queued(&self) -> Option<QueuedEvent> {
        let queue = &mut self.state.borrow_mut().queue;
        let next = queue.pop_front();
        release_if_empty(queue);
        next
    }
}

impl Source for Instance {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.inotify.as_fd())
    }

    fn may_be_duplicated(&self) -> bool {
        false
    }

    fn describe(&self) -> Description {
        Description::of("the watchers of a loop")
    }

    /// Reads until at least `EVENTS_PER_TURN` events are delivered and the buffer is empty. If more
    /// events are pending, other sources run first.
    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        const EVENTS_PER_TURN: usize = 64;
        let mut bytes = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut bytes);
        let mut before = 0;
        let mut delivered = 0;
        while delivered < EVENTS_PER_TURN || !reader.is_buffer_empty() {
            // Events in the buffer are older than those that a callback has read ahead.
            if reader.is_buffer_empty() {
                if let Some(QueuedEvent { flags, watch, cookie, name, before }) = self.next_queued() {
                    let name = name.as_deref();
                    self.deliver(event_loop, &Event { flags, watch, cookie, name, before });
                    delivered += 1;
                    if !event_loop.is_registered(self.id) {
                        return;
                    }
                    continue;
                }
                before = SEQUENCE.load(Relaxed);
            }
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    let (flags, watch, cookie) = (event.events(), event.wd(), event.cookie());
                    self.deliver(event_loop, &Event { flags, watch, cookie, name, before });
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return event_loop.clear_ready(self.id, !Readiness::NONE),
                Err(error) => {
                    self.fail(event_loop);
                    return logger::call(|| log::error!("changes of files can no longer be read: {error}"));
                }
            }
            if !event_loop.is_registered(self.id) {
                return;
            }
            delivered += 1;
        }
    }

    fn on_panic(&self, event_loop: &EventLoop, _id: ChannelId) {
        // Reached only through a bug in this crate: panics of callbacks are caught individually.
        self.fail(event_loop);
    }
}

impl Instance {
    /// Closes all watchers.
    fn fail(&self, event_loop: &EventLoop) {
        let watchers = self.state.borrow().watchers.values().filter_map(Weak::upgrade).collect::<Vec<_>>();
        watchers.iter().for_each(|watcher| event_loop.remove(watcher.id));
        event_loop.remove(self.id);
    }
}

fn cannot_watch(path: &Path, error: Errno) -> io::Error {
    match error {
        Errno::NOSPC => quota(&format!(
            "cannot watch {}: this user's watches are used up (fs.inotify.max_user_watches)",
            path.display()
        )),
        error => {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("cannot watch {}: {error}", path.display()))
        }
    }
}
