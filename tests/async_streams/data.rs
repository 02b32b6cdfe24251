//! The bytes of streams: whole, in order, at the pace of the reader, and not lost by a cancelled
//! read or write.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::thread;
use std::time::Duration;

use crate::support::futures::{poll_once, run};
use crate::support::random::Random;
use crate::support::{KIB, MIB, with_loop};
use reveille::net::{ByteStream, ConnectionLimits};
use reveille::{Buffer, EventLoop, TcpConnection, task, time};

/// Bytes in which a lost, repeated or moved part is noticed.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (one, listener.accept().unwrap().0)
}

/// One stream of each kind of pair, and its peer.
fn pairs(event_loop: &EventLoop) -> Vec<(ByteStream, ByteStream)> {
    let (tcp, tcp_peer) = tcp_pair();
    let (unix, unix_peer) = UnixStream::pair().unwrap();
    // Marks that a transfer passes many times.
    let limits = ConnectionLimits::new().water_marks(64 * KIB, 16 * KIB).max_unsent(256 * KIB);
    let builder = || TcpConnection::builder(event_loop).limits(limits);
    let adopt = |one, other| (builder().adopt_async(one).unwrap(), builder().adopt_async(other).unwrap());
    let unix = (builder().adopt_async(unix).unwrap(), builder().adopt_async(unix_peer).unwrap());
    vec![builder().pair_async().unwrap(), adopt(tcp, tcp_peer), unix]
}

pub(crate) async fn read_all(stream: &mut ByteStream) -> Vec<u8> {
    let mut all = Buffer::new();
    while stream.read_buf(&mut all).await.unwrap() > 0 {}
    all.readable().to_vec()
}

#[test]
fn both_directions_arrive_whole_over_every_transport() {
    with_loop(|event_loop| {
        for (mut one, mut other) in pairs(event_loop) {
            let sent = pattern(3 * MIB);
            let expected = sent.clone();
            run(event_loop, async move {
                let echo = task::spawn_local(async move {
                    let mut input = Buffer::new();
                    while other.read_buf(&mut input).await.unwrap() > 0 {
                        other.write_buf(&mut input).await.unwrap();
                        assert!(input.is_empty());
                    }
                    other.shutdown().await.unwrap();
                });
                let mut received = Vec::new();
                let (mut input, mut output) = one.split();
                let write = async {
                    for piece in sent.chunks(100 * KIB + 1) {
                        output.write_all(piece).await.unwrap();
                    }
                    output.shutdown().await.unwrap();
                };
                let read = async {
                    let mut bytes = vec![0; 10_000];
                    loop {
                        match input.read(&mut bytes).await.unwrap() {
                            0 => break,
                            n => received.extend_from_slice(&bytes[..n]),
                        }
                    }
                };
                join(write, read).await;
                echo.await.unwrap();
                assert!(received == expected, "{} of {} bytes", received.len(), expected.len());
            });
        }
    });
}

pub(crate) async fn join(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut one_ended, mut other_ended) = (false, false);
    std::future::poll_fn(|context| {
        one_ended = one_ended || one.as_mut().poll(context).is_ready();
        other_ended = other_ended || other.as_mut().poll(context).is_ready();
        if one_ended && other_ended { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[test]
fn a_writer_waits_for_a_slow_reader() {
    with_loop(|event_loop| {
        for (mut one, mut other) in pairs(event_loop) {
            run(event_loop, async move {
                let sent = pattern(8 * MIB);
                let expected = sent.clone();
                let writer = task::spawn_local(async move {
                    for piece in sent.chunks(50_000) {
                        one.write_all(piece).await.unwrap();
                        let unsent = one.with_connection(|conn| conn.unsent()).unwrap();
                        assert!(unsent <= 64 * KIB + 50_000, "{unsent} bytes are unsent");
                    }
                });
                let mut received = Vec::new();
                let mut bytes = [0; 4096];
                loop {
                    if received.len() % (64 * 4096) == 0 {
                        task::yield_now().await;
                    }
                    match other.read(&mut bytes).await.unwrap() {
                        0 => break,
                        n => received.extend_from_slice(&bytes[..n]),
                    }
                }
                writer.await.unwrap();
                assert!(received == expected, "{} bytes", received.len());
            });
        }
    });
}

#[test]
fn a_writer_continues_at_the_low_water_mark() {
    with_loop(|event_loop| {
        // In memory, so that what leaves does not depend on the kernel.
        let limits = ConnectionLimits::new().water_marks(64 * KIB, 50 * KIB);
        let (mut one, mut other) = TcpConnection::builder(event_loop).limits(limits).pair_async().unwrap();
        run(event_loop, async move {
            let writer = task::spawn_local(async move {
                one.write_owned(vec![1; 300 * KIB]).await.unwrap();
                one.write_all("x").await.unwrap();
                let unsent = one.with_connection(|conn| conn.unsent()).unwrap();
                (one, unsent)
            });
            let mut bytes = [0; KIB];
            while !writer.is_finished() {
                other.read_exact(&mut bytes).await.unwrap();
                task::yield_now().await;
            }
            let (_one, unsent) = writer.await.unwrap();
            assert!(unsent > 0 && unsent <= 50 * KIB + 1, "{unsent} bytes are unsent");
        });
    });
}

#[test]
fn bytes_for_a_stream_that_does_not_read_stay_in_the_kernel() {
    with_loop(|event_loop| {
        let (socket, mut peer) = tcp_pair();
        let mut stream = TcpConnection::builder(event_loop).adopt_async(socket).unwrap();
        run(event_loop, async move {
            time::sleep(Duration::ZERO).await;
            peer.write_all(&[7; 1000]).unwrap();
            for _ in 0..20 {
                time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(stream.with_connection(|conn| conn.unread()).unwrap(), 0);
            let mut bytes = [0; 1000];
            stream.read_exact(&mut bytes).await.unwrap();
            assert_eq!(bytes, [7; 1000]);
        });
    });
}

#[test]
fn all_kinds_of_payload_keep_their_order() {
    with_loop(|event_loop| {
        let mut random = Random::new(17);
        for (mut one, mut other) in pairs(event_loop) {
            let pieces: Vec<_> = (0..60).map(|_| pattern(random.below(200_000))).collect();
            run(event_loop, async move {
                let expected = pieces.concat();
                let reader = task::spawn_local(async move { read_all(&mut other).await });
                for (number, piece) in pieces.into_iter().enumerate() {
                    match number % 3 {
                        0 => one.write_all(&piece).await.unwrap(),
                        1 => one.write_owned(piece).await.unwrap(),
                        _ => {
                            let mut buffer = Buffer::new();
                            buffer.append(b"consumed");
                            buffer.append(&piece);
                            buffer.consume(8);
                            one.write_buf(&mut buffer).await.unwrap();
                        }
                    }
                }
                one.shutdown().await.unwrap();
                assert!(reader.await.unwrap() == expected);
            });
        }
    });
}

#[test]
fn a_dropped_read_loses_no_byte() {
    with_loop(|event_loop| {
        for (mut one, mut other) in pairs(event_loop) {
            run(event_loop, async move {
                let sent = pattern(300_000);
                let expected = sent.clone();
                task::spawn_local(async move {
                    for piece in sent.chunks(777) {
                        one.write_all(piece).await.unwrap();
                        task::yield_now().await;
                    }
                });
                let mut received = Vec::new();
                let mut cancelled = 0;
                loop {
                    let mut bytes = [0; 500];
                    let read = poll_once(&mut pin!(other.read(&mut bytes)));
                    match read {
                        std::task::Poll::Pending => {
                            cancelled += 1;
                            task::yield_now().await;
                        }
                        std::task::Poll::Ready(Ok(0)) => break,
                        std::task::Poll::Ready(n) => received.extend_from_slice(&bytes[..n.unwrap()]),
                    }
                }
                assert!(cancelled > 0);
                assert!(received == expected);
            });
        }
    });
}

#[test]
fn a_dropped_write_has_sent_nothing() {
    with_loop(|event_loop| {
        for (mut one, mut other) in pairs(event_loop) {
            run(event_loop, async move {
                let mut expected = Vec::new();
                let mut cancelled = 0;
                let piece = pattern(40_000);
                // Until the queue has passed the high-water mark.
                while cancelled == 0 {
                    match poll_once(&mut pin!(one.write_all(&piece))) {
                        std::task::Poll::Ready(sent) => {
                            sent.unwrap();
                            expected.extend_from_slice(&piece);
                        }
                        std::task::Poll::Pending => cancelled += 1,
                    }
                    // The operations that are ready at once are limited.
                    task::yield_now().await;
                }
                let reader = task::spawn_local(async move { read_all(&mut other).await });
                one.write_all("the end").await.unwrap();
                expected.extend_from_slice(b"the end");
                one.shutdown().await.unwrap();
                assert!(reader.await.unwrap() == expected);
            });
        }
    });
}

#[test]
fn small_writes_of_a_poll_arrive_together() {
    with_loop(|event_loop| {
        let (one, mut peer) = UnixStream::pair().unwrap();
        let mut stream = TcpConnection::builder(event_loop).adopt_async(one).unwrap();
        run(event_loop, async move {
            stream.write_all("").await.unwrap();
            stream.flush().await.unwrap();
            stream.write_all("one ").await.unwrap();
            stream.write_all("two ").await.unwrap();
            peer.set_nonblocking(true).unwrap();
            let mut bytes = [0; 100];
            assert!(peer.read(&mut bytes).is_err(), "sent within the poll");
            stream.flush().await.unwrap();
            assert_eq!(peer.read(&mut bytes).unwrap(), 8);
            stream.write_all("three").await.unwrap();
            task::yield_now().await;
            assert_eq!(peer.read(&mut bytes).unwrap(), 5);
        });
    });
}

#[test]
fn an_endless_sender_does_not_keep_a_read_loop_from_yielding() {
    with_loop(|event_loop| {
        let (socket, mut peer) = tcp_pair();
        let writer = thread::spawn(move || while peer.write_all(&[0; 4096]).is_ok() {});
        let limits = ConnectionLimits::new().drain_timeout(Duration::ZERO);
        let mut stream = TcpConnection::builder(event_loop).limits(limits).adopt_async(socket).unwrap();
        run(event_loop, async move {
            let reader = task::spawn_local(async move {
                let mut bytes = [0; 16];
                loop {
                    stream.read_exact(&mut bytes).await.unwrap();
                }
            });
            time::sleep(Duration::from_millis(20)).await;
            reader.abort();
            assert!(reader.await.is_err());
        });
        event_loop.run_until_idle().unwrap();
        writer.join().unwrap();
    });
}
