//! For the tests of the network: servers on threads of their own, and in modules by idea what is
//! told, who is at the other end, processes, and what the kernel says. Tests call all of it by its
//! name in `net`.

mod journal;
mod peers;
mod processes;
mod queues;

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use reveille::net::{SocketOptions, TcpServerBuilder};
use reveille::{ConnectionHandle, EventLoop, EventLoopBuilder, LoopHandle, TcpServer};

#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub(crate) use self::{journal::*, peers::*, processes::*, queues::*};

/// More than any machine needs: what takes longer has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

thread_local! {
    /// The server of a [`Host`]'s thread.
    static SERVER: RefCell<Option<TcpServer>> = const { RefCell::new(None) };
}

/// A thread with a loop and a server on it, until it is dropped.
pub(crate) struct Host {
    address: SocketAddr,
    handle: LoopHandle,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    pub(crate) fn new(make: impl FnOnce(&EventLoop) -> io::Result<TcpServer> + Send + 'static) -> Host {
        Host::on(EventLoop::builder(), make)
    }

    pub(crate) fn on(
        builder: EventLoopBuilder,
        make: impl FnOnce(&EventLoop) -> io::Result<TcpServer> + Send + 'static,
    ) -> Host {
        let (started, start) = mpsc::channel();
        let thread = thread::Builder::new().name("host".to_owned()).spawn(move || {
            let event_loop = builder.build().expect("a loop");
            let server = make(&event_loop).expect("a server");
            started.send((server.local_addr().unwrap(), event_loop.handle())).expect("somebody waits for it");
            SERVER.set(Some(server));
            event_loop.run().expect("a loop that runs");
            drop(SERVER.take());
        });
        let (address, handle) = start.recv().expect("a host that starts");
        Host { address, handle, thread: Some(thread.expect("a thread")) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn handle(&self) -> &LoopHandle {
        &self.handle
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Asks on the loop's thread, in phase 5 of a turn, and waits for the answer.
    pub(crate) fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&EventLoop, &mut Option<TcpServer>) -> R + Send + 'static,
    ) -> R {
        let (answer, answered) = mpsc::channel();
        let asked = self.handle.queue_in_loop(move |event_loop| {
            let _ = answer.send(SERVER.with_borrow_mut(|server| question(event_loop, server)));
        });
        asked.expect("a loop that is there");
        answered.recv_timeout(LIMIT).expect("a loop that answers")
    }

    pub(crate) fn open_connections(&self) -> u64 {
        self.ask(|_, server| server.as_ref().expect("a server").open_connections())
    }

    /// How many turns the loop makes while nobody asks anything of it, over a while.
    pub(crate) fn turns_at_rest(&self) -> u64 {
        // What is under way has a turn to end in; the second question is itself the cause of one.
        self.ask(|_, _| ());
        let before = self.ask(|event_loop, _| event_loop.iteration());
        thread::sleep(Duration::from_millis(150));
        self.ask(|event_loop, _| event_loop.iteration()) - before - 1
    }

    /// That the loop does not spin, which would be thousands of turns. The kernel may have
    /// something to say now and then.
    #[track_caller]
    pub(crate) fn assert_rests(&self) {
        let turns = self.turns_at_rest();
        assert!(turns < 20, "{turns} turns with nothing to do");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.handle.quit();
        let ended = self.thread.take().expect("not dropped before").join();
        if ended.is_err() && !thread::panicking() {
            panic!("the host's thread panicked");
        }
    }
}

/// A host whose connections follow a script.
pub(crate) fn scripted(script: impl Fn(Script) -> Script + Send + 'static) -> (Host, Journal) {
    scripted_with(|builder| builder, script)
}

/// The same, of a server with settings.
pub(crate) fn scripted_with(
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a> + Send + 'static,
    script: impl Fn(Script) -> Script + Send + 'static,
) -> (Host, Journal) {
    let journal = Journal::new();
    let written = journal.clone();
    let host = Host::new(move |event_loop| {
        settings(TcpServer::bind(event_loop, "127.0.0.1:0")?).serve(move |_| script(written.script()))
    });
    (host, journal)
}

/// Has the kernel take few bytes on each connection of a server. With a peer that has little room
/// as well, and reads nothing, most of a megabyte stays unsent.
pub(crate) fn with_little_room(builder: TcpServerBuilder<'_>) -> TcpServerBuilder<'_> {
    builder.socket_options(SocketOptions::new().send_buffer(32 << 10))
}

/// A scripted server over several loops, on the loop of a host.
pub(crate) fn scripted_over(
    threads: usize,
    script: impl Fn(Script) -> Script + Send + Sync + 'static,
) -> (Host, Journal) {
    let journal = Journal::new();
    let written = journal.clone();
    let host = Host::new(move |event_loop| {
        TcpServer::bind(event_loop, "127.0.0.1:0")?.threads(threads).serve(move |_| script(written.script()))
    });
    (host, journal)
}

/// A number of loops, for [`LoopPool::new`](reveille::LoopPool::new).
pub(crate) fn loops(n: usize) -> NonZeroUsize {
    n.try_into().expect("at least one")
}

/// A host whose connections give their handles away when they open.
pub(crate) fn giving_handles() -> (Host, Journal, mpsc::Receiver<ConnectionHandle>) {
    let (give, given) = mpsc::channel();
    let (host, journal) = scripted(move |script| {
        let give = give.clone();
        script.on_open(move |conn| give.send(conn.handle()).unwrap())
    });
    (host, journal, given)
}

/// Turns a loop of this thread until `done`.
#[track_caller]
pub(crate) fn turn_until(event_loop: &EventLoop, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "the loop turns and turns");
        // Briefly, since what makes it so may happen on another thread.
        event_loop.run_once(Duration::from_millis(2)).expect("a loop that turns");
    }
}

/// Waits until `done`, for what nobody reports.
#[track_caller]
pub(crate) fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "it does not happen");
        thread::sleep(Duration::from_millis(1));
    }
}
