//! Loops in forked children. A child cannot use an inherited loop, and can create a loop of its
//! own. Each test runs in its own process.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket as PlainUdp};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::alone::alone;
use crate::support::forked::{self, in_child};
use crate::support::net::{self, Journal, reason, turn_until};
use crate::support::ready::ready_channel;
use crate::support::{Count, OnDrop, on_another_thread, turn, unread_wakes};
use reveille::fs::FileIo;
use reveille::io::{Channel, Interest};
use reveille::net::SendError;
use reveille::process::Child;
use reveille::signal::{Signal, Signals};
use reveille::task::{CallError, MailboxLimit, PostError};
use reveille::{EventLoop, LoopThread, TcpClient, TcpConnection, TcpServer, UdpSocket};

fn with_parent(test: impl FnOnce(EventLoop) + Send + 'static) {
    alone(|| test(EventLoop::builder().propagate_panics().build().unwrap()));
}

#[test]
fn a_child_cannot_use_an_inherited_loop() {
    with_parent(|event_loop| {
        let calls = Count::default();
        let counting = calls.clone();
        let _channel = ready_channel(&event_loop, move |_| counting.add());
        in_child(|| {
            let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
            assert_eq!(kind(event_loop.run()), ErrorKind::Unsupported);
            assert_eq!(kind(event_loop.run_once(None)), ErrorKind::Unsupported);
            assert_eq!(kind(event_loop.run_ready()), ErrorKind::Unsupported);
            assert_eq!(kind(event_loop.run_for(Duration::MAX)), ErrorKind::Unsupported);
            assert_eq!(kind(event_loop.run_until_idle()), ErrorKind::Unsupported);
            let (local, _peer) = UnixStream::pair().unwrap();
            let created = Channel::new(&event_loop, local, Interest::READABLE, |_| ());
            assert_eq!(kind(created.map(drop)), ErrorKind::Unsupported);
            let created = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _| ());
            assert_eq!(kind(created.map(drop)), ErrorKind::Unsupported);
            let created = TcpClient::connect(&event_loop, "127.0.0.1:9").serve_fn(|_, _| ());
            assert_eq!(kind(created.map(drop)), ErrorKind::Unsupported);
            let created = UdpSocket::bind(&event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _, _| ());
            assert_eq!(kind(created.map(drop)), ErrorKind::Unsupported);
            let (local, _peer) = UnixStream::pair().unwrap();
            let flags = rustix::fs::fcntl_getfl(&local).unwrap();
            let refused = TcpConnection::adopt(&event_loop, local, |_| Journal::new().script());
            let (local, error) = refused.expect_err("an inherited loop").into_parts();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let inherited = listener.try_clone().unwrap();
            let created = TcpServer::from_listener(&event_loop, listener).unwrap().serve_fn(|_, _| ());
            assert_eq!(kind(created.map(drop)), ErrorKind::Unsupported);
            let socket = PlainUdp::bind("127.0.0.1:0").unwrap();
            let inherited_udp = socket.try_clone().unwrap();
            let created = UdpSocket::from_socket(&event_loop, socket).unwrap().serve_fn(|_, _, _| ());
            assert_eq!(kind(created.map(drop)), ErrorKind::Unsupported);
            // The parent may have the sockets too.
            assert_eq!(rustix::fs::fcntl_getfl(&local).unwrap(), flags);
            assert_eq!(rustix::fs::fcntl_getfl(&inherited).unwrap(), flags);
            assert_eq!(rustix::fs::fcntl_getfl(&inherited_udp).unwrap(), flags);
            let created = Child::spawn(&event_loop, &mut Command::new("true"), |_, _| ());
            assert_eq!(kind(created.map(drop)), ErrorKind::Unsupported);
            let created = Signals::new(&event_loop, [Signal::USR1], |_, _| ());
            assert_eq!(kind(created.map(drop)), ErrorKind::Unsupported);
            let created = FileIo::builder().build(&event_loop);
            assert_eq!(kind(created.map(drop)), ErrorKind::Unsupported);
        });
        turn(&event_loop);
        assert_eq!(calls.get(), 1, "the child has consumed an event of the parent");
    });
}

#[test]
fn posts_in_a_child_fail_without_waking_the_parent() {
    with_parent(|event_loop| {
        let handle = event_loop.handle();
        let timer = handle.run_after(Duration::MAX, |_| ()).unwrap();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
        let opened = Rc::new(RefCell::new(None));
        let opening = Rc::clone(&opened);
        let server = server.serve(move |conn| {
            *opening.borrow_mut() = Some(conn.handle());
            net::Journal::new().script()
        });
        let server = server.unwrap();
        let _client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        turn_until(&event_loop, || opened.borrow().is_some());
        let connection = opened.take().unwrap();
        let wakes_before = unread_wakes(&event_loop);
        in_child(|| {
            let refused = handle.queue_in_loop(|_| ()).unwrap_err();
            assert_eq!(refused.reason(), PostError::LoopGone);
            assert!(handle.run_in_loop(|_| ()).is_err());
            assert!(handle.run_after(Duration::ZERO, |_| ()).is_err());
            assert_eq!(handle.call(|_| 1), Err(CallError::LoopGone));
            assert!(!handle.cancel(timer) && !handle.reset(timer, Duration::ZERO));
            assert!(!handle.is_in_loop_thread());
            handle.quit();
            event_loop.quit();
            event_loop.run_after(Duration::ZERO, |_| ());
            event_loop.queue_in_loop(|_| ());
            assert_eq!(reason(connection.send("word")), Err(SendError::Closed));
            assert!(!connection.is_open());
            connection.close();
            server.handle().pause_accepting();
            server.handle().resume_accepting();
            server.handle().stop(Duration::ZERO, |_, _| ());
        });
        assert_eq!(unread_wakes(&event_loop), wakes_before);
        turn(&event_loop);
        assert!(!event_loop.is_quitting() && connection.is_open() && handle.cancel(timer));
    });
}

/// Looks a name up. The result does not matter.
fn look_up(event_loop: &EventLoop) {
    let ended = Count::default();
    let (attempts, failures) = (ended.clone(), ended.clone());
    let client = TcpClient::connect(event_loop, "localhost:9");
    let client = client
        .on_attempt(move |_, _| attempts.add())
        .on_failure(move |_, _| failures.add())
        .serve_fn(|_, _| ());
    turn_until(event_loop, || ended.get() > 0);
    drop(client);
}

/// Creates a loop and uses all kinds of its objects.
fn use_a_loop() {
    let event_loop = EventLoop::new().unwrap();
    assert_eq!(EventLoop::new().unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert!(event_loop.handle().is_in_loop_thread());
    let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
    let server = server.serve_fn(|conn, input| conn.send(input.take_all())).unwrap();
    let client = TcpClient::connect(&event_loop, server.local_addr().unwrap());
    let client = client.serve_fn(|conn, _| conn.event_loop().quit()).unwrap();
    turn_until(&event_loop, || client.handle().is_some());
    client.handle().unwrap().send("word").unwrap();
    event_loop.run().unwrap();
    look_up(&event_loop);
    let thread = LoopThread::spawn("own").unwrap();
    assert_eq!(thread.handle().call(|_| 1), Ok(1));
    let handle = event_loop.handle();
    thread.handle().queue_in_loop(move |_| handle.quit()).unwrap();
    event_loop.run().unwrap();
    event_loop.run_after(Duration::ZERO, |event_loop| event_loop.quit());
    event_loop.run().unwrap();
}

#[test]
fn a_child_can_create_a_loop_beside_the_inherited_one() {
    with_parent(|event_loop| {
        look_up(&event_loop);
        let mut event_loop = Some(event_loop);
        in_child(use_a_loop);
        in_child(|| {
            let handle = event_loop.as_ref().unwrap().handle();
            let own = EventLoop::new().unwrap();
            drop(event_loop.take());
            assert!(own.handle().is_in_loop_thread() && !handle.is_in_loop_thread());
            drop(own);
            use_a_loop();
        });
        // A grandchild, forked from a child that has created its own loop.
        in_child(|| {
            let own = EventLoop::new().unwrap();
            let calls = Count::default();
            let counting = calls.clone();
            own.queue_in_loop(move |_| counting.add());
            in_child(|| {
                assert_eq!(own.run_once(Duration::ZERO).unwrap_err().kind(), ErrorKind::Unsupported);
                use_a_loop();
            });
            turn(&own);
            assert_eq!(calls.get(), 1);
        });
    });
}

#[test]
fn a_daemon_can_create_its_loop_after_two_forks() {
    alone(|| in_child(|| in_child(use_a_loop)));
}

/// A function that makes the loop call `callback` twice in its next turn.
type Schedule = fn(&EventLoop, fn(&EventLoop)) -> Vec<Channel<UnixStream>>;

static CALLS: AtomicUsize = AtomicUsize::new(0);

#[test]
fn a_child_forked_in_a_callback_does_not_continue_the_turn() {
    let schedules: [Schedule; 4] = [
        |event_loop, callback| (0..2).map(|_| ready_channel(event_loop, callback)).collect(),
        |event_loop, callback| {
            let now = Instant::now();
            event_loop.run_at(now, callback);
            event_loop.run_at(now, callback);
            Vec::new()
        },
        |event_loop, callback| {
            event_loop.queue_in_loop(callback);
            event_loop.queue_in_loop(callback);
            Vec::new()
        },
        |event_loop, callback| {
            let handle = event_loop.handle();
            on_another_thread(move || (handle.queue_in_loop(callback), handle.queue_in_loop(callback)).0)
                .unwrap();
            Vec::new()
        },
    ];
    with_parent(move |event_loop| {
        for schedule in schedules {
            CALLS.store(0, SeqCst);
            let _channels = schedule(&event_loop, |_| {
                if CALLS.fetch_add(1, SeqCst) == 0 {
                    forked::fork_process();
                }
            });
            let result = event_loop.run_once(Duration::ZERO);
            forked::exit_child_and_wait(|| {
                assert_eq!(result.as_ref().unwrap_err().kind(), ErrorKind::Unsupported);
                assert_eq!(CALLS.load(SeqCst), 1);
            });
            result.unwrap();
            assert_eq!(CALLS.load(SeqCst), 2);
        }
    });
}

#[test]
fn a_child_does_not_wait_for_locks_held_at_the_fork() {
    const TIMERS_PER_TURN: usize = 10_000;
    alone(|| {
        let event_loop = EventLoop::builder().mailbox(MailboxLimit::Reject(64)).build().unwrap();
        let (handle, done) = (event_loop.handle(), AtomicBool::new(false));
        let timers = AtomicUsize::new(0);
        let mut event_loop = Some(event_loop);
        thread::scope(|scope| {
            let _stop = OnDrop::new(|| done.store(true, SeqCst));
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(SeqCst) {
                        // Each post holds the lock of the mailbox for a moment. Most are rejected.
                        let _ = handle.queue_in_loop(|_| ());
                        // Timers are never rejected, so without a limit their number would grow.
                        if timers.fetch_add(1, SeqCst) < TIMERS_PER_TURN {
                            let timer = handle.run_after(Duration::MAX, |_| ()).unwrap();
                            handle.cancel(timer);
                        }
                    }
                });
            }
            for _ in 0..30 {
                turn(event_loop.as_ref().unwrap());
                timers.store(0, SeqCst);
                in_child(|| {
                    assert!(handle.queue_in_loop(|_| ()).is_err());
                    assert!(handle.run_after(Duration::ZERO, |_| ()).is_err());
                    handle.quit();
                    handle.counters();
                    drop(event_loop.take());
                });
            }
        });
    });
}
