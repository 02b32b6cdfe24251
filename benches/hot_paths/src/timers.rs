//! Timers, with a virtual clock.

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

use reveille::time::VirtualClock;
use reveille::{EventLoop, TimerId};

use crate::workload::{OPERATIONS, Round, in_turn, new_loop, turn};

fn loop_with(clock: &VirtualClock) -> EventLoop {
    new_loop(EventLoop::builder().virtual_clock(clock.clone()))
}

/// As many timers as a round has operations, due between one and two seconds from now.
fn pending_timers(event_loop: &EventLoop) -> Vec<TimerId> {
    let delay = |number| Duration::from_secs(1) + Duration::from_millis(number);
    (0..OPERATIONS as u64).map(|number| event_loop.run_after(delay(number), |_| ())).collect()
}

/// Each timer is cancelled before it is due, beside a thousand pending ones.
pub(crate) fn add_and_cancel() -> Round {
    let event_loop = loop_with(&VirtualClock::new());
    pending_timers(&event_loop);
    Box::new(move || {
        in_turn(&event_loop, |event_loop| {
            for number in 0..OPERATIONS {
                let timer = event_loop.run_after(Duration::from_secs(1), move |_| _ = black_box(number));
                assert!(event_loop.cancel(timer));
            }
        });
    })
}

/// Timers with different deadlines are added, then one turn fires all of them.
pub(crate) fn add_and_fire() -> Round {
    let clock = VirtualClock::new();
    let event_loop = loop_with(&clock);
    Box::new(move || {
        in_turn(&event_loop, |event_loop| {
            for number in 1..=OPERATIONS {
                let delay = Duration::from_micros(10 * number as u64);
                event_loop.run_after(delay, move |_| _ = black_box(number));
            }
        });
        clock.advance(Duration::from_secs(1));
        turn(&event_loop);
    })
}

/// Each of a thousand timers gets a later deadline, as an idle timeout does with each message.
pub(crate) fn push_back() -> Round {
    let event_loop = loop_with(&VirtualClock::new());
    let timers: Rc<[TimerId]> = pending_timers(&event_loop).into();
    let latest = Rc::new(Cell::new(event_loop.now() + Duration::from_secs(10)));
    Box::new(move || {
        let (timers, latest) = (Rc::clone(&timers), Rc::clone(&latest));
        in_turn(&event_loop, move |event_loop| {
            for &timer in &*timers {
                latest.set(latest.get() + Duration::from_micros(10));
                assert!(event_loop.reset_at(timer, latest.get()));
            }
        });
    })
}
