//! The program's logger is the user's code: it may call into the crate, and panic. And no peer
//! fills the log.
//!
//! A program has one logger, so each test has a process of its own.

mod support;

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use reveille::fs::{FileIo, FileIoBackend};
use reveille::ipc::SharedRing;
use reveille::time::VirtualClock;
use reveille::{EventFd, EventLoop, TcpServer, UdpSocket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::alone::alone;
use support::net::{turn_until, until};
use support::{Count, turn};

/// Keeps all lines, and does with each what a test says.
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
        // What other crates log is not looked at here.
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

/// Runs `test` in a process with that logger.
#[track_caller]
fn logged(test: impl FnOnce() + Send + 'static) {
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

// --- What a peer can bring about again and again
// --------------------------------------------------

/// Connects, says something, and waits for the end of the connection.
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
fn handlers_that_panic_are_one_line_a_second_with_the_number_of_the_others() {
    logged(|| {
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
fn rings_that_peers_break_are_one_line_a_second() {
    logged(|| {
        let clock = VirtualClock::new();
        let event_loop = EventLoop::builder().virtual_clock(clock.clone()).build().unwrap();
        let break_one = || {
            let (here, descriptors) = SharedRing::create(4096).unwrap();
            let source = here.watch(&event_loop, |_, _| ()).unwrap();
            turn(&event_loop);
            // The tail of the taker's ring.
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

// --- A logger that calls into the crate
// -----------------------------------------------------------

/// Leaves so little room in the address space that no thread finds room for its stack.
fn without_room_for_threads<R>(call: impl FnOnce() -> R) -> R {
    // Those of the harness are there before: the first, the test's, this one and the one that joins
    // this one.
    until(|| fs::read_dir("/proc/self/task").unwrap().count() >= 4);
    let usual = getrlimit(Resource::As);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.strip_suffix("kB")).unwrap();
    let size = size.trim().parse::<u64>().unwrap() << 10;
    setrlimit(Resource::As, Rlimit { current: Some(size + (512 << 10)), maximum: usual.maximum }).unwrap();
    let result = call();
    setrlimit(Resource::As, usual).unwrap();
    result
}

fn one_thread(event_loop: &EventLoop) -> Rc<FileIo> {
    Rc::new(FileIo::builder().backend(FileIoBackend::ThreadPool).threads(1).build(event_loop).unwrap())
}

/// Begins an operation that ends with or without a thread.
fn begin(files: &FileIo, ended: &Count) {
    let ending = ended.clone();
    files.metadata_at("/", move |_, _| ending.add());
}

#[test]
fn a_logger_that_uses_files_posts_sends_and_closes_finds_everything_usable() {
    logged(|| {
        let event_loop = EventLoop::new().unwrap();
        let files = one_thread(&event_loop);
        let ended = Count::default();
        let socket = UdpSocket::bind(&event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _, _| ()).unwrap();
        let closed =
            Rc::new(RefCell::new(Some(EventFd::new(0).unwrap().watch(&event_loop, |_, _| ()).unwrap())));
        let posted = Count::default();
        {
            let (files, ended, handle) = (Rc::clone(&files), ended.clone(), event_loop.handle());
            let (posted, closed) = (posted.clone(), Rc::clone(&closed));
            let address = socket.local_addr().unwrap();
            on_line(move |_| {
                begin(&files, &ended);
                assert!(files.pending() > 0);
                let ran = posted.drop_token();
                handle.queue_in_loop(move |_| drop(ran)).unwrap();
                handle.run_after(Duration::ZERO, |_| ()).unwrap();
                socket.send_to("a line", address).unwrap();
                closed.borrow_mut().take();
            });
        }
        without_room_for_threads(|| {
            begin(&files, &ended);
            turn_until(&event_loop, || ended.get() >= 1);
        });
        let said = lines();
        assert!(said[0].contains("cannot start a thread for files"), "{said:?}");
        // The logger's own operation ends too, and so do others.
        begin(&files, &ended);
        turn_until(&event_loop, || ended.get() == said.len() + 2 && files.pending() == 0);
        assert!(closed.borrow().is_none());
        turn_until(&event_loop, || posted.get() == said.len());
        assert_eq!(event_loop.handle().counters().panics, 0);
    });
}

#[test]
fn a_logger_that_panics_leaves_files_their_threads() {
    logged(|| {
        let event_loop = EventLoop::new().unwrap();
        let files = one_thread(&event_loop);
        let ended = Count::default();
        on_line(|_| panic!("a logger"));
        without_room_for_threads(|| {
            begin(&files, &ended);
            turn_until(&event_loop, || ended.get() == 1);
        });
        assert_eq!(lines().len(), 1);
        // A thread that was counted and is not there would be waited for.
        begin(&files, &ended);
        turn_until(&event_loop, || ended.get() == 2);
    });
}

#[test]
fn a_logger_that_panics_over_a_panic_costs_one_connection() {
    logged(|| {
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
