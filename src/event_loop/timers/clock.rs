//! The time source of a loop: the system's monotonic clock, or a virtual clock that a test moves.
//!
//! Inside the crate a moment is a number of nanoseconds since the clock's origin; 64 bits hold 584
//! years. Users see an [`Instant`]. The largest number is not a moment but [`NEVER`]. No clock
//! reaches it, so a deadline beyond the range of the clock is never met, and no moment can be
//! mistaken for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The deadline that is never reached. Later than all moments.
pub(crate) const NEVER: u64 = u64::MAX;

/// The last moment, at which a virtual clock stops.
const END: u64 = NEVER - 1;

/// The distance from the origin of a clock to its creation, some 36 years. Instants in the past
/// thus keep their distance from each other, as a timer needs that repeats from such an instant on.
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
    /// The system's monotonic clock (CLOCK_MONOTONIC), which changes of the date do not affect.
    pub(crate) fn system() -> Clock {
        Clock { origin: origin(), virtual_clock: None }
    }

    pub(crate) fn now(&self) -> Instant {
        self.virtual_clock.as_ref().map_or_else(Instant::now, VirtualClock::now)
    }

    /// Converts an instant to a moment. Instants before the origin map to the origin, instants
    /// after the last moment to [`NEVER`].
    pub(crate) fn moment(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.origin))
    }

    /// Converts a moment to an instant.
    pub(crate) fn instant(&self, moment: u64) -> Instant {
        self.origin + Duration::from_nanos(moment)
    }

    /// The moment after `delay` from now. [`NEVER`] if the delay is beyond the range of the clock.
    pub(crate) fn after(&self, delay: Duration) -> u64 {
        self.moment(self.now()).saturating_add(nanos(delay))
    }

    /// Same as [`after`](Clock::after), but returns the last moment if the duration is beyond the
    /// range of the clock.
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

/// Converts a duration to nanoseconds, saturating at `u64::MAX`.
pub(crate) fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

/// A clock that stands still until it is moved. With it, code that uses timers is tested
/// deterministically and without waiting.
///
/// A loop [built](crate::EventLoopBuilder::virtual_clock) with it takes all its time from it: the
/// deadlines of timers, [`EventLoop::now`](crate::EventLoop::now), idle timeouts of connections.
/// [`advance`](VirtualClock::advance) moves it in one step, as if the loop had been blocked for
/// that time. [`EventLoop::run_for`](crate::EventLoop::run_for) moves it from deadline to deadline
/// and runs the loop at each. Sockets and other threads still run in real time.
///
/// Clones refer to the same clock. Several loops may share one, also loops on different threads.
/// Can be used from any thread.
///
/// ```
/// use reveille::EventLoop;
/// use reveille::time::VirtualClock;
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
    /// Notifies a loop that the time has changed. Returns whether the loop still exists.
    listeners: Mutex<Vec<Box<dyn Fn() -> bool + Send>>>,
}

impl VirtualClock {
    /// Creates a clock that shows the present time and stands still.
    pub fn new() -> VirtualClock {
        let (now, origin) = (Instant::now(), origin());
        let elapsed = AtomicU64::new(nanos(now.saturating_duration_since(origin)));
        VirtualClock(Arc::new(State { origin, elapsed, listeners: Mutex::default() }))
    }

    /// Returns the time of the clock.
    pub fn now(&self) -> Instant {
        self.0.origin + Duration::from_nanos(self.0.elapsed.load(SeqCst))
    }

    /// Moves the clock forward and makes its loops check their timers: loops on other threads at
    /// once, a loop on this thread in its next turn.
    ///
    /// The move is one step: a timer that repeats every second fires once if a minute has passed in
    /// one step, the same as in a loop that was blocked for a minute. At the end of its range,
    /// after more than 500 years, the clock stops. A timer with a later deadline never fires. With
    /// a duration of zero the loops only check their timers.
    pub fn advance(&self, duration: Duration) {
        let step = nanos(duration);
        let step_up = |elapsed: u64| Some(elapsed.saturating_add(step).min(END));
        // The closure always returns `Some`, so the update cannot fail.
        let _ = self.0.elapsed.fetch_update(SeqCst, SeqCst, step_up);
        self.notify();
    }

    /// Moves the clock forward to `moment`. Does nothing if it is past that already.
    pub(crate) fn advance_to(&self, moment: u64) {
        self.0.elapsed.fetch_max(moment.min(END), SeqCst);
        self.notify();
    }

    /// Calls `listener` after each move, until it returns `false`.
    pub(crate) fn listen(&self, listener: Box<dyn Fn() -> bool + Send>) {
        self.0.listeners.lock().push(listener);
    }

    /// The lock is held throughout. Otherwise, of two threads that move the clock at the same time,
    /// one might find no listener and notify no loop. Listeners belong to the crate and only wake
    /// their loop.
    fn notify(&self) {
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
