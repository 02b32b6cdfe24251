//! The logger of the program, which is user code: it may call the crate, and it may panic. No peer
//! can flood the log.
//!
//! A process has one logger, so each test runs in a separate process.

mod support;

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use reveille::fs::{FileIo, FileIoBackend};
use reveille::io::{Channel, Interest};
use reveille::ipc::SharedRing;
use reveille::net::{ByteStream, Filter, FilterContext, Resolver};
use reveille::signal::{Signal, Signals};
use reveille::time::VirtualClock;
use reveille::{
    Buffer, ConnectionHandler, EventFd, EventLoop, TcpClient, TcpConnection, TcpServer, UdpSocket,
};
use rustix::event::PollFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::alone::alone;
use support::client::Refusing;
use support::knock::{BOMB, Knock, read_greeting};
use support::net::{connect, poll_flags, reset, turn_until, until};
use support::{Count, turn};

/// Stores all lines, and calls the function that the test has set with [`on_line`] for each.
struct Logger;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

type OnLine = Rc<dyn Fn(&str)>;

thread_local! {
    static ON_LINE: RefCell<Option<OnLine>> = const { RefCell::new(None) };
}

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // Ignores the lines of other crates.
        if !record.target().starts_with("reveille") {
            return;
        }
        let line = record.args().to_string();
        LINES.lock().unwrap().push(line.clone());
        let on_line = ON_LINE.with(|on_line| on_line.borrow().clone());
        if let Some(on_line) = on_line {
            on_line(&line);
        }
    }

    fn flush(&self) {}
}

/// Runs `test` in a separate process with that logger.
#[track_caller]
fn with_logger(test: impl FnOnce() + Send + 'static) {
    alone(|| {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(log::LevelFilter::Info);
        test();
        ON_LINE.with(|on_line| on_line.take());
    });
}

fn on_line(act: impl Fn(&str) + 'static) {
    ON_LINE.with(|on_line| *on_line.borrow_mut() = Some(Rc::new(act)));
}

fn lines() -> Vec<String> {
    std::mem::take(&mut LINES.lock().unwrap())
}

// --- Lines that a peer can cause repeatedly ------------------------------------------------------

/// Connects, sends a byte, and waits until the connection is closed.
fn provoke(event_loop: &EventLoop, server: &TcpServer) {
    let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    client.write_all(b"!").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    turn_until(event_loop, || server.counters().accepted > 0 && server.open_connections() == 0);
    client.set_nonblocking(true).unwrap();
    turn_until(
        event_loop,
        || !matches!(client.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
    );
}

#[test]
fn repeated_handler_panics_are_logged_once_a_second() {
    with_logger(|| {
        let clock = VirtualClock::new();
        let event_loop = EventLoop::builder().virtual_clock(clock.clone()).build().unwrap();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve_fn(|_, _| -> std::io::Result<()> { panic!("as the peer likes") }).unwrap();
        for _ in 0..20 {
            provoke(&event_loop, &server);
        }
        let first = lines();
        assert_eq!(first.len(), 1, "{first:?}");
        assert!(first[0].ends_with("panicked: as the peer likes"), "{first:?}");
        clock.advance(Duration::from_secs(1));
        provoke(&event_loop, &server);
        let second = lines();
        assert_eq!(second.len(), 1, "{second:?}");
        assert!(second[0].ends_with("as the peer likes (19 more since the last such line)"), "{second:?}");
        assert_eq!(event_loop.handle().counters().panics, 21);
    });
}

#[test]
fn the_line_of_a_panic_names_what_panicked() {
    with_logger(|| {
        let event_loop = EventLoop::new().unwrap();
        let socket = UdpSocket::bind(&event_loop, "127.0.0.1:0").unwrap();
        let socket = socket.serve_fn(|_, _, _| -> std::io::Result<()> { panic!("a bug") }).unwrap();
        let address = socket.local_addr().unwrap();
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", address).unwrap();
        turn_until(&event_loop, || !socket.is_open());

        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let channel = Channel::new(&event_loop, ours, Interest::READABLE, |_| panic!("a bug")).unwrap();
        turn_until(&event_loop, || !channel.is_open());

        let eventfd = EventFd::new(1).unwrap().watch(&event_loop, |_, _| panic!("a bug")).unwrap();
        turn_until(&event_loop, || !eventfd.is_open());

        let usr1 = Signals::new(&event_loop, [Signal::USR1], |_, _| panic!("a bug")).unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::USR1).unwrap();
        turn_until(&event_loop, || event_loop.handle().counters().panics == 4);
        drop(usr1);

        event_loop.run_after(Duration::ZERO, |_| panic!("a bug"));
        turn_until(&event_loop, || event_loop.handle().counters().panics == 5);
        event_loop.queue_in_loop(|_| panic!("a bug"));
        turn_until(&event_loop, || event_loop.handle().counters().panics == 6);
        assert_eq!(
            lines(),
            [
                format!("a callback of a UDP socket at {address} panicked: a bug").as_str(),
                "a callback of a channel panicked: a bug",
                "a callback of a watched eventfd panicked: a bug",
                "a callback of a signal source panicked: a bug",
                "a timer's callback panicked: a bug",
                "a task panicked: a bug",
            ]
        );
    });
}

/// Panics as a filter and as a handler.
struct Buggy;

impl ConnectionHandler for Buggy {
    fn on_message(&mut self, _: &TcpConnection, _: &mut Buffer) -> std::io::Result<()> {
        panic!("a bug");
    }
}

impl Filter for Buggy {
    fn decode(&mut self, _: &mut FilterContext<'_>, _: &mut Buffer, _: &mut Buffer) -> std::io::Result<()> {
        panic!("a bug");
    }
}

#[test]
fn panics_of_filters_and_lookups_name_their_peers_and_targets() {
    with_logger(|| {
        let event_loop = EventLoop::new().unwrap();
        let panics = || event_loop.handle().counters().panics;
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().filter(|| Buggy);
        let server = server.serve_fn(|_, _| ()).unwrap();
        let mut peer = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let address = peer.local_addr().unwrap();
        peer.write_all(b"x").unwrap();
        turn_until(&event_loop, || panics() == 1);

        let (input, mut writer) = std::io::pipe().unwrap();
        let (_unread, output) = std::io::pipe().unwrap();
        let (input, output) = (OwnedFd::from(input), OwnedFd::from(output));
        TcpConnection::adopt_pipes(&event_loop, input, output, |_| Buggy).unwrap();
        writer.write_all(b"x").unwrap();
        turn_until(&event_loop, || panics() == 2);

        let resolver = Resolver::new(&event_loop).unwrap();
        resolver.lookup("127.0.0.1:80", |_, _| panic!("a bug")).unwrap().detach();
        turn_until(&event_loop, || panics() == 3);
        assert_eq!(
            lines(),
            [
                &format!("a filter of a connection with {address} panicked: a bug"),
                "a callback of a connection without an address panicked: a bug",
                "the callback of a lookup of \"127.0.0.1:80\" panicked: a bug",
            ]
        );
    });
}

#[test]
fn attempts_to_connect_are_logged_at_debug() {
    with_logger(|| {
        let event_loop = EventLoop::new().unwrap();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve_fn(|_, _| ()).unwrap();
        let address = server.local_addr().unwrap();
        let session = || {
            let client = TcpClient::connect(&event_loop, address).serve_fn(|_, _| ()).unwrap();
            turn_until(&event_loop, || client.handle().is_some());
        };
        session();
        assert!(lines().is_empty());
        log::set_max_level(log::LevelFilter::Debug);
        session();
        assert_eq!(lines(), [format!("connected to {address}")]);

        let refusing = [Refusing::new(), Refusing::new()];
        let [a, b] = [refusing[0].address(), refusing[1].address()];
        let failed = Count::default();
        let adding = failed.clone();
        let _client = TcpClient::connect(&event_loop, [a, b])
            .on_failure(move |_, _| adding.add())
            .serve_fn(|_, _| ())
            .unwrap();
        turn_until(&event_loop, || failed.get() == 1);
        let line =
            |address| format!("cannot connect to {a}, {b} ({address}): Connection refused (os error 111)");
        assert_eq!(lines(), [line(a), line(b)]);
    });
}

#[test]
fn failed_handshakes_are_logged_once_a_second() {
    with_logger(|| {
        let clock = VirtualClock::new();
        let event_loop = EventLoop::builder().virtual_clock(clock.clone()).build().unwrap();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().filter(Knock::default);
        let server = server.serve_fn(|conn, _| conn.close()).unwrap();
        let address = server.local_addr().unwrap();
        let connect = || {
            let mut peer = connect(address);
            let accepted = server.counters().accepted;
            turn_until(&event_loop, || server.counters().accepted > accepted);
            read_greeting(&mut peer);
            peer
        };
        let end = |peer: &mut TcpStream, bytes: &[u8]| {
            peer.write_all(bytes).unwrap();
            turn_until(&event_loop, || server.open_connections() == 0);
        };
        let mut first = connect();
        end(&mut first, b"x");
        for n in 0..19 {
            let peer = connect();
            match n % 2 {
                0 => peer.shutdown(Shutdown::Write).unwrap(),
                _ => reset(peer.try_clone().unwrap()),
            }
            drop(peer);
            turn_until(&event_loop, || server.open_connections() == 0);
        }
        let from = |peer: &TcpStream| peer.local_addr().unwrap();
        let line = format!("the handshake of a connection from {} failed: not a knock", from(&first));
        assert_eq!(lines(), [line]);

        clock.advance(Duration::from_secs(1));
        let silent = connect();
        clock.advance(Duration::from_secs(10));
        turn_until(&event_loop, || server.open_connections() == 0);
        let reason = "the handshake was not completed within 10s (19 more since the last such line)";
        let line = format!("the handshake of a connection from {} failed: {reason}", from(&silent));
        assert_eq!(lines(), [line]);
        assert_eq!(server.counters().failed_handshakes, 21);

        // Only the panic itself is logged, and nothing if the handshake is completed or the server
        // ends.
        clock.advance(Duration::from_secs(1));
        end(&mut connect(), BOMB);
        assert_eq!(server.counters().failed_handshakes, 22);
        end(&mut connect(), b"!close");
        let last = connect();
        drop(server);
        turn_until(&event_loop, || poll_flags(&last).contains(PollFlags::IN));
        let logged = lines();
        assert!(logged.len() == 1 && logged[0].ends_with("panicked: a filter"), "{logged:?}");
    });
}

#[test]
fn errors_of_tasks_are_logged_once_a_second() {
    with_logger(|| {
        let clock = VirtualClock::new();
        let event_loop = EventLoop::builder().virtual_clock(clock.clone()).build().unwrap();
        let serve = |mut stream: ByteStream| async move {
            let mut byte = [0; 1];
            stream.read_exact(&mut byte).await?;
            Err(match byte[0] {
                b'!' => std::io::Error::other("a bug"),
                _ => std::io::ErrorKind::ConnectionReset.into(),
            })
        };
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().serve_async(serve).unwrap();
        let address = server.local_addr().unwrap();
        let provoke = |bytes: &[u8]| {
            let accepted = server.counters().accepted;
            let mut client = connect(address);
            client.write_all(bytes).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let from = client.local_addr().unwrap();
            turn_until(&event_loop, || {
                server.counters().accepted > accepted && server.open_connections() == 0
            });
            from
        };
        let of_tasks = || {
            let lines = lines().into_iter();
            lines.filter(|line| line.starts_with("the task of the connection")).collect::<Vec<_>>()
        };
        let first = provoke(b"!");
        (0..20).for_each(|_| _ = provoke(b"!"));
        assert_eq!(lines(), [format!("the task of the connection from {first} has failed: a bug")]);
        clock.advance(Duration::from_secs(1));
        let next = provoke(b"!");
        let line = format!("the task of the connection from {next} has failed: a bug");
        assert_eq!(lines(), [format!("{line} (20 more since the last such line)")]);
        // That the peer is gone is a line for debugging.
        provoke(b"r");
        provoke(b"");
        assert_eq!(lines(), [""; 0]);
        log::set_max_level(log::LevelFilter::Debug);
        clock.advance(Duration::from_secs(1));
        let gone = provoke(b"");
        let error = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let line = format!("the task of the connection from {gone} has ended: {error}");
        assert_eq!(of_tasks(), [format!("{line} (1 more since the last such line)")]);
    });
}

#[test]
fn repeated_broken_rings_are_logged_once_a_second() {
    with_logger(|| {
        let clock = VirtualClock::new();
        let event_loop = EventLoop::builder().virtual_clock(clock.clone()).build().unwrap();
        let break_one = || {
            let (here, descriptors) = SharedRing::create(4096).unwrap();
            let source = here.watch(&event_loop, |_, _| ()).unwrap();
            turn(&event_loop);
            // Overwrites the tail of the ring that `source` reads.
            use std::os::unix::fs::FileExt;
            let [memory, bell, _] = descriptors.try_into().unwrap();
            File::from(memory).write_all_at(&u64::MAX.to_ne_bytes(), 5 * 128).unwrap();
            EventFd::from(bell).try_read().unwrap();
            turn_until(&event_loop, || !source.is_open());
        };
        (0..10).for_each(|_| break_one());
        assert_eq!(lines().len(), 1);
        clock.advance(Duration::from_secs(1));
        break_one();
        let second = lines();
        assert!(second.len() == 1 && second[0].contains("(9 more"), "{second:?}");
    });
}

// --- A logger that calls the crate ---------------------------------------------------------------

/// Limits the address space during `call`, so that no thread can be started.
fn without_new_threads<R>(call: impl FnOnce() -> R) -> R {
    // The threads of the harness must have started: the main thread, the thread of the test, this
    // thread and the thread that joins it.
    until(|| fs::read_dir("/proc/self/task").unwrap().count() >= 4);
    let before = getrlimit(Resource::As);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.strip_suffix("kB")).unwrap();
    let size = size.trim().parse::<u64>().unwrap() << 10;
    setrlimit(Resource::As, Rlimit { current: Some(size + (512 << 10)), maximum: before.maximum }).unwrap();
    let result = call();
    setrlimit(Resource::As, before).unwrap();
    result
}

fn one_thread(event_loop: &EventLoop) -> Rc<FileIo> {
    Rc::new(FileIo::builder().backend(FileIoBackend::ThreadPool).threads(1).build(event_loop).unwrap())
}

/// Starts an operation, which completes with or without a thread.
fn start_operation(files: &FileIo, completed: &Count) {
    let completed = completed.clone();
    files.metadata_at("/", move |_, _| completed.add());
}

#[test]
fn a_logger_may_use_files_post_send_and_close() {
    with_logger(|| {
        let event_loop = EventLoop::new().unwrap();
        let files = one_thread(&event_loop);
        let completed = Count::default();
        let socket = UdpSocket::bind(&event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _, _| ()).unwrap();
        let closed =
            Rc::new(RefCell::new(Some(EventFd::new(0).unwrap().watch(&event_loop, |_, _| ()).unwrap())));
        let posted = Count::default();
        {
            let (files, completed, handle) = (Rc::clone(&files), completed.clone(), event_loop.handle());
            let (posted, closed) = (posted.clone(), Rc::clone(&closed));
            let address = socket.local_addr().unwrap();
            on_line(move |_| {
                start_operation(&files, &completed);
                assert!(files.pending() > 0);
                let ran = posted.drop_token();
                handle.queue_in_loop(move |_| drop(ran)).unwrap();
                handle.run_after(Duration::ZERO, |_| ()).unwrap();
                socket.send_to("a line", address).unwrap();
                closed.borrow_mut().take();
            });
        }
        without_new_threads(|| {
            start_operation(&files, &completed);
            turn_until(&event_loop, || completed.get() >= 1);
        });
        let logged = lines();
        assert!(logged[0].contains("cannot start a thread for files"), "{logged:?}");
        // The operations of the logger complete too, and so do later ones.
        start_operation(&files, &completed);
        turn_until(&event_loop, || completed.get() == logged.len() + 2 && files.pending() == 0);
        assert!(closed.borrow().is_none());
        turn_until(&event_loop, || posted.get() == logged.len());
        assert_eq!(event_loop.handle().counters().panics, 0);
    });
}

#[test]
fn a_panicking_logger_does_not_disable_the_file_threads() {
    with_logger(|| {
        let event_loop = EventLoop::new().unwrap();
        let files = one_thread(&event_loop);
        let completed = Count::default();
        on_line(|_| panic!("a logger"));
        without_new_threads(|| {
            start_operation(&files, &completed);
            turn_until(&event_loop, || completed.get() == 1);
        });
        assert_eq!(lines().len(), 1);
        // If the failed thread were still counted, no thread would be started for this operation.
        start_operation(&files, &completed);
        turn_until(&event_loop, || completed.get() == 2);
    });
}

#[test]
fn a_logger_panic_about_a_panic_closes_one_connection() {
    with_logger(|| {
        let event_loop = EventLoop::new().unwrap();
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve_fn(|_, _| -> std::io::Result<()> { panic!("a handler") }).unwrap();
        on_line(|_| panic!("a logger"));
        for n in 1..=3 {
            provoke(&event_loop, &server);
            assert_eq!((event_loop.handle().counters().panics, server.open_connections()), (n, 0));
        }
    });
}
