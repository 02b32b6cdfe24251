//! Futures of sources, streams, jobs and times in a forked child. Each test runs in its own
//! process.

use std::future::pending;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::support::alone::alone;
use crate::support::forked::{exit_child_and_wait, fork_process, in_child};
use crate::support::futures::{CountingWaker, block_on, run};
use crate::support::{Count, LIMIT, MIB, on_another_thread, panic_of, turn, wakes};
use reveille::fs::{File, FileIo};
use reveille::io::Async;
use reveille::net::{ByteStream, Resolver};
use reveille::process::Child;
use reveille::signal::{Signal, SignalStream};
use reveille::task::{Workers, spawn_local};
use reveille::time::{Interval, interval, sleep, timeout};
use reveille::{EventLoop, TcpConnection, UdpSocket};

type Waiting = Pin<Box<dyn Future<Output = Result<(), ErrorKind>>>>;

fn waiting<T>(future: impl Future<Output = io::Result<T>> + 'static) -> Waiting {
    Box::pin(async move { future.await.map(drop).map_err(|error| error.kind()) })
}

/// Polls all of them with wakers of another executor, which are counted.
fn poll_all(futures: &mut [(&'static str, Waiting)], wakes: &Count) -> Vec<(&'static str, Poll<ErrorKind>)> {
    let waker = CountingWaker::waker(wakes);
    let mut context = Context::from_waker(&waker);
    let mut poll = |future: &mut Waiting| future.as_mut().poll(&mut context).map(Result::unwrap_err);
    futures.iter_mut().map(|(name, future)| (*name, poll(future))).collect()
}

/// The results of the futures in the parent, which must be ready.
fn results(futures: &mut [(&'static str, Waiting)]) -> Vec<(&'static str, Result<(), ErrorKind>)> {
    let mut context = Context::from_waker(std::task::Waker::noop());
    let mut result = |future: &mut Waiting| match future.as_mut().poll(&mut context) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(ErrorKind::WouldBlock),
    };
    futures.iter_mut().map(|(name, future)| (*name, result(future))).collect()
}

#[test]
fn waiting_futures_end_in_a_child_and_continue_in_the_parent() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let mut futures: Vec<(&'static str, Waiting)> = Vec::new();

        // The streams: one that reads, one that writes, one that flushes, one that closes.
        let stream = || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (TcpConnection::builder(&event_loop).adopt_async(ours).unwrap(), theirs)
        };
        let ((mut reading, mut to_reading), (mut writing, mut from_writing)) = (stream(), stream());
        let ((mut flushing, mut from_flushing), (closing, from_closing)) = (stream(), stream());
        turn(&event_loop);
        futures.push(("read", waiting(async move { reading.read(&mut [0; 8]).await })));
        let write = async move {
            writing.write_all(vec![1; 20 * MIB]).await?;
            writing.shutdown().await
        };
        futures.push(("write", waiting(write)));
        let flush = async move {
            flushing.write_owned(vec![1; MIB]).await?;
            flushing.flush().await
        };
        futures.push(("flush", waiting(flush)));
        futures.push(("close", waiting(closing.close(LIMIT))));

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        futures.push(("connect", waiting(ByteStream::connect(listener.local_addr().unwrap()))));

        // Descriptors.
        let (ours, mut to_watched) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let watched = Async::new(ours).unwrap();
        let read_watched = async move { watched.read_with(|mut stream| stream.read(&mut [0; 8])).await };
        futures.push(("descriptor", waiting(read_watched)));
        let socket = UdpSocket::bind(&event_loop, "127.0.0.1:0").unwrap().open_async().unwrap();
        let udp = socket.local_addr();
        futures.push(("datagram", waiting(async move { socket.recv_from(&mut [0; 8]).await })));

        // Processes, signals, files, names, jobs.
        let mut command = Command::new("cat");
        let mut process = Child::spawn_async(command.stdin(Stdio::piped())).unwrap();
        let stdin = process.take_stdin();
        futures.push(("process", waiting(async move { process.wait().await })));
        let mut signals = SignalStream::new([Signal::USR1]).unwrap();
        futures.push(("signal", waiting(async move { signals.recv().await })));
        let files = FileIo::new(&event_loop).unwrap();
        let (pipe, into_pipe) = rustix::pipe::pipe().unwrap();
        let file = File::from(pipe);
        futures.push(("file", waiting(async move { files.read_async(&file, vec![0; 8]).await.0 })));
        let workers = Rc::new(Workers::builder().threads(1).queue(1).build().unwrap());
        let (hold, held) = mpsc::channel::<()>();
        let job = workers.submit_async(move || _ = held.recv()).unwrap();
        futures.push(("job", waiting(async move { job.await.map_err(io::Error::from) })));
        let full = Rc::clone(&workers);
        let _queued = workers.submit_async(|| ()).unwrap();
        futures.push(("room", waiting(async move { full.run(|| ()).await })));

        // Futures of other futures and loops.
        let joined = spawn_local(async { sleep(Duration::from_millis(1)).await });
        futures.push(("task", waiting(async move { joined.await.map_err(io::Error::from) })));

        let count = Count::default();
        let pending = poll_all(&mut futures, &count);
        assert!(pending.iter().all(|(_, polled)| polled.is_pending()), "{pending:?}");
        let mut inherited = Some(event_loop);
        in_child(|| {
            // Before and after the child has a loop of its own.
            let polled = poll_all(&mut futures, &count);
            let kinds: Vec<_> = polled.iter().filter(|(_, polled)| !polled.is_ready()).collect();
            assert!(kinds.is_empty(), "{kinds:?}");
            for (name, polled) in &polled {
                let Poll::Ready(kind) = polled else { unreachable!() };
                let expected = if *name == "process" { ErrorKind::NotFound } else { ErrorKind::BrokenPipe };
                assert!(*kind == expected || *name == "room", "{name}: {kind:?}");
            }
            futures.clear();
            drop(inherited.take());
            assert_eq!(count.get(), 0, "a waker of the parent was called");
            let own = EventLoop::new().unwrap();
            assert_eq!(run(&own, async { 7 }), 7);
        });

        // Everything continues in the parent.
        let event_loop = inherited.unwrap();
        to_reading.write_all(b"x").unwrap();
        to_watched.write_all(b"x").unwrap();
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", udp).unwrap();
        drop(stdin);
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::USR1).unwrap();
        rustix::io::write(&into_pipe, b"x").unwrap();
        drop((hold, from_closing));
        let readers = [
            std::thread::spawn(move || from_writing.read_to_end(&mut Vec::new()).unwrap()),
            std::thread::spawn(move || from_flushing.read_to_end(&mut Vec::new()).unwrap()),
        ];
        let joined = futures.drain(..).map(|(name, future)| (name, event_loop.spawn_local(future)));
        let joined: Vec<_> = joined.collect();
        let all = run(&event_loop, async move {
            let mut all = Vec::new();
            for (name, joined) in joined {
                all.push((name, joined.await.unwrap()));
            }
            all
        });
        let failed: Vec<_> = all.iter().filter(|(_, result)| result.is_err()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        // Otherwise the closes of the streams would wait for their peers.
        drop((to_reading, listener));
        event_loop.run_until_idle().unwrap();
        let [written, flushed] = readers.map(|reader| reader.join().unwrap());
        assert_eq!((written, flushed), (20 * MIB, MIB));
    });
}

#[test]
fn inherited_sleeps_panic_and_their_drop_leaves_the_parents_timers() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let count = Count::default();
        let waker = CountingWaker::waker(&count);
        let mut context = Context::from_waker(&waker);
        let mut sleeping = Box::pin(sleep(LIMIT));
        let mut limited = Box::pin(timeout(LIMIT, pending::<()>()));
        let mut ticking: Interval = interval(LIMIT);
        assert!(sleeping.as_mut().poll(&mut context).is_pending());
        assert!(limited.as_mut().poll(&mut context).is_pending());
        assert!(ticking.poll_tick(&mut context).is_pending());
        let handle = event_loop.handle();
        let written = wakes(&handle);
        let mut owned = Some((sleeping, limited, ticking, event_loop));
        in_child(|| {
            let (mut sleeping, mut limited, mut ticking, event_loop) = owned.take().unwrap();
            let expected = "the event loop of this sleep has ended";
            assert_eq!(panic_of(|| sleeping.as_mut().poll(&mut context)), expected);
            assert_eq!(panic_of(|| limited.as_mut().poll(&mut context)), expected);
            assert_eq!(panic_of(|| ticking.poll_tick(&mut context)), expected);
            drop((sleeping, limited, ticking));
            drop(event_loop);
            assert_eq!((count.get(), wakes(&handle)), (0, written));
        });
        let (mut sleeping, limited, ticking, event_loop) = owned.unwrap();
        assert!(event_loop.next_deadline().is_some());
        drop((limited, ticking));
        sleeping.as_mut().reset(event_loop.now());
        run(&event_loop, sleeping);
        assert!(event_loop.next_deadline().is_none());
    });
}

#[test]
fn a_task_that_forks_completes_its_call_only_in_the_parent() {
    alone(|| {
        let mut event_loop = Some(EventLoop::new().unwrap());
        let (handle, count) = (event_loop.as_ref().unwrap().handle(), Count::default());
        // The second task is dropped by the batch of the child.
        let (mut first, mut second) = on_another_thread(|| {
            let first = handle.call_async(|_| {
                fork_process();
                std::process::id()
            });
            (first, handle.call_async(|_| std::process::id()))
        });
        let waker = CountingWaker::waker(&count);
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut first).poll(&mut context).is_pending());
        assert!(Pin::new(&mut second).poll(&mut context).is_pending());
        let ran = event_loop.as_ref().unwrap().run_once(Duration::ZERO);
        let mut calls = Some((first, second));
        exit_child_and_wait(|| {
            assert_eq!(count.get(), 0, "a waker of the parent was called");
            let (first, second) = calls.take().unwrap();
            assert!(block_on(first).is_err() && block_on(second).is_err());
            drop(event_loop.take());
            assert_eq!(count.get(), 0, "a waker of the parent was called");
        });
        ran.unwrap();
        assert_eq!(count.get(), 2);
        let (first, second) = calls.unwrap();
        assert_eq!((block_on(first), block_on(second)), (Ok(std::process::id()), Ok(std::process::id())));
    });
}

#[test]
fn a_blocking_call_whose_task_forks_returns_once() {
    alone(|| {
        let mut event_loop = Some(EventLoop::new().unwrap());
        let handle = event_loop.as_ref().unwrap().handle();
        let calling = std::thread::spawn(move || handle.call(|_| fork_process()));
        let ran = loop {
            let ran = event_loop.as_ref().unwrap().run_once(LIMIT);
            if ran.is_err() || event_loop.as_ref().unwrap().handle().counters().tasks_run > 0 {
                break ran;
            }
        };
        exit_child_and_wait(|| drop(event_loop.take()));
        ran.unwrap();
        assert_eq!(calling.join().unwrap(), Ok(()));
    });
}

#[test]
fn a_lookup_ends_in_a_child() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let resolver = Resolver::new(&event_loop).unwrap();
        let lookup = async move { resolver.lookup_async("127.0.0.1:80").await };
        let mut futures = vec![("lookup", waiting(lookup))];
        let count = Count::default();
        assert!(poll_all(&mut futures, &count)[0].1.is_pending());
        let mut inherited = Some(event_loop);
        in_child(|| {
            assert_eq!(poll_all(&mut futures, &count), [("lookup", Poll::Ready(ErrorKind::BrokenPipe))]);
            futures.clear();
            drop(inherited.take());
            assert_eq!(count.get(), 0);
        });
        inherited.unwrap().run_until_idle().unwrap();
        assert_eq!(results(&mut futures), [("lookup", Ok(()))]);
    });
}

#[test]
fn wakers_used_in_a_child_do_not_wake_an_embedded_loop_of_the_parent() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let gates = [crate::support::futures::Gate::default(), crate::support::futures::Gate::default()];
        gates.iter().for_each(|gate| _ = event_loop.spawn_local(gate.wait()));
        event_loop.run_ready().unwrap();
        assert!(!crate::support::is_readable(&event_loop));
        in_child(|| {
            gates[0].waker().wake_by_ref();
            on_another_thread(|| gates[1].waker().wake());
            let clone = gates[0].waker();
            drop(clone);
        });
        assert!(!crate::support::is_readable(&event_loop));
        event_loop.run_ready().unwrap();
        assert_eq!(gates.map(|gate| gate.polls.get()), [1, 1]);
    });
}
