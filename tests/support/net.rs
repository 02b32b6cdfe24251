//! For the tests of the network: servers on threads of their own, journals of what their connections were told, clients that
//! fail rather than hang, and child processes.

use std::cell::RefCell;
use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::{self, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use reveille::{
    Buffer, Builder, CloseReason, ConnectionHandle, ConnectionHandler, EventLoop, LoopHandle, SendError,
    Sent, TcpConnection, TcpServer, TcpServerBuilder,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Domain, SockRef, Socket, Type};

/// More than any machine needs: what takes longer has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

// --- Servers --------------------------------------------------------------------------------------

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
        builder: Builder,
        make: impl FnOnce(&EventLoop) -> io::Result<TcpServer> + Send + 'static,
    ) -> Host {
        let (started, start) = mpsc::channel();
        let thread = thread::Builder::new().name("host".to_owned()).spawn(move || {
            let event_loop = builder.build().expect("a loop");
            let server = make(&event_loop).expect("a server");
            started.send((server.local_addr(), event_loop.handle())).expect("somebody waits for it");
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

    /// That the loop does not spin, which would be thousands of turns. The kernel may have something to say now and then.
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

// --- What connections were told -------------------------------------------------------------------

/// One call of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Open,
    /// With all of the input that was offered, unless the script is terse.
    Message(String),
    Drained,
    PeerShutdown,
    Close(End),
}

/// A [`CloseReason`] that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Finished,
    Closed,
    DeadlinePassed,
    RelayEnded,
    Stopped,
    LoopEnded,
    Panicked,
    Error(io::ErrorKind, String),
}

impl From<&CloseReason> for End {
    fn from(reason: &CloseReason) -> End {
        match reason {
            CloseReason::Finished => End::Finished,
            CloseReason::Closed => End::Closed,
            CloseReason::DeadlinePassed => End::DeadlinePassed,
            CloseReason::RelayEnded => End::RelayEnded,
            CloseReason::Stopped => End::Stopped,
            CloseReason::LoopEnded => End::LoopEnded,
            CloseReason::Panicked => End::Panicked,
            CloseReason::Error(error) => End::Error(error.kind(), error.to_string()),
            _ => panic!("a reason that the tests do not know: {reason:?}"),
        }
    }
}

pub(crate) fn message(text: &str) -> Told {
    Told::Message(text.to_owned())
}

/// What the connections of a server were told, in order, with the number of the connection from 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal(Arc<Entries>);

#[derive(Debug, Default)]
struct Entries {
    /// How many handlers there have been, and what they were told.
    list: Mutex<(usize, Vec<(usize, Told)>)>,
    changed: Condvar,
}

impl Journal {
    pub(crate) fn new() -> Journal {
        Journal::default()
    }

    /// A handler that writes this journal, echoes, and answers a peer's end with its own, unless told otherwise.
    pub(crate) fn script(&self) -> Script {
        let mut list = self.0.list.lock().unwrap();
        list.0 += 1;
        Script {
            number: list.0 - 1,
            journal: self.clone(),
            terse: false,
            on_open: Box::new(|_| Ok(())),
            on_message: Box::new(|conn, input| Ok(conn.send(input.take_all()).map(drop)?)),
            on_drained: Box::new(|_| Ok(())),
            on_peer_shutdown: Box::new(|conn| {
                conn.shutdown();
                Ok(())
            }),
            on_close: Box::new(|_, _| ()),
        }
    }

    fn write(&self, number: usize, told: Told) {
        self.0.list.lock().unwrap().1.push((number, told));
        self.0.changed.notify_all();
    }

    /// What connection `number` has been told so far.
    pub(crate) fn of(&self, number: usize) -> Vec<Told> {
        let list = self.0.list.lock().unwrap();
        list.1.iter().filter(|entry| entry.0 == number).map(|entry| entry.1.clone()).collect()
    }

    /// How many handlers have been made.
    pub(crate) fn handlers(&self) -> usize {
        self.0.list.lock().unwrap().0
    }

    /// Waits until connection `number` has been told something that `is` it.
    #[track_caller]
    pub(crate) fn wait_for(&self, number: usize, is: impl Fn(&Told) -> bool) -> Told {
        let start = Instant::now();
        let mut list = self.0.list.lock().unwrap();
        loop {
            if let Some(found) = list.1.iter().find(|entry| entry.0 == number && is(&entry.1)) {
                return found.1.clone();
            }
            assert!(start.elapsed() < LIMIT, "not told to {number}; of {:?}", list.1);
            list = self.0.changed.wait_timeout(list, LIMIT).unwrap().0;
        }
    }

    /// Waits until connection `number` is closed, and answers how.
    #[track_caller]
    pub(crate) fn end_of(&self, number: usize) -> End {
        match self.wait_for(number, |told| matches!(told, Told::Close(_))) {
            Told::Close(end) => end,
            _ => unreachable!(),
        }
    }

    /// Waits until connection `number` is closed, and answers all that it was told.
    #[track_caller]
    pub(crate) fn life_of(&self, number: usize) -> Vec<Told> {
        self.end_of(number);
        self.of(number)
    }

    /// That each of `connections` was opened first, closed last, and either but once. To be called when the loop has ended.
    #[track_caller]
    pub(crate) fn assert_whole_lives(&self, connections: usize) {
        assert_eq!(self.handlers(), connections);
        for number in 0..connections {
            let life = self.of(number);
            assert_eq!(life.first(), Some(&Told::Open), "{number}: {life:?}");
            assert!(matches!(life.last(), Some(Told::Close(_))), "{number}: {life:?}");
            assert_eq!(life.iter().filter(|told| **told == Told::Open).count(), 1, "{number}: {life:?}");
            let ends = life.iter().filter(|told| matches!(told, Told::Close(_))).count();
            assert_eq!(ends, 1, "{number}: {life:?}");
        }
    }
}

type OnEvent = Box<dyn FnMut(&TcpConnection<'_>) -> io::Result<()>>;
type OnMessage = Box<dyn FnMut(&TcpConnection<'_>, &mut Buffer) -> io::Result<()>>;
type OnClose = Box<dyn FnMut(&TcpConnection<'_>, &CloseReason)>;

/// What the closures of a [`Script`] may return.
pub(crate) trait Returned {
    fn result(self) -> io::Result<()>;
}

impl Returned for () {
    fn result(self) -> io::Result<()> {
        Ok(())
    }
}

impl Returned for io::Result<()> {
    fn result(self) -> io::Result<()> {
        self
    }
}

impl Returned for Result<Sent, SendError> {
    fn result(self) -> io::Result<()> {
        self.map(drop).map_err(io::Error::from)
    }
}

/// A handler made of closures, which writes a [`Journal`] before it calls them.
pub(crate) struct Script {
    number: usize,
    journal: Journal,
    terse: bool,
    on_open: OnEvent,
    on_message: OnMessage,
    on_drained: OnEvent,
    on_peer_shutdown: OnEvent,
    on_close: OnClose,
}

impl Script {
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Notes of messages only that there were some, for tests that send much.
    pub(crate) fn terse(mut self) -> Script {
        self.terse = true;
        self
    }

    pub(crate) fn on_open<R: Returned>(
        mut self,
        mut call: impl FnMut(&TcpConnection<'_>) -> R + 'static,
    ) -> Script {
        self.on_open = Box::new(move |conn| call(conn).result());
        self
    }

    pub(crate) fn on_message<R: Returned>(
        mut self,
        mut call: impl FnMut(&TcpConnection<'_>, &mut Buffer) -> R + 'static,
    ) -> Script {
        self.on_message = Box::new(move |conn, input| call(conn, input).result());
        self
    }

    pub(crate) fn on_drained<R: Returned>(
        mut self,
        mut call: impl FnMut(&TcpConnection<'_>) -> R + 'static,
    ) -> Script {
        self.on_drained = Box::new(move |conn| call(conn).result());
        self
    }

    pub(crate) fn on_peer_shutdown<R: Returned>(
        mut self,
        mut call: impl FnMut(&TcpConnection<'_>) -> R + 'static,
    ) -> Script {
        self.on_peer_shutdown = Box::new(move |conn| call(conn).result());
        self
    }

    pub(crate) fn on_close(mut self, call: impl FnMut(&TcpConnection<'_>, &CloseReason) + 'static) -> Script {
        self.on_close = Box::new(call);
        self
    }
}

impl ConnectionHandler for Script {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.journal.write(self.number, Told::Open);
        (self.on_open)(conn)
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        let bytes = if self.terse { &[] } else { input.readable() };
        self.journal.write(self.number, Told::Message(String::from_utf8_lossy(bytes).into_owned()));
        (self.on_message)(conn, input)
    }

    fn on_drained(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.journal.write(self.number, Told::Drained);
        (self.on_drained)(conn)
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.journal.write(self.number, Told::PeerShutdown);
        (self.on_peer_shutdown)(conn)
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        self.journal.write(self.number, Told::Close(reason.into()));
        (self.on_close)(conn, reason);
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

// --- Clients --------------------------------------------------------------------------------------

/// A client whose reads and writes fail when they take too long.
#[track_caller]
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    with_limits(TcpStream::connect_timeout(&address, LIMIT).expect("a server that listens"))
}

fn with_limits(client: TcpStream) -> TcpStream {
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.set_write_timeout(Some(LIMIT)).unwrap();
    client.set_nodelay(true).unwrap();
    client
}

/// A client with packets as small as those of a real network. Those of the loopback are so large that a small send buffer
/// holds but one of them, which is then acknowledged with a delay.
#[track_caller]
pub(crate) fn connect_with_small_packets(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_tcp_mss(1400).unwrap();
    socket.connect_timeout(&address.into(), LIMIT).expect("a server that listens");
    with_limits(socket.into())
}

/// Sends `bytes` and reads as many.
#[track_caller]
pub(crate) fn exchange(client: &mut TcpStream, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    client.write_all(bytes.as_ref()).expect("a server that reads");
    read_exact(client, bytes.as_ref().len())
}

/// Sends `bytes` and reads as many at the same time, when they may be more than the way holds.
#[track_caller]
pub(crate) fn exchange_meanwhile(client: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut writer = client.try_clone().expect("a descriptor");
    thread::scope(|scope| {
        scope.spawn(|| writer.write_all(bytes).expect("a server that reads"));
        read_exact(client, bytes.len())
    })
}

#[track_caller]
pub(crate) fn assert_echoes(client: &mut TcpStream) {
    assert_eq!(exchange(client, b"are you there?"), b"are you there?");
}

#[track_caller]
pub(crate) fn read_exact(client: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    client.read_exact(&mut bytes).expect("so many bytes");
    bytes
}

/// Reads until the server has sent its FIN.
#[track_caller]
pub(crate) fn read_to_end(client: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).expect("an orderly end");
    bytes
}

/// Waits until the server has closed, in order or not.
#[track_caller]
pub(crate) fn wait_for_end(client: &mut TcpStream) {
    match io::copy(client, &mut io::sink()) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
}

/// Closes such that the server gets a reset.
pub(crate) fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
}

/// A second descriptor of a connection's socket, to look at what has come.
pub(crate) fn peephole(socket: impl AsFd) -> TcpStream {
    socket.as_fd().try_clone_to_owned().expect("a descriptor").into()
}

/// What a poll says of a socket now, of its end in particular.
pub(crate) fn condition(socket: impl AsFd) -> PollFlags {
    let mut fds = [PollFd::new(&socket, PollFlags::IN | PollFlags::RDHUP)];
    rustix::event::poll(&mut fds, Some(&Timespec::default())).expect("a poll");
    fds[0].revents()
}

/// `len` bytes of which no piece is like another.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let mut random = Random::new(len as u64);
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// xorshift64*: small, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

// --- Processes ------------------------------------------------------------------------------------

/// How many descriptors of the kinds that the library uses this process has open: sockets, pollers, counters, and `/dev/null`
/// for the reserve. The standard library reads a file of its own now and then.
pub(crate) fn open_descriptors() -> usize {
    let links = fs::read_dir("/proc/self/fd")
        .expect("procfs")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links
        .filter(|link| {
            let link = link.to_string_lossy();
            ["socket:", "anon_inode:", "pipe:", "/dev/null"].iter().any(|kind| link.starts_with(kind))
        })
        .count()
}

const ROLE: &str = "REVEILLE_TEST_ROLE";

/// The test binary once more, in a role of its own: it runs the test `child_role`, which is ignored otherwise.
pub(crate) struct Child {
    process: process::Child,
    answers: mpsc::Receiver<String>,
}

impl Child {
    pub(crate) fn start(role: &str) -> Child {
        let program = env::current_exe().expect("this program");
        let mut process = Command::new(program)
            .args(["--exact", "child_role", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        let (heard, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines() {
                let Ok(line) = line else { return };
                // The test harness speaks as well, and not always in whole lines.
                if let Some((_, answer)) = line.split_once(MARK) {
                    let _ = heard.send(answer.to_owned());
                }
            }
        });
        Child { process, answers }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    #[track_caller]
    pub(crate) fn hear(&mut self) -> String {
        self.answers.recv_timeout(LIMIT).expect("a child that answers")
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, question: &str) -> String {
        let input = self.process.stdin.as_mut().expect("a pipe");
        writeln!(input, "{question}").expect("a child that listens");
        self.hear()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const MARK: &str = "@@ ";

/// For the child: the role it is to play, if it is a child at all.
pub(crate) fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// For the child: what its parent will [hear](Child::hear).
pub(crate) fn answer(text: impl std::fmt::Display) {
    println!("{MARK}{text}");
}
