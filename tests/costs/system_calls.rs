//! The system calls of a server's threads, counted by tracing them.
//!
//! The server is a child process. This process is its peer and its tracer. The counts are exact and
//! do not depend on time, except that an idle loop is observed for a limited time.

// The tracer supports only this architecture.
#![cfg(target_arch = "x86_64")]

use std::io::Write;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use crate::support::net;
use crate::support::traced_server::{self, MANY, MANY_SIZE, Server, order};
use crate::support::tracer::Calls;
use crate::support::{LIMIT, with_watchdog};
use nix::libc;

/// The child process; see [`traced_server`].
#[test]
#[ignore = "runs only in a child process of another test"]
fn child_role() {
    if net::role().is_some() {
        traced_server::serve();
    }
}

/// A read, a write and a wait for each message.
fn one_of_each(messages: u64) -> Calls {
    Calls::of([
        (libc::SYS_recvfrom, messages),
        (libc::SYS_sendto, messages),
        (libc::SYS_epoll_wait, messages),
    ])
}

#[test]
fn an_echoed_message_costs_one_read_one_write_and_one_wait() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let mut client = server.connect();
        order(&mut client, order::NOTHING);
        for messages in [100, 200] {
            let calls = server.on_loop.calls_of(|| {
                (0..messages).for_each(|_| order(&mut client, order::NOTHING));
            });
            assert_eq!(calls, one_of_each(messages));
        }
        // A send to a closed connection must fail instead of raising SIGPIPE.
        let seen = server.on_loop.wait_until_idle();
        let no_signal = libc::MSG_NOSIGNAL as u64;
        assert!(seen.send_flags.iter().all(|flags| flags & no_signal != 0), "{:?}", seen.send_flags);
    });
}

#[test]
fn an_async_echo_costs_one_read_one_write_and_one_wait() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = server.connect();
        let mut dial = [b'-'; 64];
        dial[0] = order::CONNECT_ASYNC;
        dial[1..6].copy_from_slice(format!("{:05}", listener.local_addr().unwrap().port()).as_bytes());
        assert_eq!(net::exchange(&mut client, dial), dial);
        let mut peer = listener.accept().unwrap().0;
        net::assert_echoes(&mut peer);
        drop(server.on_loop.wait_until_idle());
        for messages in [100, 200] {
            let calls = server.on_loop.calls_of(|| (0..messages).for_each(|_| net::assert_echoes(&mut peer)));
            assert_eq!(calls, one_of_each(messages));
        }
    });
}

/// Readings of the clock are not counted: on most machines they are no system calls. The watchdog's
/// thread reads the memory of the loop.
#[test]
fn metrics_and_a_watchdog_add_no_system_call_to_a_message() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let mut client = server.connect();
        order(&mut client, order::OBSERVE);
        let calls = server.on_loop.calls_of(|| (0..100).for_each(|_| order(&mut client, order::NOTHING)));
        assert_eq!(calls, one_of_each(100));
    });
}

#[test]
fn polls_of_futures_share_a_wait_between_128() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let mut client = server.connect();
        order(&mut client, order::YIELDS);
        let calls = server.on_loop.calls_of(|| (0..10).for_each(|_| order(&mut client, order::YIELDS)));
        // 1,005 polls take 8 turns, and the send of the handle one more. Wake-ups and yields make
        // no call of their own.
        let expected =
            Calls::of([(libc::SYS_recvfrom, 10), (libc::SYS_sendto, 10), (libc::SYS_epoll_wait, 90)]);
        assert_eq!(calls, expected);
    });
}

#[test]
fn several_sends_of_a_turn_cost_one_write() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let mut client = server.connect();
        let expected = one_of_each(100);
        for pieces in [order::PIECES, order::SENDS, order::HANDLE_SENDS] {
            order(&mut client, pieces);
            let calls = server.on_loop.calls_of(|| (0..100).for_each(|_| order(&mut client, pieces)));
            assert_eq!(calls, expected, "{}", char::from(pieces));
        }
    });
}

#[test]
fn a_deadline_that_moves_with_each_message_costs_no_system_call() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let mut client = server.connect();
        // Sets the timer.
        order(&mut client, order::DEADLINE);
        let calls = server.on_loop.calls_of(|| (0..100).for_each(|_| order(&mut client, order::DEADLINE)));
        assert_eq!(calls, one_of_each(100));
    });
}

#[test]
fn all_replies_of_a_batch_of_frames_cost_one_write() {
    const LINES: usize = 40;
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let mut client = net::connect(server.lines);
        let mut exchange = || {
            client.write_all(b"line\n".repeat(LINES).as_slice()).unwrap();
            net::read_exact(&mut client, 6 * LINES);
        };
        exchange();
        let calls = server.on_loop.calls_of(|| (0..50).for_each(|_| exchange()));
        assert_eq!(calls, one_of_each(50));
    });
}

/// Sends from outside the connection's callbacks leave in the task phase. They may take another
/// turn, so waits are not compared.
#[test]
fn several_sends_from_outside_cost_one_write_a_turn() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let mut client = server.connect();
        for sends in [
            order::TASK_SENDS,
            order::TIMER_SENDS,
            order::CALL_SENDS,
            order::CALL_SENDS_IN_TASK,
            order::GROUP_SENDS,
        ] {
            order(&mut client, sends);
            let calls = server.on_loop.calls_of(|| (0..100).for_each(|_| order(&mut client, sends)));
            assert_eq!(writes(&calls), 100, "{}: {calls:?}", char::from(sends));
        }
        // Sends in the callback of another connection, which sends its own echo.
        order(&mut client, order::KEEP_HANDLE);
        let mut other = server.connect();
        order(&mut other, order::NOTHING);
        let calls = server.on_loop.calls_of(|| {
            for _ in 0..100 {
                order(&mut other, order::SENDS_TO_KEPT);
                assert_eq!(net::read_exact(&mut client, 64)[0], order::SENDS_TO_KEPT);
            }
        });
        assert_eq!(writes(&calls), 200, "{calls:?}");
    });
}

/// The number of writes depends on the sizes of the sockets' buffers, but not on the number of
/// sends.
#[test]
fn many_small_sends_of_a_handle_cost_few_writes() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let mut client = server.connect();
        let calls = server.on_loop.calls_of(|| {
            client.write_all(&[order::MANY_SENDS]).unwrap();
            assert_eq!(net::read_exact(&mut client, MANY * MANY_SIZE), [b'-'].repeat(MANY * MANY_SIZE));
        });
        assert!(writes(&calls) < MANY as u64 / 50, "{calls:?}");
    });
}

/// The number of writes to sockets.
fn writes(calls: &Calls) -> u64 {
    calls.count(libc::SYS_sendto) + calls.count(libc::SYS_sendmsg)
}

/// The loop is stopped until all messages are sent, so the number of waits does not depend on
/// timing.
#[test]
fn messages_that_arrive_together_share_their_waits() {
    with_watchdog(LIMIT, || {
        const CLIENTS: u64 = 50;
        const ROUNDS: u64 = 5;
        let Some(server) = Server::start() else { return };
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| order(client, order::NOTHING));
        let mut calls = server.on_loop.calls_of(|| {
            for _ in 0..ROUNDS {
                drop(server.on_loop.wait_until_idle());
                server.on_loop.hold();
                clients.iter_mut().for_each(|client| client.write_all(&[order::NOTHING; 64]).unwrap());
                server.on_loop.release();
                for client in &mut clients {
                    assert_eq!(net::read_exact(client, 64), [order::NOTHING; 64]);
                }
            }
        });
        let waits = calls.take(libc::SYS_epoll_wait);
        // The first message of a round ends one wait, together with the messages that have arrived
        // by then. The next wait returns all others.
        assert!(waits <= 2 * ROUNDS, "{waits} waits");
        let messages = CLIENTS * ROUNDS;
        assert_eq!(calls, Calls::of([(libc::SYS_recvfrom, messages), (libc::SYS_sendto, messages)]));
    });
}

#[test]
fn a_connection_is_registered_once_in_its_life() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let life = || {
            let mut client = server.connect();
            for _ in 0..3 {
                order(&mut client, order::NOTHING);
            }
            order(&mut client, order::PAUSE);
            // The server finishes in turn and closes, before it waits again.
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(net::read_to_end(&mut client), b"");
            drop(server.on_loop.wait_until_idle());
        };
        life();
        for lives in [5, 10] {
            let calls = server.on_loop.calls_of(|| (0..lives).for_each(|_| life()));
            assert_eq!(calls.count(libc::SYS_epoll_ctl), lives, "{calls:?}");
            assert_eq!(calls.count(libc::SYS_close), lives, "{calls:?}");
            assert_eq!(calls.count(libc::SYS_sendto), 4 * lives, "{calls:?}");
            // Four messages and the end of input.
            assert_eq!(calls.count(libc::SYS_recvfrom), 5 * lives, "{calls:?}");
            assert_eq!(calls.count(libc::SYS_accept4), lives, "{calls:?}");
            // Whether another connection is pending.
            assert_eq!(polls(&calls), lives, "{calls:?}");
            // The client has finished first, so the close also finishes the output.
            assert_eq!(calls.count(libc::SYS_shutdown), 0, "{calls:?}");
            // The connection inherits the options of the listening socket.
            assert_eq!(calls.count(libc::SYS_setsockopt), 0, "{calls:?}");
            // accept4(2) sets non-blocking and close-on-exec. With debug assertions, the standard
            // library checks each descriptor that it closes.
            let checks = if cfg!(debug_assertions) { lives } else { 0 };
            assert_eq!(calls.count(libc::SYS_fcntl), checks, "{calls:?}");
            assert_eq!(calls.count(libc::SYS_ioctl), 0, "{calls:?}");
        }
        let operations = &server.on_loop.wait_until_idle().epoll_operations;
        assert!(operations.iter().all(|operation| *operation == libc::EPOLL_CTL_ADD as u64));
    });
}

/// The loop is stopped until all clients have connected.
#[test]
fn only_a_burst_of_connections_causes_a_failed_accept() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let burst = |connections: u64| {
            let mut open = Vec::new();
            let calls = server.on_loop.calls_of(|| {
                server.on_loop.hold();
                open.extend((0..connections).map(|_| server.connect()));
                net::wait_for_backlog(server.address, connections);
                server.on_loop.release();
                open.iter_mut().for_each(|client| order(client, order::NOTHING));
            });
            (calls.count(libc::SYS_accept4), polls(&calls))
        };
        assert_eq!(burst(1), (1, 1));
        assert_eq!(burst(2), (2, 2));
        assert_eq!(burst(6), (6, 6));
        // After six polls in one turn, the server accepts without a poll until an accept fails.
        assert_eq!(burst(7), (8, 6));
        assert_eq!(burst(30), (31, 6));
    });
}

#[test]
fn an_echoed_datagram_costs_one_write_and_its_reads() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let mut client = server.connect();
        let kinds = [
            (order::DATAGRAMS, libc::SYS_recvfrom, libc::SYS_sendto),
            (order::DATAGRAMS_TO_ALL, libc::SYS_recvmsg, libc::SYS_sendmsg),
        ];
        for (kind, read, write) in kinds {
            let datagrams = crate::support::udp::plain();
            let mut message = [b'-'; 64];
            message[0] = kind;
            message[1..6].copy_from_slice(
                format!("{:05}", crate::support::udp::address(&datagrams).port()).as_bytes(),
            );
            assert_eq!(net::exchange(&mut client, message), message);
            let (_, from) = datagrams.recv_from(&mut [0; 16]).unwrap();
            datagrams.connect(from).unwrap();
            let exchange = || {
                datagrams.send(b"there and back").unwrap();
                assert_eq!(crate::support::udp::receive(&datagrams), b"there and back");
                drop(server.on_loop.wait_until_idle());
            };
            exchange();
            let calls = server.on_loop.calls_of(|| (0..100).for_each(|_| exchange()));
            // The second read of an exchange finds no datagram.
            assert_eq!(calls, Calls::of([(read, 200), (write, 100), (libc::SYS_epoll_wait, 100)]));
        }
    });
}

/// The number of polls for a pending connection.
fn polls(calls: &Calls) -> u64 {
    calls.count(libc::SYS_poll) + calls.count(libc::SYS_ppoll)
}

#[test]
fn an_outgoing_connection_is_registered_once_in_its_life() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = server.connect();
        let mut dial = [b'-'; 64];
        dial[0] = order::CONNECT;
        dial[1..6].copy_from_slice(format!("{:05}", listener.local_addr().unwrap().port()).as_bytes());
        let mut life = || {
            assert_eq!(net::exchange(&mut client, dial), dial);
            let mut peer = listener.accept().unwrap().0;
            net::assert_echoes(&mut peer);
            peer.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(net::read_to_end(&mut peer), b"");
            drop(server.on_loop.wait_until_idle());
        };
        life();
        for lives in [5, 10] {
            let calls = server.on_loop.calls_of(|| (0..lives).for_each(|_| life()));
            let calls_per_life = [
                (libc::SYS_socket, 1),
                (libc::SYS_setsockopt, 1),
                (libc::SYS_connect, 1),
                (libc::SYS_epoll_ctl, 1),
                // Whether the attempt has failed, and whether the socket is connected to itself.
                (libc::SYS_getsockopt, 1),
                (libc::SYS_getpeername, 1),
                (libc::SYS_getsockname, 1),
                // The order and its echo, the message of the new connection and its echo, and the
                // end of input.
                (libc::SYS_recvfrom, 3),
                (libc::SYS_sendto, 2),
                // The peer has finished first, so the close also finishes the output.
                (libc::SYS_shutdown, 0),
                (libc::SYS_close, 1),
            ];
            for (call, count) in calls_per_life {
                assert_eq!(
                    calls.count(call),
                    count * lives,
                    "not {count} of call {call} per life: {calls:?}"
                );
            }
        }
        let operations = &server.on_loop.wait_until_idle().epoll_operations;
        assert!(operations.iter().all(|operation| *operation == libc::EPOLL_CTL_ADD as u64));
    });
}

#[test]
fn an_idle_loop_makes_no_system_call() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(|client| order(client, order::NOTHING));
        let before = server.on_loop.wait_until_idle().stops;
        thread::sleep(Duration::from_millis(300));
        let seen = server.on_loop.wait_until_idle();
        assert_eq!(seen.stops, before, "{:?}", seen.calls);
        drop(seen);
        clients.iter_mut().for_each(|client| order(client, order::NOTHING));
    });
}

#[test]
fn pausing_and_resuming_reading_makes_no_system_call() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let mut client = server.connect();
        order(&mut client, order::NOTHING);
        let calls = server.on_loop.calls_of(|| order(&mut client, order::PAUSE));
        assert_eq!(calls, one_of_each(1));
    });
}

#[test]
fn timers_cost_a_call_only_for_an_earlier_deadline() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let mut client = server.connect();
        order(&mut client, order::NOTHING);
        for (timers, settings) in [
            (order::CANCELLED_TIMERS, 0),
            (order::KEPT_TIMERS, 1),
            (order::KEPT_TIMERS, 0),
            (order::CANCELLED_TIMERS, 0),
        ] {
            // Other calls are not compared, because the allocator may request memory.
            let calls = server.on_loop.calls_of(|| order(&mut client, timers));
            assert_eq!(calls.count(libc::SYS_timerfd_settime), settings, "{calls:?}");
            assert_eq!(
                (calls.count(libc::SYS_epoll_wait), calls.count(libc::SYS_epoll_ctl)),
                (1, 0),
                "{calls:?}"
            );
            assert_eq!((calls.count(libc::SYS_recvfrom), calls.count(libc::SYS_read)), (1, 0), "{calls:?}");
        }
    });
}

#[test]
fn pausing_and_resuming_accepting_makes_no_system_call() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let mut client = server.connect();
        order(&mut client, order::NOTHING);
        let calls = server.on_loop.calls_of(|| order(&mut client, order::PAUSE_SERVER));
        assert_eq!(calls, one_of_each(1));
        net::assert_echoes(&mut server.connect());
    });
}

#[test]
fn a_task_for_a_sleeping_loop_costs_one_write() {
    with_watchdog(LIMIT, || {
        let Some(mut server) = Server::start() else { return };
        for _ in 0..10 {
            let before = server.posting.count(libc::SYS_write);
            let mut calls = server.on_loop.calls_of(|| assert_eq!(server.child.request("post"), "posted"));
            let posted = server.posting.count(libc::SYS_write) - before;
            assert_eq!(posted, 1);
            // The loop reads its eventfd once.
            assert_eq!(calls.take(libc::SYS_read), 1, "{calls:?}");
            assert_eq!(calls.count(libc::SYS_epoll_ctl), 0, "{calls:?}");
        }
    });
}

/// Such a loop sleeps in the read of its eventfd.
#[test]
fn a_loop_without_descriptors_is_woken_by_one_write_and_one_read() {
    with_watchdog(LIMIT, || {
        let Some(mut server) = Server::start() else { return };
        for tasks in [1, 10] {
            let calls = server.on_bare_loop.calls_of(|| {
                for _ in 0..tasks {
                    drop(server.on_bare_loop.wait_until_idle());
                    assert_eq!(server.child.request("call the bare loop"), "called");
                }
            });
            // Other calls wake the thread that waits for the result, and are not compared.
            assert_eq!(calls.count(libc::SYS_read), tasks, "{calls:?}");
            assert_eq!(calls.count(libc::SYS_epoll_wait), 0, "{calls:?}");
        }
    });
}

#[test]
fn tasks_for_an_awake_loop_cost_no_write() {
    with_watchdog(LIMIT, || {
        let Some(server) = Server::start() else { return };
        let mut client = server.connect();
        order(&mut client, order::NOTHING);
        let before = server.posting.count(libc::SYS_write);
        let mut calls =
            server.on_loop.calls_of(|| (0..5).for_each(|_| order(&mut client, order::BLOCK_LOOP)));
        let after = server.posting.count(libc::SYS_write);
        assert_eq!(after, before, "500 tasks were posted");
        // The loop was not woken for them.
        assert_eq!(calls.take(libc::SYS_read), 0, "{calls:?}");
        assert_eq!((calls.take(libc::SYS_recvfrom), calls.take(libc::SYS_sendto)), (5, 5));
    });
}
