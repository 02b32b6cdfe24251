//! Loops in forked children: an inherited one cannot be used, and a child can make its own. Each
//! test has a process of its own.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::alone::alone;
use crate::support::forked::{self, in_child};
use crate::support::net::{self, turn_until};
use crate::support::ready::ready_channel;
use crate::support::{Count, OnDrop, on_another_thread, turn, unread_wakes};
use reveille::fs::FileIo;
use reveille::io::{Channel, Interest};
use reveille::net::SendError;
use reveille::process::Child;
use reveille::signal::{Signal, Signals};
use reveille::task::{CallError, MailboxLimit, PostErrorReason};
use reveille::{EventLoop, LoopThread, TcpClient, TcpServer, UdpSocket};

fn with_parent(test: impl FnOnce(EventLoop) + Send + 'static) {
    alone(|| test(EventLoop::builder().propagate_panics().build().unwrap()));
}

#[test]
fn a_child_cannot_run_an_inherited_loop_or_make_anything_on_it() {
    with_parent(|event_loop| {
        let ran = Count::default();
        let r = ran.clone();
        let _channel = ready_channel(&event_loop, move |_| r.add());
        in_child(|| {
            let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
            assert_eq!(kind(event_loop.run()), ErrorKind::Unsupported);
            assert_eq!(kind(event_loop.run_once(None)), ErrorKind::Unsupported);
            assert_eq!(kind(event_loop.run_ready()), ErrorKind::Unsupported);
            assert_eq!(kind(event_loop.run_for(Duration::MAX)), ErrorKind::Unsupported);
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let made = Channel::new(&event_loop, ours, Interest::READABLE, |_| ());
            assert_eq!(kind(made.map(drop)), ErrorKind::Unsupported);
            let made = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _| ());
            assert_eq!(kind(made.map(drop)), ErrorKind::Unsupported);
            let made = TcpClient::connect(&event_loop, "127.0.0.1:9").serve_fn(|_, _| ());
            assert_eq!(kind(made.map(drop)), ErrorKind::Unsupported);
            let made = UdpSocket::bind(&event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _, _| ());
            assert_eq!(kind(made.map(drop)), ErrorKind::Unsupported);
            let made = Child::spawn(&event_loop, &mut Command::new("true"), |_, _| ());
            assert_eq!(kind(made.map(drop)), ErrorKind::Unsupported);
            let made = Signals::new(&event_loop, [Signal::USR1], |_, _| ());
            assert_eq!(kind(made.map(drop)), ErrorKind::Unsupported);
            let made = FileIo::builder().build(&event_loop);
            assert_eq!(kind(made.map(drop)), ErrorKind::Unsupported);
        });
        turn(&event_loop);
        assert_eq!(ran.get(), 1, "the child has taken nothing");
    });
}

#[test]
fn posts_in_a_child_are_refused_and_do_not_wake_the_parent() {
    with_parent(|event_loop| {
        let handle = event_loop.handle();
        let timer = handle.run_after(Duration::MAX, |_| ()).unwrap();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
        let given = Rc::new(RefCell::new(None));
        let give = Rc::clone(&given);
        let server = server.serve(move |conn| {
            *give.borrow_mut() = Some(conn.handle());
            net::Journal::new().script()
        });
        let server = server.unwrap();
        let _client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        turn_until(&event_loop, || given.borrow().is_some());
        let connection = given.take().unwrap();
        let wakes = unread_wakes(&event_loop);
        in_child(|| {
            let refused = handle.queue_in_loop(|_| ()).unwrap_err();
            assert_eq!(refused.reason(), PostErrorReason::LoopGone);
            assert!(handle.run_in_loop(|_| ()).is_err());
            assert!(handle.run_after(Duration::ZERO, |_| ()).is_err());
            assert_eq!(handle.call(|_| 1), Err(CallError::LoopGone));
            assert!(!handle.cancel(timer) && !handle.reset(timer, Duration::ZERO));
            assert!(!handle.is_in_loop_thread());
            handle.quit();
            event_loop.quit();
            event_loop.run_after(Duration::ZERO, |_| ());
            event_loop.queue_in_loop(|_| ());
            assert_eq!(connection.send("word"), Err(SendError::Closed));
            assert!(!connection.is_open());
            connection.close();
            server.handle().pause_accepting();
            server.handle().resume_accepting();
            server.handle().stop(Duration::ZERO, |_, _| ());
        });
        assert_eq!(unread_wakes(&event_loop), wakes);
        turn(&event_loop);
        assert!(!event_loop.is_quitting() && connection.is_open() && handle.cancel(timer));
    });
}

/// Has a name looked up, whatever comes of that.
fn look_up(event_loop: &EventLoop) {
    let ended = Count::default();
    let (e, f) = (ended.clone(), ended.clone());
    let client = TcpClient::connect(event_loop, "localhost:9");
    let client = client.on_attempt(move |_, _| e.add()).on_failure(move |_, _| f.add()).serve_fn(|_, _| ());
    turn_until(event_loop, || ended.get() > 0);
    drop(client);
}

/// Makes a loop, and uses what a loop has.
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
fn a_child_makes_a_loop_of_its_own_beside_the_inherited_one() {
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
        // A child of a child, and a loop that is made between the two.
        in_child(|| {
            let own = EventLoop::new().unwrap();
            let ran = Count::default();
            let r = ran.clone();
            own.queue_in_loop(move |_| r.add());
            in_child(|| {
                assert_eq!(own.run_once(Duration::ZERO).unwrap_err().kind(), ErrorKind::Unsupported);
                use_a_loop();
            });
            turn(&own);
            assert_eq!(ran.get(), 1);
        });
    });
}

#[test]
fn a_daemon_makes_its_loop_after_it_has_forked_twice() {
    alone(|| in_child(|| in_child(use_a_loop)));
}

/// Has the loop call `callback` twice in its next turn.
type Begin = fn(&EventLoop, fn(&EventLoop)) -> Vec<Channel<UnixStream>>;

static CALLS: AtomicUsize = AtomicUsize::new(0);

#[test]
fn a_child_that_is_forked_in_a_callback_leaves_the_turn_to_its_parent() {
    let begin_each: [Begin; 4] = [
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
        for begin in begin_each {
            CALLS.store(0, SeqCst);
            let _channels = begin(&event_loop, |_| {
                if CALLS.fetch_add(1, SeqCst) == 0 {
                    forked::fork_here();
                }
            });
            let ran = event_loop.run_once(Duration::ZERO);
            forked::end_here(|| {
                assert_eq!(ran.as_ref().unwrap_err().kind(), ErrorKind::Unsupported);
                assert_eq!(CALLS.load(SeqCst), 1);
            });
            ran.unwrap();
            assert_eq!(CALLS.load(SeqCst), 2);
        }
    });
}

#[test]
fn a_child_does_not_wait_for_what_a_thread_was_doing_when_it_was_forked() {
    const TIMERS_PER_TURN: usize = 10_000;
    alone(|| {
        let event_loop = EventLoop::builder().mailbox(MailboxLimit::Reject(64)).build().unwrap();
        let (handle, done) = (event_loop.handle(), AtomicBool::new(false));
        let timers = AtomicUsize::new(0);
        let mut event_loop = Some(event_loop);
        thread::scope(|scope| {
            let _ends = OnDrop::new(|| done.store(true, SeqCst));
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(SeqCst) {
                        // Most are rejected, and each holds the lock.
                        let _ = handle.queue_in_loop(|_| ());
                        // Timers are never rejected, so unlimited threads would outrun the loop.
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
