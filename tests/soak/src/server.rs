//! The code of the server process: one service for each kind of scenario.

use std::cell::RefCell;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::net::{ConnectionLimits, UnixAddress};
use reveille::{
    Buffer, ConnectionHandle, ConnectionHandler, EventLoop, TcpClient, TcpConnection, TcpServer, UdpSocket,
};

/// The longest line that the line service accepts.
pub(crate) const LONGEST_LINE: usize = 1000;

/// The idle timeout of the idle service.
const IDLE: Duration = Duration::from_millis(300);

/// The addresses of the services.
#[derive(Clone)]
pub(crate) struct Services {
    /// Echoes, on two loops.
    pub(crate) echo: SocketAddr,
    /// Echoes each line with its number. The line `panic` makes the handler panic.
    pub(crate) lines: SocketAddr,
    /// Replies `413` to the first bytes and closes gracefully.
    pub(crate) early: SocketAddr,
    /// Relays to the echo service.
    pub(crate) relay: SocketAddr,
    /// Echoes, and closes connections that are idle for [`IDLE`].
    pub(crate) idle: SocketAddr,
    /// Echoes datagrams.
    pub(crate) udp: SocketAddr,
    /// Echoes on a Unix socket with this abstract name.
    pub(crate) unix: String,
    /// Echoes on a Unix socket with this abstract name, and accepts descriptors.
    pub(crate) descriptors: String,
}

impl Services {
    pub(crate) fn parse(line: &str) -> io::Result<Services> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("invalid services: `{line}`"));
        let mut fields = line.split(' ');
        let mut field = || fields.next().ok_or_else(invalid);
        let address = |text: &str| text.parse().map_err(|_| invalid());
        Ok(Services {
            echo: address(field()?)?,
            lines: address(field()?)?,
            early: address(field()?)?,
            relay: address(field()?)?,
            idle: address(field()?)?,
            udp: address(field()?)?,
            unix: field()?.to_owned(),
            descriptors: field()?.to_owned(),
        })
    }
}

thread_local! {
    static SERVERS: RefCell<Vec<TcpServer>> = const { RefCell::new(Vec::new()) };
}

/// Serves until the standard input ends. Each line of input is a request for the number of open
/// connections.
pub(crate) fn run() -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let any = "127.0.0.1:0";
    let echo = TcpServer::bind(&event_loop, any)?.threads(2).serve(|_| Echo)?;
    let back_end = echo.local_addr()?;
    let lines = TcpServer::bind(&event_loop, any)?
        .serve(|_| Framed::new(LineCodec::new(LONGEST_LINE), Lines::default()))?;
    let early = TcpServer::bind(&event_loop, any)?.serve(|_| Early { replied: false })?;
    let relay = TcpServer::bind(&event_loop, any)?.serve(move |_| Front { back_end, client: None })?;
    let idle = TcpServer::bind(&event_loop, any)?
        .limits(ConnectionLimits::new().idle_timeout(IDLE))
        .serve(|_| Echo)?;
    let udp = UdpSocket::bind(&event_loop, any)?
        .serve_fn(|socket, datagram, from| socket.send_to(datagram, from))?;
    let (unix, descriptors) = (abstract_name("echo"), abstract_name("descriptors"));
    let unix_echo = TcpServer::bind_unix(&event_loop, UnixAddress::abstract_name(&unix)?)?.serve(|_| Echo)?;
    let receiver =
        TcpServer::bind_unix(&event_loop, UnixAddress::abstract_name(&descriptors)?)?.serve(|_| Receiver)?;

    let addresses = [&echo, &lines, &early, &relay, &idle].map(|server| server.local_address().to_string());
    let line = format!("{} {} {unix} {descriptors}", addresses.join(" "), udp.local_addr()?);
    SERVERS.set(vec![echo, lines, early, relay, idle, unix_echo, receiver]);
    let handle = event_loop.handle();
    thread::spawn(move || {
        for _request in io::stdin().lock().lines() {
            let open = handle.call(|_| {
                SERVERS.with_borrow(|servers| servers.iter().map(TcpServer::open_connections).sum::<u64>())
            });
            let Ok(open) = open else { return };
            if writeln!(io::stdout(), "{open}").is_err() {
                return;
            }
        }
        handle.quit();
    });
    writeln!(io::stdout(), "{line}")?;
    event_loop.run()?;
    SERVERS.take();
    Ok(())
}

fn abstract_name(service: &str) -> String {
    format!("reveille-soak-{}-{service}", std::process::id())
}

struct Echo;

impl ConnectionHandler for Echo {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        conn.send(input.take_all())?;
        Ok(())
    }
}

#[derive(Default)]
struct Lines {
    number: u64,
}

impl FrameHandler<LineCodec> for Lines {
    fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
        if line == b"panic" {
            // Skips the panic hook, whose output would fill the log.
            std::panic::resume_unwind(Box::new("a client requested this panic"));
        }
        self.number += 1;
        let mut reply = format!("{} ", self.number).into_bytes();
        reply.extend_from_slice(line);
        reply.push(b'\n');
        conn.send(reply)?;
        Ok(())
    }
}

struct Early {
    replied: bool,
}

impl ConnectionHandler for Early {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        if !self.replied {
            self.replied = true;
            conn.send("413")?;
            conn.close_gracefully(Duration::from_secs(20));
        }
        Ok(())
    }
}

/// The relay's connection from a client. When it opens, it connects to the back end.
struct Front {
    back_end: SocketAddr,
    client: Option<TcpClient>,
}

impl ConnectionHandler for Front {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.pause_reading();
        let (front, failed) = (conn.handle(), conn.handle());
        let client = TcpClient::connect(conn.event_loop(), self.back_end)
            .on_failure(move |_, _| failed.close())
            .serve(move |_| Back { front: front.clone() })?;
        self.client = Some(client);
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection, _: &mut Buffer) -> io::Result<()> {
        Ok(())
    }
}

/// The relay's connection to the back end.
struct Back {
    front: ConnectionHandle,
}

impl ConnectionHandler for Back {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.relay_to(&self.front)
    }

    fn on_message(&mut self, _: &TcpConnection, _: &mut Buffer) -> io::Result<()> {
        Ok(())
    }
}

/// Accepts descriptors, drops them, and echoes the bytes.
struct Receiver;

impl ConnectionHandler for Receiver {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.accept_descriptors(4)?;
        Ok(())
    }

    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        conn.send(input.take_all())?;
        Ok(())
    }
}
