//! Signals as events of the loop.
//!
//! A signalfd would be the kernel's own way, but it reports only what is blocked, and blocking belongs to each thread: one that
//! was started before the mask was set takes the signal and the process dies of it; and the mask outlives an exec, so every
//! program that is started is deaf to SIGTERM. It also gives each signal to one reader, though several loops may want it.
//! Here a handler sets a flag and writes a byte into a pipe for each source, which is all that a handler can safely do. No mask is
//! touched, so it does not matter which threads there are; an exec puts handlers back to the default by itself.
//!
//! The handler is that of the crate `signal-hook`, which calls any number of actions for one signal and chains to the handler
//! that it finds. It interrupts system calls of the thread it runs on; those that can be are restarted (SA_RESTART). It runs on the
//! thread's alternate stack if there is one (SA_ONSTACK).

mod disposition;
pub(crate) mod signal;

use std::cell::RefCell;
use std::fmt;
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
use crate::event_loop::{EventLoop, Source};
use crate::readiness::{Interest, Readiness};
use crate::sources::Registration;

/// Signals of the process as calls on a loop.
///
/// While this value lives, its signals no longer do what they would by themselves (end the process, mostly), but are told to
/// the callback. Several sources, on one loop or on several, are each told. Dropping this ends the source;
/// [`detach`](Signals::detach) leaves it to the loop.
///
/// # Which signals arrive
/// Any that is sent to the process, or to one of its threads. Threads started earlier or later make no difference, as no
/// thread's signal mask is used; a thread that has blocked a signal by itself leaves it to the others. Programs that are started
/// while this lives inherit nothing of it: they have the default for each signal, and the mask of the thread that
/// starts them, which is as it was. A signal that is sent to a process before it has become its program acts by default as well
/// if [`Child::spawn`](crate::Child::spawn) starts it. The standard library's own `spawn` does the same, unless the command has
/// hooks or other settings that need a fork; then the handler of this process takes the signal, and it is lost.
///
/// A signal says that something has happened, not how often: those of one number that come before the loop has
/// looked are told as one, as the kernel itself does it. Of different signals none is lost; they are told in the order in which they
/// were listed.
///
/// # When the last source of a signal is dropped
/// The signal does again what it did before the first: the default if that was it, nothing if it was ignored, and a handler that
/// was there has been called all along. A signal that had come and was not yet told is lost with the source. If your program
/// registers handlers of its own for the same signal through `signal-hook` *after* the first source, the default comes beside them
/// then; keep a source for as long as they live.
///
/// Bound to the loop's thread, like the loop.
///
/// ```
/// use reveille::{EventLoop, Signal, Signals};
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
#[must_use = "the signals do again what they did before when this is dropped; `detach` leaves it to the loop"]
pub struct Signals {
    registration: Registration,
}

type Callback = Contained<Box<dyn FnMut(&EventLoop, Signal)>>;

struct SignalSource {
    id: ChannelId,
    /// Where the handlers write.
    woken: OwnedFd,
    signals: Vec<Listening>,
    callback: RefCell<Callback>,
}

impl Signals {
    /// Calls `callback` for each of `signals` that the process gets from now on.
    ///
    /// A panic in the callback ends the source, as if it had been dropped.
    ///
    /// Costs a descriptor, and one more for each signal; a call costs one read.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if no signal is given, or one that no process can catch (SIGKILL, SIGSTOP);
    /// EMFILE or ENFILE if there are no descriptors left; [`Other`](io::ErrorKind::Other) if another part of the program has
    /// replaced the handler of an earlier source, or of `signal-hook`, by the default.
    pub fn new(
        event_loop: &EventLoop,
        signals: impl IntoIterator<Item = Signal>,
        callback: impl FnMut(&EventLoop, Signal) + 'static,
    ) -> io::Result<Signals> {
        let callback: Callback = Contained::new(Box::new(callback));
        let (woken, waker) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        let mut listening: Vec<Listening> = Vec::new();
        for signal in signals {
            if !signal.can_be_caught() {
                return Err(invalid(format!("{signal} cannot be caught")));
            }
            if listening.iter().all(|other| other.signal != signal) {
                listening.push(Listening::new(signal, waker.as_fd())?);
            }
        }
        if listening.is_empty() {
            return Err(invalid("a source for no signal at all".to_owned()));
        }
        let source = event_loop.register(Interest::READABLE, |id| {
            Rc::new(SignalSource { id, woken, signals: listening, callback: RefCell::new(callback) })
        })?;
        Ok(Signals { registration: Registration::new(event_loop, source.id) })
    }

    /// Whether the signals are still told: the callback has not panicked, and the loop is there.
    pub fn is_open(&self) -> bool {
        self.registration.is_open()
    }

    /// Ends the source: its callback is not called again.
    pub fn close(self) {}

    /// Leaves the source to the loop, until that is dropped.
    pub fn detach(self) {
        self.registration.detach();
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").field("is_open", &self.is_open()).finish_non_exhaustive()
    }
}

impl SignalSource {
    /// Empties the pipe, before the flags are looked at: a byte that comes later is for a flag that may have been missed.
    /// Answers whether it is known to be empty.
    fn forget_wakes(&self) -> bool {
        let mut bytes = [0; 512];
        match retry_on_intr(|| rustix::io::read(&self.woken, &mut bytes)) {
            Ok(n) => n < bytes.len(),
            Err(Errno::AGAIN) => true,
            Err(error) => {
                logger::recurring("reading signals", |left_out| {
                    log::error!("cannot read what the signal handlers write: {error}{left_out}");
                });
                true
            }
        }
    }
}

impl Source for SignalSource {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.woken.as_fd())
    }

    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        if self.forget_wakes() {
            event_loop.clear_ready(self.id, !Readiness::NONE);
        }
        for listening in &self.signals {
            // The logger or a callback may have closed this.
            if !event_loop.is_registered(self.id) {
                return;
            }
            if listening.has_come.swap(false, SeqCst) {
                (self.callback.borrow_mut())(event_loop, listening.signal);
            }
        }
    }

    fn on_panic(&self, event_loop: &EventLoop) {
        event_loop.remove(self.id);
    }
}

/// One signal of a source: what the handler does for it.
struct Listening {
    signal: Signal,
    has_come: Arc<AtomicBool>,
    /// In the order in which the handler takes them: the flag first, then the byte that has the loop look at it.
    actions: Vec<SigId>,
    claim: Option<Claim>,
    /// A forked child has copies of the actions, and must not wait for the locks that guard them.
    process: ProcessMark,
}

impl Listening {
    fn new(signal: Signal, waker: BorrowedFd<'_>) -> io::Result<Listening> {
        let waker = waker.try_clone_to_owned()?;
        let before = action::current(signal.as_raw())?;
        let mut listening = Listening {
            signal,
            has_come: Arc::default(),
            actions: Vec::with_capacity(2),
            claim: Some(Claim::new(signal)?),
            process: ProcessMark::current(),
        };
        listening.actions.push(flag::register(signal.as_raw(), Arc::clone(&listening.has_come))?);
        listening.actions.push(low_level::pipe::register(signal.as_raw(), waker)?);
        action::run_on_alternate_stack(signal.as_raw(), before)?;
        Ok(listening)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return mem::forget(self.claim.take());
        }
        // First, so that a signal that comes meanwhile is told to nobody, but does what it does.
        self.claim = None;
        for action in self.actions.drain(..) {
            low_level::unregister(action);
        }
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}
