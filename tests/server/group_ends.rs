//! The end of a member, or of its loop, while payloads of a group are on their way to it.

use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use crate::support::endings::is_closed;
use crate::support::failures::{Bench, assert_ends_with};
use crate::support::members::MemberLoop;
use crate::support::net::{self, End};
use crate::support::{LIMIT, MIB, with_loop, with_watchdog};
use reveille::net::{ConnectionGroup, ConnectionLimits, FullPolicy, SendError};
use reveille::{ConnectionHandle, EventLoop, TcpConnection, TcpServer};
use rustix::event::PollFlags;

fn group_of(member: &ConnectionHandle) -> ConnectionGroup {
    let group = ConnectionGroup::new(FullPolicy::Close);
    group.join(member);
    group
}

fn end_loop(event_loop: EventLoop, bench: &Bench) {
    // The peer sees the end when the last descriptor is closed.
    bench.socket.take();
    drop(event_loop);
}

#[test]
fn a_dropped_loop_delivers_the_payloads_in_transit() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let bench = Bench::new(&event_loop, |script| script);
        let mut peer = bench.connect(&event_loop);
        let group = group_of(&bench.handle());
        group.send(*b"one ").unwrap();
        group.send(*b"two").unwrap();
        end_loop(event_loop, &bench);
        assert_eq!(net::read_to_end(&mut peer), b"one two");
        assert_eq!(bench.journal.end_of(0), End::LoopEnded);
        assert_eq!(bench.lost.get().0, 0);
        // A member of a loop that has ended is closed.
        group.send(*b"three").unwrap();
        assert!(group.is_empty());
    });
}

#[test]
fn payloads_that_a_dropped_loop_cannot_deliver_are_counted() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let bench = Bench::new(&event_loop, |script| script);
        let mut peer = bench.connect(&event_loop);
        // More than the kernel takes while the peer does not read.
        group_of(&bench.handle()).send(vec![b'x'; 8 * MIB]).unwrap();
        end_loop(event_loop, &bench);
        assert_eq!(bench.journal.end_of(0), End::LoopEnded);
        assert!(bench.lost.get().0 > 0, "nothing is counted as unsent");
        assert!(net::read_until_reset(&mut peer).len() < 8 * MIB);
    });
}

/// The ends that a callback of the member can cause.
#[test]
fn a_member_sends_the_payloads_in_transit_before_it_ends() {
    let ends: [fn(&TcpConnection<'_>) -> io::Result<()>; 5] = [
        |conn| {
            conn.close();
            Ok(())
        },
        |conn| {
            conn.shutdown();
            Ok(())
        },
        |conn| {
            conn.close_gracefully(Duration::from_secs(30));
            Ok(())
        },
        |conn| {
            conn.handle().close();
            Ok(())
        },
        |_| Err(io::Error::other("of the handler")),
    ];
    for end in ends {
        with_loop(move |event_loop| {
            let bench = Bench::new(event_loop, move |script| {
                script.on_message(move |conn, input| {
                    input.clear();
                    let group = group_of(&conn.handle());
                    conn.send("reply, ")?;
                    group.send(*b"payload")?;
                    end(conn)?;
                    // Sent after the end, so it is not for this member.
                    Ok::<_, io::Error>(group.send(*b"late")?)
                })
            });
            let mut peer = bench.connect(event_loop);
            bench.socket.take();
            peer.write_all(b"x").unwrap();
            net::turn_until(event_loop, || bench.journal.of(0).len() > 1);
            crate::support::turn(event_loop);
            assert_eq!(net::read_to_end(&mut peer), b"reply, payload");
            drop(peer);
            net::turn_until(event_loop, || is_closed(&bench.journal, 0));
            assert_eq!(bench.lost.get().0, 0);
        });
    }
}

#[test]
fn a_server_sends_the_payloads_in_transit_before_it_ends() {
    let ends: [fn(TcpServer); 3] = [
        drop,
        |server| server.stop(Duration::from_secs(30), |_, _| ()),
        |server| {
            server.stop(Duration::ZERO, |_, _| ());
        },
    ];
    for end in ends {
        with_loop(move |event_loop| {
            let bench = Bench::new(event_loop, |script| script);
            let mut peer = bench.connect(event_loop);
            group_of(&bench.handle()).send(*b"payload").unwrap();
            let Bench { server, journal, lost, socket, .. } = bench;
            socket.take();
            end(server);
            crate::support::failures::turns(event_loop);
            assert_eq!(net::read_exact(&mut peer, 7), b"payload");
            net::wait_for_end(&mut peer);
            drop(peer);
            net::turn_until(event_loop, || is_closed(&journal, 0));
            assert_eq!(lost.get().0, 0);
        });
    }
}

#[test]
fn an_end_that_a_handle_requests_follows_earlier_payloads() {
    let ends: [fn(&ConnectionHandle); 3] = [ConnectionHandle::shutdown, ConnectionHandle::close, |handle| {
        handle.close_gracefully(Duration::from_secs(30));
    }];
    for end in ends {
        with_watchdog(LIMIT, move || {
            let event_loop = MemberLoop::new();
            let mut member = event_loop.connect();
            let group = group_of(&member.handle);
            let blocked = event_loop.block();
            member.handle.send("sent, ").unwrap();
            group.send(*b"payload").unwrap();
            end(&member.handle);
            drop(blocked);
            assert_eq!(net::read_to_end(&mut member.peer), b"sent, payload");
        });
    }
}

#[test]
fn payloads_that_find_a_failed_output_are_counted() {
    with_loop(|event_loop| {
        let bench = Bench::new(event_loop, |script| {
            script.on_message(|conn, input| {
                input.clear();
                group_of(&conn.handle()).send(*b"payload").unwrap();
                assert_eq!(conn.send("x").and_then(|_| conn.flush()), Err(SendError::Closed));
            })
        });
        let mut peer = bench.connect(event_loop);
        peer.write_all(b"x").unwrap();
        net::reset(peer);
        bench.wait_for(PollFlags::HUP);
        assert_ends_with(&bench.calls_until_close(event_loop), ErrorKind::ConnectionReset);
        assert_eq!(bench.lost.get().0, "x".len() + "payload".len());
    });
}

#[test]
fn a_full_member_counts_all_payloads_that_it_does_not_get() {
    const LIMITED: usize = 1000;
    with_loop(|event_loop| {
        let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let bench = Bench::of(builder.limits(ConnectionLimits::new().max_unsent(LIMITED)), |script| script);
        let mut peer = bench.connect(event_loop);
        let group = group_of(&bench.handle());
        for payload in ["fits", &"x".repeat(LIMITED + 1), "also lost"] {
            group.send(payload.as_bytes()).unwrap();
        }
        assert_ends_with(&bench.calls_until_close(event_loop), ErrorKind::WouldBlock);
        assert_eq!(bench.lost.get().0, LIMITED + 1 + "also lost".len());
        net::read_until_reset(&mut peer);
    });
}
