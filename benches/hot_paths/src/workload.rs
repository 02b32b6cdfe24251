//! The list of the workloads.

use std::fmt;
use std::time::Duration;

use reveille::observe::Watchdog;
use reveille::{EventLoop, EventLoopBuilder};

use crate::{buffer, channels, echo, frames, futures, tasks, timers, wake_up};

/// Operations in a round.
pub(crate) const OPERATIONS: usize = 1000;

/// Runs a thousand operations.
pub(crate) type Round = Box<dyn FnMut()>;

/// One hot path.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// Sets the workload up.
    pub(crate) start: fn() -> Round,
    /// Every run executes the same number of instructions, within 1.5 %: nothing spins or waits.
    /// What varies is the arithmetic of instants, which depends on whether the nanoseconds carry.
    /// Under callgrind a reading of the clock is a system call, whose instructions in the kernel
    /// are not counted.
    pub(crate) is_deterministic: bool,
}

pub(crate) const WORKLOADS: &[Workload] = &[
    counted("buffer::append_and_consume", buffer::append_and_consume),
    counted("buffer::append_to_new_buffer", buffer::append_to_new_buffer),
    counted("buffer::reserve_behind_partial_message", buffer::reserve_behind_partial_message),
    counted("tasks::post_from_loop_thread", tasks::post_from_loop_thread),
    counted("tasks::post_from_other_thread", tasks::post_from_other_thread),
    counted("tasks::one_task_per_turn", tasks::one_task_per_turn),
    counted("tasks::one_task_per_turn_metrics", tasks::one_task_per_turn_metrics),
    counted("tasks::one_task_per_turn_watched", tasks::one_task_per_turn_watched),
    counted("futures::spawn_and_join", futures::spawn_and_join),
    counted("futures::yields", futures::yields),
    timed_only("wake_up::round_trip_asleep", wake_up::round_trip_asleep),
    timed_only("wake_up::round_trip_adaptive", wake_up::round_trip_adaptive),
    counted("timers::add_and_cancel", timers::add_and_cancel),
    counted("timers::add_and_fire", timers::add_and_fire),
    counted("timers::push_back", timers::push_back),
    counted("channels::register_and_remove", channels::register_and_remove),
    counted("channels::dispatch_readiness", channels::dispatch_readiness),
    counted("frames::lines", frames::lines),
    counted("frames::length_prefixed", frames::length_prefixed),
    counted("echo::tcp_message", echo::tcp_message),
    counted("echo::tcp_message_metrics", echo::tcp_message_metrics),
    counted("echo::tcp_message_watched", echo::tcp_message_watched),
    #[cfg(feature = "inspector")]
    timed_only("echo::tcp_message_threaded", echo::tcp_message_threaded),
    #[cfg(feature = "inspector")]
    timed_only("echo::tcp_message_inspected", echo::tcp_message_inspected),
    counted("echo::tcp_message_async", echo::tcp_message_async),
];

/// A loop that does not contain panics: a failed assertion in a callback ends the program.
pub(crate) fn new_loop(builder: EventLoopBuilder) -> EventLoop {
    builder.propagate_panics().build().expect("an event loop")
}

/// A watchdog that watches the loop, and checks it too rarely to be counted or timed.
pub(crate) fn watch(event_loop: &EventLoop) -> Watchdog {
    let watchdog = Watchdog::new(Duration::from_secs(24 * 3600)).expect("a thread");
    watchdog.watch(&event_loop.handle());
    watchdog
}

/// Runs a batch of operations inside a turn, as callbacks do. Between two turns some of them cost
/// more, since the loop then shows new work to an outer poller.
pub(crate) fn in_turn(event_loop: &EventLoop, operations: impl FnOnce(&EventLoop) + 'static) {
    event_loop.queue_in_loop(operations);
    turn(event_loop);
}

pub(crate) fn turn(event_loop: &EventLoop) {
    event_loop.run_once(Duration::ZERO).expect("a turn");
}

const fn counted(name: &'static str, start: fn() -> Round) -> Workload {
    Workload { name, start, is_deterministic: true }
}

const fn timed_only(name: &'static str, start: fn() -> Round) -> Workload {
    Workload { name, start, is_deterministic: false }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
