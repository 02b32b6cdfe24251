//! What the operations of a stream have done when their futures are dropped.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::time::Duration;

use crate::data::pattern;
use crate::support::futures::{poll_once, run};
use crate::support::{KIB, MIB, with_loop};
use reveille::net::{ByteStream, ConnectionLimits};
use reveille::{Buffer, EventLoop, TcpConnection, task};

fn stream(event_loop: &EventLoop) -> (ByteStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let limits = ConnectionLimits::new().water_marks(64 * KIB, 0);
    (TcpConnection::builder(event_loop).limits(limits).adopt_async(ours).unwrap(), theirs)
}

/// Writes until a write has to wait. Returns the number of accepted bytes, all of them 1.
async fn fill(stream: &mut ByteStream) -> usize {
    let mut accepted = 0;
    loop {
        task::yield_now().await;
        match poll_once(&mut pin!(stream.write_all([1; 10_000]))) {
            std::task::Poll::Ready(written) => written.unwrap(),
            std::task::Poll::Pending => return accepted,
        }
        accepted += 10_000;
    }
}

fn read_in_background(mut peer: UnixStream) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut received = Vec::new();
        peer.read_to_end(&mut received).unwrap();
        received
    })
}

#[test]
fn a_dropped_exact_read_has_taken_only_what_it_has_stored() {
    with_loop(|event_loop| {
        let (mut stream, mut peer) = stream(event_loop);
        run(event_loop, async move {
            task::yield_now().await;
            let (mut first, mut rest) = ([0; 10], [0; 6]);
            peer.write_all(b"0123").unwrap();
            let mut stored = 0;
            while stored < 4 {
                // Woken by the input, and dropped each time.
                assert!(poll_once(&mut pin!(stream.read_exact(&mut first[stored..]))).is_pending());
                stored = first.iter().position(|&byte| byte == 0).unwrap();
                task::yield_now().await;
            }
            peer.write_all(b"456789").unwrap();
            stream.read_exact(&mut rest).await.unwrap();
            assert_eq!((&first[..4], &rest), (&b"0123"[..], b"456789"));
        });
    });
}

#[test]
fn dropped_writes_of_owned_bytes_and_buffers_send_nothing() {
    with_loop(|event_loop| {
        let (mut stream, peer) = stream(event_loop);
        run(event_loop, async move {
            let accepted = fill(&mut stream).await;
            let mut large = Buffer::from(vec![2; 100 * KIB]);
            let mut small = Buffer::from(vec![2; 100]);
            for _ in 0..3 {
                assert!(poll_once(&mut pin!(stream.write_owned(vec![2; 100]))).is_pending());
                assert!(poll_once(&mut pin!(stream.write_buf(&mut large))).is_pending());
                assert!(poll_once(&mut pin!(stream.write_buf(&mut small))).is_pending());
                task::yield_now().await;
            }
            assert_eq!((large.len(), small.len()), (100 * KIB, 100));
            let reader = read_in_background(peer);
            stream.write_buf(&mut small).await.unwrap();
            stream.shutdown().await.unwrap();
            let received = reader.join().unwrap();
            assert_eq!(received.len(), accepted + 100);
            assert!(received[..accepted].iter().all(|&byte| byte == 1));
        });
    });
}

#[test]
fn a_dropped_flush_changes_nothing_and_a_dropped_shutdown_continues() {
    with_loop(|event_loop| {
        let (mut stream, peer) = stream(event_loop);
        run(event_loop, async move {
            let accepted = fill(&mut stream).await;
            for _ in 0..3 {
                assert!(poll_once(&mut pin!(stream.flush())).is_pending());
                task::yield_now().await;
            }
            // Not polled: nothing has begun.
            drop(stream.shutdown());
            assert!(poll_once(&mut pin!(stream.write_all("x"))).is_pending());
            assert!(poll_once(&mut pin!(stream.shutdown())).is_pending());
            assert!(stream.write_all("x").await.is_err());
            let reader = read_in_background(peer);
            stream.shutdown().await.unwrap();
            assert_eq!(reader.join().unwrap().len(), accepted);
        });
    });
}

#[test]
fn a_dropped_close_continues() {
    with_loop(|event_loop| {
        let (mut stream, peer) = stream(event_loop);
        run(event_loop, async move {
            stream.write_owned(pattern(2 * MIB)).await.unwrap();
            {
                let mut close = Box::pin(stream.close(Duration::from_secs(60)));
                assert!(poll_once(&mut close).is_pending());
            }
            let reader = read_in_background(peer);
            while !reader.is_finished() {
                task::yield_now().await;
            }
            assert!(reader.join().unwrap() == pattern(2 * MIB));
        });
    });
}

#[test]
fn a_dropped_vectored_write_or_read_of_the_traits_changes_nothing() {
    with_loop(|event_loop| {
        let (mut stream, mut peer) = stream(event_loop);
        run(event_loop, async move {
            let accepted = fill(&mut stream).await;
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let slices = [std::io::IoSlice::new(b"one"), std::io::IoSlice::new(b"two")];
            #[cfg(feature = "futures-io")]
            for _ in 0..3 {
                use futures_io::AsyncWrite;
                let mut pinned = pin!(&mut stream);
                assert!(pinned.as_mut().poll_write_vectored(&mut context, &slices).is_pending());
                assert!(pinned.as_mut().poll_write(&mut context, b"x").is_pending());
                assert!(pinned.as_mut().poll_flush(&mut context).is_pending());
            }
            #[cfg(feature = "futures-io")]
            {
                use futures_io::AsyncRead;
                let mut bytes = [7; 8];
                assert!(pin!(&mut stream).poll_read(&mut context, &mut bytes).is_pending());
                assert_eq!(bytes, [7; 8]);
            }
            let _ = (&mut context, slices);
            peer.write_all(b"kept").unwrap();
            let mut kept = [0; 4];
            stream.read_exact(&mut kept).await.unwrap();
            assert_eq!(&kept, b"kept");
            let reader = read_in_background(peer);
            stream.shutdown().await.unwrap();
            assert_eq!(reader.join().unwrap().len(), accepted);
        });
    });
}
