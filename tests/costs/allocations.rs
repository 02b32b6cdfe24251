//! The heap allocations of the loop's thread for a message, a timer or a frame, and the memory that
//! an idle connection keeps.

use std::cell::Cell;
use std::io::{self, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::support::clock::HOUR;
use crate::support::counting::{Counts, counts};
use crate::support::net::{self, Host};
use crate::support::{LIMIT, with_loop, with_watchdog};
use reveille::codec::{Decoder, FrameHandler, Framed, LengthCodec, LengthPrefix, LineCodec};
use reveille::fs::{File, FileIo};
use reveille::ipc::SharedRing;
use reveille::net::{CloseReason, Filter, TcpServerBuilder};
use reveille::observe::Watchdog;
use reveille::time::VirtualClock;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection, TcpServer, UdpSocket};

/// Echoes a message that ends in a full stop. Replies to `?` with the [`Counts`] of the loop's
/// thread.
struct CountingEcho {
    closed: Arc<AtomicUsize>,
}

/// The size of [`Counts`] in a message.
const COUNTS_SIZE: usize = 32;

impl ConnectionHandler for CountingEcho {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        if input.readable() == b"?" {
            input.clear();
            conn.send(counts_as_bytes())?;
        } else if input.readable().ends_with(b".") {
            conn.send(input.take_all())?;
        }
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection, _: &CloseReason) {
        self.closed.fetch_add(1, SeqCst);
    }
}

fn counts_as_bytes() -> [u8; COUNTS_SIZE] {
    let Counts { allocated, freed, requested, held } = counts();
    let mut bytes = [0; COUNTS_SIZE];
    bytes[..8].copy_from_slice(&allocated.to_le_bytes());
    bytes[8..16].copy_from_slice(&freed.to_le_bytes());
    bytes[16..24].copy_from_slice(&requested.to_le_bytes());
    bytes[24..].copy_from_slice(&held.to_le_bytes());
    bytes
}

/// A host of [`CountingEcho`] handlers, and the number of connections that it has closed.
///
/// Its counts are requested by messages. Tasks would change them, because a task is allocated on
/// one thread and freed on another.
fn counting_host() -> (Host, Arc<AtomicUsize>) {
    counting_host_with(|builder| builder)
}

/// Same as [`counting_host`], with settings of the server.
fn counting_host_with(
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a> + Send + 'static,
) -> (Host, Arc<AtomicUsize>) {
    let closed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&closed);
    let host = Host::new(move |event_loop| {
        settings(TcpServer::bind(event_loop, "127.0.0.1:0")?)
            .serve(move |_| CountingEcho { closed: Arc::clone(&counter) })
    });
    (host, closed)
}

/// Requests the counts of the loop's thread.
#[track_caller]
fn host_counts(client: &mut TcpStream) -> Counts {
    request_counts(client, b"?")
}

#[track_caller]
fn request_counts(client: &mut TcpStream, request: &[u8]) -> Counts {
    client.write_all(request).unwrap();
    let reply = net::read_exact(client, COUNTS_SIZE);
    let number = |at: usize| reply[at..at + 8].try_into().expect("eight bytes");
    Counts {
        allocated: u64::from_le_bytes(number(0)),
        freed: u64::from_le_bytes(number(8)),
        requested: u64::from_le_bytes(number(16)),
        held: i64::from_le_bytes(number(24)),
    }
}

#[test]
fn an_echoed_message_allocates_and_frees_nothing() {
    with_watchdog(LIMIT, || assert_echo_allocates_nothing(&counting_host().0));
}

#[test]
fn metrics_and_a_watchdog_allocate_nothing_for_a_message() {
    with_watchdog(LIMIT, || {
        let (host, _) = counting_host();
        host.handle().enable_metrics();
        let watchdog = Watchdog::new(HOUR).unwrap();
        watchdog.watch(host.handle());
        assert_echo_allocates_nothing(&host);
        let metrics = host.handle().metrics().unwrap();
        assert!(metrics.turns >= 1000 && !metrics.in_channels.is_zero(), "{metrics:?}");
    });
}

/// A task that posts the next one.
#[test]
fn metrics_and_a_watchdog_allocate_nothing_for_a_task() {
    fn post(event_loop: &EventLoop, left: u32) {
        event_loop.queue_in_loop(move |event_loop| {
            if left > 1 {
                post(event_loop, left - 1);
            }
        });
    }
    with_loop(|event_loop| {
        event_loop.handle().enable_metrics();
        let watchdog = Watchdog::new(HOUR).unwrap();
        watchdog.watch(&event_loop.handle());
        let after = |tasks| {
            post(event_loop, tasks);
            event_loop.run_until_idle().unwrap();
            counts()
        };
        let before = after(100);
        let after = after(1000);
        assert_eq!(after, before);
        assert_eq!(event_loop.handle().metrics().unwrap().task_delay.count(), 1100);
    });
}

/// Passes all bytes on.
struct PassThrough;

impl Filter for PassThrough {}

#[test]
fn a_message_through_filters_allocates_and_frees_nothing() {
    with_watchdog(LIMIT, || {
        let (host, _) = counting_host_with(|builder| builder.filter(|| PassThrough).filter(|| PassThrough));
        assert_echo_allocates_nothing(&host);
    });
}

fn assert_echo_allocates_nothing(host: &Host) {
    let mut client = host.connect();
    let mut other = host.connect();
    for size in [1, 64, 4096] {
        let bytes = message(size);
        let mut after = |rounds| {
            for _ in 0..rounds {
                assert_eq!(net::exchange(&mut client, &bytes), bytes);
                assert_eq!(net::exchange(&mut other, &bytes), bytes);
            }
            host_counts(&mut client)
        };
        // The buffers reach their final capacity.
        let before = after(20);
        let after = after(500);
        assert_eq!(after, before, "1000 messages of {size} bytes allocated");
    }
}

#[test]
fn an_echoed_datagram_allocates_and_frees_nothing() {
    ["127.0.0.1:0", "0.0.0.0:0"].into_iter().for_each(assert_echo_of_datagrams_allocates_nothing);
}

fn assert_echo_of_datagrams_allocates_nothing(at: &'static str) {
    with_loop(move |event_loop| {
        let echo = UdpSocket::bind(event_loop, at)
            .unwrap()
            .serve_fn(|socket, datagram, from| socket.send_to(datagram, from))
            .unwrap();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(net::LIMIT)).unwrap();
        client.connect(("127.0.0.1", echo.local_addr().unwrap().port())).unwrap();
        let mut echoed = [0; 64];
        let mut after = |rounds| {
            for _ in 0..rounds {
                (0..2).for_each(|_| assert_eq!(client.send(b"to and fro").unwrap(), 10));
                event_loop.run_once(net::LIMIT).unwrap();
                (0..2).for_each(|_| assert_eq!(client.recv(&mut echoed).unwrap(), 10));
            }
            counts()
        };
        // The loop's buffers are allocated.
        let before = after(20);
        assert_eq!(after(500), before, "1000 datagrams at {at} allocated");
    });
}

#[test]
fn an_echo_through_a_shared_ring_allocates_and_frees_nothing() {
    with_loop(|event_loop| {
        let (mut here, descriptors) = SharedRing::create(4096).unwrap();
        let there = SharedRing::from_descriptors(descriptors, 4096).unwrap();
        let _echo = there.watch(event_loop, |ring, message| ring.send(message).unwrap()).unwrap();
        let mut echoed = Vec::new();
        let mut after = |rounds| {
            for _ in 0..rounds {
                // These lengths let some messages wrap around the end of the ring.
                for length in [64, 0, 1000] {
                    here.send(&[7; 1000][..length]).unwrap();
                    event_loop.run_once(net::LIMIT).unwrap();
                    assert!(here.receive(&mut echoed).unwrap() && echoed.len() == length);
                }
            }
            counts()
        };
        // The buffers of received messages grow to the longest message.
        let before = after(2);
        assert_eq!(after(500), before, "1500 messages and their echoes allocated");
    });
}

#[test]
fn an_idle_connection_keeps_at_most_512_bytes_until_closed() {
    with_watchdog(LIMIT, || {
        let connections = affordable_connections();
        let (host, closed) = counting_host();
        let mut observer = host.connect();
        let mut kept = Vec::new();
        for round in 1..=4 {
            let before = host_counts(&mut observer);
            let mut clients = Vec::new();
            for _ in 0..connections {
                let mut client = host.connect();
                assert_eq!(net::exchange(&mut client, b"hello."), b"hello.");
                clients.push(client);
            }
            let after = host_counts(&mut observer);
            let each = (after.held - before.held) / connections as i64;
            println!("{each} bytes a connection");
            assert!(each <= 512, "{each} bytes a connection");
            // Ten at a time, because the loop keeps capacity for the connections that close in one
            // turn.
            while !clients.is_empty() {
                clients.truncate(clients.len().saturating_sub(10));
                net::until(|| closed.load(SeqCst) == round * connections - clients.len());
            }
            kept.push(host_counts(&mut observer).held);
        }
        // The tables keep their capacity. The memory of each connection is released.
        let left = kept[3] - kept[0];
        assert!(left < 4096, "{left} bytes are left of {} connections: {kept:?}", 3 * connections);
    });
}

/// The connection buffers a large message until it is complete, and then its echo until the peer
/// reads it.
#[test]
fn a_connection_releases_its_buffers_when_idle() {
    with_watchdog(LIMIT, || {
        let (host, _) = counting_host();
        let mut observer = host.connect();
        let mut client = host.connect();
        assert_eq!(net::exchange(&mut client, b"hello."), b"hello.");
        host_counts(&mut observer);
        let before = host_counts(&mut observer);
        let bytes = message(8 << 20);
        client.write_all(&bytes).unwrap();
        let busy = host_counts(&mut observer);
        assert!(busy.held > before.held + (1 << 20), "nothing was buffered: {busy:?} after {before:?}");
        assert!(net::read_exact(&mut client, bytes.len()) == bytes, "the echo differs from the message");
        assert_eq!(net::exchange(&mut client, b"and on."), b"and on.");
        let after = host_counts(&mut observer);
        assert!(after.held - before.held <= 512, "{after:?} after {before:?}");
    });
}

#[test]
fn timers_are_created_reset_cancelled_and_fired_without_allocating() {
    const TIMERS: u64 = 1000;
    with_watchdog(LIMIT, || {
        let clock = VirtualClock::new();
        let event_loop = EventLoop::builder().virtual_clock(clock.clone()).build().unwrap();
        let fired = Rc::new(Cell::new(0));
        let mut ids = Vec::with_capacity(TIMERS as usize);
        let mut round = || {
            let before = counts();
            for number in 0..TIMERS {
                let (fired, words) = (Rc::clone(&fired), [number; 3]);
                let callback = move |_: &EventLoop| fired.set(fired.get() + words[1] - words[0] + 1);
                ids.push(event_loop.run_after(Duration::from_millis(number * 37 % 3000), callback));
            }
            for (number, id) in ids.drain(..).enumerate() {
                match number % 3 {
                    0 => assert!(event_loop.cancel(id)),
                    1 => assert!(event_loop.reset(id, Duration::from_secs(2))),
                    _ => {}
                }
            }
            event_loop.run_for(Duration::from_secs(3)).unwrap();
            let after = counts();
            assert_eq!(event_loop.next_deadline(), None);
            (before, after)
        };
        // The queue grows to its final capacity.
        for _ in 0..5 {
            round();
        }
        let (before, after) = round();
        assert_eq!(after, before);
        assert_eq!(fired.get(), 6 * (TIMERS - TIMERS.div_ceil(3)));
    });
}

#[test]
fn frames_in_one_buffer_are_decoded_without_allocating() {
    fn check(mut decoder: impl for<'a> Decoder<Frame<'a> = &'a [u8]>, mut input: Buffer) {
        let before = counts();
        let mut found = 0;
        while let Ok(Some((frame, taken))) = decoder.decode(input.readable()) {
            found += frame.len();
            input.consume(taken);
        }
        assert_eq!(counts(), before);
        assert_eq!(found, 1000 * 5);
    }
    check(LineCodec::new(80), Buffer::from(b"three\n".repeat(1000)));
    check(LengthCodec::new(LengthPrefix::Varint, 80), Buffer::from(b"\x05three".repeat(1000)));
}

#[test]
fn a_deadline_that_moves_with_each_message_allocates_nothing() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(|conn, input| {
                conn.set_deadline(Duration::from_secs(3600));
                match input.take_all() {
                    b"?" => conn.send(counts_as_bytes()),
                    message => conn.send(message),
                }
            })
        });
        let mut client = host.connect();
        let mut after = |rounds| {
            (0..rounds).for_each(|_| net::assert_echoes(&mut client));
            host_counts(&mut client)
        };
        let before = after(20);
        assert_eq!(after(500), before, "500 deadlines allocated");
    });
}

/// Replies to the frame `?` with the counts of the loop's thread. Ignores other frames.
struct FrameCounts;

impl FrameHandler<LengthCodec> for FrameCounts {
    fn on_frame(&mut self, conn: &TcpConnection, frame: &[u8]) -> io::Result<()> {
        if frame == b"?" {
            conn.send(counts_as_bytes())?;
        }
        Ok(())
    }
}

#[test]
fn a_length_prefix_reserves_no_memory() {
    const ANNOUNCED: u32 = 8 << 20;
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            let codec = LengthCodec::new(LengthPrefix::U32Be, ANNOUNCED as usize);
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve(move |_| Framed::new(codec, FrameCounts))
        });
        let mut observer = host.connect();
        let mut client = host.connect();
        let mut current = || request_counts(&mut observer, b"\0\0\0\x01?");
        client.write_all(b"\0\0\0\0").unwrap();
        current();
        let before = current();
        client.write_all(&ANNOUNCED.to_be_bytes()).unwrap();
        client.write_all(b"and that is all").unwrap();
        current();
        let after = current();
        let kept = after.held - before.held;
        assert!(0 < kept && kept <= 512, "{kept} bytes: {after:?} after {before:?}");
    });
}

/// A message of `size` bytes, of which only the last is a full stop.
fn message(size: usize) -> Vec<u8> {
    let mut bytes = vec![b'-'; size];
    bytes[size - 1] = b'.';
    bytes
}

/// The number of connections of which this process can have both ends: 1000, or fewer if its limit
/// of descriptors cannot be raised enough.
fn affordable_connections() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// Descriptors for other purposes.
    const OTHERS: u64 = 100;
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(2 * 1000 + OTHERS);
    if limit.current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
            .expect("within the limit");
    }
    (wanted - OTHERS) as usize / 2
}

/// Starts reads into the same buffer, one after the other, until `left` is 0.
fn keep_reading(files: &Rc<FileIo>, file: &Rc<File>, left: &Rc<Cell<u32>>, buffer: Vec<u8>) {
    let (same_files, same_file, counting) = (Rc::clone(files), Rc::clone(file), Rc::clone(left));
    files.read(file, buffer, move |_, read, buffer| {
        assert_eq!(read.expect("a read of zeros"), buffer.len());
        counting.set(counting.get() - 1);
        if counting.get() > 0 {
            keep_reading(&same_files, &same_file, &counting, buffer);
        }
    });
}

#[test]
fn a_file_read_allocates_only_its_callback() {
    with_loop(|event_loop| {
        // One thread at most, because the start of a second thread would allocate.
        let files = Rc::new(FileIo::builder().threads(1).build(event_loop).unwrap());
        let zero = Rc::new(File::from(std::fs::File::open("/dev/zero").unwrap()));
        let left = Rc::new(Cell::new(0));
        let read = |reads| {
            left.set(reads);
            keep_reading(&files, &zero, &left, vec![1; 64]);
            while left.get() > 0 {
                event_loop.run_once(None).unwrap();
            }
        };
        read(100);
        let before = counts();
        read(1000);
        let after = counts();
        // A callback for each read, and one buffer.
        assert_eq!((after.allocated - before.allocated, after.freed - before.freed), (1001, 1001));
        assert_eq!(after.held, before.held);
    });
}
