//! What a send to a group does with members that are full, and with a loop that is slow.

use std::io;

use crate::support::members::MemberLoop;
use crate::support::net::{self, End};
use crate::support::{KIB, LIMIT, MIB, with_watchdog};
use reveille::net::{ConnectionGroup, ConnectionLimits, FullPolicy, SendError};

/// The limit of a member that is full. A longer payload never fits, whatever the kernel takes.
const LIMITED: usize = 1000;

#[test]
fn skip_counts_each_payload_that_a_full_member_misses() {
    with_watchdog(LIMIT, || {
        let (limited, other) = (MemberLoop::with_max_unsent(LIMITED), MemberLoop::new());
        let members = [limited.connect(), other.connect()];
        let group = ConnectionGroup::new(FullPolicy::default());
        members.iter().for_each(|member| group.join(&member.handle));
        // The payloads of one turn are delivered together, and refused separately.
        let blocked = limited.block();
        let long = "x".repeat(LIMITED + 1);
        for payload in ["1 ", &long, "2 ", "3 ", &long, "4"] {
            group.send(payload.as_bytes()).unwrap();
        }
        drop(blocked);
        limited.run_tasks();
        other.run_tasks();
        assert_eq!((group.len(), group.missed()), (2, 2));
        let [limited, other] = members;
        limited.assert_received("1 2 3 4");
        other.assert_received(&["1 ", &long, "2 3 ", &long, "4"].concat());
    });
}

#[test]
fn payloads_of_a_turn_that_fit_one_by_one_are_not_missed() {
    with_watchdog(LIMIT, || {
        for policy in [FullPolicy::Skip, FullPolicy::Close] {
            let event_loop = MemberLoop::with_max_unsent(LIMITED);
            let member = event_loop.connect();
            let group = ConnectionGroup::new(policy);
            group.join(&member.handle);
            let blocked = event_loop.block();
            let payload = "x".repeat(LIMITED / 2);
            (0..10).for_each(|_| group.send(payload.as_bytes()).unwrap());
            drop(blocked);
            event_loop.run_tasks();
            assert_eq!((group.len(), group.missed()), (1, 0));
            member.assert_received(&payload.repeat(10));
        }
    });
}

#[test]
fn a_slow_peer_gets_whole_payloads_in_order() {
    with_watchdog(LIMIT, || {
        const MISSED: u64 = 20;
        let event_loop = MemberLoop::with_settings(|builder| {
            net::with_small_send_buffer(builder).limits(ConnectionLimits::new().max_unsent(128 * KIB))
        });
        let slow = event_loop.connect_slow();
        let group = ConnectionGroup::new(FullPolicy::Skip);
        group.join(&slow.handle);
        let mut sent = 0;
        // The kernel takes a limited number of bytes.
        while group.missed() < MISSED {
            let filler = "x".repeat(1 + sent * 997 % 9000);
            group.send(format!("{sent} {filler}\n").as_bytes()).unwrap();
            sent += 1;
            event_loop.run_tasks();
        }
        let missed = group.missed() as usize;
        let text = String::from_utf8(slow.received()).unwrap();
        let mut next = 0;
        for line in text.lines() {
            let (number, filler) = line.split_once(' ').expect("a number");
            let number: usize = number.parse().unwrap();
            assert!(number >= next, "{number} arrived after {next}");
            assert_eq!(filler.len(), 1 + number * 997 % 9000, "payload {number} is incomplete");
            next = number + 1;
        }
        assert_eq!(text.lines().count(), sent - missed);
    });
}

#[test]
fn a_payload_above_the_memory_limit_is_skipped_or_refused() {
    with_watchdog(LIMIT, || {
        const BUDGET: usize = 64 * KIB;
        let limited = MemberLoop::with_settings(|builder| builder.max_buffered(BUDGET));
        let [skipping, refusing] = [limited.connect(), limited.connect()];
        let skip = ConnectionGroup::new(FullPolicy::Skip);
        skip.join(&skipping.handle);
        let refuse = ConnectionGroup::new(FullPolicy::Refuse);
        refuse.join(&refusing.handle);
        // No send may take the total above twice the limit.
        let above = vec![b'x'; 2 * BUDGET + 1];
        for payload in [b"1 ", &above[..], b"2"] {
            skip.send(payload).unwrap();
        }
        assert_eq!(refuse.send(above), Err(SendError::Full));
        refuse.send(*b"small").unwrap();
        limited.run_tasks();
        assert_eq!((skip.len(), skip.missed()), (1, 1));
        assert_eq!((refuse.len(), refuse.missed()), (1, 0));
        skipping.assert_received("1 2");
        refusing.assert_received("small");
    });
}

#[test]
fn close_resets_a_full_member_and_serves_the_others() {
    with_watchdog(LIMIT, || {
        let (limited, other) = (MemberLoop::with_max_unsent(LIMITED), MemberLoop::new());
        let [mut full, fits] = [limited.connect(), other.connect()];
        let group = ConnectionGroup::new(FullPolicy::Close);
        group.join(&full.handle);
        group.join(&fits.handle);
        group.send(*b"1 ").unwrap();
        limited.run_tasks();
        assert_eq!(net::read_exact(&mut full.peer, 2), b"1 ");
        let long = "x".repeat(LIMITED + 1);
        group.send(long.as_bytes()).unwrap();
        let error = io::Error::from(SendError::Full);
        assert_eq!(limited.journal.end_of(0), End::Error(error.kind(), error.to_string()));
        assert_eq!(net::read_until_reset(&mut full.peer), b"");
        limited.run_tasks();
        other.run_tasks();
        assert_eq!((group.len(), group.missed()), (1, 0));
        fits.assert_received(&["1 ", &long].concat());
    });
}

#[test]
fn refuse_gives_no_member_a_payload_that_one_cannot_take() {
    with_watchdog(LIMIT, || {
        let (limited, other) = (MemberLoop::with_max_unsent(LIMITED), MemberLoop::new());
        let [full, fits] = [limited.connect(), other.connect()];
        let group = ConnectionGroup::new(FullPolicy::Refuse);
        group.join(&fits.handle);
        group.join(&full.handle);
        assert_eq!(group.send(vec![0; LIMITED + 1]), Err(SendError::Full));
        // Payloads in transit count.
        let blocked = limited.block();
        let payload = "x".repeat(LIMITED / 2 + 1);
        group.send(payload.as_bytes()).unwrap();
        assert_eq!(group.send(payload.as_bytes()), Err(SendError::Full));
        // A member that takes no more output does not count.
        full.handle.shutdown();
        group.send(payload.as_bytes()).unwrap();
        drop(blocked);
        limited.run_tasks();
        group.send(*b"end").unwrap();
        limited.run_tasks();
        other.run_tasks();
        assert_eq!((group.len(), group.missed()), (1, 0));
        fits.assert_received(&[&payload, &payload, "end"].concat());
    });
}

#[test]
fn a_slow_loop_refuses_payloads_and_costs_no_member() {
    for policy in [FullPolicy::Skip, FullPolicy::Close, FullPolicy::Refuse] {
        with_watchdog(LIMIT, move || {
            const PAYLOADS: usize = 16;
            // More than the payloads take, so that no member is full.
            let loops = [(); 2].map(|()| MemberLoop::with_max_unsent(2 * PAYLOADS * MIB));
            let [slow, mut fast] = [loops[0].connect(), loops[1].connect()];
            let group = ConnectionGroup::new(policy);
            group.join(&slow.handle);
            group.join(&fast.handle);
            let blocked = loops[0].block();
            let payload: std::sync::Arc<[u8]> = net::pattern(MIB).into();
            for _ in 0..PAYLOADS {
                group.send(payload.clone()).unwrap();
                assert!(net::read_exact(&mut fast.peer, MIB) == *payload);
            }
            assert_eq!(group.send(*b"x"), Err(SendError::Full));
            drop(blocked);
            loops.iter().for_each(MemberLoop::run_tasks);
            group.send(*b"end").unwrap();
            loops.iter().for_each(MemberLoop::run_tasks);
            assert_eq!((group.len(), group.missed()), (2, 0));
            assert!(slow.received() == [payload.repeat(PAYLOADS).as_slice(), b"end"].concat());
            fast.assert_received("end");
        });
    }
}

#[test]
fn a_payload_above_the_limit_in_transit_is_refused() {
    with_watchdog(LIMIT, || {
        let event_loop = MemberLoop::with_max_unsent(64 * MIB);
        let member = event_loop.connect();
        let group = ConnectionGroup::new(FullPolicy::Close);
        assert_eq!(group.send(vec![0; 16 * MIB + 1]), Ok(()), "a group without members is never full");
        group.join(&member.handle);
        assert_eq!(group.send(vec![0; 16 * MIB + 1]), Err(SendError::Full));
        group.send(vec![b'x'; 16 * MIB]).unwrap();
        event_loop.run_tasks();
        assert!(member.received() == vec![b'x'; 16 * MIB]);
    });
}
