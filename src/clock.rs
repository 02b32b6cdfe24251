//! Where a loop takes its time from: the system's monotonic clock, or one that a test moves.
//!
//! Inside the crate a moment is a number of nanoseconds since the clock's origin, which 64 bits hold for 584 years; an
//! [`Instant`] is what users see.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A source of time with an origin.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    origin: Instant,
    virtual_clock: Option<VirtualClock>,
}

impl Clock {
    /// The system's monotonic clock (CLOCK_MONOTONIC), which no change of the date moves. Its origin is the present.
    pub(crate) fn system() -> Clock {
        Clock { origin: Instant::now(), virtual_clock: None }
    }

    pub(crate) fn now(&self) -> Instant {
        self.virtual_clock.as_ref().map_or_else(Instant::now, VirtualClock::now)
    }

    /// The moment of an instant. What lies before the origin is the origin, what is past the end of time is the end.
    pub(crate) fn moment(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.origin))
    }

    /// The instant of a moment.
    pub(crate) fn instant(&self, moment: u64) -> Instant {
        self.origin + Duration::from_nanos(moment)
    }

    /// The moment when `delay` has passed from now. A delay too long for the clock never ends.
    pub(crate) fn after(&self, delay: Duration) -> u64 {
        self.moment(self.now()).saturating_add(nanos(delay))
    }

    pub(crate) fn virtual_clock(&self) -> Option<&VirtualClock> {
        self.virtual_clock.as_ref()
    }
}

impl From<VirtualClock> for Clock {
    fn from(clock: VirtualClock) -> Clock {
        Clock { origin: clock.0.origin, virtual_clock: Some(clock) }
    }
}

/// A duration in nanoseconds, at most as many as there are.
pub(crate) fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

/// A clock that stands still until it is moved: with it, code that has timers is tested at once and without luck.
///
/// A loop [built](crate::Builder::virtual_clock) with it takes all its time from it: when a timer is due, what
/// [`EventLoop::now`](crate::EventLoop::now) says, how long a connection has been idle. [`advance`](VirtualClock::advance) moves it in
/// one step, as if the loop had been held up for that long; [`EventLoop::run_for`](crate::EventLoop::run_for) takes the loop through the
/// time, from deadline to deadline. Sockets and other threads live in real time all the same.
///
/// Clones are the same clock. Several loops, also of several threads, may share one; from any thread.
///
/// ```
/// use reveille::{EventLoop, VirtualClock};
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use std::time::Duration;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::builder().virtual_clock(VirtualClock::new()).build()?;
/// let beats = Rc::new(Cell::new(0));
/// let beat = Rc::clone(&beats);
/// event_loop.run_every(Duration::from_secs(60), move |_| beat.set(beat.get() + 1));
///
/// event_loop.run_for(Duration::from_secs(3600))?; // an hour passes, and no time at all
/// assert_eq!(beats.get(), 60);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct VirtualClock(Arc<State>);

struct State {
    origin: Instant,
    /// Nanoseconds since the origin.
    elapsed: AtomicU64,
    /// Tells a loop that the time has changed; answers whether the loop is still there.
    listeners: Mutex<Vec<Box<dyn Fn() -> bool + Send>>>,
}

impl VirtualClock {
    /// A clock that shows the present, and goes on doing so.
    pub fn new() -> VirtualClock {
        let (origin, elapsed, listeners) = (Instant::now(), AtomicU64::new(0), Mutex::default());
        VirtualClock(Arc::new(State { origin, elapsed, listeners }))
    }

    /// What the clock shows.
    pub fn now(&self) -> Instant {
        self.0.origin + Duration::from_nanos(self.0.elapsed.load(SeqCst))
    }

    /// Moves the clock forward, and has its loops look at their timers: at once those that run on other threads, in its next
    /// turn one of this thread.
    ///
    /// It is one step: a timer that repeats every second fires once if a minute has passed at one go, as it would in a loop that
    /// was held up for a minute. At the end of time, after 584 years, the clock stops.
    pub fn advance(&self, duration: Duration) {
        let step = nanos(duration);
        let step_up = |elapsed: u64| Some(elapsed.saturating_add(step));
        // The closure always gives a value, so there is nothing to handle.
        let _ = self.0.elapsed.fetch_update(SeqCst, SeqCst, step_up);
        self.tell();
    }

    /// Moves the clock to `moment`, unless it is past that.
    pub(crate) fn advance_to(&self, moment: u64) {
        self.0.elapsed.fetch_max(moment, SeqCst);
        self.tell();
    }

    /// Has `listener` called after each move, for as long as it answers `true`.
    pub(crate) fn listen(&self, listener: Box<dyn Fn() -> bool + Send>) {
        self.0.listeners.lock().push(listener);
    }

    /// The lock is held throughout, or of two that move the clock at a time one might find no listener and leave its step untold.
    /// Listeners are the crate's own, and do no more than leave word.
    fn tell(&self) {
        self.0.listeners.lock().retain(|listener| listener());
    }
}

impl Default for VirtualClock {
    fn default() -> VirtualClock {
        VirtualClock::new()
    }
}

impl fmt::Debug for VirtualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elapsed = Duration::from_nanos(self.0.elapsed.load(SeqCst));
        f.debug_struct("VirtualClock").field("elapsed", &elapsed).finish_non_exhaustive()
    }
}
