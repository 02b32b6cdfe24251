//! Memory of a loop's sources after a burst: of files, datagrams, watchers and connections. Unused
//! memory is released, and memory that a steady load needs is kept.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use crate::support::counting::{allocations, assert_released, held, one_at_a_time};
use crate::support::folder::Folder;
use crate::support::net::{Host, turn_until, until};
use crate::support::{Count, KIB, LIMIT, MIB, on_another_thread, turn, with_loop, with_watchdog};
use reveille::fs::{File, FileChanges, FileIo, Watcher};
use reveille::{TcpServer, UdpSocket};
use socket2::{Domain, Socket, Type};

#[test]
fn memory_of_a_burst_of_file_operations_is_released() {
    const BURST: usize = 50_000;
    let _alone = one_at_a_time();
    with_loop(|event_loop| {
        let files = FileIo::builder().threads(2).build(event_loop).unwrap();
        let zero = File::from(fs::File::open("/dev/zero").unwrap());
        // An operation that is pending before, during and after the burst.
        let (pipe, mut writer) = std::io::pipe().unwrap();
        let (pipe, pipe_read_has_ended) = (File::from(std::os::fd::OwnedFd::from(pipe)), Count::default());
        let ended = pipe_read_has_ended.clone();
        files.read(&pipe, vec![0; 8], move |_, read, _| {
            assert_eq!(read.unwrap(), 1);
            ended.add();
        });
        let done = Count::default();
        let burst = |operations: usize| {
            let wanted = done.get() + operations;
            for number in 0..operations {
                let done = done.clone();
                // A read into an empty buffer is refused.
                files.read_at(&zero, 0, vec![0; number % 2], move |_, _, _| done.add());
            }
            let full = held();
            turn_until(event_loop, || done.get() == wanted);
            full
        };
        burst(4);
        let before = held();
        let full = burst(BURST);
        until(|| {
            event_loop.run_once(Duration::from_millis(10)).unwrap();
            held() < before + MIB as i64
        });
        assert_released(before, full, MIB);
        assert_eq!(pipe_read_has_ended.get(), 0);
        writer.write_all(b"x").unwrap();
        turn_until(event_loop, || pipe_read_has_ended.get() == 1);
    });
}

#[test]
fn memory_of_a_burst_of_datagrams_is_released() {
    const BURST: usize = 50_000;
    let _alone = one_at_a_time();
    with_loop(|event_loop| {
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = peer.local_addr().unwrap();
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().max_unsent(BURST, MIB);
        let socket = socket.serve_fn(|_, _, _| ()).unwrap();
        let handle = socket.handle();
        let unsent = || socket.with(|socket| socket.unsent()).unwrap();
        let before = held();
        on_another_thread(|| (0..BURST).for_each(|_| handle.send_to("x", to).unwrap()));
        let in_mailbox = held();
        // The datagrams move to the socket's queue, and from there to the kernel.
        turn_until(event_loop, || unsent() > 0);
        let in_queue = held();
        turn_until(event_loop, || unsent() == 0);
        assert_released(before, in_mailbox.max(in_queue), 256 * KIB);
    });
}

#[test]
fn memory_of_events_read_ahead_is_released() {
    let _alone = one_at_a_time();
    with_loop(|event_loop| {
        let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let events = most.trim().parse::<usize>().unwrap().min(12_000);
        let folder = Folder::new();
        let mut files = ["a", "b"]
            .map(|name| OpenOptions::new().create(true).append(true).open(folder.join(name)).unwrap());
        let received = Count::default();
        let watchers = [(); 2].map(|()| {
            let received = received.clone();
            Watcher::new(event_loop, move |_| received.add()).unwrap()
        });
        watchers[0].watch(folder.path(), FileChanges::MODIFIED).unwrap();
        // The files alternate, because the kernel merges an event with an equal one before it.
        for number in 0..events {
            files[number % 2].write_all(b"x").unwrap();
        }
        let before = held();
        // Reads all earlier events, which the second watcher must not receive.
        watchers[1].watch(folder.path(), FileChanges::MODIFIED).unwrap();
        let full = held();
        turn_until(event_loop, || received.get() >= events);
        assert!(full > before + 50 * events as i64, "the events held only {} bytes", full - before);
        let left = held() - before;
        assert!(left < 80 * KIB as i64, "{left} bytes are left of {}", full - before);
    });
}

fn connect_from(address: Ipv4Addr, server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
    socket.connect_timeout(&server.into(), crate::support::net::LIMIT).unwrap();
    socket.into()
}

/// The tables of the server: its connections, the bytes that each buffers, and the number of
/// connections of each address.
#[test]
fn a_server_keeps_no_memory_of_closed_connections() {
    const CONNECTIONS: u8 = 200;
    let _alone = one_at_a_time();
    with_loop(|event_loop| {
        let serve = || {
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
            // The handlers leave their input unread, so each connection buffers a byte.
            server.max_buffered(MIB).max_per_address(2).serve_fn(|_, _| std::io::Result::Ok(())).unwrap()
        };
        let burst = |server: &TcpServer| {
            let mut clients = Vec::new();
            for number in 0..CONNECTIONS {
                let mut client = connect_from(Ipv4Addr::new(127, 0, 1, number), server.local_addr().unwrap());
                client.write_all(b"x").unwrap();
                clients.push(client);
                turn(event_loop);
            }
            turn_until(event_loop, || server.buffered() >= usize::from(CONNECTIONS));
            let full = held();
            drop(clients);
            turn_until(event_loop, || server.open_connections() == 0);
            full
        };
        // The first burst allocates the memory that the loop itself keeps.
        let (first, second) = (serve(), serve());
        burst(&first);
        let before = held();
        let full = burst(&second);
        assert_released(before, full, 2 * KIB);
    });
}

/// Sends a message, and returns the reply, which ends with a full stop.
fn exchange(client: &mut TcpStream, message: &[u8]) -> Vec<u8> {
    client.write_all(message).unwrap();
    let mut reply = Vec::new();
    while !reply.ends_with(b".") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        reply.push(byte[0]);
    }
    reply
}

const LARGE: usize = 4 * MIB;

/// The handler consumes a large message except its end, which stays unread.
#[test]
fn storage_of_unread_input_shrinks_to_its_content() {
    const END: &[u8] = b"the rest ";
    let _alone = one_at_a_time();
    with_watchdog(LIMIT, || {
        let full = Arc::new(AtomicI64::new(0));
        let measured = Arc::clone(&full);
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(move |conn, input| {
                if input.readable().ends_with(b".") {
                    return conn.send(input.take_all());
                }
                if input.len() == LARGE + END.len() {
                    input.consume(LARGE);
                    measured.store(held(), SeqCst);
                }
                Ok(())
            })
        });
        let (mut client, mut other) = (host.connect(), host.connect());
        let mut message = vec![0; LARGE];
        message.extend_from_slice(END);
        for is_busy in [false, true] {
            assert_eq!(exchange(&mut client, b"hello."), b"hello.");
            assert_eq!(exchange(&mut other, b"hello."), b"hello.");
            full.store(0, SeqCst);
            let before = held();
            client.write_all(&message).unwrap();
            until(|| full.load(SeqCst) > 0);
            until(|| {
                if is_busy {
                    assert_eq!(exchange(&mut other, b"hello."), b"hello.");
                }
                held() < before + 16 * KIB as i64
            });
            assert_released(before, full.load(SeqCst), 16 * KIB);
            assert!(host.request(|_, server| server.as_ref().unwrap().buffered()) < KIB);
            assert_eq!(exchange(&mut client, b"is there."), b"the rest is there.");
        }
    });
}

#[test]
fn an_input_buffer_grown_by_a_handler_is_released() {
    let _alone = one_at_a_time();
    with_watchdog(LIMIT, || {
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(|conn, input| {
                if input.readable().starts_with(b"grow") {
                    input.reserve(LARGE);
                }
                conn.send(input.take_all())
            })
        });
        let mut client = host.connect();
        assert_eq!(exchange(&mut client, b"hello."), b"hello.");
        let before = held();
        assert_eq!(exchange(&mut client, b"grow."), b"grow.");
        let full = host.request(|_, _| held());
        until(|| held() < before + 16 * KIB as i64);
        assert_released(before, full, 16 * KIB);
        assert_eq!(exchange(&mut client, b"hello."), b"hello.");
    });
}

/// Each message fills the storage, and leaves it nearly empty.
#[test]
fn a_stream_of_partial_messages_allocates_nothing() {
    const MESSAGE: usize = 32 * KIB;
    let _alone = one_at_a_time();
    with_watchdog(LIMIT, || {
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(|conn, input| {
                if input.len() < MESSAGE {
                    return Ok(());
                }
                input.consume(MESSAGE);
                conn.send(b".")
            })
        });
        let mut client = host.connect();
        let (rest, message) = (b"a rest", vec![0; MESSAGE]);
        client.write_all(rest).unwrap();
        let mut stream = |messages: usize| {
            for _ in 0..messages {
                client.write_all(&message).unwrap();
                client.read_exact(&mut [0]).unwrap();
            }
        };
        stream(100);
        let before = allocations();
        stream(2000);
        // On a slow machine the connection may become idle in between, and allocate again.
        let allocated = allocations() - before;
        assert!(allocated < 20, "{allocated} allocations");
    });
}
