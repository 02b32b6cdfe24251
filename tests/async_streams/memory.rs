//! The memory of all connections: what streams may use, and what waits for it.

use std::io::{Read, Write};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crate::data::{pattern, read_all};
use crate::support::futures::poll_once;
use crate::support::net::{self, Host, until};
use crate::support::{KIB, LIMIT, MIB, with_watchdog};
use reveille::net::ServerCounters;
use reveille::{Buffer, TcpServer};

const BUDGET: usize = 1024 * KIB;

fn counters(host: &Host) -> ServerCounters {
    host.request(|_, server| server.as_ref().expect("a server").counters())
}

fn buffered(host: &Host) -> usize {
    host.request(|_, server| server.as_ref().expect("a server").buffered())
}

/// A host that replies to each byte with `len` bytes, or to a full stop with one.
fn replying_host(budget: usize, len: usize) -> Host {
    Host::new(move |event_loop| {
        let server = net::with_small_send_buffer(TcpServer::bind(event_loop, "127.0.0.1:0")?);
        server.max_buffered(budget).serve_async(move |mut stream| async move {
            let mut byte = [0; 1];
            while stream.read(&mut byte).await? > 0 {
                match &byte {
                    b"." => stream.write_all(".").await?,
                    _ => stream.write_owned(vec![byte[0]; len]).await?,
                }
            }
            Ok(())
        })
    })
}

#[test]
fn writes_to_peers_that_do_not_read_wait_within_the_memory_limit() {
    with_watchdog(LIMIT, || {
        let host = replying_host(8 * MIB, 6 * MIB);
        let mut client = host.connect();
        let mut slow: Vec<_> =
            (0..4).map(|_| net::connect_with_small_receive_buffer(host.address())).collect();
        slow.iter_mut().for_each(|peer| peer.write_all(b"x").unwrap());
        for _ in 0..20 {
            assert_eq!(net::exchange(&mut client, b"."), b".");
            assert!(buffered(&host) <= 8 * MIB);
        }
        // All of it arrives.
        for mut peer in slow {
            assert!(net::read_exact(&mut peer, 6 * MIB).iter().all(|&byte| byte == b'x'));
        }
        assert_eq!(counters(&host).closed_for_memory, 0);
        until(|| host.open_connections() == 1 && buffered(&host) == 0);
    });
}

#[test]
fn many_peers_that_do_not_read_are_reset_at_the_memory_limit() {
    with_watchdog(LIMIT, || {
        let host = replying_host(BUDGET, 600 * KIB);
        let mut client = host.connect();
        let mut slow = Vec::new();
        while counters(&host).closed_for_memory == 0 {
            assert!(slow.len() < 500, "the memory is not limited");
            let mut peer = net::connect_with_small_receive_buffer(host.address());
            peer.write_all(b"x").unwrap();
            slow.push(peer);
        }
        assert_eq!(net::exchange(&mut client, b"."), b".");
        until(|| buffered(&host) <= BUDGET);
        drop(slow);
        until(|| host.open_connections() == 1 && buffered(&host) == 0);
        assert_eq!(net::exchange(&mut client, b"."), b".");
    });
}

#[test]
fn a_write_above_the_memory_limit_arrives_whole() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            let server = TcpServer::bind(event_loop, "127.0.0.1:0")?.max_buffered(BUDGET);
            server.serve_async(|mut stream| async move {
                // More than twice the limit, by each kind of write.
                stream.write_all(pattern(4 * MIB)).await?;
                stream.write_owned(pattern(4 * MIB)).await?;
                let mut buffer = Buffer::new();
                buffer.append(&pattern(4 * MIB));
                stream.write_buf(&mut buffer).await?;
                assert!(buffer.is_empty());
                Ok(())
            })
        });
        let mut client = net::connect_with_small_receive_buffer(host.address());
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), 12 * MIB);
        assert!(received.chunks(4 * MIB).all(|part| part == pattern(4 * MIB)));
        assert_eq!(counters(&host).closed_for_memory, 0);
    });
}

#[test]
fn a_write_waits_while_the_memory_of_all_connections_is_used() {
    with_watchdog(LIMIT, || {
        let (sender, receiver) = std::sync::mpsc::channel();
        let host = Host::new(move |event_loop| {
            let server = net::with_small_send_buffer(TcpServer::bind(event_loop, "127.0.0.1:0")?);
            server.max_buffered(BUDGET).serve_async(move |mut stream| {
                let sender = sender.clone();
                async move {
                    stream.write_all(pattern(700 * KIB)).await?;
                    // Would exceed the hard limit.
                    let bytes = pattern(2 * BUDGET);
                    let mut write = pin!(stream.write_all(&bytes));
                    let _ = sender.send(poll_once(&mut write).is_pending());
                    write.await
                }
            })
        });
        let mut client = net::connect_with_small_receive_buffer(host.address());
        assert!(receiver.recv_timeout(net::LIMIT).unwrap(), "nothing has waited");
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        let mut expected = pattern(700 * KIB);
        expected.extend_from_slice(&pattern(2 * BUDGET));
        assert!(received == expected, "{} bytes", received.len());
    });
}

#[test]
fn a_stream_that_is_not_read_holds_no_memory_and_slows_its_peer() {
    with_watchdog(LIMIT, || {
        let may_read = Arc::new(AtomicBool::new(false));
        let is_permitted = Arc::clone(&may_read);
        let host = Host::new(move |event_loop| {
            let server = TcpServer::bind(event_loop, "127.0.0.1:0")?.max_buffered(BUDGET);
            server.serve_async(move |mut stream| {
                let is_permitted = Arc::clone(&is_permitted);
                async move {
                    stream.write_all("ready").await?;
                    while !is_permitted.load(SeqCst) {
                        reveille::time::sleep(Duration::from_millis(1)).await;
                    }
                    let received = read_all(&mut stream).await;
                    stream.write_all(received.len().to_string()).await
                }
            })
        });
        let mut client = host.connect();
        client.read_exact(&mut [0; 5]).unwrap();
        let mut sending = client.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            sending.write_all(&pattern(32 * MIB)).unwrap();
            sending.shutdown(std::net::Shutdown::Write).unwrap();
        });
        for _ in 0..50 {
            assert_eq!((buffered(&host), counters(&host).closed_for_memory), (0, 0));
            std::thread::yield_now();
        }
        may_read.store(true, SeqCst);
        let mut reply = String::new();
        client.read_to_string(&mut reply).unwrap();
        assert_eq!(reply, (32 * MIB).to_string());
        writer.join().unwrap();
    });
}
