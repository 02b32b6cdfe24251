//! Groups of connections: what their members receive, and in which order.

use std::io;
use std::sync::{Arc, mpsc};
use std::thread;

use crate::support::alone::alone;
use crate::support::forked::in_child;
use crate::support::members::{MemberLoop, group_of};
use crate::support::net::{self, End};
use crate::support::{LIMIT, MIB, OnDrop, with_watchdog};
use reveille::net::{ConnectionGroup, FullPolicy, GroupMap, SendError};
use reveille::{Buffer, ConnectionHandler, LoopThread, TcpConnection, TcpServer};

#[test]
fn members_on_two_loops_get_each_payload_in_order() {
    with_watchdog(LIMIT, || {
        let loops = [MemberLoop::new(), MemberLoop::new()];
        let members: Vec<_> = (0..10).map(|number| loops[number % 2].connect()).collect();
        let group = group_of(&members);
        assert_eq!((group.len(), group.is_empty()), (10, false));
        let (small, large) = ("a line\n", "x".repeat(100_000));
        let sends: Vec<String> = (0..600)
            .map(|number| format!("{number} {}", if number % 50 == 7 { &large } else { small }))
            .collect();
        // A clone refers to the same group.
        let clone = group.clone();
        for (number, payload) in sends.iter().enumerate() {
            if number % 2 == 0 { &group } else { &clone }.send(payload.as_bytes()).unwrap();
        }
        loops.iter().for_each(MemberLoop::run_tasks);
        let expected = sends.concat();
        for member in members {
            assert!(member.received() == expected.as_bytes(), "a member received other bytes");
        }
        assert_eq!(group.missed(), 0);
    });
}

#[test]
fn payloads_of_several_threads_keep_the_order_of_each() {
    with_watchdog(LIMIT, || {
        let loops = [MemberLoop::new(), MemberLoop::new()];
        let members = [loops[0].connect(), loops[1].connect()];
        let group = group_of(&members);
        thread::scope(|scope| {
            for name in ["a", "b", "c"] {
                let group = &group;
                scope.spawn(move || {
                    (0..500).for_each(|number| group.send(format!("{name} {number}\n").as_bytes()).unwrap());
                });
            }
        });
        loops.iter().for_each(MemberLoop::run_tasks);
        for member in members {
            let text = String::from_utf8(member.received()).unwrap();
            for name in ["a", "b", "c"] {
                let lines: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
                let expected: Vec<_> = (0..500).map(|number| format!("{name} {number}")).collect();
                assert_eq!(lines, expected);
            }
        }
    });
}

#[test]
fn joins_and_leaves_take_effect_between_sends() {
    for is_blocked in [false, true] {
        with_watchdog(LIMIT, move || {
            let event_loop = MemberLoop::new();
            let [early, late, stranger] = [(); 3].map(|()| event_loop.connect());
            let group = ConnectionGroup::new(FullPolicy::Close);
            let blocked = is_blocked.then(|| event_loop.block());
            group.join(&early.handle);
            group.send(*b"1 ").unwrap();
            group.join(&late.handle);
            // Without effect, because it is a member.
            group.join(&late.handle);
            assert_eq!(group.len(), 2);
            group.send(*b"2 ").unwrap();
            assert!(group.leave(early.handle.id()));
            assert!(!group.leave(early.handle.id()));
            assert!(!group.leave(stranger.handle.id()));
            group.send(*b"3 ").unwrap();
            assert!(group.leave(late.handle.id()));
            group.send(*b"nobody").unwrap();
            group.join(&early.handle);
            group.send(*b"4").unwrap();
            drop(blocked);
            event_loop.run_tasks();
            early.assert_received("1 2 4");
            late.assert_received("2 3 ");
            stranger.assert_received("");
        });
    }
}

#[test]
fn a_send_of_a_member_reaches_itself_and_the_others() {
    with_watchdog(LIMIT, || {
        let loops = [MemberLoop::new(), MemberLoop::new()];
        let members = [loops[0].connect(), loops[1].connect()];
        let group = group_of(&members);
        let own = group.clone();
        loops[0].host.request(move |_, _| own.send(*b"from the loop")).unwrap();
        loops.iter().for_each(MemberLoop::run_tasks);
        members.into_iter().for_each(|member| member.assert_received("from the loop"));
    });
}

#[test]
fn a_payload_follows_earlier_handle_sends_of_its_thread() {
    with_watchdog(LIMIT, || {
        let event_loop = MemberLoop::new();
        let member = event_loop.connect();
        let group = group_of([&member]);
        // The delivery of the first payload is queued before the handle notifies the loop.
        let blocked = event_loop.block();
        group.send(*b"first\n").unwrap();
        for number in 0..500 {
            member.handle.send(format!("handle {number}\n")).unwrap();
            group.send(format!("group {number}\n").as_bytes()).unwrap();
        }
        drop(blocked);
        event_loop.run_tasks();
        let text = String::from_utf8(member.received()).unwrap();
        let position =
            |line: String| text.lines().position(|other| other == line).expect("a line is missing");
        for number in 0..500 {
            let payload = position(format!("group {number}"));
            assert!(position(format!("handle {number}")) < payload);
            assert!(number == 0 || position(format!("group {}", number - 1)) < payload);
        }
    });
}

#[test]
fn closed_members_leave_and_do_not_join() {
    with_watchdog(LIMIT, || {
        let loops = [MemberLoop::new(), MemberLoop::new()];
        let [gone, stays] = [loops[0].connect(), loops[1].connect()];
        let group = group_of([&gone, &stays]);
        let handle = gone.handle.clone();
        drop(gone);
        loops[0].journal.end_of(0);
        group.send(*b"1 ").unwrap();
        loops[0].run_tasks();
        assert_eq!(group.len(), 1);
        group.join(&handle);
        assert_eq!(group.len(), 1);
        group.send(*b"2").unwrap();
        loops[1].run_tasks();
        stays.assert_received("1 2");
    });
}

#[test]
fn a_member_that_is_shut_down_gets_nothing_more() {
    with_watchdog(LIMIT, || {
        for policy in [FullPolicy::Skip, FullPolicy::Close, FullPolicy::Refuse] {
            let event_loop = MemberLoop::new();
            let [ending, other] = [event_loop.connect(), event_loop.connect()];
            let group = ConnectionGroup::new(policy);
            group.join(&ending.handle);
            group.join(&other.handle);
            group.send(*b"before ").unwrap();
            event_loop.run_tasks();
            ending.handle.shutdown();
            event_loop.run_tasks();
            group.send(*b"after").unwrap();
            event_loop.run_tasks();
            assert_eq!((group.len(), group.missed()), (1, 0));
            ending.assert_received("before ");
            other.assert_received("before after");
            assert_eq!(event_loop.journal.end_of(0), End::Finished);
        }
    });
}

#[test]
fn payloads_in_transit_outlive_the_group() {
    with_watchdog(LIMIT, || {
        let event_loop = MemberLoop::new();
        let member = event_loop.connect();
        let group = group_of([&member]);
        let blocked = event_loop.block();
        group.send(*b"1 ").unwrap();
        group.send(*b"2").unwrap();
        drop(group);
        drop(blocked);
        event_loop.run_tasks();
        member.assert_received("1 2");
    });
}

/// Ignores its input.
struct Deaf;

impl ConnectionHandler for Deaf {
    fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        Ok(())
    }
}

/// The payload is sent when the loop has made its last turn.
#[test]
fn a_loop_that_ends_with_payloads_in_transit_releases_them() {
    with_watchdog(LIMIT, || {
        let staying = MemberLoop::new();
        let mut stays = staying.connect();
        let group = group_of([&stays]);
        let payload: Arc<[u8]> = vec![b'x'; MIB].into();
        let (last_group, last_payload) = (group.clone(), Arc::clone(&payload));
        let (addresses, address) = mpsc::channel();
        let (opened, is_open) = mpsc::channel();
        let ending = LoopThread::spawn_with("ending", move |event_loop| {
            let (group, opened) = (last_group.clone(), opened);
            let server = TcpServer::bind(event_loop, "127.0.0.1:0")?.serve(move |conn| {
                group.join(&conn.handle());
                opened.send(()).unwrap();
                Deaf
            })?;
            addresses.send(server.local_addr()?).unwrap();
            // Tasks do not run after the loop has stopped. The member is still open.
            let last_send = OnDrop::new(move || last_group.send(last_payload).unwrap());
            Ok((last_send, server))
        });
        let peer = net::connect(address.recv_timeout(net::LIMIT).unwrap());
        is_open.recv_timeout(net::LIMIT).unwrap();
        assert_eq!(group.len(), 2);
        drop(ending.unwrap());
        for _ in 0..20 {
            assert!(net::read_exact(&mut stays.peer, MIB) == *payload);
            group.send(Arc::clone(&payload)).unwrap();
        }
        assert!(net::read_exact(&mut stays.peer, MIB) == *payload);
        assert_eq!(group.len(), 1);
        net::until(|| Arc::strong_count(&payload) == 1);
        drop(peer);
    });
}

#[test]
fn members_on_ended_loops_leave_and_their_places_are_reused() {
    with_watchdog(LIMIT, || {
        let staying = MemberLoop::new();
        let member = staying.connect();
        let group = group_of([&member]);
        let life = || {
            let ending = MemberLoop::new();
            let member = ending.connect();
            group.join(&member.handle);
            group.send(*b".").unwrap();
            ending.run_tasks();
            drop(ending);
            group.send(*b".").unwrap();
            assert_eq!(group.len(), 1);
        };
        (0..20).for_each(|_| life());
        staying.run_tasks();
        member.assert_received(&".".repeat(40));
    });
}

#[test]
fn handles_of_ended_loops_do_not_accumulate_in_a_group() {
    alone(|| {
        let group = ConnectionGroup::new(FullPolicy::Close);
        let life = || {
            let ending = MemberLoop::new();
            group.join(&ending.connect().handle);
            drop(ending);
            group.send(*b".").unwrap();
        };
        life();
        let before = net::open_descriptors();
        (0..20).for_each(|_| life());
        // The handle of a loop keeps its eventfd open.
        assert_eq!(net::open_descriptors(), before);
    });
}

#[test]
fn a_forked_child_cannot_use_groups_of_its_parent() {
    alone(|| {
        let event_loop = MemberLoop::new();
        let member = event_loop.connect();
        let group = ConnectionGroup::new(FullPolicy::Close);
        let map = GroupMap::new(FullPolicy::Close);
        group.join(&member.handle);
        map.join("key", &member.handle);
        let mut copies = Some((group.clone(), map.clone()));
        in_child(|| {
            let (group, map) = copies.take().unwrap();
            assert_eq!(group.send(*b"child"), Err(SendError::Closed));
            assert_eq!(map.send("key", *b"child"), Err(SendError::Closed));
            assert!(group.is_empty() && map.get("key").is_none());
            group.join(&member.handle);
            map.join("other", &member.handle);
            assert!(!group.leave(member.handle.id()) && !map.leave("key", member.handle.id()));
        });
        group.send(*b"parent, ").unwrap();
        map.send("key", *b"parent").unwrap();
        event_loop.run_tasks();
        member.assert_received("parent, parent");
    });
}
