//! User values whose destructors panic, with a payload whose own destructor panics. Wherever the
//! crate stores such a value, its panic is counted once, affects nothing else, and never aborts the
//! process.

use std::any::Any;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::support::alone::alone;
use crate::support::bomb::{Bomb, BombSocket};
use crate::support::files::pipe;
use crate::support::net::{self, turn_until};
use crate::support::{Count, on_another_thread, turn, with_catching_loop};
use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::fs::{FileIo, FileIoBackend, Watcher};
use reveille::io::{Channel, Interest};
use reveille::ipc::{RingHandler, RingRef, SharedRing};
use reveille::net::{DatagramHandler, UdpRef};
use reveille::process::Child;
use reveille::signal::{Signal, Signals};
use reveille::time::Repeat;
use reveille::{
    Buffer, ConnectionHandler, EventFd, EventLoop, TcpClient, TcpConnection, TcpServer, UdpSocket,
};

/// Ends an entry, so that its bombs are dropped.
type End = Box<dyn FnOnce(&EventLoop)>;

fn by_drop(holder: impl Any) -> End {
    Box::new(move |_| drop(holder))
}

/// An object of a loop that stores bombs.
struct Entry {
    name: &'static str,
    /// The number of bombs that it stores.
    bombs: usize,
    /// Creates the object, with bombs from the given function. The result ends it.
    begin: fn(&EventLoop, &mut dyn FnMut() -> Bomb) -> End,
}

static ENTRIES: [Entry; 21] = [
    Entry { name: "task", bombs: 1, begin: task },
    Entry { name: "posted task", bombs: 1, begin: posted_task },
    Entry { name: "timer", bombs: 1, begin: timer },
    Entry { name: "repeating timer", bombs: 1, begin: repeating_timer },
    Entry { name: "timer created through a handle", bombs: 1, begin: handle_timer },
    Entry { name: "repeating timer created through a handle", bombs: 1, begin: repeating_handle_timer },
    Entry { name: "channel", bombs: 2, begin: channel },
    Entry { name: "eventfd", bombs: 1, begin: eventfd },
    Entry { name: "signals", bombs: 1, begin: signals },
    Entry { name: "child", bombs: 1, begin: child },
    Entry { name: "watcher", bombs: 1, begin: watcher },
    Entry { name: "shared ring", bombs: 1, begin: shared_ring },
    Entry { name: "file operation by threads", bombs: 1, begin: threads_file },
    Entry { name: "file operation", bombs: 1, begin: any_file },
    Entry { name: "UDP socket", bombs: 1, begin: udp },
    Entry { name: "server", bombs: 2, begin: server },
    Entry { name: "server that calls a closure", bombs: 1, begin: closure_server },
    Entry { name: "server of frames", bombs: 3, begin: frame_server },
    Entry { name: "server with a value per loop", bombs: 2, begin: per_loop_server },
    Entry { name: "client", bombs: 3, begin: client },
    Entry { name: "report of a stop", bombs: 1, begin: stop_report },
];

fn task(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let bomb = bomb();
    event_loop.queue_in_loop(move |_| bomb.keep());
    Box::new(turn)
}

fn posted_task(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let (handle, bomb) = (event_loop.handle(), bomb());
    on_another_thread(move || handle.queue_in_loop(move |_| bomb.keep()).map_err(drop)).unwrap();
    Box::new(turn)
}

fn timer(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let bomb = bomb();
    let id = event_loop.run_after(Duration::MAX, move |_| bomb.keep());
    Box::new(move |event_loop| assert!(event_loop.cancel(id)))
}

fn repeating_timer(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let bomb = bomb();
    let id = event_loop.run_every(Duration::MAX, move |_| bomb.keep());
    Box::new(move |event_loop| assert!(event_loop.cancel(id)))
}

fn handle_timer(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let bomb = bomb();
    let id = event_loop.handle().run_after(Duration::MAX, move |_| bomb.keep()).unwrap();
    Box::new(move |event_loop| assert!(event_loop.handle().cancel(id)))
}

fn repeating_handle_timer(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let bomb = bomb();
    let repeat = Repeat::from(Duration::MAX);
    let id = event_loop.handle().run_every(repeat, move |_| bomb.keep()).unwrap();
    Box::new(move |event_loop| assert!(event_loop.cancel(id)))
}

/// One bomb in the source, and one in the callback.
fn channel(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (source, bomb) = (BombSocket { socket: ours, bomb: bomb() }, bomb());
    let channel = Channel::new(event_loop, source, Interest::READABLE, move |event| {
        let _ = &theirs;
        bomb.keep();
        event.source().bomb.keep();
    });
    by_drop(channel.unwrap())
}

fn eventfd(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let bomb = bomb();
    by_drop(EventFd::new(0).unwrap().watch(event_loop, move |_, _| bomb.keep()).unwrap())
}

fn signals(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let bomb = bomb();
    by_drop(Signals::new(event_loop, [Signal::USR2], move |_, _| bomb.keep()).unwrap())
}

fn child(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let (bomb, exited) = (bomb(), Count::default());
    let at_exit = exited.clone();
    let mut command = Command::new("cat");
    let child = Child::spawn(event_loop, command.stdin(Stdio::piped()), move |_, _| {
        at_exit.add();
        bomb.keep();
    });
    let child = child.unwrap().kill_on_drop();
    Box::new(move |event_loop| {
        drop(child);
        turn_until(event_loop, || exited.get() == 1);
    })
}

fn watcher(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let bomb = bomb();
    by_drop(Watcher::new(event_loop, move |_| bomb.keep()).unwrap())
}

/// A handler that holds a bomb.
struct Holder(#[allow(dead_code, reason = "only its destructor is used")] Bomb);

impl RingHandler for Holder {
    fn on_message(&mut self, _: &RingRef<'_>, _: &[u8]) {}
}

fn shared_ring(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let (ring, descriptors) = SharedRing::create(4096).unwrap();
    by_drop((ring.serve(event_loop, Holder(bomb())).unwrap(), descriptors))
}

fn threads_file(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    file(event_loop, FileIo::builder().backend(FileIoBackend::ThreadPool).build(event_loop).unwrap(), bomb())
}

fn any_file(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    file(event_loop, FileIo::builder().build(event_loop).unwrap(), bomb())
}

/// A read from a pipe that stays empty.
fn file(event_loop: &EventLoop, files: FileIo, bomb: Bomb) -> End {
    let (reads, writes) = pipe();
    let file = reveille::fs::File::from(reads);
    files.read(&file, vec![0; 4], move |_, _, _| bomb.keep());
    turn(event_loop);
    by_drop((files, writes))
}

impl DatagramHandler for Holder {
    fn on_datagram(&mut self, _: &UdpRef<'_>, _: &[u8], _: std::net::SocketAddr) -> io::Result<()> {
        Ok(())
    }
}

fn udp(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().serve(Holder(bomb())).unwrap();
    Box::new(move |event_loop| {
        drop(socket);
        turn(event_loop);
    })
}

impl ConnectionHandler for Holder {
    fn on_message(&mut self, _: &TcpConnection<'_>, _: &mut Buffer) -> io::Result<()> {
        Ok(())
    }
}

/// Closes its connection with an error that is a bomb.
struct Failing {
    bomb: Bomb,
    error: Option<Bomb>,
}

impl FrameHandler<LineCodec> for Failing {
    fn on_open(&mut self, _: &TcpConnection<'_>) -> io::Result<()> {
        self.bomb.keep();
        Err(io::Error::other(self.error.take().expect("one call")))
    }

    fn on_frame(&mut self, _: &TcpConnection<'_>, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// Opens one connection to the server. The result ends both.
fn with_client(event_loop: &EventLoop, server: TcpServer) -> End {
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    turn_until(event_loop, || server.open_connections() == 1);
    Box::new(move |event_loop| {
        let handle = server.handle();
        drop((server, client));
        turn_until(event_loop, || handle.open_connections() == 0);
    })
}

/// One bomb in the factory, and one in the handler.
fn server(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let (mut handler, factory) = (Some(Holder(bomb())), bomb());
    let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |_| {
        factory.keep();
        handler.take().expect("one connection")
    });
    with_client(event_loop, server.unwrap())
}

fn closure_server(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let bomb = bomb();
    let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_fn(move |_, _| bomb.keep());
    with_client(event_loop, server.unwrap())
}

/// One bomb in the value of the loop, and one in the factory.
fn per_loop_server(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let (value, factory) = (Mutex::new(Some(bomb())), bomb());
    let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().threads(1).serve_per_loop(
        move |_| Ok(value.lock().unwrap().take()),
        move |_, _| {
            factory.keep();
            Holder(Bomb::new(&Count::default()))
        },
    );
    by_drop(server.unwrap())
}

/// One bomb in the factory, and in a connection one in the handler and one in the close reason.
fn frame_server(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let mut handler = Some(Failing { bomb: bomb(), error: Some(bomb()) });
    let factory = bomb();
    let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |_| {
        factory.keep();
        Framed::new(LineCodec::new(80), handler.take().expect("one connection"))
    });
    let server = server.unwrap();
    let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    turn_until(event_loop, || server.counters().accepted == 1 && server.open_connections() == 0);
    net::wait_for_end(&mut client);
    by_drop(server)
}

/// One bomb in the factory, and one in each report.
fn client(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let (factory, on_attempt, on_failure) = (bomb(), bomb(), bomb());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpClient::connect(event_loop, listener.local_addr().unwrap())
        .on_attempt(move |_, _| on_attempt.keep())
        .on_failure(move |_, _| on_failure.keep())
        .serve_fn(move |_, _| factory.keep());
    by_drop((client.unwrap(), listener))
}

/// The server cannot end while its connection is open.
fn stop_report(event_loop: &EventLoop, bomb: &mut dyn FnMut() -> Bomb) -> End {
    let bomb = bomb();
    let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_fn(|_, _| ()).unwrap();
    let (handle, reported) = (server.handle(), Count::default());
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    turn_until(event_loop, || handle.open_connections() == 1);
    let at_report = reported.clone();
    server.stop(Duration::MAX, move |_, _| {
        at_report.add();
        bomb.keep();
    });
    Box::new(move |event_loop| {
        drop(client);
        turn_until(event_loop, || reported.get() == 1);
    })
}

fn panics(event_loop: &EventLoop) -> usize {
    event_loop.handle().counters().panics as usize
}

/// Checks that the loop still runs tasks and timers.
fn assert_still_works(event_loop: &EventLoop) {
    let ran = Count::default();
    let (in_task, in_timer) = (ran.clone(), ran.clone());
    event_loop.queue_in_loop(move |_| in_task.add());
    event_loop.run_at(Instant::now(), move |_| in_timer.add());
    turn_until(event_loop, || ran.get() == 2);
}

/// Runs `test` with each entry, in a separate process, because signals and children belong to the
/// process.
fn with_each_entry(test: fn(&EventLoop, &Entry, &Count)) {
    alone(move || {
        for entry in &ENTRIES {
            // If the process aborts, the last line names the entry.
            println!("{}", entry.name);
            with_catching_loop(move |event_loop| test(event_loop, entry, &Count::default()));
        }
    });
}

#[test]
fn ending_an_object_drops_its_values_and_counts_panics() {
    with_each_entry(|event_loop, entry, drops| {
        let end = (entry.begin)(event_loop, &mut || Bomb::new(drops));
        end(event_loop);
        turn_until(event_loop, || drops.get() == entry.bombs);
        assert_eq!(panics(event_loop), entry.bombs, "{}", entry.name);
        assert_still_works(event_loop);
    });
}

#[test]
fn values_may_be_dropped_while_another_panic_unwinds() {
    with_each_entry(|event_loop, entry, drops| {
        let end = (entry.begin)(event_loop, &mut || Bomb::new(drops));
        event_loop.queue_in_loop(move |_| {
            let _dropped_while_unwinding = end;
            panic!("the first panic");
        });
        turn(event_loop);
        turn_until(event_loop, || panics(event_loop) == 1 + drops.get());
        assert_still_works(event_loop);
    });
}

#[test]
fn dropping_a_loop_drops_all_values_and_counts_panics() {
    alone(|| {
        let (drops, bombs) = (Count::default(), ENTRIES.iter().map(|entry| entry.bombs).sum::<usize>());
        let event_loop = EventLoop::new().unwrap();
        let handle = event_loop.handle();
        // Tasks come last, because the turns of other entries would run them.
        let mut ends = Vec::new();
        for entry in ENTRIES.iter().rev() {
            println!("{}", entry.name);
            ends.push((entry.begin)(&event_loop, &mut || Bomb::new(&drops)));
        }
        drop(event_loop);
        assert_eq!((drops.get(), handle.counters().panics as usize), (bombs, bombs));
        assert_eq!(handle.counters().tasks_dropped, 2);
        drop(ends);
        assert_eq!(drops.get(), bombs);
        with_catching_loop(assert_still_works);
    });
}
