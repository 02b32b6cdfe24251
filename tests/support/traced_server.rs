//! For the tests that count system calls: a server in a child process, whose threads are traced.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;

use nix::libc;
use reveille::net::ServerHandle;
use reveille::{
    Buffer, ConnectionHandler, LoopHandle, LoopThread, TcpClient, TcpConnection, TcpServer, UdpSocket,
};

use super::clock::MINUTE;
use super::net::{self, Child, Host, answer};
use super::tracer::Traced;

/// What a message's first byte asks for besides an echo.
pub(crate) mod order {
    pub(crate) const NOTHING: u8 = b'.';
    /// To pause and resume reading, a thousand times.
    pub(crate) const PAUSE: u8 = b'p';
    /// To make a thousand timers, move them and cancel them.
    pub(crate) const TIMERS_THAT_GO: u8 = b't';
    /// To make a thousand timers, each closer than the one before, and leave them.
    pub(crate) const TIMERS_THAT_STAY: u8 = b'T';
    /// To pause and resume accepting, a thousand times.
    pub(crate) const PAUSE_SERVER: u8 = b's';
    /// To hold up the loop until another thread has posted a hundred tasks to it.
    pub(crate) const HOLD_UP: u8 = b'h';
    /// To send the echo in ten pieces at once.
    pub(crate) const PIECES: u8 = b'v';
    /// To connect to the port that the next five bytes give.
    pub(crate) const DIAL: u8 = b'd';
    /// To echo datagrams at one address, from where it sends one to the port that the next five
    /// bytes give.
    pub(crate) const DATAGRAMS: u8 = b'u';
    /// The same at all addresses.
    pub(crate) const DATAGRAMS_TO_ALL: u8 = b'U';
}

struct Orders {
    /// Has so many tasks posted from another thread, and says when that is done.
    post: mpsc::Sender<(u32, mpsc::Sender<()>)>,
    /// Those that were made as told.
    clients: Vec<TcpClient>,
    sockets: Vec<UdpSocket>,
    server: Arc<OnceLock<ServerHandle>>,
}

impl ConnectionHandler for Orders {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        match input.readable()[0] {
            order::PAUSE => {
                for _ in 0..1000 {
                    conn.pause_reading();
                    conn.resume_reading();
                }
            }
            order::TIMERS_THAT_GO => {
                for minutes in (1..=1000).rev() {
                    let id = conn.event_loop().run_after(minutes * MINUTE, |_| ());
                    assert!(conn.event_loop().reset(id, minutes * MINUTE / 2));
                    assert!(conn.event_loop().cancel(id));
                }
            }
            order::TIMERS_THAT_STAY => {
                for minutes in (1..=1000).rev() {
                    conn.event_loop().run_after(minutes * MINUTE, |_| ());
                }
            }
            order::PAUSE_SERVER => {
                let server = self.server.get().expect("a server that is told of itself");
                for _ in 0..1000 {
                    server.pause_accepting();
                    server.resume_accepting();
                }
            }
            order::HOLD_UP => {
                let (done, is_done) = mpsc::channel();
                self.post.send((100, done)).map_err(io::Error::other)?;
                is_done.recv().map_err(io::Error::other)?;
            }
            order::PIECES => {
                let pieces: Vec<_> = input.readable().chunks(7).map(io::IoSlice::new).collect();
                conn.send_vectored(&pieces)?;
                input.clear();
                return Ok(());
            }
            order::DIAL => {
                let client = TcpClient::connect(conn.event_loop(), address_in(input)?)
                    .serve_fn(|conn, input| conn.send(input.take_all()))?;
                self.clients.push(client);
            }
            order @ (order::DATAGRAMS | order::DATAGRAMS_TO_ALL) => {
                let at = if order == order::DATAGRAMS { "127.0.0.1:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(conn.event_loop(), at)?
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

/// The address of the port that a message gives.
fn address_in(message: &Buffer) -> io::Result<SocketAddr> {
    let port = std::str::from_utf8(&message.readable()[1..6]).map_err(io::Error::other)?;
    let port: u16 = port.parse().map_err(io::Error::other)?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}

/// The thread that posts. Says its id first, and nothing after that.
fn post_as_told(handle: &LoopHandle, id: &mpsc::Sender<i32>, told: &mpsc::Receiver<(u32, mpsc::Sender<()>)>) {
    id.send(thread_id()).expect("somebody waits for it");
    for (tasks, done) in told {
        for _ in 0..tasks {
            let done = done.clone();
            handle.queue_in_loop(move |_| drop(done)).expect("a loop that is there");
        }
        // Whoever holds up the loop goes on when all is posted.
        let _ = done.send(());
    }
}

fn thread_id() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// The child: says its address, the ids of its loop's thread, of the thread that posts, and of that
/// of a loop without descriptors, and then does what its parent asks for.
pub(crate) fn serve() {
    let (post, posts) = mpsc::channel();
    let orders = post.clone();
    let server = Arc::new(OnceLock::new());
    let own_server = Arc::clone(&server);
    let host = Host::new(move |event_loop| {
        TcpServer::bind(event_loop, "127.0.0.1:0")?.serve(move |_| Orders {
            post: orders.clone(),
            clients: Vec::new(),
            sockets: Vec::new(),
            server: Arc::clone(&own_server),
        })
    });
    server.set(host.ask(|_, server| server.as_ref().expect("a server").handle())).expect("set once");
    let loop_thread = host.ask(|_, _| thread_id());
    let (id, has_id) = mpsc::channel();
    let handle = host.handle().clone();
    thread::spawn(move || post_as_told(&handle, &id, &posts));
    let posting = has_id.recv().expect("a thread that starts");
    let bare = LoopThread::spawn("bare").expect("a thread");
    let bare_thread = bare.handle().call(|_| thread_id()).expect("a loop that is there");
    answer(format!("{} {loop_thread} {posting} {bare_thread}", host.address()));
    for line in io::stdin().lines() {
        let line = line.expect("a parent that speaks");
        if line == "call the bare loop" {
            bare.handle().call(|_| ()).expect("a loop that is there");
            answer("called");
            continue;
        }
        // One task for the loop, from outside.
        assert_eq!(line, "post");
        let (done, is_done) = mpsc::channel();
        post.send((1, done)).expect("a thread that posts");
        // Not over before the task is: it holds a sender, and the message comes from the other.
        while is_done.recv().is_ok() {}
        answer("posted");
    }
}

/// The child, as its parent has it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) child: Child,
    pub(crate) on_loop: Traced,
    pub(crate) posting: Traced,
    /// Another loop of the same process, with nothing but its tasks.
    pub(crate) on_bare_loop: Traced,
}

impl Server {
    /// `None` where tracing is not allowed.
    pub(crate) fn start() -> Option<Server> {
        let mut child = Child::start("server");
        let introduction = child.hear();
        let mut words = introduction.split(' ');
        let mut word = || words.next().expect("four words");
        let address = word().parse().expect("an address");
        let on_loop = Traced::attach(word().parse().expect("a thread"), &[libc::SYS_epoll_wait])?;
        let posting = Traced::attach(word().parse().expect("a thread"), &[libc::SYS_futex])?;
        let on_bare_loop = Traced::attach(word().parse().expect("a thread"), &[libc::SYS_read])?;
        drop(on_loop.settle());
        drop(on_bare_loop.settle());
        Some(Server { address, child, on_loop, posting, on_bare_loop })
    }

    pub(crate) fn connect(&self) -> TcpStream {
        net::connect(self.address)
    }
}

/// Sends a message that asks for `order`, and has its echo.
#[track_caller]
pub(crate) fn order(client: &mut TcpStream, order: u8) {
    let mut message = [b'-'; 64];
    message[0] = order;
    assert_eq!(net::exchange(client, message), message);
}
