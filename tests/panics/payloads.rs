//! Panics with a payload whose destructor panics, in every callback and in values that `call` moves
//! between threads. Each panic is caught at the callback and counted once, and the loop continues.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::alone::alone;
use crate::support::bomb::{Bomb, Payload};
use crate::support::folder::Folder;
use crate::support::net::{self, turn_until};
use crate::support::ready::ready_channel;
use crate::support::{Count, LIMIT, turn, with_catching_loop, with_watchdog};
use reveille::fs::{FileIo, OpenOptions, Watcher};
use reveille::ipc::SharedRing;
use reveille::net::{CloseReason, DatagramHandler, StopReport, UdpRef};
use reveille::process::Child;
use reveille::signal::{Signal, Signals};
use reveille::task::{CallError, PostError};
use reveille::{
    Buffer, ConnectionHandler, EventFd, EventLoop, LoopHandle, LoopThread, TcpClient, TcpConnection,
    TcpServer, UdpSocket,
};
use rustix::process::kill_process;

fn panic_with_payload() {
    panic_any(Payload);
}

fn panics(event_loop: &EventLoop) -> u64 {
    event_loop.handle().counters().panics
}

/// Checks that a loop continues after a panic. `begin` causes one panic in a callback, after which
/// its result is dropped.
fn survives<R>(begin: impl Fn(&EventLoop) -> R + Send + 'static) {
    survives_times(1, begin);
}

/// Same as [`survives`], for `times` panics.
fn survives_times<R>(times: u64, begin: impl Fn(&EventLoop) -> R + Send + 'static) {
    with_catching_loop(move |event_loop| {
        let held = begin(event_loop);
        turn_until(event_loop, || panics(event_loop) >= times);
        let ran = Count::default();
        let in_task = ran.clone();
        event_loop.queue_in_loop(move |_| in_task.add());
        turn_until(event_loop, || ran.get() == 1);
        drop(held);
        turn(event_loop);
        assert_eq!(panics(event_loop), times);
    });
}

#[test]
fn tasks_and_timers_may_panic_with_any_payload() {
    survives(|event_loop| event_loop.queue_in_loop(|_| panic_with_payload()));
    survives(|event_loop| {
        let handle = event_loop.handle();
        crate::support::on_another_thread(|| handle.queue_in_loop(|_| panic_with_payload())).unwrap();
    });
    survives(|event_loop| event_loop.run_at(Instant::now(), |_| panic_with_payload()));
    survives(|event_loop| event_loop.run_every(Duration::from_nanos(1), |_| panic_with_payload()));
    survives(|event_loop| event_loop.handle().run_at(Instant::now(), |_| panic_with_payload()).unwrap());
    survives(|event_loop| {
        event_loop.handle().run_every(Duration::from_nanos(1), |_| panic_with_payload()).unwrap()
    });
}

#[test]
fn sources_may_panic_with_any_payload() {
    survives(|event_loop| ready_channel(event_loop, |_| panic_with_payload()));
    survives(|event_loop| EventFd::new(1).unwrap().watch(event_loop, |_, _| panic_with_payload()).unwrap());
    survives(|event_loop| {
        let folder = Folder::new();
        let watcher = Watcher::new(event_loop, |_| panic_with_payload()).unwrap();
        watcher.watch(folder.path(), reveille::fs::FileChanges::ALL).unwrap();
        std::fs::write(folder.join("new"), "").unwrap();
        (watcher, folder)
    });
    survives(|event_loop| {
        let (mut here, descriptors) = SharedRing::create(4096).unwrap();
        here.send("word").unwrap();
        let there = SharedRing::from_descriptors(descriptors, 1 << 20).unwrap();
        (there.watch(event_loop, |_, _| panic_with_payload()).unwrap(), here)
    });
    survives(|event_loop| {
        let files = FileIo::new(event_loop).unwrap();
        files.open("/", OpenOptions::reading(), |_, _| panic_with_payload());
        files
    });
}

#[test]
fn signals_and_children_may_panic_with_any_payload() {
    alone(|| {
        survives(|event_loop| {
            let signals = Signals::new(event_loop, [Signal::USR1], |_, _| panic_with_payload()).unwrap();
            kill_process(rustix::process::getpid(), rustix::process::Signal::USR1).unwrap();
            signals
        });
        survives(|event_loop| {
            Child::spawn(event_loop, &mut Command::new("true"), |_, _| panic_with_payload()).unwrap()
        });
    });
}

/// A handler that panics in the named callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PanicsIn {
    Open,
    Message,
    PeerShutdown,
    Close,
}

impl PanicsIn {
    fn enter(self, callback: PanicsIn) {
        if self == callback {
            panic_with_payload();
        }
    }
}

impl ConnectionHandler for PanicsIn {
    fn on_open(&mut self, _: &TcpConnection<'_>) -> io::Result<()> {
        self.enter(PanicsIn::Open);
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        self.enter(PanicsIn::Message);
        Ok(())
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.enter(PanicsIn::PeerShutdown);
        conn.shutdown();
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection<'_>, _: &CloseReason) {
        self.enter(PanicsIn::Close);
    }
}

/// A client that sends a word and then finishes its output.
fn connect(server: &TcpServer) -> TcpStream {
    let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    io::Write::write_all(&mut client, b"word").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    client
}

#[test]
fn handlers_of_connections_may_panic_with_any_payload() {
    for handler in [PanicsIn::Open, PanicsIn::Message, PanicsIn::PeerShutdown, PanicsIn::Close] {
        survives(move |event_loop| {
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |_| handler).unwrap();
            (connect(&server), server)
        });
        survives(move |event_loop| {
            let server = TcpServer::bind(event_loop, "127.0.0.1:0")
                .unwrap()
                .serve_fn(|conn, input| conn.send(input.take_all()))
                .unwrap();
            let client = TcpClient::connect(event_loop, server.local_addr().unwrap()).serve(move |conn| {
                conn.handle().send("word").unwrap();
                conn.handle().shutdown();
                handler
            });
            (client.unwrap(), server)
        });
    }
    survives(move |event_loop| {
        let factory = |_: &TcpConnection<'_>| -> PanicsIn { panic_any(Payload) };
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(factory).unwrap();
        (connect(&server), server)
    });
}

#[test]
fn reports_may_panic_with_any_payload() {
    survives(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpClient::connect(event_loop, listener.local_addr().unwrap())
            .on_attempt(|_, _| panic_with_payload())
            .serve_fn(|_, _| ());
        (client.unwrap(), listener)
    });
    survives(|event_loop| {
        // Bound and not listening, so a connection to it is refused.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let client = TcpClient::connect(event_loop, address)
            .on_failure(|_, _| panic_with_payload())
            .serve_fn(|_, _| ())
            .unwrap();
        (client, socket)
    });
    survives(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _| ()).unwrap();
        server.stop(Duration::ZERO, |_, _: StopReport| panic_with_payload());
    });
}

/// Panics when it receives a datagram, and again when it is closed.
struct PanicsOnDatagram;

impl DatagramHandler for PanicsOnDatagram {
    fn on_datagram(&mut self, _: &UdpRef<'_>, _: &[u8], _: SocketAddr) -> io::Result<()> {
        panic_any(Payload)
    }

    fn on_close(&mut self, _: &UdpRef<'_>, _: &CloseReason) {
        panic_with_payload();
    }
}

#[test]
fn handlers_of_datagrams_may_panic_with_any_payload() {
    survives_times(2, |event_loop| {
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().serve(PanicsOnDatagram).unwrap();
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.send_to(b"word", socket.local_addr().unwrap()).unwrap();
        (socket, peer)
    });
}

/// Fails with a bomb for each datagram. Panics when the first error is reported, while other errors
/// are waiting.
struct PanicsOnError(Count);

impl DatagramHandler for PanicsOnError {
    fn on_datagram(&mut self, _: &UdpRef<'_>, _: &[u8], _: SocketAddr) -> io::Result<()> {
        Err(io::Error::other(Bomb::new(&self.0)))
    }

    fn on_error(&mut self, _: &UdpRef<'_>, error: io::Error, _: Option<SocketAddr>) {
        // The handler owns the error. Its destructor would panic while this panic unwinds.
        std::mem::forget(error);
        panic!("the report panics");
    }
}

#[test]
fn errors_after_a_panicking_report_are_dropped_and_counted() {
    with_catching_loop(|event_loop| {
        let drops = Count::default();
        let handler = PanicsOnError(drops.clone());
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().serve(handler).unwrap();
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..3 {
            peer.send_to(b"word", socket.local_addr().unwrap()).unwrap();
        }
        turn_until(event_loop, || drops.get() == 2);
        assert_eq!(panics(event_loop), 3);
    });
}

/// Runs `test` with a loop on another thread, under a watchdog.
fn with_thread(test: impl FnOnce(&LoopHandle) + Send + 'static) {
    with_watchdog(LIMIT, move || {
        let thread = LoopThread::spawn("loop").unwrap();
        test(thread.handle());
        assert_eq!(thread.handle().call(|_| 1), Ok(1), "the loop does not run tasks");
        thread.join().unwrap();
    });
}

#[test]
fn a_call_may_panic_with_any_payload() {
    with_thread(|handle| {
        assert_eq!(handle.call(|_| panic_with_payload()), Err(CallError::Panicked));
        assert_eq!(handle.call(|_| 2), Ok(2));
        assert_eq!(handle.counters().panics, 1);
        // On the loop's own thread the closure is called at once.
        let own = handle.clone();
        assert_eq!(handle.call(move |_| own.call(|_| panic_with_payload())), Ok(Err(CallError::Panicked)));
        assert_eq!(handle.counters().panics, 2);
    });
}

#[test]
fn a_late_result_of_a_call_is_dropped_and_counted() {
    with_thread(|handle| {
        let drops = Count::default();
        let (resume, resumed) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| {
                let drops = drops.clone();
                handle.call_timeout(Duration::from_millis(50), move |_| {
                    started.send(()).unwrap();
                    resumed.recv().unwrap();
                    Bomb::new(&drops)
                })
            });
            // On a slow machine the call may time out before the task starts.
            let has_started = has_started.recv().is_ok();
            assert_eq!(caller.join().unwrap().err(), Some(CallError::TimedOut));
            assert_eq!(resume.send(()).is_ok(), has_started);
            handle.call(|_| ()).unwrap();
            assert_eq!(drops.get(), usize::from(has_started));
            assert_eq!(handle.counters().panics, u64::from(has_started));
        });
    });
}

#[test]
fn a_call_that_does_not_run_drops_its_captures() {
    with_watchdog(LIMIT, || {
        let drops = Count::default();
        // The call is refused.
        let handle = EventLoop::new().unwrap().handle();
        let bomb = Bomb::new(&drops);
        assert_eq!(handle.call(move |_| bomb.keep()), Err(CallError::LoopEnded));
        assert_eq!(drops.get(), 1);

        // Both calls are accepted. The first waits until the loop is dropped, the second times out
        // at once.
        let event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        std::thread::scope(|scope| {
            let bomb = Bomb::new(&drops);
            let caller = scope.spawn(|| handle.call(move |_| bomb.keep()));
            net::until(|| handle.counters().tasks_posted == 1);
            let bomb = Bomb::new(&drops);
            let own = handle.clone();
            let late = scope.spawn(move || own.call_timeout(Duration::ZERO, move |_| bomb.keep()));
            assert_eq!(late.join().unwrap(), Err(CallError::TimedOut));
            drop(event_loop);
            assert_eq!(caller.join().unwrap(), Err(CallError::LoopEnded));
        });
        assert_eq!((drops.get(), handle.counters().panics), (3, 2));

        // The task is refused, and then dropped by the conversion into an I/O error.
        let bomb = Bomb::new(&drops);
        let refused = handle.queue_in_loop(move |_| bomb.keep()).unwrap_err();
        assert_eq!(refused.reason(), PostError::LoopEnded);
        assert_eq!(io::Error::from(refused).kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(drops.get(), 4);
    });
}

#[test]
fn only_the_first_payload_of_a_turn_is_propagated() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().propagate_panics().build().unwrap();
        for _ in 0..3 {
            event_loop.queue_in_loop(|_| panic_with_payload());
        }
        let payload = catch_unwind(AssertUnwindSafe(|| turn(&event_loop))).unwrap_err();
        assert!(payload.is::<Payload>());
        std::mem::forget(payload);
        assert_eq!(panics(&event_loop), 3);
        turn(&event_loop);

        // A panic caused by the drop of the loop is not propagated.
        let drops = Count::default();
        let bomb = Bomb::new(&drops);
        event_loop.queue_in_loop(move |_| bomb.keep());
        drop(event_loop);
        assert_eq!(drops.get(), 1);
    });
}

/// A logger that panics when a panic is logged.
struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.args().to_string().contains("panicked") {
            panic_with_payload();
        }
    }

    fn flush(&self) {}
}

#[test]
fn the_logger_may_panic_when_a_panic_is_logged() {
    alone(|| {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(log::LevelFilter::Error);
        survives(|event_loop| event_loop.queue_in_loop(|_| panic_with_payload()));
        survives(|event_loop| {
            let bomb = Bomb::new(&Count::default());
            event_loop.queue_in_loop(move |_| bomb.keep());
        });
    });
}
