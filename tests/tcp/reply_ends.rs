//! Reserved replies and the ends of their connection: shutdowns wait for them, a close does not.

use std::cell::RefCell;
use std::io::{self};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use crate::support::bench::{Bench, Ended, defaults, with_virtual_time};
use crate::support::clock::{HOUR, MINUTE};
use crate::support::net::{self, End};
use crate::support::replies::{assert_silent, fill, quiet, quiet_on, reserve, send, with_first};
use crate::support::{LIMIT, on_another_thread, with_watchdog};
use reveille::codec::{Framed, LineCodec};
use reveille::net::{ConnectionLimits, ConnectionState, ReplySlot, SendError};
use reveille::{EventLoop, TcpConnection};

#[test]
fn a_dropped_slot_resets_the_connection_before_any_later_reply() {
    with_watchdog(LIMIT, || {
        for remote in [false, true] {
            let (bench, actors) = quiet(defaults);
            let mut client = bench.connect();
            let [first, second, third] = [(); 3].map(|()| reserve(&bench));
            send(&bench, "sent after the slots");
            fill(third, "3");
            fill(first, "1");
            assert_eq!(bench.read_exact(&mut client, 1), b"1");
            match remote {
                true => on_another_thread(move || drop(second)),
                false => drop(second),
            }
            bench.until(|| actors.end().is_some());
            assert_eq!(actors.end(), Some(End::ReplyDropped));
            assert_eq!(bench.read_all(&mut client), (vec![], Ended::Reset));
        }
    });
}

#[test]
fn a_slot_dropped_in_a_panic_of_its_thread_resets_the_connection() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = quiet(defaults);
        let mut client = bench.connect();
        let slot = reserve(&bench);
        let worker = thread::spawn(move || {
            let _slot = slot;
            panic!("intended by the test");
        });
        worker.join().unwrap_err();
        bench.until(|| actors.end().is_some());
        assert_eq!(actors.end(), Some(End::ReplyDropped));
        assert_eq!(bench.read_all(&mut client).1, Ended::Reset);
    });
}

#[test]
fn a_dropped_slot_in_its_own_callback_resets_the_connection() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = quiet(defaults);
        let mut client = bench.connect();
        with_first(&bench, |conn| {
            drop(conn.reserve_reply().unwrap());
            let _ = conn.send("must not arrive");
        });
        bench.until(|| actors.end().is_some());
        assert_eq!(actors.end(), Some(End::ReplyDropped));
        assert_eq!(bench.read_all(&mut client), (vec![], Ended::Reset));
    });
}

#[test]
fn a_close_with_open_slots_resets_and_later_fills_are_refused() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = quiet(defaults);
        let mut client = bench.connect();
        let [first, second, third] = [(); 3].map(|()| reserve(&bench));
        fill(second, "2");
        bench.settle();
        bench.handle(0).close();
        bench.settle();
        assert_eq!(actors.end(), Some(End::Closed));
        assert_eq!(bench.read_all(&mut client), (vec![], Ended::Reset));
        let refused = first.fill("1").unwrap_err();
        assert_eq!(refused.reason(), SendError::Closed);
        let (slot, bytes) = refused.into_inner();
        assert_eq!(bytes, b"1");
        assert_eq!(on_another_thread(move || slot.fill(bytes).unwrap_err().reason()), SendError::Closed);
        third.skip();
        assert_eq!(actors.calls.take(), ["open", "close"]);
    });
}

#[test]
fn a_half_close_waits_for_all_open_slots() {
    with_watchdog(LIMIT, || {
        // The default reaction to a half-close.
        struct Plain;
        impl reveille::ConnectionHandler for Plain {
            fn on_message(&mut self, _: &TcpConnection<'_>, input: &mut reveille::Buffer) -> io::Result<()> {
                input.clear();
                Ok(())
            }
        }
        let slots = Rc::new(RefCell::new(Vec::new()));
        let reserved = Rc::clone(&slots);
        let bench = Bench::new(EventLoop::builder().propagate_panics(), defaults, move |conn| {
            reserved.borrow_mut().extend((0..3).map(|_| conn.reserve_reply().unwrap()));
            Plain
        });
        let mut client = bench.connect();
        bench.finish(&client);
        let [first, second, third] = <[ReplySlot; 3]>::try_from(slots.take()).unwrap();
        fill(second, "2");
        on_another_thread(move || fill(third, "3"));
        assert_silent(&bench, &client);
        fill(first, "1");
        assert_eq!(bench.read_to_fin(&mut client), b"123");
        bench.until(|| !bench.handle(0).is_open());
    });
}

#[test]
fn a_shutdown_and_a_graceful_close_wait_for_open_slots() {
    let ends: [fn(&TcpConnection<'_>); 2] = [|conn| conn.shutdown(), |conn| conn.close_gracefully(HOUR)];
    for end in ends {
        with_watchdog(LIMIT, move || {
            let (bench, actors) = quiet(defaults);
            let mut client = bench.connect();
            let [first, second] = [(); 2].map(|()| reserve(&bench));
            with_first(&bench, move |conn| {
                conn.send("and ").unwrap();
                end(conn);
                assert_eq!(conn.state(), ConnectionState::Closing);
                assert_eq!(conn.send("x"), Err(SendError::ShutDown));
            });
            fill(second, "2");
            assert_silent(&bench, &client);
            on_another_thread(move || fill(first, "1"));
            assert_eq!(bench.read_to_fin(&mut client), b"12and ");
            drop(client);
            if actors.calls.take().contains(&"peer shutdown") {
                return;
            }
            bench.until(|| !bench.handle(0).is_open());
            assert_eq!(actors.end(), Some(End::Finished));
        });
    }
}

#[test]
fn a_shutdown_after_skipped_slots_sends_the_fin() {
    with_watchdog(LIMIT, || {
        let (bench, _) = quiet(defaults);
        let mut client = bench.connect();
        let [first, second] = [(); 2].map(|()| reserve(&bench));
        bench.handle(0).shutdown();
        bench.settle();
        second.skip();
        assert_silent(&bench, &client);
        first.skip();
        assert_eq!(bench.read_to_fin(&mut client), b"");
    });
}

#[test]
fn a_graceful_close_with_an_open_slot_ends_at_its_deadline() {
    with_virtual_time(|builder, clock| {
        let (bench, actors) = quiet_on(builder, defaults);
        let mut client = bench.connect();
        let slot = reserve(&bench);
        with_first(&bench, |conn| conn.close_gracefully(MINUTE));
        clock.advance(MINUTE - Duration::from_nanos(1));
        bench.settle();
        assert_eq!(actors.end(), None);
        clock.advance(Duration::from_nanos(1));
        bench.settle();
        assert_eq!(actors.end(), Some(End::DeadlinePassed));
        assert_eq!(slot.fill("late").unwrap_err().reason(), SendError::Closed);
        assert_eq!(bench.read_all(&mut client).1, Ended::Reset);
    });
}

#[test]
fn a_stop_of_the_server_waits_for_open_slots() {
    with_watchdog(LIMIT, || {
        let (bench, _) = quiet(defaults);
        let mut client = bench.connect();
        let slot = reserve(&bench);
        bench.server.handle().stop(HOUR, |_, _| ());
        assert_silent(&bench, &client);
        fill(slot, "reply");
        assert_eq!(bench.read_to_fin(&mut client), b"reply");
    });
}

#[test]
fn a_slot_outlives_its_loop() {
    with_watchdog(LIMIT, || {
        let (bench, _) = quiet(defaults);
        let mut client = bench.connect();
        let [first, second] = [(); 2].map(|()| reserve(&bench));
        drop(bench);
        assert_eq!(first.fill("x").unwrap_err().reason(), SendError::Closed);
        drop(second);
        net::wait_for_end(&mut client);
    });
}

#[test]
fn a_peer_that_resets_makes_fills_fail() {
    with_watchdog(LIMIT, || {
        let (bench, _) = quiet(defaults);
        let client = bench.connect();
        let slot = reserve(&bench);
        net::reset(client);
        bench.until(|| !bench.handle(0).is_open());
        bench.settle();
        assert_eq!(slot.fill("x").unwrap_err().reason(), SendError::Closed);
    });
}

#[test]
fn a_reset_with_requests_behind_the_maximum_of_slots_closes_the_connection() {
    // The error is found by the poller, or by the write of a reply.
    for fills in [false, true] {
        with_watchdog(LIMIT, move || {
            let slots = Rc::<RefCell<Vec<ReplySlot>>>::default();
            let kept = Rc::clone(&slots);
            let bench = Bench::new(
                EventLoop::builder().propagate_panics(),
                |builder| builder.limits(ConnectionLimits::new().max_open_replies(2)),
                move |_| {
                    let kept = Rc::clone(&kept);
                    Framed::from_fn(LineCodec::new(10), move |conn, _| {
                        kept.borrow_mut().push(conn.reserve_reply()?);
                        io::Result::Ok(())
                    })
                },
            );
            let mut client = bench.connect();
            bench.send(&mut client, "1\n2\n3\n4\n");
            assert_eq!(slots.borrow().len(), 2);
            net::reset(client);
            if fills {
                slots.take().into_iter().for_each(|slot| drop(slot.fill("reply")));
            }
            bench.until(|| !bench.handle(0).is_open());
            bench.settle();
            assert_eq!(bench.server.open_connections(), 0);
        });
    }
}
