//! Hooks: user code that runs before and after each wait, and when the loop is dropped.
//!
//! A hook is a source without a descriptor, so it is registered, closed and described like any
//! other. The lists here hold the order of the calls.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use super::source::{Description, Source};
use super::{EventLoop, Registration};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::observation::metrics::Phase;
use crate::event_loop::poller::Wait;
use crate::readiness::{Interest, Readiness};

/// A hook of a loop, created by [`EventLoop::before_wait`], [`EventLoop::after_wait`] and
/// [`EventLoop::at_end`]. Dropping it removes the hook.
///
/// A hook may queue tasks, create and close sources, and quit the loop. It does not keep a loop
/// running that [runs until it is idle](EventLoop::run_until_idle). A panic in a hook is caught and
/// removes it. A hook that is added by a hook is called from the next time on.
///
/// ```
/// use reveille::EventLoop;
/// use std::cell::Cell;
/// use std::rc::Rc;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// // Collects what the callbacks of a turn have changed, and writes it once.
/// let changes = Rc::new(Cell::new(0));
/// let written = Rc::new(Cell::new(0));
/// let (collected, log) = (Rc::clone(&changes), Rc::clone(&written));
/// let _hook = event_loop.before_wait(move |_| log.set(log.get() + collected.take()))?;
/// for _ in 0..3 {
///     let changes = Rc::clone(&changes);
///     event_loop.queue_in_loop(move |_| changes.set(changes.get() + 1));
/// }
/// event_loop.run_until_idle()?;
/// assert_eq!(written.get(), 3);
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping the hook removes it; `detach` leaves it to the loop"]
pub struct Hook {
    registration: Registration<HookSource>,
}

impl Hook {
    /// Whether the hook will be called again. A panic in it and the end of its loop remove it, and
    /// a hook [at the end](EventLoop::at_end) is called once.
    pub fn is_open(&self) -> bool {
        self.registration.is_open()
    }

    /// Removes the hook: it is not called again.
    pub fn close(self) {}

    /// Leaves the hook to the loop, until the loop is dropped.
    pub fn detach(self) {
        self.registration.detach();
    }
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hook").field("is_open", &self.is_open()).finish_non_exhaustive()
    }
}

type Callback = Contained<Box<dyn FnMut(&EventLoop)>>;

struct HookSource {
    kind: &'static str,
    /// The type of the callback.
    name: &'static str,
    callback: RefCell<Callback>,
}

impl Source for HookSource {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn describe(&self) -> Description {
        Description::of(self.kind).handler(self.name)
    }

    /// The loop calls this at the place of the hook.
    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        (self.callback.borrow_mut())(event_loop);
    }
}

/// The hooks of one kind, in the order of their creation. Some may have been removed.
type HookList = RefCell<Vec<ChannelId>>;

/// The hooks of a loop.
pub(super) struct Hooks {
    before_wait: HookList,
    after_wait: HookList,
    at_end: HookList,
    /// Whether there are hooks in a turn.
    are_used: Cell<bool>,
    /// Whether user code may have run since the last call before the wait. Between two runs it may
    /// have, so this is set while the loop is not run.
    is_due: Cell<bool>,
    /// The hooks at the end have begun.
    has_ended: Cell<bool>,
}

impl Default for Hooks {
    fn default() -> Hooks {
        Hooks {
            before_wait: HookList::default(),
            after_wait: HookList::default(),
            at_end: HookList::default(),
            are_used: Cell::new(false),
            is_due: Cell::new(true),
            has_ended: Cell::new(false),
        }
    }
}

impl Hooks {
    #[inline]
    pub(super) fn are_used(&self) -> bool {
        self.are_used.get()
    }

    /// A turn calls user code.
    pub(super) fn set_due(&self) {
        self.is_due.set(true);
    }

    fn update(&self) {
        self.are_used.set(!self.before_wait.borrow().is_empty() || !self.after_wait.borrow().is_empty());
    }
}

impl EventLoop {
    /// Calls `callback` at the beginning of each turn, before the loop computes how long it may
    /// wait. Whether the turn will wait is not known yet.
    ///
    /// What the callback adds belongs to this turn: the loop does not sleep if there is a task, a
    /// ready channel, a due timer, a close or a request to quit. [`now`](EventLoop::now) is the
    /// time of the turn before.
    ///
    /// The callback is called once more before [`run`](EventLoop::run) or another call that runs
    /// the loop returns, if other callbacks have run since its last call. What it adds then is left
    /// to the next run. [`run_until_idle`](EventLoop::run_until_idle) calls it before it decides
    /// that the loop is idle, and goes on if the callback has added work.
    ///
    /// # Errors
    /// If the loop is being dropped, as it is in a hook [at the end](EventLoop::at_end).
    /// [`Unsupported`](io::ErrorKind::Unsupported) in a forked child
    /// of the process that created the loop.
    pub fn before_wait(&self, callback: impl FnMut(&EventLoop) + 'static) -> io::Result<Hook> {
        self.add_hook(&self.inner.hooks.before_wait, "a hook before the wait", callback)
    }

    /// Calls `callback` in each turn after the wait, before the channels that are ready. A task
    /// that it queues runs in the same turn.
    ///
    /// # Errors
    /// Same as [`before_wait`](EventLoop::before_wait).
    pub fn after_wait(&self, callback: impl FnMut(&EventLoop) + 'static) -> io::Result<Hook> {
        self.add_hook(&self.inner.hooks.after_wait, "a hook after the wait", callback)
    }

    /// Calls `callback` once, when the loop is dropped: after the last turn, while all sources,
    /// timers and tasks still exist. Connections can still send and be closed. Sources that it
    /// creates are closed at once, and tasks that it queues are dropped and
    /// [counted](crate::task::LoopCounters::tasks_dropped). The hooks [before the
    /// wait](EventLoop::before_wait) are not called any more.
    ///
    /// A forked child that drops the loop does not call it.
    ///
    /// # Errors
    /// Same as [`before_wait`](EventLoop::before_wait).
    pub fn at_end(&self, callback: impl FnOnce(&EventLoop) + 'static) -> io::Result<Hook> {
        let name = std::any::type_name_of_val(&callback);
        let mut callback = Some(Contained::new(callback));
        let call_once = move |event_loop: &EventLoop| {
            if let Some(callback) = callback.take() {
                callback.into_inner()(event_loop);
            }
        };
        self.add_named_hook(&self.inner.hooks.at_end, "a hook at the end of a loop", name, call_once)
    }

    fn add_hook(
        &self,
        list: &HookList,
        kind: &'static str,
        callback: impl FnMut(&EventLoop) + 'static,
    ) -> io::Result<Hook> {
        let name = std::any::type_name_of_val(&callback);
        self.add_named_hook(list, kind, name, callback)
    }

    fn add_named_hook(
        &self,
        list: &HookList,
        kind: &'static str,
        name: &'static str,
        callback: impl FnMut(&EventLoop) + 'static,
    ) -> io::Result<Hook> {
        let callback: Callback = Contained::new(Box::new(callback));
        if self.inner.hooks.has_ended.get() {
            return Err(io::Error::other("the event loop is being dropped"));
        }
        let mut id = None;
        let hook = self.register(Interest::EMPTY, |new| {
            id = Some(new);
            Rc::new(HookSource { kind, name, callback: RefCell::new(callback) })
        })?;
        let id = id.expect("`register` has called the closure");
        self.set_counted(id, false);
        list.borrow_mut().push(id);
        self.inner.hooks.update();
        Ok(Hook { registration: Registration::new(self, id, &hook) })
    }

    /// Before phase 1 of a turn with hooks, or one that is measured. Returns how long the turn may
    /// wait: a hook that has panicked may have a panic to propagate.
    pub(super) fn run_before_wait(&self, limit: Wait) -> io::Result<Wait> {
        let Hooks { before_wait, is_due, .. } = &self.inner.hooks;
        is_due.set(false);
        if before_wait.borrow().is_empty() {
            return Ok(limit);
        }
        let all_returned = self.run_hooks(before_wait)?;
        self.enter_phase::<true>(Some(Phase::Waiting));
        Ok(if all_returned { limit } else { Wait::No })
    }

    /// Outside a turn, while the loop is run: calls the hooks before the wait, if they are due.
    #[inline]
    pub(super) fn run_due_hooks(&self) -> io::Result<()> {
        if self.inner.hooks.are_used() { self.run_hooks_outside() } else { Ok(()) }
    }

    #[cold]
    fn run_hooks_outside(&self) -> io::Result<()> {
        if self.inner.hooks.is_due.get() {
            self.run_before_wait(Wait::No)?;
            // No phase follows: this is not a turn.
            self.inner.phase.set(None);
        }
        Ok(())
    }

    /// After phase 2.
    pub(super) fn run_after_wait(&self) -> io::Result<()> {
        let Hooks { after_wait, .. } = &self.inner.hooks;
        if self.has_work() || !after_wait.borrow().is_empty() {
            self.inner.hooks.set_due();
        }
        self.run_hooks(after_wait)?;
        self.enter_phase::<true>(Some(Phase::Channels));
        Ok(())
    }

    /// At the beginning of the loop's drop. The loop cannot be run from these hooks.
    pub(super) fn run_at_end(&self) {
        self.inner.hooks.has_ended.set(true);
        let hooks = self.inner.hooks.at_end.take();
        if !hooks.is_empty() {
            self.inner.running.set(true);
            for id in hooks {
                if self.run_hook(id).is_none() {
                    return;
                }
                self.remove(id);
            }
            self.inner.running.set(false);
        }
    }

    /// Calls the hooks that exist now. Returns whether none of them has panicked.
    fn run_hooks(&self, list: &HookList) -> io::Result<bool> {
        // Hooks can be added meanwhile, but entries are removed only below.
        let count = list.borrow().len();
        if count == 0 {
            return Ok(true);
        }
        self.enter_phase::<true>(Some(Phase::Hooks));
        let mut all_returned = true;
        for n in 0..count {
            let id = list.borrow()[n];
            match self.run_hook(id) {
                Some(returned) => all_returned &= returned,
                None => self.check_process()?,
            }
        }
        list.borrow_mut().retain(|id| self.is_registered(*id));
        self.inner.hooks.update();
        Ok(all_returned)
    }

    /// Calls a hook, unless it has been removed. Returns `false` if it has panicked, and `None` in
    /// a child that it has forked.
    fn run_hook(&self, id: ChannelId) -> Option<bool> {
        let source = self.inner.channels.borrow().get(id).cloned();
        let Some(source) = source else { return Some(true) };
        let returned = self.catch_in("a call", &*source, || source.on_ready(self, Readiness::NONE));
        if self.is_inherited() {
            return None;
        }
        if returned.is_none() {
            self.close_after_panic(id, &source);
        }
        self.discard(source);
        Some(returned.is_some())
    }
}
