//! `run_until_idle`: what keeps a loop running, and what does not.

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::channels::{drain, pair};
use crate::support::idle::{assert_excluded, assert_waits};
use crate::support::net::turn_until;
use crate::support::{
    Count, LIMIT, Recorder, on_another_thread, panic_of, with_clock, with_loop, with_watchdog,
};
use reveille::fs::{FileIo, OpenOptions};
use reveille::io::{Channel, ChannelEvent, Interest, Trigger};
use reveille::ipc::SharedRing;
use reveille::process::Child;
use reveille::signal::{Signal, Signals};
use reveille::task::Workers;
use reveille::time::VirtualClock;
use reveille::{EventFd, EventLoop, LoopThread, TcpServer, UdpSocket};

/// Longer than any test. A loop that waits for it fails the watchdog.
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_loop_without_work_returns_at_once() {
    with_loop(|event_loop| {
        event_loop.run_until_idle().unwrap();
        assert_eq!(event_loop.iteration(), 0);
        event_loop.run_until_idle().unwrap();
    });
}

#[test]
fn queued_tasks_run_before_the_loop_returns() {
    with_loop(|event_loop| {
        let (ran, handle) = (Count::default(), event_loop.handle());
        let (local, remote) = (ran.clone(), ran.clone());
        event_loop.queue_in_loop(move |event_loop| event_loop.queue_in_loop(move |_| local.add()));
        on_another_thread(|| handle.queue_in_loop(move |_| remote.add()).unwrap());
        event_loop.run_until_idle().unwrap();
        assert_eq!(ran.get(), 2);
    });
}

#[test]
fn pending_timers_of_any_thread_keep_the_loop_running() {
    with_loop(|event_loop| {
        let (fired, handle) = (Count::default(), event_loop.handle());
        let (local, remote, repeated) = (fired.clone(), fired.clone(), fired.clone());
        event_loop.run_after(Duration::from_millis(1), move |_| local.add());
        on_another_thread(|| handle.run_after(Duration::from_millis(2), move |_| remote.add()).unwrap());
        let id = Rc::new(Cell::new(None));
        let own = Rc::clone(&id);
        id.set(Some(event_loop.run_every(Duration::from_millis(1), move |event_loop| {
            repeated.add();
            if repeated.get() >= 5 {
                event_loop.cancel(own.get().unwrap());
            }
        })));
        let cancelled = event_loop.run_after(HOUR, |_| unreachable!("cancelled"));
        event_loop.cancel(cancelled);
        event_loop.run_until_idle().unwrap();
        assert!(fired.get() >= 5);
    });
}

#[test]
fn a_request_to_quit_ends_the_run_and_is_cleared() {
    with_loop(|event_loop| {
        let timer = event_loop.run_after(HOUR, |_| unreachable!("too late"));
        event_loop.quit();
        event_loop.run_until_idle().unwrap();
        assert!(!event_loop.is_quitting() && event_loop.cancel(timer));
        event_loop.run_until_idle().unwrap();
        let handle = event_loop.handle();
        let channel = EventFd::new(0).unwrap().watch(event_loop, |_, _| ()).unwrap();
        let quitting = thread::spawn(move || handle.quit());
        event_loop.run_until_idle().unwrap();
        quitting.join().unwrap();
        assert!(channel.is_open());
    });
}

#[test]
fn a_channel_keeps_the_loop_running_until_it_is_closed() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), seen) = (pair(), Recorder::new());
        let recording = seen.clone();
        let channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            let (bytes, ended) = drain(event);
            recording.record(bytes);
            if ended {
                event.close();
            }
        });
        let writer = thread::spawn(move || theirs.write_all(b"hello").unwrap());
        event_loop.run_until_idle().unwrap();
        writer.join().unwrap();
        assert!(!channel.unwrap().is_open());
        assert_eq!(seen.take().iter().sum::<usize>(), 5);
    });
}

#[test]
fn a_channel_without_interest_does_not_count() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        let counting = calls.clone();
        let callback = move |event: &ChannelEvent<'_, _>| {
            drain(event);
            counting.add();
        };
        let channel =
            Channel::with_trigger(event_loop, ours, Interest::EMPTY, Trigger::OneShot, callback).unwrap();
        event_loop.run_until_idle().unwrap();
        for expected in 1..=2 {
            channel.set_interest(Interest::READABLE).unwrap();
            theirs.write_all(b"x").unwrap();
            event_loop.run_until_idle().unwrap();
            assert_eq!(calls.get(), expected);
        }
    });
}

#[test]
fn excluded_sources_are_served_but_do_not_count() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        let counting = calls.clone();
        let channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            drain(event);
            counting.add();
        });
        let channel = channel.unwrap();
        let signals = Signals::new(event_loop, [Signal::USR2], |_, _| ()).unwrap();
        let eventfd = EventFd::new(0).unwrap().watch(event_loop, |_, _| ()).unwrap();
        channel.exclude_from_idle();
        channel.set_interest(Interest::READABLE).unwrap();
        channel.exclude_from_idle();
        signals.exclude_from_idle();
        eventfd.exclude_from_idle();
        theirs.write_all(b"x").unwrap();
        event_loop.run_until_idle().unwrap();
        assert_eq!(calls.get(), 0, "nothing has to be done");
        event_loop.queue_in_loop(|_| ());
        event_loop.run_until_idle().unwrap();
        assert_eq!(calls.get(), 1);
        channel.include_in_idle();
        drop((signals, eventfd));
        event_loop.run_after(Duration::from_millis(1), move |_| drop(channel));
        event_loop.run_until_idle().unwrap();
    });
}

#[test]
fn a_slot_of_an_excluded_source_counts_again_when_it_is_reused() {
    with_loop(|event_loop| {
        let source = EventFd::new(0).unwrap().watch(event_loop, |_, _| ()).unwrap();
        source.exclude_from_idle();
        drop(source);
        let eventfd = EventFd::new(1).unwrap();
        let source = Rc::new(Cell::new(None));
        let own = Rc::clone(&source);
        source.set(Some(eventfd.watch(event_loop, move |_, _| drop(own.take())).unwrap()));
        event_loop.run_until_idle().unwrap();
        assert!(source.take().is_none(), "its callback has been called");
    });
}

#[test]
fn excluded_timers_fire_but_do_not_count() {
    with_loop(|event_loop| {
        let (ticks, handle) = (Count::default(), event_loop.handle());
        let counting = ticks.clone();
        let every = event_loop.run_every(Duration::from_millis(1), move |_| counting.add());
        let remote = on_another_thread(|| handle.run_after(HOUR, |_| ()).unwrap());
        assert!(event_loop.exclude_from_idle(every) && event_loop.exclude_from_idle(remote));
        assert!(event_loop.exclude_from_idle(every), "twice has the effect of once");
        event_loop.run_until_idle().unwrap();
        event_loop.run_after(Duration::from_millis(20), |_| ());
        event_loop.run_until_idle().unwrap();
        assert!(ticks.get() >= 1);
        assert!(event_loop.cancel(every) && event_loop.cancel(remote));
        assert!(!event_loop.exclude_from_idle(every));
        event_loop.run_until_idle().unwrap();
    });
}

#[test]
fn a_server_counts_until_it_has_stopped() {
    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _| ()).unwrap();
        let stopped = Count::default();
        let counting = stopped.clone();
        event_loop.queue_in_loop(move |_| server.stop(Duration::ZERO, move |_, _| counting.add()));
        event_loop.run_until_idle().unwrap();
        assert_eq!(stopped.get(), 1);
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _, _| ()).unwrap();
        event_loop.run_after(Duration::from_millis(1), move |_| drop(socket));
        event_loop.run_until_idle().unwrap();
    });
}

#[test]
fn file_io_counts_while_operations_are_pending() {
    with_loop(|event_loop| {
        let (files, opened) = (FileIo::new(event_loop).unwrap(), Count::default());
        event_loop.run_until_idle().unwrap();
        assert_eq!(event_loop.iteration(), 0, "nothing is pending");
        let open = || {
            let counting = opened.clone();
            files.open("/dev/null", OpenOptions::reading(), move |_, file| {
                file.unwrap();
                counting.add();
            });
        };
        open();
        event_loop.run_until_idle().unwrap();
        assert_eq!((opened.get(), files.pending()), (1, 0));
        files.exclude_from_idle();
        open();
        event_loop.run_until_idle().unwrap();
        files.include_in_idle();
        event_loop.run_until_idle().unwrap();
        assert_eq!((opened.get(), files.pending()), (2, 0));
        // A cancelled operation counts until its callback has been called.
        open();
        open();
        let counting = opened.clone();
        let id = files.open("/dev/null", OpenOptions::reading(), move |_, _| counting.add());
        files.cancel(id);
        event_loop.run_until_idle().unwrap();
        assert_eq!((opened.get(), files.pending()), (5, 0));
    });
}

#[test]
fn every_kind_of_source_can_be_excluded() {
    with_loop(|event_loop| {
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _, _| ()).unwrap();
        let socket = Rc::new(Cell::new(Some(socket)));
        let with = |call: fn(&UdpSocket)| {
            let taken = socket.take().unwrap();
            call(&taken);
            socket.set(Some(taken));
        };
        with(UdpSocket::exclude_from_idle);
        let closed = Rc::clone(&socket);
        assert_excluded(event_loop, || with(UdpSocket::include_in_idle), move || drop(closed.take()));

        let (ring, _peer) = SharedRing::create(4096).unwrap();
        let ring = Rc::new(RefCell::new(Some(ring.watch(event_loop, |_, _| ()).unwrap())));
        ring.borrow().as_ref().unwrap().exclude_from_idle();
        let closed = Rc::clone(&ring);
        let include = || ring.borrow().as_ref().unwrap().include_in_idle();
        assert_excluded(event_loop, include, move || drop(closed.take()));

        let mut command = Command::new("cat");
        command.stdin(Stdio::piped());
        let mut child = Child::spawn(event_loop, &mut command, |_, status| {
            assert!(status.unwrap().success());
        })
        .unwrap();
        let stdin = child.take_stdin();
        child.exclude_from_idle();
        assert_excluded(event_loop, || child.include_in_idle(), move || drop(stdin));
        assert!(!child.is_running());
    });
}

#[test]
fn an_excluded_server_does_not_count_but_its_connections_do() {
    with_loop(|event_loop| {
        for threads in [0, 2] {
            let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
            let server = match threads {
                0 => builder.serve_fn(|_, _| ()).unwrap(),
                _ => builder.threads(threads).serve_fn(|_, _| ()).unwrap(),
            };
            server.exclude_from_idle();
            event_loop.run_until_idle().unwrap();
            server.include_in_idle();
            let server = Rc::new(Cell::new(Some(server)));
            let excluded = Rc::clone(&server);
            assert_waits(event_loop, move || {
                let server = excluded.take().unwrap();
                server.exclude_from_idle();
                let handle = server.detach();
                std::mem::forget(handle);
            });
        }
    });
    with_loop(|event_loop| {
        let (opened, counts) = (Count::default(), Rc::new(Cell::new(false)));
        let (counting, excludes) = (opened.clone(), Rc::clone(&counts));
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_fn(move |conn, _| {
            counting.add();
            if !excludes.get() {
                conn.exclude_from_idle();
            }
        });
        let server = server.unwrap();
        server.exclude_from_idle();
        let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        client.write_all(b"x").unwrap();
        turn_until(event_loop, || opened.get() == 1);
        event_loop.run_until_idle().unwrap();
        counts.set(true);
        let mut second = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        second.write_all(b"x").unwrap();
        turn_until(event_loop, || opened.get() == 2);
        let closing = thread::spawn(move || drop(second));
        event_loop.run_until_idle().unwrap();
        closing.join().unwrap();
        assert_eq!(server.open_connections(), 1, "the loop has waited for the second");
    });
}

#[test]
fn a_job_counts_until_its_result_is_delivered() {
    with_loop(|event_loop| {
        let workers = Workers::builder().threads(1).build().unwrap();
        let (open, gate) = mpsc::channel();
        let delivered = Count::default();
        let counting = delivered.clone();
        workers.submit(event_loop, move || gate.recv().unwrap(), move |_, _| counting.add()).unwrap();
        event_loop.queue_in_loop(move |_| open.send(()).unwrap());
        event_loop.run_until_idle().unwrap();
        assert_eq!(delivered.get(), 1);
    });
}

#[test]
fn an_excluded_job_is_delivered_only_while_the_loop_runs() {
    with_loop(|event_loop| {
        let [workers, others] = [(); 2].map(|()| Workers::builder().threads(1).build().unwrap());
        let (open, gate) = mpsc::channel();
        let delivered = Count::default();
        let counting = delivered.clone();
        let done = move |_: &EventLoop, result: Result<(), _>| {
            result.unwrap();
            counting.add();
        };
        let job = workers.submit(event_loop, move || gate.recv().unwrap(), done).unwrap();
        assert!(!others.exclude_from_idle(event_loop, job), "a job of another pool");
        let other_loop = LoopThread::spawn("other").unwrap();
        let pool = workers.clone();
        let on_other = other_loop.handle().call(move |other| {
            // The first source of its loop, as the other job.
            pool.submit(other, || (), |_, _| ()).unwrap();
            pool.exclude_from_idle(other, job)
        });
        assert!(!on_other.unwrap(), "a job of another loop");
        assert!(workers.exclude_from_idle(event_loop, job));
        let include = || assert!(workers.include_in_idle(event_loop, job));
        assert_excluded(event_loop, include, move || open.send(()).unwrap());
        assert_eq!(delivered.get(), 1);
        assert!(!workers.exclude_from_idle(event_loop, job), "its result has been delivered");
        let never_counts = workers.execute(|| ()).unwrap();
        assert!(!workers.exclude_from_idle(event_loop, never_counts));
    });
}

#[test]
fn a_virtual_clock_moves_from_deadline_to_deadline() {
    with_clock(|event_loop, clock| {
        let (start, times) = (clock.now(), Recorder::new());
        let recording = times.clone();
        event_loop.run_after(HOUR, move |event_loop| {
            recording.record(event_loop.now() - start);
            event_loop.run_after(HOUR, move |event_loop| recording.record(event_loop.now() - start));
        });
        let ticks = Count::default();
        let counting = ticks.clone();
        let every = event_loop.run_every(HOUR / 2, move |_| counting.add());
        assert!(event_loop.exclude_from_idle(every));
        event_loop.run_until_idle().unwrap();
        assert_eq!(times.take(), [HOUR, 2 * HOUR]);
        assert_eq!((clock.now() - start, ticks.get()), (2 * HOUR, 4));
    });
}

/// Watches an eventfd that another thread signals. Its callback ends the watch.
fn signalled_by_a_thread(event_loop: &EventLoop) -> thread::JoinHandle<()> {
    let eventfd = EventFd::new(0).unwrap();
    let writer = eventfd.try_clone().unwrap();
    let source = Rc::new(Cell::new(None));
    let own = Rc::clone(&source);
    source.set(Some(eventfd.watch(event_loop, move |_, _| drop(own.take())).unwrap()));
    thread::spawn(move || writer.signal().unwrap())
}

#[test]
fn in_virtual_time_an_excluded_timer_does_not_move_the_clock() {
    with_clock(|event_loop, clock| {
        let start = clock.now();
        let every = event_loop.run_every(HOUR, |_| unreachable!("it does not move the clock"));
        event_loop.exclude_from_idle(every);
        let signalling = signalled_by_a_thread(event_loop);
        event_loop.run_until_idle().unwrap();
        signalling.join().unwrap();
        assert_eq!(clock.now(), start);
    });
}

#[test]
fn in_virtual_time_a_loop_waits_for_a_timer_that_is_never_due() {
    with_clock(|event_loop, clock| {
        let (start, handle) = (clock.now(), event_loop.handle());
        let never = event_loop.run_after(Duration::MAX, |_| unreachable!("past the end of time"));
        let signalling = signalled_by_a_thread(event_loop);
        let cancelling = thread::spawn(move || {
            signalling.join().unwrap();
            handle.queue_in_loop(move |event_loop| _ = event_loop.cancel(never)).unwrap();
        });
        event_loop.run_until_idle().unwrap();
        cancelling.join().unwrap();
        assert_eq!(clock.now(), start);
    });
}

#[test]
fn a_panic_is_propagated_and_the_loop_can_be_run_again() {
    with_watchdog(LIMIT, || {
        for builder in [EventLoop::builder(), EventLoop::builder().virtual_clock(VirtualClock::new())] {
            let event_loop = builder.propagate_panics().build().unwrap();
            let ran = Count::default();
            let counting = ran.clone();
            event_loop.queue_in_loop(|_| panic!("on purpose"));
            event_loop.run_after(Duration::from_millis(1), move |_| counting.add());
            assert_eq!(panic_of(|| event_loop.run_until_idle()), "on purpose");
            event_loop.run_until_idle().unwrap();
            assert_eq!(ran.get(), 1);
        }
    });
}

#[test]
fn a_loop_cannot_be_run_until_idle_in_its_own_callback() {
    with_loop(|event_loop| {
        event_loop.queue_in_loop(|event_loop| {
            let error = event_loop.run_until_idle().unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy);
        });
        event_loop.run_until_idle().unwrap();
    });
}
