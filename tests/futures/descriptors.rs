//! The readiness of descriptors as futures.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::support::bomb::{Bomb, BombSocket};
use crate::support::futures::{CountingWaker, run};
use crate::support::{Count, LIMIT, panic_of, turn, with_catching_loop, with_loop, with_watchdog};
use reveille::io::{Async, Channel, Interest};
use reveille::{EventLoop, task};

/// A stream on the loop, and its peer, which blocks.
fn pair() -> (Async<UnixStream>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Async::new(ours).unwrap(), theirs)
}

async fn read(stream: &Async<UnixStream>, buffer: &mut [u8]) -> usize {
    stream.read_with(|mut stream| stream.read(buffer)).await.unwrap()
}

/// Fills the stream's buffer.
fn fill(stream: &Async<UnixStream>) -> usize {
    let mut written = 0;
    loop {
        match stream.try_write_with(|mut stream| stream.write(&[1; 4096])) {
            Ok(n) => written += n,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return written;
            }
        }
    }
}

#[test]
fn a_read_waits_for_each_input_and_for_its_end() {
    with_loop(|event_loop| {
        let (stream, mut peer) = pair();
        let received = event_loop.spawn_local(async move {
            let (mut all, mut buffer) = (Vec::new(), [0; 2]);
            loop {
                match read(&stream, &mut buffer).await {
                    0 => return all,
                    n => all.extend_from_slice(&buffer[..n]),
                }
            }
        });
        for piece in [b"abc", b"def"] {
            (0..3).for_each(|_| turn(event_loop));
            peer.write_all(piece).unwrap();
        }
        (0..3).for_each(|_| turn(event_loop));
        drop(peer);
        event_loop.run_until_idle().unwrap();
        assert_eq!(run(event_loop, received).unwrap(), b"abcdef");
    });
}

#[test]
fn a_write_waits_until_the_peer_has_read() {
    with_loop(|event_loop| {
        let (stream, mut peer) = pair();
        let filled = fill(&stream);
        let writing = event_loop.spawn_local(async move {
            let written = stream.write_with(|mut stream| stream.write(b"x")).await;
            written.unwrap()
        });
        (0..3).for_each(|_| turn(event_loop));
        assert!(!writing.is_finished());
        peer.read_exact(&mut vec![0; filled]).unwrap();
        assert_eq!(run(event_loop, writing).unwrap(), 1);
    });
}

#[test]
fn each_readiness_wakes_all_futures_that_wait_for_it() {
    with_loop(|event_loop| {
        let (stream, mut peer) = pair();
        let filled = fill(&stream);
        let (stream, readers, writers) = (Rc::new(stream), Count::default(), Count::default());
        for _ in 0..5 {
            let (reading, writing) = (Rc::clone(&stream), Rc::clone(&stream));
            let (readers, writers) = (readers.clone(), writers.clone());
            event_loop.spawn_local(async move {
                reading.readable().await.unwrap();
                readers.add();
            });
            event_loop.spawn_local(async move {
                writing.writable().await.unwrap();
                writers.add();
            });
        }
        (0..3).for_each(|_| turn(event_loop));
        assert_eq!(readers.get(), 0);
        peer.write_all(b"x").unwrap();
        while readers.get() < 5 {
            event_loop.run_once(LIMIT).unwrap();
        }
        peer.read_exact(&mut vec![0; filled]).unwrap();
        while writers.get() < 5 {
            event_loop.run_once(LIMIT).unwrap();
        }
    });
}

#[test]
fn only_one_of_several_readers_gets_a_byte() {
    with_loop(|event_loop| {
        let (stream, mut peer) = pair();
        let (stream, received) = (Rc::new(stream), Count::default());
        for _ in 0..3 {
            let (stream, received) = (Rc::clone(&stream), received.clone());
            event_loop.spawn_local(async move {
                let mut byte = [0];
                assert_eq!(read(&stream, &mut byte).await, 1);
                received.add();
            });
        }
        for number in 1..=3 {
            (0..3).for_each(|_| turn(event_loop));
            assert_eq!(received.get(), number - 1);
            peer.write_all(b"x").unwrap();
            while received.get() < number {
                event_loop.run_once(LIMIT).unwrap();
            }
        }
    });
}

#[test]
fn a_dropped_read_takes_no_byte_and_leaves_no_waker() {
    with_loop(|event_loop| {
        let (stream, mut peer) = pair();
        let wakes = Count::default();
        let waker = CountingWaker::waker(&wakes);
        let mut buffer = [0; 8];
        {
            let mut reading = pin!(read(&stream, &mut buffer));
            assert!(reading.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        peer.write_all(b"abc").unwrap();
        (0..3).for_each(|_| turn(event_loop));
        assert_eq!(wakes.get(), 0);
        // Woken, but dropped before its poll.
        {
            let (other, mut theirs) = pair();
            let mut reading = pin!(read(&other, &mut buffer));
            assert!(reading.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            theirs.write_all(b"x").unwrap();
            (0..3).for_each(|_| turn(event_loop));
            assert_eq!(wakes.get(), 1);
        }
        let n = run(event_loop, async move {
            let mut buffer = [0; 8];
            let n = read(&stream, &mut buffer).await;
            buffer[..n].to_vec()
        });
        assert_eq!(n, b"abc");
    });
}

#[test]
fn a_poll_with_another_waker_replaces_the_first() {
    with_loop(|event_loop| {
        let (stream, mut peer) = pair();
        let (first, second) = (Count::default(), Count::default());
        let mut readable = pin!(stream.readable());
        for count in [&first, &second] {
            let waker = CountingWaker::waker(count);
            assert!(readable.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        peer.write_all(b"x").unwrap();
        while second.get() == 0 {
            event_loop.run_once(LIMIT).unwrap();
        }
        assert_eq!((first.get(), second.get()), (0, 1));
    });
}

#[test]
fn readiness_is_cached_until_an_operation_would_block() {
    with_loop(|event_loop| {
        let (stream, mut peer) = pair();
        peer.write_all(b"x").unwrap();
        run(event_loop, async move {
            stream.readable().await.unwrap();
            stream.get_ref().read_exact(&mut [0]).unwrap();
            stream.readable().await.unwrap();
            let drained = stream.try_read_with(|mut stream| stream.read(&mut [0]));
            assert_eq!(drained.unwrap_err().kind(), ErrorKind::WouldBlock);
            let mut readable = pin!(stream.readable());
            let polled = std::future::poll_fn(|context| Poll::Ready(readable.as_mut().poll(context)));
            assert!(polled.await.is_pending());
        });
    });
}

#[test]
fn a_descriptor_that_is_always_ready_lets_other_futures_run() {
    with_loop(|event_loop| {
        let (stream, _peer) = pair();
        event_loop.spawn_local(async move {
            loop {
                stream.write_with(|_| Ok(())).await.unwrap();
            }
        });
        event_loop.spawn_local(async { task::with_loop(EventLoop::quit) });
        event_loop.run().unwrap();
    });
}

#[test]
fn a_descriptor_that_cannot_be_watched_is_an_error() {
    with_loop(|_| {
        let file = File::open("/proc/self/exe").unwrap();
        assert_eq!(Async::new(file).unwrap_err().kind(), ErrorKind::PermissionDenied);
        let (stream, peer) = pair();
        let again = Async::new(stream.get_ref()).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        drop(stream);
        drop(Async::new(&peer).unwrap());
        let number = peer.as_raw_fd();
        assert_eq!(Async::new(peer).unwrap().into_inner().as_raw_fd(), number);
    });
}

#[test]
fn without_a_loop_the_creation_panics() {
    with_watchdog(LIMIT, || {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(panic_of(|| Async::new(ours)), "this thread has no event loop");
    });
}

#[test]
fn a_returned_descriptor_is_no_longer_watched() {
    with_loop(|event_loop| {
        let (stream, mut peer) = pair();
        let stream = stream.into_inner();
        // A duplicate would keep the registration in the poller, which then refuses another one.
        let duplicate = OwnedFd::from(stream.try_clone().unwrap());
        let calls = Count::default();
        let counting = calls.clone();
        let channel = Channel::new(event_loop, stream, Interest::READABLE, move |event| {
            counting.add();
            event.event_loop().quit();
        });
        peer.write_all(b"x").unwrap();
        event_loop.run().unwrap();
        assert_eq!(calls.get(), 1);
        drop((channel, duplicate));
    });
}

#[test]
fn an_idle_loop_waits_only_for_awaited_descriptors() {
    with_loop(|event_loop| {
        let (stream, mut peer) = pair();
        event_loop.run_until_idle().unwrap();
        let stream = Rc::new(stream);
        let waiting = Rc::clone(&stream);
        let joined = event_loop.spawn_local(async move { waiting.readable().await });
        turn(event_loop);
        let writing = std::thread::spawn(move || {
            peer.write_all(b"x").unwrap();
            peer
        });
        event_loop.run_until_idle().unwrap();
        assert!(joined.is_finished());
        let waiting = Rc::clone(&stream);
        let aborted = event_loop.spawn_local(async move {
            let drained = waiting.try_read_with(|mut stream| stream.read(&mut [0; 2]));
            assert_eq!(drained.unwrap(), 1);
            read(&waiting, &mut [0]).await
        });
        (0..3).for_each(|_| turn(event_loop));
        aborted.abort();
        event_loop.run_until_idle().unwrap();
        drop(writing.join().unwrap());
    });
}

#[test]
fn the_end_of_the_loop_wakes_a_future_that_outlives_it() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (stream, _peer) = pair();
        let wakes = Count::default();
        let waker = CountingWaker::waker(&wakes);
        let mut context = Context::from_waker(&waker);
        let mut reading = pin!(stream.readable());
        assert!(reading.as_mut().poll(&mut context).is_pending());
        drop(event_loop);
        assert_eq!(wakes.get(), 1);
        let Poll::Ready(Err(error)) = reading.as_mut().poll(&mut context) else {
            panic!("the future does not see the end of its loop");
        };
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_waker_that_panics_keeps_no_other_future_from_being_woken() {
    struct Panicking;
    impl std::task::Wake for Panicking {
        fn wake(self: std::sync::Arc<Self>) {
            panic!("a waker panics");
        }
    }
    with_catching_loop(|event_loop| {
        let (stream, mut peer) = pair();
        let wakes = Count::default();
        let (mut first, mut second) = (pin!(stream.readable()), pin!(stream.readable()));
        let panicking = std::task::Waker::from(std::sync::Arc::new(Panicking));
        assert!(first.as_mut().poll(&mut Context::from_waker(&panicking)).is_pending());
        let counting = CountingWaker::waker(&wakes);
        assert!(second.as_mut().poll(&mut Context::from_waker(&counting)).is_pending());
        peer.write_all(b"x").unwrap();
        while wakes.get() == 0 {
            event_loop.run_once(LIMIT).unwrap();
        }
        assert_eq!(event_loop.handle().counters().panics, 1);
        assert!(second.as_mut().poll(&mut Context::from_waker(&counting)).is_ready());
    });
}

#[test]
fn a_destructor_that_panics_is_contained() {
    with_catching_loop(|event_loop| {
        let drops = Count::default();
        let (socket, _peer) = UnixStream::pair().unwrap();
        drop(Async::new(BombSocket { socket, bomb: Bomb::new(&drops) }).unwrap());
        assert_eq!(drops.get(), 1);
        assert_eq!(event_loop.handle().counters().panics, 1);
    });
}
