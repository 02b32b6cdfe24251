//! Random operations on a group, compared with a reference.

use crate::support::members::{Member, MemberLoop};
use crate::support::net::{self, Random};
use crate::support::{LIMIT, with_watchdog};
use reveille::net::{ConnectionGroup, FullPolicy};

const LOOPS: usize = 3;
const OPERATIONS: usize = 400;

/// A connection, and what the reference expects of it.
struct Expected {
    member: Member,
    event_loop: usize,
    is_member: bool,
    is_closed: bool,
    stream: Vec<u8>,
}

#[test]
fn random_joins_leaves_sends_and_closes_match_the_reference() {
    for seed in 1..=6 {
        with_watchdog(LIMIT, move || run(Random::new(seed)));
    }
}

fn run(mut random: Random) {
    let loops = [(); LOOPS].map(|()| MemberLoop::new());
    let group = ConnectionGroup::new(FullPolicy::Close);
    let mut all: Vec<Expected> = Vec::new();
    for number in 0..OPERATIONS {
        let chosen = random.below(all.len().max(1));
        match random.below(20) {
            0..2 => {
                let event_loop = random.below(LOOPS);
                let member = loops[event_loop].connect();
                all.push(Expected {
                    member,
                    event_loop,
                    is_member: false,
                    is_closed: false,
                    stream: Vec::new(),
                });
            }
            2..6 if !all.is_empty() => {
                let expected = &mut all[chosen];
                group.join(&expected.member.handle);
                expected.is_member |= !expected.is_closed;
            }
            6..8 if !all.is_empty() => {
                let expected = &mut all[chosen];
                let was_member = group.leave(expected.member.handle.id());
                // A member that has closed may have left by itself.
                assert!(was_member == expected.is_member || expected.is_closed);
                expected.is_member = false;
            }
            8 if !all.is_empty() && number % 3 == 0 => {
                let expected = &mut all[chosen];
                expected.member.handle.close();
                loops[expected.event_loop].run_tasks();
                expected.is_closed = true;
                expected.is_member = false;
            }
            9 => loops[random.below(LOOPS)].run_tasks(),
            _ => {
                let most = [10, 3000, 20_000][random.below(3)];
                let payload = net::pattern(1 + random.below(most));
                for expected in all.iter_mut().filter(|expected| expected.is_member) {
                    expected.stream.extend_from_slice(&payload);
                }
                group.send(payload).unwrap();
            }
        }
    }
    // A send finds the members that have closed.
    group.send(*b".").unwrap();
    loops.iter().for_each(MemberLoop::run_tasks);
    assert_eq!(group.len(), all.iter().filter(|expected| expected.is_member).count());
    for Expected { mut member, is_member, is_closed, mut stream, .. } in all {
        if is_member {
            stream.push(b'.');
        }
        if !is_closed {
            assert!(member.received() == stream, "a member received other bytes");
            continue;
        }
        // Payloads that were in transit when it closed are lost.
        let mut received = Vec::new();
        let _ = std::io::Read::read_to_end(&mut member.peer, &mut received);
        assert!(stream.starts_with(&received), "a closed member received other bytes");
    }
    assert_eq!(group.missed(), 0);
}
