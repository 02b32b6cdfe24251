//! Signals as events of the loop.
//!
//! The sources do not use a signalfd, which has three problems. It reports only blocked signals,
//! and the mask is per thread: a signal delivered to a thread started before the mask was set kills
//! the process. The mask survives an exec, so every program that is started has SIGTERM blocked.
//! And each signal goes to one reader, though several loops may need it. Instead, a handler sets a
//! flag and writes a byte to a pipe for each source; both are async-signal-safe. Masks are
//! untouched, so the number of threads and their start order do not matter, and an exec resets
//! handlers to the default.
//!
//! The handler is that of the crate `signal-hook`, which calls any number of actions for one signal
//! and chains to the handler installed before it. It interrupts system calls of the thread that it
//! runs on; restartable ones are restarted (SA_RESTART). It runs on the thread's alternate stack if
//! there is one (SA_ONSTACK).

mod disposition;
pub(crate) mod signal;
pub(crate) mod signal_stream;

use std::any::type_name_of_val;
use std::cell::RefCell;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::PipeFlags;
use signal_hook::SigId;
use signal_hook::{flag, low_level};

use self::disposition::Claim;
use self::signal::{Signal, action};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::{Description, EventLoop, Registration, Source};
use crate::readiness::{Interest, Readiness};

/// Delivers signals of the process to a callback on a loop.
///
/// While this value exists, its signals no longer have their default effect (for most, terminating
/// the process); they are reported to the callback. If several sources, on one loop or several,
/// watch a signal, each of them reports it. Dropping this closes the source;
/// [`detach`](Signals::detach) leaves it to the loop.
///
/// # Which signals are reported
/// Every signal sent to the process or to one of its threads. It does not matter whether a thread
/// was started before or after the source, since no signal mask is changed. A thread that has
/// blocked a signal itself leaves it to the other threads. Child processes are unaffected: they
/// start with the default disposition of each signal, and with the mask of the thread that starts
/// them, which is unchanged. A signal sent to a child process before its exec also has its default
/// effect if the child is started by [`Child::spawn`](crate::process::Child::spawn). The same holds
/// for the standard library's `spawn`, unless the command has hooks or other settings that need a
/// fork; then this process's handler runs in the child, and the signal is lost.
///
/// A report shows that a signal was raised, but not how often. Signals with the same number that
/// arrive before the loop's next check are coalesced into one, as the kernel itself does. No signal
/// is lost to one with a different number. They are reported in the order in which they were
/// listed.
///
/// # When the last source of a signal is dropped
/// The disposition from before the first source is restored. If it was the default, the signal has
/// its default effect again. If the signal was ignored, it is ignored again. A handler installed
/// before has been called all along. A pending signal that has not been reported is lost with the
/// source. If your program registers its own handlers for the signal through `signal-hook` *after*
/// the first source, the default effect then applies in addition to them; keep a source alive as
/// long as they are registered.
///
/// Bound to the loop's thread, like the loop.
///
/// ```
/// use reveille::EventLoop;
/// use reveille::signal::{Signal, Signals};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let signals = Signals::new(&event_loop, [Signal::INT, Signal::TERM], |event_loop, signal| {
///     println!("ending on {signal}");
///     event_loop.quit();
/// })?;
/// # rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)?;
/// event_loop.run()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping this restores the signals' former dispositions; `detach` leaves the source to the loop"]
pub struct Signals {
    registration: Registration<SignalSource>,
}

type Callback = Contained<Box<dyn FnMut(&EventLoop, Signal)>>;

struct SignalSource {
    id: ChannelId,
    /// The read end of the pipe that the handlers write to.
    pipe: OwnedFd,
    watches: Vec<SignalWatch>,
    /// The type of the callback.
    name: &'static str,
    callback: RefCell<Callback>,
}

impl Signals {
    /// Calls `callback` for each of `signals` that the process receives from now on.
    ///
    /// A panic in the callback closes the source.
    ///
    /// Costs one descriptor, and one more for each signal. A report costs one read.
    ///
    /// # Errors
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) if `signals` is empty or contains a signal
    ///   that cannot be caught (SIGKILL, SIGSTOP).
    /// - EMFILE or ENFILE if no descriptors are free.
    /// - [`Other`](io::ErrorKind::Other) if other code has replaced the handler of an earlier
    ///   source, or of `signal-hook`, by the default.
    pub fn new(
        event_loop: &EventLoop,
        signals: impl IntoIterator<Item = Signal>,
        callback: impl FnMut(&EventLoop, Signal) + 'static,
    ) -> io::Result<Signals> {
        let name = type_name_of_val(&callback);
        let callback: Callback = Contained::new(Box::new(callback));
        let (pipe, writer) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        let mut watches: Vec<SignalWatch> = Vec::new();
        for signal in signals {
            if !signal.can_be_caught() {
                return Err(invalid(format!("{signal} cannot be caught")));
            }
            if watches.iter().all(|other| other.signal != signal) {
                watches.push(SignalWatch::new(signal, writer.as_fd())?);
            }
        }
        if watches.is_empty() {
            return Err(invalid("a source needs at least one signal".to_owned()));
        }
        let source = event_loop.register(Interest::READABLE, |id| {
            Rc::new(SignalSource { id, pipe, watches, name, callback: RefCell::new(callback) })
        })?;
        Ok(Signals { registration: Registration::new(event_loop, source.id, &source) })
    }
}

user_value!(Signals, registration);

impl SignalSource {
    /// Drains the pipe. This happens before the flags are read, so the byte of a later signal stays
    /// in the pipe and triggers another check. Returns whether the pipe is known to be empty.
    fn drain_pipe(&self) -> bool {
        let mut bytes = [0; 512];
        match retry_on_intr(|| rustix::io::read(&self.pipe, &mut bytes)) {
            Ok(n) => n < bytes.len(),
            Err(Errno::AGAIN) => true,
            Err(error) => {
                logger::recurring("reading signals", |left_out| {
                    log::error!("cannot read the pipe of the signal handlers: {error}{left_out}");
                });
                true
            }
        }
    }
}

impl Source for SignalSource {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.pipe.as_fd())
    }

    fn describe(&self) -> Description {
        Description::of("a signal source").handler(self.name)
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        if self.drain_pipe() {
            event_loop.clear_ready(self.id, !Readiness::NONE);
        }
        for watch in &self.watches {
            // The logger or a callback may have closed this source.
            if !event_loop.is_registered(self.id) {
                return;
            }
            if watch.is_pending.swap(false, SeqCst) {
                (self.callback.borrow_mut())(event_loop, watch.signal);
            }
        }
    }
}

/// One signal of a source, and the handler's actions for it.
struct SignalWatch {
    signal: Signal,
    is_pending: Arc<AtomicBool>,
    /// In the order in which the handler runs them: first the flag, then the byte that wakes the
    /// loop.
    actions: Vec<SigId>,
    claim: Option<Claim>,
    /// A forked child has copies of the actions and must not acquire the locks that guard them.
    process: ProcessMark,
}

impl SignalWatch {
    fn new(signal: Signal, writer: BorrowedFd<'_>) -> io::Result<SignalWatch> {
        let writer = writer.try_clone_to_owned()?;
        let before = action::current(signal.as_raw())?;
        let mut watch = SignalWatch {
            signal,
            is_pending: Arc::default(),
            actions: Vec::with_capacity(2),
            claim: Some(Claim::new(signal)?),
            process: ProcessMark::current(),
        };
        watch.actions.push(flag::register(signal.as_raw(), Arc::clone(&watch.is_pending))?);
        watch.actions.push(low_level::pipe::register(signal.as_raw(), writer)?);
        action::run_on_alternate_stack(signal.as_raw(), before)?;
        Ok(watch)
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return mem::forget(self.claim.take());
        }
        // Release the claim before unregistering: a signal in between is not delivered here, but
        // still gets its default action.
        self.claim = None;
        for action in self.actions.drain(..) {
            low_level::unregister(action);
        }
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
