//! The limits of a server and of its connections apply to streams: handshakes, idle time, unsent
//! bytes. Connects and stops that end in unusual ways.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::data::pattern;
use crate::support::futures::{CountingWaker, poll_once, run};
use crate::support::net;
use crate::support::{Count, KIB, LIMIT, MIB, turn, with_clock, with_loop, with_watchdog};
use reveille::net::{ByteStream, ConnectionLimits, Filter, FilterContext};
use reveille::{Buffer, TcpConnection, TcpServer, task};

/// Its handshake never ends.
struct NeverReady;

impl Filter for NeverReady {
    fn is_ready(&self) -> bool {
        false
    }
}

#[test]
fn an_unfinished_handshake_starts_no_task_and_ends_at_its_timeout() {
    with_clock(|event_loop, _| {
        let served = Count::default();
        let counting = served.clone();
        let limits = ConnectionLimits::new().handshake_timeout(Duration::from_secs(3));
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().limits(limits);
        let server = server.filter(|| NeverReady).serve_async(move |_| {
            counting.add();
            async { Ok(()) }
        });
        let server = server.unwrap();
        let mut client = net::connect(server.local_addr().unwrap());
        net::turn_until(event_loop, || server.counters().accepted == 1);
        event_loop.run_for(Duration::from_secs(2)).unwrap();
        assert_eq!(server.counters().failed_handshakes, 0);
        event_loop.run_for(Duration::from_secs(2)).unwrap();
        assert_eq!(server.counters().failed_handshakes, 1);
        net::wait_for_end(&mut client);
        assert_eq!(served.get(), 0);
    });
}

#[test]
fn operations_that_wait_for_a_handshake_return_its_timeout() {
    with_clock(|event_loop, _| {
        let (socket, _peer) = UnixStream::pair().unwrap();
        let limits = ConnectionLimits::new().handshake_timeout(Duration::from_secs(3));
        let builder = TcpConnection::builder(event_loop).limits(limits).filter(|| NeverReady);
        let mut stream = builder.adopt_async(socket).unwrap();
        let failed = event_loop.spawn_local(async move {
            let (mut input, mut output) = stream.split();
            let mut byte = [0; 1];
            let read = {
                let mut read = pin!(input.read(&mut byte));
                assert!(poll_once(&mut read).is_pending());
                let write = output.write_all("x").await.unwrap_err().kind();
                (write, read.await.unwrap_err().kind())
            };
            (read, output.flush().await.unwrap_err().kind())
        });
        event_loop.run_for(Duration::from_secs(4)).unwrap();
        let late = (ErrorKind::TimedOut, ErrorKind::TimedOut);
        assert_eq!(run(event_loop, failed).unwrap(), (late, ErrorKind::TimedOut));
    });
}

/// Fails with the first input.
struct Refuses;

impl Filter for Refuses {
    fn is_ready(&self) -> bool {
        false
    }

    fn decode(&mut self, _: &mut FilterContext<'_>, _: &mut Buffer, _: &mut Buffer) -> io::Result<()> {
        Err(io::Error::new(ErrorKind::InvalidData, "not a greeting"))
    }
}

#[test]
fn a_failed_handshake_is_the_error_of_each_operation() {
    with_loop(|event_loop| {
        let (socket, mut peer) = UnixStream::pair().unwrap();
        let builder = || TcpConnection::builder(event_loop).filter(|| Refuses);
        let mut stream = builder().adopt_async(socket).unwrap();
        let (mut one, mut other) = builder().pair_async().unwrap();
        run(event_loop, async move {
            peer.write_all(b"?").unwrap();
            let error = stream.read(&mut [0; 1]).await.unwrap_err();
            assert_eq!((error.kind(), error.to_string()), (ErrorKind::InvalidData, "not a greeting".into()));
            assert_eq!(stream.write_all("x").await.unwrap_err().kind(), ErrorKind::InvalidData);
            other.write_all("?").await.unwrap();
            other.flush().await.unwrap();
            assert_eq!(one.flush().await.unwrap_err().kind(), ErrorKind::InvalidData);
        });
    });
}

#[test]
fn reads_and_writes_extend_the_idle_deadline() {
    with_clock(|event_loop, _| {
        let limits = ConnectionLimits::new().idle_timeout(Duration::from_secs(10));
        let (mut one, mut other) = TcpConnection::builder(event_loop).limits(limits).pair_async().unwrap();
        let result = event_loop.spawn_local(async move {
            for _ in 0..5 {
                reveille::time::sleep(Duration::from_secs(9)).await;
                one.write_all("x").await.unwrap();
                other.read_exact(&mut [0; 1]).await.unwrap();
            }
            // Nothing is read or sent any more.
            (one.read(&mut [0; 1]).await.unwrap_err().kind(), other.write_all("x").await.unwrap_err().kind())
        });
        event_loop.run_for(Duration::from_secs(50)).unwrap();
        assert!(!result.is_finished());
        event_loop.run_for(Duration::from_secs(20)).unwrap();
        let (read, write) = run(event_loop, result).unwrap();
        assert_eq!(read, ErrorKind::TimedOut);
        assert!(matches!(write, ErrorKind::TimedOut | ErrorKind::BrokenPipe), "{write}");
    });
}

#[test]
fn writes_wait_at_any_limit_of_unsent_bytes() {
    with_loop(|event_loop| {
        // (high-water mark, low-water mark, limit)
        for (high, low, most) in [(0, 0, 100), (10, 0, 20), (64, 64, 64), (1000, 1, 1), (MIB, 0, 4 * KIB)] {
            let (socket, mut peer) = UnixStream::pair().unwrap();
            let limits = ConnectionLimits::new().water_marks(high, low).max_unsent(most);
            let mut stream = TcpConnection::builder(event_loop).limits(limits).adopt_async(socket).unwrap();
            let reader = std::thread::spawn(move || {
                let mut received = Vec::new();
                peer.read_to_end(&mut received).map(|_| received)
            });
            let pieces = if most < 100 { 60 } else { 3_000 };
            run(event_loop, async move {
                for number in 0..pieces {
                    // Small pieces are collected; the later ones precede the rest of the limit.
                    stream.write_all(&pattern(7)).await.unwrap();
                    match number % 3 {
                        0 => stream.write_all(&pattern(300)).await.unwrap(),
                        1 => stream.write_owned(pattern(300)).await.unwrap(),
                        _ => stream.write_buf(&mut Buffer::from(pattern(300))).await.unwrap(),
                    }
                    let unsent = stream.with_connection(|conn| conn.unsent()).unwrap();
                    assert!(unsent <= most, "{unsent} of {most} bytes are unsent");
                }
                stream.shutdown().await.unwrap();
            });
            let received = reader.join().unwrap().unwrap();
            let expected = [pattern(7), pattern(300)].concat();
            assert_eq!(received.len(), pieces * expected.len());
            assert!(received.chunks(expected.len()).all(|piece| piece == expected));
            event_loop.run_until_idle().unwrap();
        }
    });
}

#[test]
fn bytes_that_a_handle_has_sent_before_count_against_the_limit() {
    with_loop(|event_loop| {
        let (socket, mut peer) = UnixStream::pair().unwrap();
        let limits = ConnectionLimits::new().water_marks(MIB, 0).max_unsent(MIB);
        let mut stream = TcpConnection::builder(event_loop).limits(limits).adopt_async(socket).unwrap();
        run(event_loop, async move {
            task::yield_now().await;
            let handle = stream.with_connection(|conn| conn.handle()).unwrap();
            // Fills the kernel's buffer, and leaves a part.
            let first = pattern(MIB);
            stream.write_all(&first).await.unwrap();
            let before = stream.with_connection(|conn| conn.unsent()).unwrap();
            assert!(before > 0 && before < MIB);
            let second = pattern(MIB - before - 5);
            let sent = second.clone();
            std::thread::spawn(move || handle.send(sent).unwrap()).join().unwrap();
            let bytes = pattern(100);
            let expected = [first, second, bytes.clone()].concat();
            let reader = {
                let mut write = pin!(stream.write_all(&bytes));
                // It accepts 5 bytes, or waits. It returns no error.
                assert!(poll_once(&mut write).is_pending());
                let reader = std::thread::spawn(move || {
                    let mut received = Vec::new();
                    peer.read_to_end(&mut received).map(|_| received)
                });
                write.await.unwrap();
                reader
            };
            stream.shutdown().await.unwrap();
            assert!(reader.join().unwrap().unwrap() == expected);
        });
    });
}

#[test]
fn a_limit_of_zero_is_an_error_of_each_write() {
    with_loop(|event_loop| {
        let limits = ConnectionLimits::new().max_unsent(0);
        let (mut one, _other) = TcpConnection::builder(event_loop).limits(limits).pair_async().unwrap();
        run(event_loop, async move {
            task::yield_now().await;
            one.write_all("").await.unwrap();
            assert_eq!(one.write_all("x").await.unwrap_err().kind(), ErrorKind::OutOfMemory);
            assert_eq!(one.write_owned(*b"x").await.unwrap_err().kind(), ErrorKind::OutOfMemory);
            let mut buffer = Buffer::from(b"x".to_vec());
            assert_eq!(one.write_buf(&mut buffer).await.unwrap_err().kind(), ErrorKind::OutOfMemory);
            assert_eq!(buffer.readable(), b"x");
        });
    });
}

/// A waker that panics.
struct Panicking;

impl std::task::Wake for Panicking {
    fn wake(self: std::sync::Arc<Self>) {
        panic!("a waker panics");
    }
}

#[test]
fn a_waker_that_panics_neither_closes_the_stream_nor_hides_its_end() {
    crate::support::with_catching_loop(|event_loop| {
        let (socket, mut peer) = UnixStream::pair().unwrap();
        let mut stream = TcpConnection::builder(event_loop).adopt_async(socket).unwrap();
        (0..3).for_each(|_| turn(event_loop));
        let panicking = std::task::Waker::from(std::sync::Arc::new(Panicking));
        {
            let mut byte = [0; 1];
            let mut read = pin!(stream.read(&mut byte));
            assert!(read.as_mut().poll(&mut Context::from_waker(&panicking)).is_pending());
            peer.write_all(b"x").unwrap();
            while event_loop.handle().counters().panics == 0 {
                event_loop.run_once(LIMIT).unwrap();
            }
            assert!(matches!(poll_once(&mut read), Poll::Ready(Ok(1))));
        }
        run(event_loop, async move { stream.write_all("still open").await.unwrap() });
        let mut bytes = [0; 10];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"still open");
    });
}

#[test]
fn a_connect_that_outlives_its_loop_returns_an_error() {
    with_watchdog(LIMIT, || {
        let event_loop = reveille::EventLoop::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let wakes = Count::default();
        let mut connecting = Box::pin(ByteStream::connect(listener.local_addr().unwrap()));
        let waker = CountingWaker::waker(&wakes);
        assert!(connecting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(event_loop);
        assert_eq!(wakes.get(), 1);
        let Poll::Ready(Err(error)) = poll_once(&mut connecting) else { panic!("it waits for ever") };
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_dropped_connect_leaves_no_connection_and_no_waker() {
    with_loop(|event_loop| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let wakes = Count::default();
        let waker = CountingWaker::waker(&wakes);
        for turns in 0..6 {
            let mut connecting = Box::pin(ByteStream::connect(address));
            let _ = connecting.as_mut().poll(&mut Context::from_waker(&waker));
            (0..turns).for_each(|_| turn(event_loop));
            let woken = wakes.get();
            drop(connecting);
            // It ends without more work than the close.
            event_loop.run_until_idle().unwrap();
            assert_eq!(wakes.get(), woken);
        }
        listener.set_nonblocking(true).unwrap();
        while let Ok((mut accepted, _)) = listener.accept() {
            accepted.set_nonblocking(false).unwrap();
            // Closed or reset.
            assert!(!matches!(accepted.read(&mut [0; 1]), Ok(1)));
        }
    });
}

#[test]
fn a_future_of_a_stop_may_outlive_its_stream_and_server() {
    with_loop(|event_loop| {
        let kept = Rc::new(Cell::new(None));
        let keep = Rc::clone(&kept);
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_async(move |stream| {
            keep.set(Some(stream.stop_requested()));
            async { Ok(()) }
        });
        let server = server.unwrap();
        let address = server.local_address().clone();
        run(event_loop, async move {
            let mut stream = ByteStream::connect(address).await.unwrap();
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        });
        drop(server);
        let mut stop = kept.take().unwrap();
        assert!(poll_once(&mut stop).is_pending());
    });
}
