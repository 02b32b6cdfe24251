//! The ends of streams: half-closes, drops, errors, and the end of the loop.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::data::pattern;
use crate::support::futures::{block_on, run};
use crate::support::{MIB, on_another_thread, turn, with_loop};
use reveille::net::{ByteStream, Filter};
use reveille::{Buffer, EventLoop, TcpConnection, task};
use socket2::SockRef;

fn adopted(event_loop: &EventLoop) -> (ByteStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = listener.accept().unwrap().0;
    (TcpConnection::builder(event_loop).adopt_async(socket).unwrap(), peer)
}

#[test]
fn after_a_half_close_the_other_direction_continues() {
    with_loop(|event_loop| {
        let (mut one, mut other) = TcpConnection::builder(event_loop).pair_async().unwrap();
        run(event_loop, async move {
            one.write_all("question").await.unwrap();
            one.shutdown().await.unwrap();
            assert_eq!(one.write_all("more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
            let mut input = Buffer::new();
            while other.read_buf(&mut input).await.unwrap() > 0 {}
            assert_eq!(input.take_all(), b"question");
            other.write_all("reply").await.unwrap();
            other.shutdown().await.unwrap();
            let mut reply = Buffer::new();
            while one.read_buf(&mut reply).await.unwrap() > 0 {}
            assert_eq!(reply.take_all(), b"reply");
            assert_eq!(one.read(&mut [0; 1]).await.unwrap(), 0);
        });
    });
}

#[test]
fn a_dropped_stream_sends_what_it_has_accepted() {
    with_loop(|event_loop| {
        let (mut stream, mut peer) = adopted(event_loop);
        // Unread input must not turn the close into a reset.
        peer.write_all(b"never read").unwrap();
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            peer.read_to_end(&mut received).map(|_| received)
        });
        run(event_loop, async move {
            stream.write_owned(pattern(3 * MIB)).await.unwrap();
            drop(stream);
        });
        event_loop.run_until_idle().unwrap();
        assert!(reader.join().unwrap().unwrap() == pattern(3 * MIB));
    });
}

#[test]
fn a_close_returns_whether_all_has_arrived() {
    with_loop(|event_loop| {
        let (mut stream, mut peer) = adopted(event_loop);
        let reader = std::thread::spawn(move || peer.read_to_end(&mut Vec::new()).unwrap());
        run(event_loop, async move {
            stream.write_owned(pattern(MIB)).await.unwrap();
            stream.close(Duration::from_secs(60)).await.unwrap();
        });
        assert_eq!(reader.join().unwrap(), MIB);
        // This peer neither reads nor closes.
        let (stream, peer) = adopted(event_loop);
        let error = run(event_loop, async move { stream.close(Duration::from_millis(1)).await.unwrap_err() });
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(peer);
    });
}

#[test]
fn a_reset_fails_waiting_reads_and_writes() {
    with_loop(|event_loop| {
        let (mut stream, peer) = adopted(event_loop);
        run(event_loop, async move {
            let (mut input, mut output) = stream.split();
            let mut bytes = [0; 10];
            {
                let mut read = std::pin::pin!(input.read(&mut bytes));
                assert!(crate::support::futures::poll_once(&mut read).is_pending());
                task::yield_now().await;
                SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
                drop(peer);
                assert_eq!(read.await.unwrap_err().kind(), ErrorKind::ConnectionReset);
            }
            assert_eq!(output.write_all("late").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
            assert_eq!(output.flush().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        });
    });
}

#[test]
fn a_writer_that_waits_learns_that_its_peer_is_gone() {
    with_loop(|event_loop| {
        let (mut stream, mut peer) = adopted(event_loop);
        let error = run(event_loop, async move {
            let bytes = pattern(100_000);
            let writer = task::spawn_local(async move {
                loop {
                    if let Err(error) = stream.write_all(&bytes).await {
                        return error;
                    }
                }
            });
            // Input that nothing reads must not hide the reset.
            peer.write_all(b"unread").unwrap();
            for _ in 0..200 {
                task::yield_now().await;
            }
            SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
            writer.await.unwrap()
        });
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    });
}

#[test]
fn input_before_the_end_of_a_peer_is_read() {
    with_loop(|event_loop| {
        let (mut stream, mut peer) = adopted(event_loop);
        peer.write_all(&pattern(50_000)).unwrap();
        drop(peer);
        run(event_loop, async move {
            let mut input = Buffer::new();
            while stream.read_buf(&mut input).await.unwrap() > 0 {}
            assert!(input.readable() == pattern(50_000));
        });
    });
}

#[test]
fn a_refused_connection_is_the_error_of_connect() {
    with_loop(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = run(event_loop, async move { ByteStream::connect(address).await.unwrap_err() });
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

/// Changes nothing, so that the loop decodes one input ahead.
struct PassThrough;

impl Filter for PassThrough {}

#[test]
fn decoded_input_is_read_before_the_end_or_the_reset() {
    with_loop(|event_loop| {
        for is_reset in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let socket = listener.accept().unwrap().0;
            let builder = TcpConnection::builder(event_loop).filter(|| PassThrough);
            let mut stream = builder.adopt_async(socket).unwrap();
            run(event_loop, async move {
                peer.write_all(b"abc").unwrap();
                let mut byte = [0; 1];
                stream.read_exact(&mut byte).await.unwrap();
                assert_eq!(&byte, b"a");
                if is_reset {
                    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
                }
                drop(peer);
                if !is_reset {
                    stream.shutdown().await.unwrap();
                }
                task::yield_now().await;
                let mut rest = Buffer::new();
                assert_eq!(stream.read(&mut byte).await.unwrap(), 1);
                assert_eq!(stream.read_buf(&mut rest).await.unwrap(), 1);
                assert_eq!((&byte, rest.readable()), (b"b", &b"c"[..]));
                match stream.read(&mut byte).await {
                    Err(error) if is_reset => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                    end => assert_eq!(end.unwrap(), 0),
                }
            });
        }
    });
}

#[test]
fn a_loop_that_ends_closes_its_streams() {
    let (mut peer, socket) = UnixStream::pair().unwrap();
    on_another_thread(|| {
        let event_loop = EventLoop::new().unwrap();
        let mut stream = TcpConnection::builder(&event_loop).adopt_async(socket).unwrap();
        let (mut waiting, _other) = TcpConnection::builder(&event_loop).pair_async().unwrap();
        event_loop.spawn_local(async move { waiting.read(&mut [0; 1]).await });
        turn(&event_loop);
        turn(&event_loop);
        drop(event_loop);
        let error = block_on(stream.read(&mut [0; 1])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        assert!(block_on(stream.write_all("x")).is_err());
    });
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
}
