//! Memory after a burst, of what is on a loop: files, datagrams, watchers, connections. What it no
//! longer needs is released, and what a steady load needs again and again is kept.

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
fn a_burst_of_file_operations_leaves_no_room_behind() {
    const BURST: usize = 50_000;
    let _alone = one_at_a_time();
    with_loop(|event_loop| {
        let files = FileIo::builder().threads(2).build(event_loop).unwrap();
        let zero = File::from(fs::File::open("/dev/zero").unwrap());
        // It is pending from before the burst until after it.
        let (pipe, mut writer) = std::io::pipe().unwrap();
        let (pipe, lasting_has_ended) = (File::from(std::os::fd::OwnedFd::from(pipe)), Count::default());
        let ended = lasting_has_ended.clone();
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
        assert_eq!(lasting_has_ended.get(), 0);
        writer.write_all(b"x").unwrap();
        turn_until(event_loop, || lasting_has_ended.get() == 1);
    });
}

#[test]
fn a_burst_of_datagrams_leaves_no_room_behind() {
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
        // They go into the socket's queue, and from there to the kernel.
        turn_until(event_loop, || unsent() > 0);
        let in_queue = held();
        turn_until(event_loop, || unsent() == 0);
        assert_released(before, in_mailbox.max(in_queue), 256 * KIB);
    });
}

#[test]
fn events_that_were_read_ahead_leave_no_room_behind() {
    let _alone = one_at_a_time();
    with_loop(|event_loop| {
        let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let events = most.trim().parse::<usize>().unwrap().min(12_000);
        let folder = Folder::new();
        let mut files = ["a", "b"]
            .map(|name| OpenOptions::new().create(true).append(true).open(folder.join(name)).unwrap());
        let seen = Count::default();
        let watchers = [(); 2].map(|()| {
            let seen = seen.clone();
            Watcher::new(event_loop, move |_| seen.add()).unwrap()
        });
        watchers[0].watch(folder.path(), FileChanges::MODIFIED).unwrap();
        // The kernel merges an event with one like it that is the last.
        for number in 0..events {
            files[number % 2].write_all(b"x").unwrap();
        }
        let before = held();
        // So that the second watcher has none that came before it.
        watchers[1].watch(folder.path(), FileChanges::MODIFIED).unwrap();
        let full = held();
        turn_until(event_loop, || seen.get() >= events);
        assert!(full > before + 50 * events as i64, "{} bytes", full - before);
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

/// What a server knows of its connections: which there are, what each holds, and how many are of an
/// address.
#[test]
fn a_server_keeps_nothing_of_connections_that_have_gone() {
    const CONNECTIONS: u8 = 200;
    let _alone = one_at_a_time();
    with_loop(|event_loop| {
        let serve = || {
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
            // With input left unread each holds something.
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
        // What the loop itself keeps is there after this.
        let (first, second) = (serve(), serve());
        burst(&first);
        let before = held();
        let full = burst(&second);
        assert_released(before, full, 2 * KIB);
    });
}

/// Sends back what ends with a full stop.
fn echoes(client: &mut TcpStream, message: &[u8]) -> Vec<u8> {
    client.write_all(message).unwrap();
    let mut echo = Vec::new();
    while !echo.ends_with(b".") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        echo.push(byte[0]);
    }
    echo
}

const LARGE: usize = 4 * MIB;

/// A large message is taken but for its end, which stays unread.
#[test]
fn storage_of_unread_input_shrinks_to_what_is_left_in_it() {
    const END: &[u8] = b"the rest ";
    let _alone = one_at_a_time();
    with_watchdog(LIMIT, || {
        let full = Arc::new(AtomicI64::new(0));
        let noted = Arc::clone(&full);
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(move |conn, input| {
                if input.readable().ends_with(b".") {
                    return conn.send(input.take_all()).map(drop);
                }
                if input.len() == LARGE + END.len() {
                    input.consume(LARGE);
                    noted.store(held(), SeqCst);
                }
                Ok(())
            })
        });
        let (mut client, mut other) = (host.connect(), host.connect());
        let mut message = vec![0; LARGE];
        message.extend_from_slice(END);
        for is_busy in [false, true] {
            assert_eq!(echoes(&mut client, b"hello."), b"hello.");
            assert_eq!(echoes(&mut other, b"hello."), b"hello.");
            full.store(0, SeqCst);
            let before = held();
            client.write_all(&message).unwrap();
            until(|| full.load(SeqCst) > 0);
            until(|| {
                if is_busy {
                    assert_eq!(echoes(&mut other, b"hello."), b"hello.");
                }
                held() < before + 16 * KIB as i64
            });
            assert_released(before, full.load(SeqCst), 16 * KIB);
            assert!(host.ask(|_, server| server.as_ref().unwrap().buffered()) < KIB);
            assert_eq!(echoes(&mut client, b"is there."), b"the rest is there.");
        }
    });
}

#[test]
fn an_input_buffer_that_a_handler_has_grown_is_released() {
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
        assert_eq!(echoes(&mut client, b"hello."), b"hello.");
        let before = held();
        assert_eq!(echoes(&mut client, b"grow."), b"grow.");
        let full = host.ask(|_, _| held());
        until(|| held() < before + 16 * KIB as i64);
        assert_released(before, full, 16 * KIB);
        assert_eq!(echoes(&mut client, b"hello."), b"hello.");
    });
}

/// Each message leaves the storage nearly empty, and fills it again.
#[test]
fn a_stream_whose_messages_leave_a_rest_allocates_nothing() {
    const MESSAGE: usize = 32 * KIB;
    let _alone = one_at_a_time();
    with_watchdog(LIMIT, || {
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(|conn, input| {
                if input.len() < MESSAGE {
                    return Ok(());
                }
                input.consume(MESSAGE);
                conn.send(b".").map(drop)
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
        // A machine that holds the test up makes the connection idle.
        let allocated = allocations() - before;
        assert!(allocated < 20, "{allocated} allocations");
    });
}
