//! For the tests of the network: servers on separate threads. The submodules contain the journal of
//! handler calls, the peers, child processes, and the queues of sockets. Their names are exported
//! from `net`.

mod journal;
mod peers;
mod processes;
mod queues;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use reveille::net::{SocketOptions, TcpServerBuilder};
use reveille::{
    ConnectionHandle, EventLoop, EventLoopBuilder, LoopHandle, Refused, TcpConnection, TcpServer,
};

#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub(crate) use self::{journal::*, peers::*, processes::*, queues::*};
pub(crate) use super::random::Random;

/// The time limit of each wait. A wait that takes longer fails the test.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Checks that a send was accepted, and that some of its bytes, or earlier ones, are queued.
#[track_caller]
pub(crate) fn assert_queued<E: fmt::Debug>(conn: &TcpConnection<'_>, sent: Result<(), E>) {
    sent.expect("the send was refused");
    assert!(conn.unsent() > 0, "nothing is queued");
}

/// Checks that a send was accepted, and that nothing is queued.
#[track_caller]
pub(crate) fn assert_written<E: fmt::Debug>(conn: &TcpConnection<'_>, sent: Result<(), E>) {
    sent.expect("the send was refused");
    assert_eq!(conn.unsent(), 0, "bytes are queued");
}

/// The result of an operation, without the refused value.
pub(crate) fn reason<T, E: Copy>(result: Result<(), Refused<T, E>>) -> Result<(), E> {
    result.map_err(|refused| refused.reason())
}

thread_local! {
    /// The server of a [`Host`]'s thread.
    static SERVER: RefCell<Option<TcpServer>> = const { RefCell::new(None) };
}

/// A thread that runs a loop with a server. Dropping this stops the loop.
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
        let (sender, receiver) = mpsc::channel();
        let thread = thread::Builder::new().name("host".to_owned()).spawn(move || {
            let event_loop = builder.build().expect("a loop");
            let server = make(&event_loop).expect("a server");
            sender
                .send((server.local_addr().unwrap(), event_loop.handle()))
                .expect("the receiver was dropped");
            SERVER.set(Some(server));
            event_loop.run().expect("the loop failed");
            drop(SERVER.take());
        });
        let (address, handle) = receiver.recv().expect("the host did not start");
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

    /// Runs `task` on the loop's thread, in phase 5 of a turn, and returns its result.
    pub(crate) fn request<R: Send + 'static>(
        &self,
        task: impl FnOnce(&EventLoop, &mut Option<TcpServer>) -> R + Send + 'static,
    ) -> R {
        let (sender, receiver) = mpsc::channel();
        let posted = self.handle.queue_in_loop(move |event_loop| {
            let _ = sender.send(SERVER.with_borrow_mut(|server| task(event_loop, server)));
        });
        posted.expect("the loop has ended");
        receiver.recv_timeout(LIMIT).expect("the task did not run")
    }

    pub(crate) fn open_connections(&self) -> u64 {
        self.request(|_, server| server.as_ref().expect("a server").open_connections())
    }

    /// Counts the turns that the loop makes in a period without requests.
    pub(crate) fn turns_while_idle(&self) -> u64 {
        // The first task gives pending work a turn to complete. The last one causes a turn.
        self.request(|_, _| ());
        let before = self.request(|event_loop, _| event_loop.iteration());
        thread::sleep(Duration::from_millis(150));
        self.request(|event_loop, _| event_loop.iteration()) - before - 1
    }

    /// Checks that the loop does not spin. A loop that spins makes thousands of turns. A few turns
    /// are allowed, because the kernel may report events.
    #[track_caller]
    pub(crate) fn assert_idle(&self) {
        let turns = self.turns_while_idle();
        assert!(turns < 20, "an idle loop made {turns} turns");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.handle.quit();
        let ended = self.thread.take().expect("dropped only once").join();
        if ended.is_err() && !thread::panicking() {
            panic!("the host's thread panicked");
        }
    }
}

/// Starts a host whose connections are handled by a script.
pub(crate) fn scripted(script: impl Fn(Script) -> Script + Send + 'static) -> (Host, Journal) {
    scripted_with(|builder| builder, script)
}

/// Same as [`scripted`], with settings of the server.
pub(crate) fn scripted_with(
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a> + Send + 'static,
    script: impl Fn(Script) -> Script + Send + 'static,
) -> (Host, Journal) {
    let journal = Journal::new();
    let server_journal = journal.clone();
    let host = Host::new(move |event_loop| {
        settings(TcpServer::bind(event_loop, "127.0.0.1:0")?).serve(move |_| script(server_journal.script()))
    });
    (host, journal)
}

/// Gives each connection of a server a small send buffer. If the peer has a small receive buffer
/// and does not read, most of a megabyte remains unsent.
pub(crate) fn with_small_send_buffer(builder: TcpServerBuilder<'_>) -> TcpServerBuilder<'_> {
    builder.socket_options(SocketOptions::new().send_buffer(32 << 10))
}

/// Starts a host whose scripted server has loops on several threads.
pub(crate) fn scripted_with_threads(
    threads: usize,
    script: impl Fn(Script) -> Script + Send + Sync + 'static,
) -> (Host, Journal) {
    let journal = Journal::new();
    let server_journal = journal.clone();
    let host = Host::new(move |event_loop| {
        TcpServer::bind(event_loop, "127.0.0.1:0")?
            .threads(threads)
            .serve(move |_| script(server_journal.script()))
    });
    (host, journal)
}

/// Starts a host whose connections send their handles to the test when they open.
pub(crate) fn scripted_with_handles() -> (Host, Journal, mpsc::Receiver<ConnectionHandle>) {
    let (sender, receiver) = mpsc::channel();
    let (host, journal) = scripted(move |script| {
        let sender = sender.clone();
        script.on_open(move |conn| sender.send(conn.handle()).unwrap())
    });
    (host, journal, receiver)
}

/// Turns a loop of this thread until `done` returns true.
#[track_caller]
pub(crate) fn turn_until(event_loop: &EventLoop, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "the condition is not met after {LIMIT:?}");
        // A short timeout, because the condition may depend on another thread.
        event_loop.run_once(Duration::from_millis(2)).expect("a turn");
    }
}

/// Waits until `done` returns true, by polling. For conditions without a notification.
#[track_caller]
pub(crate) fn until(mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "the condition is not met after {LIMIT:?}");
        thread::sleep(Duration::from_millis(1));
    }
}
