//! For the tests that count system calls: a server in a child process with traced threads.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Instant;

use nix::libc;
use reveille::codec::{Framed, LineCodec};
use reveille::net::{ByteStream, ConnectionGroup, FullPolicy, ServerHandle};
use reveille::observe::Watchdog;
use reveille::{Buffer, ConnectionHandle, ConnectionHandler, EventLoop, LoopHandle, LoopThread};
use reveille::{TcpClient, TcpConnection, TcpServer, UdpSocket};

use super::clock::{HOUR, MINUTE};
use super::net::{self, Child, Host, send_to_parent};
use super::tracer::Traced;

/// The commands to the server. The first byte of a message is a command, executed before the echo.
pub(crate) mod order {
    pub(crate) const NOTHING: u8 = b'.';
    /// Pauses and resumes reading a thousand times.
    pub(crate) const PAUSE: u8 = b'p';
    /// Creates a thousand timers, resets them and cancels them.
    pub(crate) const CANCELLED_TIMERS: u8 = b't';
    /// Creates a thousand timers, each due earlier than the previous one, and keeps them.
    pub(crate) const KEPT_TIMERS: u8 = b'T';
    /// Pauses and resumes accepting a thousand times.
    pub(crate) const PAUSE_SERVER: u8 = b's';
    /// Blocks the loop until another thread has posted a hundred tasks to it.
    pub(crate) const BLOCK_LOOP: u8 = b'h';
    /// Sends the echo in ten pieces with one call.
    pub(crate) const PIECES: u8 = b'v';
    /// Sends the echo in ten pieces, each with its own call.
    pub(crate) const SENDS: u8 = b'm';
    /// Same as `SENDS`, through a handle.
    pub(crate) const HANDLE_SENDS: u8 = b'M';
    /// Sets the deadline and the idle timeout of the connection.
    pub(crate) const DEADLINE: u8 = b'D';
    /// Same as `HANDLE_SENDS`, in a task for each piece.
    pub(crate) const TASK_SENDS: u8 = b'1';
    /// Same as `HANDLE_SENDS`, in a timer for each piece.
    pub(crate) const TIMER_SENDS: u8 = b'2';
    /// Same as `HANDLE_SENDS`, in a call of the handler for each piece.
    pub(crate) const CALL_SENDS: u8 = b'3';
    /// Same as `CALL_SENDS`, with the calls made in a task.
    pub(crate) const CALL_SENDS_IN_TASK: u8 = b'4';
    /// Same as `HANDLE_SENDS`, through a group.
    pub(crate) const GROUP_SENDS: u8 = b'5';
    /// Keeps a handle of this connection.
    pub(crate) const KEEP_HANDLE: u8 = b'k';
    /// Sends the message in ten pieces through the handle that was kept.
    pub(crate) const SENDS_TO_KEPT: u8 = b'K';
    /// Sends a hundred bytes 20,000 times through a handle.
    pub(crate) const MANY_SENDS: u8 = b'n';
    /// Enables the metrics of the loop, and a watchdog.
    pub(crate) const OBSERVE: u8 = b'o';
    /// Sends the echo when two futures have yielded 500 times each.
    pub(crate) const YIELDS: u8 = b'y';
    /// Connects to the port in the next five bytes.
    pub(crate) const CONNECT: u8 = b'd';
    /// Same as `CONNECT`, with an async function.
    pub(crate) const CONNECT_ASYNC: u8 = b'6';
    /// Opens a UDP socket on one address that echoes datagrams. It sends a first datagram to the
    /// port in the next five bytes.
    pub(crate) const DATAGRAMS: u8 = b'u';
    /// Same as `DATAGRAMS`, on all addresses.
    pub(crate) const DATAGRAMS_TO_ALL: u8 = b'U';
}

/// Executes the commands of a connection's messages.
struct Executor {
    /// Requests a number of tasks from the posting thread, which reports completion to the sender.
    post: mpsc::Sender<(u32, mpsc::Sender<()>)>,
    clients: Vec<TcpClient>,
    sockets: Vec<UdpSocket>,
    watchdogs: Vec<Watchdog>,
    server: Arc<OnceLock<ServerHandle>>,
}

impl ConnectionHandler for Executor {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        match input.readable()[0] {
            order::PAUSE => {
                for _ in 0..1000 {
                    conn.pause_reading();
                    conn.resume_reading();
                }
            }
            order::CANCELLED_TIMERS => {
                for minutes in (1..=1000).rev() {
                    let id = conn.event_loop().run_after(minutes * MINUTE, |_| ());
                    assert!(conn.event_loop().reset(id, minutes * MINUTE / 2));
                    assert!(conn.event_loop().cancel(id));
                }
            }
            order::KEPT_TIMERS => {
                for minutes in (1..=1000).rev() {
                    conn.event_loop().run_after(minutes * MINUTE, |_| ());
                }
            }
            order::PAUSE_SERVER => {
                let server = self.server.get().expect("the server was not set");
                for _ in 0..1000 {
                    server.pause_accepting();
                    server.resume_accepting();
                }
            }
            order::BLOCK_LOOP => {
                let (sender, receiver) = mpsc::channel();
                self.post.send((100, sender)).map_err(io::Error::other)?;
                receiver.recv().map_err(io::Error::other)?;
            }
            order::PIECES => {
                let pieces: Vec<_> = input.readable().chunks(7).map(io::IoSlice::new).collect();
                conn.send_vectored(&pieces)?;
                input.clear();
                return Ok(());
            }
            order::SENDS => {
                for piece in input.readable().chunks(7) {
                    conn.send(piece)?;
                }
                input.clear();
                return Ok(());
            }
            order::HANDLE_SENDS => {
                let handle = conn.handle();
                for piece in input.readable().chunks(7) {
                    handle.send(piece)?;
                }
                input.clear();
                return Ok(());
            }
            order::DEADLINE => {
                conn.set_idle_timeout(Some(MINUTE));
                conn.set_deadline(MINUTE);
            }
            order::TASK_SENDS | order::TIMER_SENDS | order::CALL_SENDS_IN_TASK => {
                send_later(input.readable()[0], conn, input);
                input.clear();
                return Ok(());
            }
            order::CALL_SENDS => {
                call_for_each_piece(&conn.handle(), input.readable());
                input.clear();
                return Ok(());
            }
            order::GROUP_SENDS => {
                let group = ConnectionGroup::new(FullPolicy::Close);
                group.join(&conn.handle());
                for piece in input.readable().chunks(7) {
                    group.send(piece)?;
                }
                input.clear();
                return Ok(());
            }
            order::KEEP_HANDLE => KEPT.set(Some(conn.handle())),
            order::SENDS_TO_KEPT => {
                let kept = KEPT.take().expect("no handle was kept");
                for piece in input.readable().chunks(7) {
                    kept.send(piece)?;
                }
                KEPT.set(Some(kept));
            }
            order::MANY_SENDS => {
                let handle = conn.handle();
                for _ in 0..MANY {
                    handle.send([b'-'; MANY_SIZE])?;
                }
                input.clear();
                return Ok(());
            }
            order::OBSERVE => {
                let handle = conn.event_loop().handle();
                handle.enable_metrics();
                let watchdog = Watchdog::new(HOUR)?;
                watchdog.watch(&handle);
                self.watchdogs.push(watchdog);
            }
            order::YIELDS => {
                yield_and_send(conn, input);
                input.clear();
                return Ok(());
            }
            order::CONNECT => {
                let client = TcpClient::connect(conn.event_loop(), address_in(input)?)
                    .serve_fn(|conn, input| conn.send(input.take_all()))?;
                self.clients.push(client);
            }
            order::CONNECT_ASYNC => {
                drop(conn.event_loop().spawn_local(echo_from(address_in(input)?)));
            }
            order @ (order::DATAGRAMS | order::DATAGRAMS_TO_ALL) => {
                let address = if order == order::DATAGRAMS { "127.0.0.1:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(conn.event_loop(), address)?
                    .serve_fn(|socket, datagram, from| socket.send_to(datagram, from))?;
                socket.send_to("here", address_in(input)?)?;
                self.sockets.push(socket);
            }
            _ => {}
        }
        conn.send(input.take_all())?;
        Ok(())
    }
}

/// The sends of [`MANY_SENDS`](order::MANY_SENDS), and the bytes of each.
pub(crate) const MANY: usize = 20_000;
pub(crate) const MANY_SIZE: usize = 100;

thread_local! {
    /// The handle that [`KEEP_HANDLE`](order::KEEP_HANDLE) has kept.
    static KEPT: Cell<Option<ConnectionHandle>> = const { Cell::new(None) };
}

/// Sends the pieces of the message in the tasks or the timers of a later turn.
fn send_later(order: u8, conn: &TcpConnection, message: &Buffer) {
    let (handle, event_loop) = (conn.handle(), conn.event_loop());
    if order == order::CALL_SENDS_IN_TASK {
        let message = message.readable().to_vec();
        return event_loop.queue_in_loop(move |_| call_for_each_piece(&handle, &message));
    }
    let due = Instant::now();
    for piece in message.readable().chunks(7) {
        let (handle, piece) = (handle.clone(), piece.to_vec());
        let send = move |_: &EventLoop| handle.send(piece).expect("an open connection");
        if order == order::TASK_SENDS {
            event_loop.queue_in_loop(send);
        } else {
            event_loop.run_at(due, send);
        }
    }
}

async fn echo_from(address: SocketAddr) -> io::Result<()> {
    let mut stream = ByteStream::connect(address).await?;
    let mut input = Buffer::new();
    while stream.read_buf(&mut input).await? > 0 {
        stream.write_buf(&mut input).await?;
    }
    Ok(())
}

/// Makes 1,000 yields and 1,003 polls, and sends the message.
fn yield_and_send(conn: &TcpConnection, message: &Buffer) {
    async fn yielding() {
        for _ in 0..500 {
            reveille::task::yield_now().await;
        }
    }
    let (handle, message) = (conn.handle(), message.readable().to_vec());
    let futures = [conn.event_loop().spawn_local(yielding()), conn.event_loop().spawn_local(yielding())];
    conn.event_loop().spawn_local(async move {
        for future in futures {
            future.await.expect("the future ends");
        }
        handle.send(message).expect("an open connection");
    });
}

/// Calls the handler for each piece of the message, to send it.
fn call_for_each_piece(handle: &ConnectionHandle, message: &[u8]) {
    for piece in message.chunks(7) {
        let piece = piece.to_vec();
        let called = handle.with(move |_: &mut Executor, conn: &TcpConnection| conn.send(&piece));
        assert!(called.is_ok(), "the call was refused");
    }
}

/// The loopback address with the port that a message contains.
fn address_in(message: &Buffer) -> io::Result<SocketAddr> {
    let port = std::str::from_utf8(&message.readable()[1..6]).map_err(io::Error::other)?;
    let port: u16 = port.parse().map_err(io::Error::other)?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// The posting thread. Sends its id, then posts the requested tasks.
fn post_on_request(
    handle: &LoopHandle,
    id: &mpsc::Sender<i32>,
    requests: &mpsc::Receiver<(u32, mpsc::Sender<()>)>,
) {
    id.send(thread_id()).expect("the receiver was dropped");
    for (tasks, done) in requests {
        for _ in 0..tasks {
            let done = done.clone();
            handle.queue_in_loop(move |_| drop(done)).expect("the loop has ended");
        }
        // Releases a handler that blocks the loop until all tasks are posted.
        let _ = done.send(());
    }
}

fn thread_id() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Starts a server on the same loop that sends each line back, after its number. Returns its
/// address. It ends with the process.
fn serve_lines(event_loop: &EventLoop) -> SocketAddr {
    let server = TcpServer::bind(event_loop, "127.0.0.1:0").expect("a port").serve(|_| {
        let mut number = 0u8;
        let framed = Framed::from_fn(LineCodec::new(100), move |conn, line| {
            number = number.wrapping_add(1);
            conn.send([&[number][..], line, b"\n"].concat())
        });
        framed.frame_timeout(MINUTE)
    });
    Box::leak(Box::new(server.expect("a server"))).local_addr().expect("an address")
}

/// The child process. Sends its parent the server's address and the ids of three threads: the
/// loop's thread, the posting thread, and the thread of a loop without descriptors. The address of
/// the server of lines follows. Then it executes the lines that the parent sends.
pub(crate) fn serve() {
    let (post, requests) = mpsc::channel();
    let executor_post = post.clone();
    let server = Arc::new(OnceLock::new());
    let executor_server = Arc::clone(&server);
    let host = Host::new(move |event_loop| {
        TcpServer::bind(event_loop, "127.0.0.1:0")?.serve(move |_| Executor {
            post: executor_post.clone(),
            clients: Vec::new(),
            sockets: Vec::new(),
            watchdogs: Vec::new(),
            server: Arc::clone(&executor_server),
        })
    });
    server.set(host.request(|_, server| server.as_ref().expect("a server").handle())).expect("set once");
    let loop_thread = host.request(|_, _| thread_id());
    let (id_sender, id_receiver) = mpsc::channel();
    let handle = host.handle().clone();
    thread::spawn(move || post_on_request(&handle, &id_sender, &requests));
    let posting_thread = id_receiver.recv().expect("the posting thread did not start");
    let bare = LoopThread::spawn("bare").expect("a thread");
    let bare_thread = bare.handle().call(|_| thread_id()).expect("the loop has ended");
    let lines = host.request(|event_loop, _| serve_lines(event_loop));
    send_to_parent(format!("{} {loop_thread} {posting_thread} {bare_thread} {lines}", host.address()));
    for line in io::stdin().lines() {
        let line = line.expect("cannot read from the parent");
        if line == "call the bare loop" {
            bare.handle().call(|_| ()).expect("the loop has ended");
            send_to_parent("called");
            continue;
        }
        // Posts one task from another thread.
        assert_eq!(line, "post");
        let (sender, receiver) = mpsc::channel();
        post.send((1, sender)).expect("the posting thread has ended");
        // The task owns a sender, so this loop does not end before the task has run.
        while receiver.recv().is_ok() {}
        send_to_parent("posted");
    }
}

/// The parent's side of the child process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// A server of lines on the same loop.
    pub(crate) lines: SocketAddr,
    pub(crate) child: Child,
    pub(crate) on_loop: Traced,
    pub(crate) posting: Traced,
    /// The loop without descriptors of the same process. It only runs tasks.
    pub(crate) on_bare_loop: Traced,
}

impl Server {
    /// Starts the child process and traces its threads. Returns `None` if tracing is not permitted.
    pub(crate) fn start() -> Option<Server> {
        let mut child = Child::start("server");
        let introduction = child.next_reply();
        let mut words = introduction.split(' ');
        let mut word = || words.next().expect("the child sent fewer than five words");
        let address = word().parse().expect("an address");
        let on_loop = Traced::attach(word().parse().expect("a thread"), &[libc::SYS_epoll_wait])?;
        let posting = Traced::attach(word().parse().expect("a thread"), &[libc::SYS_futex])?;
        let on_bare_loop = Traced::attach(word().parse().expect("a thread"), &[libc::SYS_read])?;
        let lines = word().parse().expect("an address");
        drop(on_loop.wait_until_idle());
        drop(on_bare_loop.wait_until_idle());
        Some(Server { address, lines, child, on_loop, posting, on_bare_loop })
    }

    pub(crate) fn connect(&self) -> TcpStream {
        net::connect(self.address)
    }
}

/// Sends a message with the command `order` and reads the echo.
#[track_caller]
pub(crate) fn order(client: &mut TcpStream, order: u8) {
    let mut message = [b'-'; 64];
    message[0] = order;
    assert_eq!(net::exchange(client, message), message);
}
