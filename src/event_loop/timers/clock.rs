//! Where a loop takes its time from: the system's monotonic clock, or one that a test moves.
//!
//! Inside the crate a moment is a number of nanoseconds since the clock's origin, which 64 bits hold for 584 years; an
//! [`Instant`] is what users see. The largest number is no moment but [`NEVER`]: no clock comes to it, so a deadline that is too far
//! off for a moment is not met, and no moment can be taken for one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The deadline that never comes. Later than all moments.
pub(crate) const NEVER: u64 = u64::MAX;

/// The last moment, at which a virtual clock stops.
const END: u64 = NEVER - 1;

/// How long before its beginning a clock has its origin, some 36 years: an instant of the past keeps its distance from others, as a
/// timer needs that repeats from such an instant on.
const PAST: Duration = Duration::from_nanos(1 << 60);

fn origin() -> Instant {
    let now = Instant::now();
    now.checked_sub(PAST).unwrap_or(now)
}

/// A source of time with an origin.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    origin: Instant,
    virtual_clock: Option<VirtualClock>,
}

impl Clock {
    /// The system's monotonic clock (CLOCK_MONOTONIC), which no change of the date moves.
    pub(crate) fn system() -> Clock {
        Clock { origin: origin(), virtual_clock: None }
    }

    pub(crate) fn now(&self) -> Instant {
        self.virtual_clock.as_ref().map_or_else(Instant::now, VirtualClock::now)
    }

    /// The moment of an instant. What lies before the origin is the origin, what lies behind the last moment is [`NEVER`].
    pub(crate) fn moment(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.origin))
    }

    /// The instant of a moment.
    pub(crate) fn instant(&self, moment: u64) -> Instant {
        self.origin + Duration::from_nanos(moment)
    }

    /// The moment when `delay` has passed from now; [`NEVER`] for a delay too long for the clock.
    pub(crate) fn after(&self, delay: Duration) -> u64 {
        self.moment(self.now()).saturating_add(nanos(delay))
    }

    /// As [`after`](Clock::after), but the last moment for a delay too long for the clock.
    pub(crate) fn end_of(&self, duration: Duration) -> u64 {
        self.after(duration).min(END)
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
/// A loop [built](crate::EventLoopBuilder::virtual_clock) with it takes all its time from it: when a timer is due, what
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
        let (now, origin) = (Instant::now(), origin());
        let elapsed = AtomicU64::new(nanos(now.saturating_duration_since(origin)));
        VirtualClock(Arc::new(State { origin, elapsed, listeners: Mutex::default() }))
    }

    /// What the clock shows.
    pub fn now(&self) -> Instant {
        self.0.origin + Duration::from_nanos(self.0.elapsed.load(SeqCst))
    }

    /// Moves the clock forward, and has its loops look at their timers: at once those that run on other threads, in its next
    /// turn one of this thread.
    ///
    /// It is one step: a timer that repeats every second fires once if a minute has passed at one go, as it would in a loop that
    /// was held up for a minute. At the end of time, after more than 500 years, the clock stops; a timer whose deadline lies behind that
    /// never fires.
    pub fn advance(&self, duration: Duration) {
        let step = nanos(duration);
        let step_up = |elapsed: u64| Some(elapsed.saturating_add(step).min(END));
        // The closure always gives a value, so there is nothing to handle.
        let _ = self.0.elapsed.fetch_update(SeqCst, SeqCst, step_up);
        self.tell();
    }

    /// Moves the clock to `moment`, unless it is past that.
    pub(crate) fn advance_to(&self, moment: u64) {
        self.0.elapsed.fetch_max(moment.min(END), SeqCst);
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
        f.debug_struct("VirtualClock").field("now", &self.now()).finish_non_exhaustive()
    }
}
