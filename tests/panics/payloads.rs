//! Panics with a payload whose destructor panics, in every callback, and what `call` carries
//! between threads: the payload ends at the callback, is counted once, and the loop goes on.

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
use reveille::task::{CallError, PostErrorReason};
use reveille::{
    Buffer, ConnectionHandler, EventFd, EventLoop, LoopHandle, LoopThread, TcpClient, TcpConnection,
    TcpServer, UdpSocket,
};
use rustix::process::kill_process;

fn blow() {
    panic_any(Payload);
}

fn panics(event_loop: &EventLoop) -> u64 {
    event_loop.handle().counters().panics
}

/// Has `begin` make the loop call something that panics, and waits for the panic; what `begin`
/// returns is kept until then.
fn survives<R>(begin: impl Fn(&EventLoop) -> R + Send + 'static) {
    survives_times(1, begin);
}

fn survives_times<R>(times: u64, begin: impl Fn(&EventLoop) -> R + Send + 'static) {
    with_catching_loop(move |event_loop| {
        let held = begin(event_loop);
        turn_until(event_loop, || panics(event_loop) >= times);
        let ran = Count::default();
        let r = ran.clone();
        event_loop.queue_in_loop(move |_| r.add());
        turn_until(event_loop, || ran.get() == 1);
        drop(held);
        turn(event_loop);
        assert_eq!(panics(event_loop), times);
    });
}

#[test]
fn tasks_and_timers_may_panic_with_any_payload() {
    survives(|event_loop| event_loop.queue_in_loop(|_| blow()));
    survives(|event_loop| {
        let handle = event_loop.handle();
        crate::support::on_another_thread(|| handle.queue_in_loop(|_| blow())).unwrap();
    });
    survives(|event_loop| event_loop.run_at(Instant::now(), |_| blow()));
    survives(|event_loop| event_loop.run_every(Duration::from_nanos(1), |_| blow()));
    survives(|event_loop| event_loop.handle().run_at(Instant::now(), |_| blow()).unwrap());
    survives(|event_loop| event_loop.handle().run_every(Duration::from_nanos(1), |_| blow()).unwrap());
}

#[test]
fn sources_may_panic_with_any_payload() {
    survives(|event_loop| ready_channel(event_loop, |_| blow()));
    survives(|event_loop| EventFd::new(1).unwrap().watch(event_loop, |_, _| blow()).unwrap());
    survives(|event_loop| {
        let folder = Folder::new();
        let watcher = Watcher::new(event_loop, |_| blow()).unwrap();
        watcher.watch(folder.path(), reveille::fs::FileChanges::ALL).unwrap();
        std::fs::write(folder.join("new"), "").unwrap();
        (watcher, folder)
    });
    survives(|event_loop| {
        let (mut here, descriptors) = SharedRing::create(4096).unwrap();
        here.send("word").unwrap();
        let there = SharedRing::from_descriptors(descriptors, 1 << 20).unwrap();
        (there.watch(event_loop, |_, _| blow()).unwrap(), here)
    });
    survives(|event_loop| {
        let files = FileIo::new(event_loop).unwrap();
        files.open("/", OpenOptions::reading(), |_, _| blow());
        files
    });
}

#[test]
fn signals_and_children_may_panic_with_any_payload() {
    alone(|| {
        survives(|event_loop| {
            let signals = Signals::new(event_loop, [Signal::USR1], |_, _| blow()).unwrap();
            kill_process(rustix::process::getpid(), rustix::process::Signal::USR1).unwrap();
            signals
        });
        survives(|event_loop| Child::spawn(event_loop, &mut Command::new("true"), |_, _| blow()).unwrap());
    });
}

/// A handler that panics in one of its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blows {
    Open,
    Message,
    PeerShutdown,
    Close,
}

impl Blows {
    fn at(self, now: Blows) {
        if self == now {
            blow();
        }
    }
}

impl ConnectionHandler for Blows {
    fn on_open(&mut self, _: &TcpConnection<'_>) -> io::Result<()> {
        self.at(Blows::Open);
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        self.at(Blows::Message);
        Ok(())
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.at(Blows::PeerShutdown);
        conn.shutdown();
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection<'_>, _: &CloseReason) {
        self.at(Blows::Close);
    }
}

/// A client that sends a word and its end.
fn visit(server: &TcpServer) -> TcpStream {
    let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    io::Write::write_all(&mut client, b"word").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    client
}

#[test]
fn handlers_of_connections_may_panic_with_any_payload() {
    for blows in [Blows::Open, Blows::Message, Blows::PeerShutdown, Blows::Close] {
        survives(move |event_loop| {
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |_| blows).unwrap();
            (visit(&server), server)
        });
        survives(move |event_loop| {
            let server = TcpServer::bind(event_loop, "127.0.0.1:0")
                .unwrap()
                .serve_fn(|conn, input| conn.send(input.take_all()))
                .unwrap();
            let client = TcpClient::connect(event_loop, server.local_addr().unwrap()).serve(move |conn| {
                conn.handle().send("word").unwrap();
                conn.handle().shutdown();
                blows
            });
            (client.unwrap(), server)
        });
    }
    survives(move |event_loop| {
        let factory = |_: &TcpConnection<'_>| -> Blows { panic_any(Payload) };
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(factory).unwrap();
        (visit(&server), server)
    });
}

#[test]
fn reports_may_panic_with_any_payload() {
    survives(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpClient::connect(event_loop, listener.local_addr().unwrap())
            .on_attempt(|_, _| blow())
            .serve_fn(|_, _| ());
        (client.unwrap(), listener)
    });
    survives(|event_loop| {
        // Bound and not listening, so a connection to it is refused.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let client =
            TcpClient::connect(event_loop, address).on_failure(|_, _| blow()).serve_fn(|_, _| ()).unwrap();
        (client, socket)
    });
    survives(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _| ()).unwrap();
        server.stop(Duration::ZERO, |_, _: StopReport| blow());
    });
}

/// Panics when it receives, and again when it is closed for that.
struct Receives;

impl DatagramHandler for Receives {
    fn on_datagram(&mut self, _: &UdpRef<'_>, _: &[u8], _: SocketAddr) -> io::Result<()> {
        panic_any(Payload)
    }

    fn on_close(&mut self, _: &UdpRef<'_>, _: &CloseReason) {
        blow();
    }
}

#[test]
fn handlers_of_datagrams_may_panic_with_any_payload() {
    survives_times(2, |event_loop| {
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().serve(Receives).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"word", socket.local_addr().unwrap()).unwrap();
        (socket, sender)
    });
}

/// Reports one error of its own, and panics over it, with others behind it.
struct Reports(Count);

impl DatagramHandler for Reports {
    fn on_datagram(&mut self, _: &UdpRef<'_>, _: &[u8], _: SocketAddr) -> io::Result<()> {
        Err(io::Error::other(Bomb::new(&self.0)))
    }

    fn on_error(&mut self, _: &UdpRef<'_>, error: io::Error, _: Option<SocketAddr>) {
        // Of the user's own, and so for the user to keep from unwinding.
        std::mem::forget(error);
        panic!("with others behind it");
    }
}

#[test]
fn errors_behind_one_whose_report_panics_are_dropped_and_counted() {
    with_catching_loop(|event_loop| {
        let drops = Count::default();
        let handler = Reports(drops.clone());
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().serve(handler).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..3 {
            sender.send_to(b"word", socket.local_addr().unwrap()).unwrap();
        }
        turn_until(event_loop, || drops.get() == 2);
        assert_eq!(panics(event_loop), 3);
    });
}

/// A loop on another thread, under a watchdog.
fn with_thread(test: impl FnOnce(&LoopHandle) + Send + 'static) {
    with_watchdog(LIMIT, move || {
        let thread = LoopThread::spawn("loop").unwrap();
        test(thread.handle());
        assert_eq!(thread.handle().call(|_| 1), Ok(1), "the loop goes on");
        thread.join().unwrap();
    });
}

#[test]
fn a_call_may_panic_with_any_payload() {
    with_thread(|handle| {
        assert_eq!(handle.call(|_| blow()), Err(CallError::Panicked));
        assert_eq!(handle.call(|_| 2), Ok(2));
        assert_eq!(handle.counters().panics, 1);
        // On the loop's own thread it is called at once.
        let own = handle.clone();
        assert_eq!(handle.call(move |_| own.call(|_| blow())), Ok(Err(CallError::Panicked)));
        assert_eq!(handle.counters().panics, 2);
    });
}

#[test]
fn a_result_that_comes_too_late_is_dropped_and_counted() {
    with_thread(|handle| {
        let drops = Count::default();
        let (go_on, wait) = mpsc::channel::<()>();
        let (begun, has_begun) = mpsc::channel();
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| {
                let drops = drops.clone();
                handle.call_timeout(Duration::from_millis(50), move |_| {
                    begun.send(()).unwrap();
                    wait.recv().unwrap();
                    Bomb::new(&drops)
                })
            });
            // Else the machine was too slow for the task to begin in time, and there is no result.
            let has_begun = has_begun.recv().is_ok();
            assert_eq!(caller.join().unwrap().err(), Some(CallError::TimedOut));
            assert_eq!(go_on.send(()).is_ok(), has_begun);
            handle.call(|_| ()).unwrap();
            assert_eq!(drops.get(), usize::from(has_begun));
            assert_eq!(handle.counters().panics, u64::from(has_begun));
        });
    });
}

#[test]
fn a_call_that_is_not_run_drops_what_it_captures() {
    with_watchdog(LIMIT, || {
        let drops = Count::default();
        // Refused.
        let handle = EventLoop::new().unwrap().handle();
        let bomb = Bomb::new(&drops);
        assert_eq!(handle.call(move |_| bomb.keep()), Err(CallError::LoopGone));
        assert_eq!(drops.get(), 1);

        // Accepted by a loop that is dropped, or comes to it when the caller has gone.
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
            assert_eq!(caller.join().unwrap(), Err(CallError::LoopGone));
        });
        assert_eq!((drops.get(), handle.counters().panics), (3, 2));

        // Made an error of.
        let bomb = Bomb::new(&drops);
        let refused = handle.queue_in_loop(move |_| bomb.keep()).unwrap_err();
        assert_eq!(refused.reason(), PostErrorReason::LoopGone);
        assert_eq!(io::Error::from(refused).kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(drops.get(), 4);
    });
}

#[test]
fn of_several_payloads_the_first_comes_out_of_the_loop() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().propagate_panics().build().unwrap();
        for _ in 0..3 {
            event_loop.queue_in_loop(|_| blow());
        }
        let payload = catch_unwind(AssertUnwindSafe(|| turn(&event_loop))).unwrap_err();
        assert!(payload.is::<Payload>());
        std::mem::forget(payload);
        assert_eq!(panics(&event_loop), 3);
        turn(&event_loop);

        // One that the drop of the loop brings about ends with the loop.
        let drops = Count::default();
        let bomb = Bomb::new(&drops);
        event_loop.queue_in_loop(move |_| bomb.keep());
        drop(event_loop);
        assert_eq!(drops.get(), 1);
    });
}

/// A logger that panics over panics.
struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.args().to_string().contains("panicked") {
            blow();
        }
    }

    fn flush(&self) {}
}

#[test]
fn the_logger_may_panic_when_a_panic_is_logged() {
    alone(|| {
        log::set_logger(&Logger).unwrap();
        log::set_max_level(log::LevelFilter::Error);
        survives(|event_loop| event_loop.queue_in_loop(|_| blow()));
        survives(|event_loop| {
            let bomb = Bomb::new(&Count::default());
            event_loop.queue_in_loop(move |_| bomb.keep());
        });
    });
}
