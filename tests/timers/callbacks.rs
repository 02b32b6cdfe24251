//! Operations on timers from timer callbacks, including the callback's own timer, and from their
//! destructors. Also checks that each callback is dropped exactly once.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::clock::{HOUR, wait_until};
use crate::support::{Count, LIMIT, OnDrop, Recorder, on_another_thread, turn, with_loop, with_watchdog};
use reveille::{EventLoop, TimerId};

#[test]
fn a_repeating_timer_can_cancel_itself() {
    with_loop(|event_loop| {
        let (drops, id) = (Count::default(), Rc::new(Cell::new(None)));
        let (token, own, calls) = (drops.drop_token(), Rc::clone(&id), Rc::new(Cell::new(0)));
        let c = Rc::clone(&calls);
        id.set(Some(event_loop.run_every(Duration::from_nanos(1), move |event_loop| {
            token.keep();
            c.set(c.get() + 1);
            if c.get() == 3 {
                assert!(event_loop.cancel(own.get().unwrap()));
                assert!(!event_loop.cancel(own.get().unwrap()));
                event_loop.quit();
            }
        })));
        event_loop.run().unwrap();
        turn(event_loop);
        assert_eq!((calls.get(), drops.get()), (3, 1));
        assert_eq!(event_loop.next_deadline(), None);
        assert!(!event_loop.cancel(id.get().unwrap()));
    });
}

#[test]
fn a_repeating_handle_timer_can_cancel_itself() {
    with_loop(|event_loop| {
        let (handle, drops, calls) = (event_loop.handle(), Count::default(), Count::default());
        let (id_sender, id_receiver) = mpsc::channel::<TimerId>();
        let (h, token, c) = (handle.clone(), drops.drop_token(), calls.clone());
        let callback = move |event_loop: &EventLoop| {
            token.keep();
            c.add();
            if c.get() == 3 {
                let id = id_receiver.recv().unwrap();
                assert!(h.cancel(id));
                assert!(!h.cancel(id) && !event_loop.cancel(id));
                event_loop.quit();
            }
        };
        let id = on_another_thread(|| handle.run_every(Duration::from_nanos(1), callback).unwrap());
        id_sender.send(id).unwrap();
        event_loop.run().unwrap();
        turn(event_loop);
        assert_eq!((calls.get(), drops.get()), (3, 1));
        assert_eq!(event_loop.next_deadline(), None);
    });
}

#[test]
fn a_one_shot_timer_cannot_cancel_itself() {
    with_loop(|event_loop| {
        let id = Rc::new(Cell::new(None));
        let own = Rc::clone(&id);
        id.set(Some(event_loop.run_after(Duration::ZERO, move |event_loop| {
            assert!(!event_loop.cancel(own.get().unwrap()));
        })));
        turn(event_loop);

        let (handle, (id_sender, id_receiver)) = (event_loop.handle(), mpsc::channel::<TimerId>());
        let h = handle.clone();
        let id = handle.run_after(Duration::ZERO, move |event_loop| {
            let id = id_receiver.recv().unwrap();
            assert!(!event_loop.cancel(id));
            assert!(!on_another_thread(|| h.cancel(id)));
            event_loop.quit();
        });
        id_sender.send(id.unwrap()).unwrap();
        event_loop.run().unwrap();
    });
}

#[test]
fn a_repeating_timer_can_create_and_cancel_other_timers() {
    with_loop(|event_loop| {
        let (seen, children) = (Recorder::new(), Rc::new(RefCell::new(Vec::new())));
        let (s, c, calls) = (seen.clone(), Rc::clone(&children), Cell::new(0));
        event_loop.run_every(Duration::from_nanos(1), move |event_loop| {
            // Waits past the timer's own next deadline. The timer then fires before the new timers
            // and cancels half of them.
            wait_until(event_loop.now() + Duration::from_nanos(2));
            calls.set(calls.get() + 1);
            for id in c.take() {
                assert!(event_loop.cancel(id));
            }
            for number in 0..4 {
                let s = s.clone();
                let id = event_loop.run_after(Duration::ZERO, move |_| s.record(number));
                if number % 2 == 1 {
                    c.borrow_mut().push(id);
                }
            }
            if calls.get() == 3 {
                event_loop.quit();
            }
        });
        event_loop.run().unwrap();
        assert_eq!(seen.take(), [0, 2, 0, 2]);
    });
}

#[test]
fn dropping_the_loop_drops_each_callback_once_and_calls_none() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (handle, drops, called) = (event_loop.handle(), Count::default(), Count::default());
        let callback = || {
            let (token, called) = (drops.drop_token(), called.clone());
            move |_: &EventLoop| {
                token.keep();
                called.add();
            }
        };
        let ids = [
            event_loop.run_after(Duration::ZERO, callback()),
            event_loop.run_every(HOUR, callback()),
            handle.run_after(HOUR, callback()).unwrap(),
            handle.run_every(HOUR, callback()).unwrap(),
            on_another_thread(|| handle.run_after(Duration::ZERO, callback()).unwrap()),
        ];
        drop(event_loop);
        assert_eq!((drops.get(), called.get()), (5, 0));
        assert!(ids.iter().all(|&id| !handle.cancel(id)), "no timer is left to cancel");

        let event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        handle.run_after(HOUR, callback()).unwrap();
        on_another_thread(|| handle.run_every(HOUR, callback()).unwrap());
        turn(&event_loop);
        drop(event_loop);
        assert_eq!((drops.get(), called.get()), (7, 0), "also the timers that the loop has armed");
    });
}

/// A value whose destructor performs every loop operation that a destructor may perform.
fn uses_the_loop_when_dropped(
    event_loop: &EventLoop,
    victim: TimerId,
    seen: &Recorder,
) -> OnDrop<impl FnOnce() + use<>> {
    thread_local! {
        static SEEN: RefCell<Option<Recorder>> = const { RefCell::new(None) };
    }
    SEEN.set(Some(seen.clone()));
    let handle = event_loop.handle();
    OnDrop::new(move || {
        let use_it = move |event_loop: &EventLoop| {
            let seen = SEEN.with_borrow(|seen| seen.clone().unwrap());
            assert!(event_loop.cancel(victim));
            event_loop.run_after(Duration::ZERO, |_| ());
            event_loop.handle().run_after(Duration::ZERO, |_| ()).unwrap();
            event_loop.queue_in_loop(|_| ());
            event_loop.next_deadline().unwrap();
            seen.record("dropped");
        };
        handle.run_in_loop(use_it).unwrap();
    })
}

#[test]
fn the_destructor_of_a_callback_may_use_the_loop() {
    with_loop(|event_loop| {
        let (handle, seen) = (event_loop.handle(), Recorder::new());
        let uses_it = || {
            let victim = event_loop.run_after(HOUR, |_| ());
            uses_the_loop_when_dropped(event_loop, victim, &seen)
        };

        let value = uses_it();
        event_loop.run_after(Duration::ZERO, move |_| value.keep());
        turn(event_loop);
        assert_eq!(seen.take(), ["dropped"], "when it has fired");

        let value = uses_it();
        let id = event_loop.run_after(HOUR, move |_| value.keep());
        assert!(event_loop.cancel(id));
        assert_eq!(seen.take(), ["dropped"], "when it is cancelled");

        let value = uses_it();
        let id = Rc::new(Cell::new(None));
        let own = Rc::clone(&id);
        id.set(Some(event_loop.run_every(Duration::from_nanos(1), move |event_loop| {
            value.keep();
            event_loop.cancel(own.get().unwrap());
        })));
        wait_until(Instant::now() + Duration::from_nanos(2));
        turn(event_loop);
        assert_eq!(seen.take(), ["dropped"], "when it has cancelled itself");

        // These callbacks must be `Send`, but a recorder is not. The recorder stays in a
        // thread-local of the loop's thread.
        let value = uses_it();
        let id = handle.run_after(HOUR, move |_| value.keep()).unwrap();
        assert!(handle.cancel(id));
        assert_eq!(seen.take(), ["dropped"], "when it is cancelled before it is armed");

        let value = uses_it();
        let id = handle.run_after(HOUR, move |_| value.keep()).unwrap();
        turn(event_loop);
        assert!(event_loop.cancel(id));
        assert_eq!(seen.take(), ["dropped"], "when it is cancelled after it is armed");
    });
}

#[test]
fn a_callback_cancelled_elsewhere_may_use_the_handle_in_drop() {
    with_loop(|event_loop| {
        let handle = event_loop.handle();
        on_another_thread(|| {
            let victim = handle.run_after(HOUR, |_| ()).unwrap();
            let h = handle.clone();
            let uses_it = OnDrop::new(move || {
                assert!(h.cancel(victim));
                h.run_after(Duration::ZERO, |_| ()).unwrap();
                h.queue_in_loop(EventLoop::quit).unwrap();
            });
            let id = handle.run_after(HOUR, move |_| uses_it.keep()).unwrap();
            assert!(handle.cancel(id));
        });
        event_loop.run().unwrap();
    });
}
