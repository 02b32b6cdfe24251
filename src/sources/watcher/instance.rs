//! The inotify instance of a loop, which all its watchers share: a user may have few of them (`fs.inotify.max_user_instances`).
//!
//! The kernel has one watch for each file of an instance, however many watchers watch it. So each watch of a watcher is an
//! [`Entry`] of the kernel's watch, which reports what any of the entries asks for; an event goes to those entries that ask for
//! it and are older than it. Entries, watchers and reads of the kernel's queue are numbered from one sequence for that.
//!
//! The kernel's number of a watch is not given again before all others have been, so events of one that was taken back are known
//! for what they are and passed over.

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
use super::{Happened, Member, WatchId, quota};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::logger;
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::trimming::slack::release_if_empty;
use crate::event_loop::{EventLoop, Source, WeakLoop};
use crate::readiness::{Interest, Readiness};

/// Numbers are never given twice, on any loop.
static SEQUENCE: AtomicU64 = AtomicU64::new(1);

pub(super) fn next_number() -> u64 {
    SEQUENCE.fetch_add(1, Relaxed)
}

thread_local! {
    /// That of this thread's loop, as long as it has a watcher.
    static CURRENT: RefCell<Weak<Instance>> = const { RefCell::new(Weak::new()) };
}

pub(super) struct Instance {
    id: ChannelId,
    event_loop: WeakLoop,
    inotify: OwnedFd,
    /// The one that has made this. A forked process shares the kernel's watches with it, and ends none of them.
    process: ProcessMark,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// The watchers by their numbers.
    members: BTreeMap<u64, Weak<Member>>,
    /// The entries of each watch of the kernel's, in the order of their numbers.
    watches: BTreeMap<i32, Vec<Entry>>,
    /// What was read and not yet delivered.
    queue: VecDeque<Queued>,
}

/// A watch of one watcher.
#[derive(Clone)]
struct Entry {
    number: u64,
    member: Weak<Member>,
    path: Rc<Path>,
    changes: FileChanges,
}

/// An event that was read to get it out of the way of a new entry.
struct Queued {
    flags: ReadFlags,
    watch: i32,
    cookie: u32,
    name: Option<OsString>,
    before: u64,
}

/// An event on its way to the entries that have numbers below `before`.
struct Event<'a> {
    flags: ReadFlags,
    watch: i32,
    cookie: u32,
    name: Option<&'a OsStr>,
    before: u64,
}

impl Instance {
    /// That of the loop, which is made if there is none.
    ///
    /// # Errors
    /// As [`Watcher::new`](super::Watcher::new).
    pub(super) fn of(event_loop: &EventLoop) -> io::Result<Rc<Instance>> {
        // At the end of a thread there may be no place to share it by.
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
        let _ = CURRENT.try_with(|current| *current.borrow_mut() = Rc::downgrade(&instance));
        Ok(instance)
    }

    pub(super) fn add(&self, member: &Rc<Member>) {
        self.state.borrow_mut().members.insert(member.number, Rc::downgrade(member));
    }

    /// Takes a watcher out, and closes the instance after the last.
    pub(super) fn remove(&self, member: u64, watches: BTreeMap<u64, i32>) {
        watches.into_iter().for_each(|(number, watch)| self.unwatch(number, watch));
        let is_last = {
            let members = &mut self.state.borrow_mut().members;
            members.remove(&member);
            members.is_empty()
        };
        if is_last {
            self.event_loop.with(|event_loop| event_loop.remove(self.id));
        }
    }

    /// Adds an entry, and returns its number and the kernel's of the watch.
    ///
    /// # Errors
    /// As [`Watcher::watch`](super::Watcher::watch).
    pub(super) fn watch(
        &self,
        member: &Rc<Member>,
        path: &Path,
        changes: FileChanges,
    ) -> io::Result<(u64, i32)> {
        let flags = changes.to_flags();
        let add = |flags| inotify::add_watch(&self.inotify, path, flags);
        let watch = match add(flags | WatchFlags::MASK_CREATE) {
            // What the others ask for stays.
            Err(Errno::EXIST) => add(flags | WatchFlags::MASK_ADD),
            added => added,
        };
        let watch = watch.map_err(|error| cannot_watch(path, error))?;
        let others = {
            let state = self.state.borrow();
            let entries = state.watches.get(&watch).map_or(&[][..], Vec::as_slice);
            if entries.iter().any(|entry| entry.member.as_ptr() == Rc::as_ptr(member)) {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    format!("{} is watched by this watcher already", path.display()),
                ));
            }
            !entries.is_empty()
        };
        if others {
            // Of those that have happened for the others the new entry is to have none.
            self.read_ahead();
        }
        let number = next_number();
        let entry = Entry { number, member: Rc::downgrade(member), path: path.into(), changes };
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
            // The kernel may have ended it by itself, which is yet to be read.
            if let Err(error) = inotify::remove_watch(&self.inotify, watch) {
                logger::call(|| log::debug!("a watch has gone before it was taken back: {error}"));
            }
        }
    }

    /// Reads what the kernel has, to be delivered in the loop's next turn to the entries that are there now.
    fn read_ahead(&self) {
        let mut bytes = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut bytes);
        let before = SEQUENCE.load(Relaxed);
        let queue = &mut self.state.borrow_mut().queue;
        loop {
            match reader.next() {
                Ok(event) => queue.push_back(Queued {
                    flags: event.events(),
                    watch: event.wd(),
                    cookie: event.cookie(),
                    name: event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned()),
                    before,
                }),
                Err(Errno::INTR) => {}
                // Of an error the loop's own read learns as well.
                Err(_) => break,
            }
        }
        if !queue.is_empty() {
            self.event_loop.with(|event_loop| event_loop.add_ready(self.id, Readiness::READABLE));
        }
    }

    /// Calls back with an event, once for each entry that asks for it.
    fn deliver(&self, event_loop: &EventLoop, event: &Event<'_>) {
        let Some(change) = FileChange::from_flags(event.flags, event.cookie) else { return };
        let mut happened = Happened { change, flags: event.flags, name: event.name, watch: None };
        let mut last = 0;
        if change == FileChange::Overflow {
            while let Some(member) = self.next_member(&mut last, event.before) {
                member.call(event_loop, &happened);
            }
            return;
        }
        let is_over = change == FileChange::WatchRemoved;
        while let Some(entry) = self.next_entry(event.watch, &mut last, event.before, is_over) {
            let Some(member) = entry.member.upgrade() else { continue };
            if is_over {
                member.forget(entry.number);
            }
            if change.is_always_reported() || entry.changes.has(event.flags) {
                let id = WatchId { watcher: member.number, number: entry.number };
                happened.watch = Some((id, Rc::clone(&entry.path)));
                member.call(event_loop, &happened);
            }
        }
    }

    /// The watcher after number `last`, if it was there before the event.
    fn next_member(&self, last: &mut u64, before: u64) -> Option<Rc<Member>> {
        let state = self.state.borrow();
        let mut later = state.members.range(*last + 1..before.max(*last + 1));
        later.find_map(|(number, member)| {
            *last = *number;
            member.upgrade()
        })
    }

    /// The entry after number `last`, if it was there before the event. It is taken out if the kernel has ended the watch.
    fn next_entry(&self, watch: i32, last: &mut u64, before: u64, is_over: bool) -> Option<Entry> {
        let watches = &mut self.state.borrow_mut().watches;
        let entries = watches.get_mut(&watch)?;
        let at = entries.iter().position(|entry| entry.number > *last && entry.number < before)?;
        *last = entries[at].number;
        if !is_over {
            return Some(entries[at].clone());
        }
        let entry = entries.remove(at);
        if entries.is_empty() {
            watches.remove(&watch);
        }
        Some(entry)
    }

    fn next_queued(&self) -> Option<Queued> {
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

    /// Reads a buffer full, and another if that was little. With more to come the others have their turn first.
    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        const ENOUGH: usize = 64;
        let mut bytes = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut bytes);
        let mut before = 0;
        let mut delivered = 0;
        while delivered < ENOUGH || !reader.is_buffer_empty() {
            // What is in the buffer was read first, then what a callback has had read ahead.
            if reader.is_buffer_empty() {
                if let Some(Queued { flags, watch, cookie, name, before }) = self.next_queued() {
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

    fn on_panic(&self, event_loop: &EventLoop) {
        // Only by a mistake in this crate: callbacks are caught one by one.
        self.fail(event_loop);
    }
}

impl Instance {
    /// Ends all watchers.
    fn fail(&self, event_loop: &EventLoop) {
        let members = self.state.borrow().members.values().filter_map(Weak::upgrade).collect::<Vec<_>>();
        members.iter().for_each(|member| event_loop.remove(member.id));
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
