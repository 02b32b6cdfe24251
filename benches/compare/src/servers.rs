//! The servers compared: one echo loop each, one thread, one file.
//!
//! A server runs in a process of its own. It prints its address on one line and then serves until
//! its standard input closes, which happens at the latest when the process that started it dies,
//! so that none is ever left behind.

mod calloop;
mod mio;
mod raw;
mod reveille;
mod tokio;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::Result;
use raw::Calls;

/// The size of the one read buffer a server shares among its connections.
const SHARED_BUFFER: usize = 64 * 1024;

/// Connections the kernel may hold for a server that has not accepted them yet.
const BACKLOG: i32 = 4096;

/// A server to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Raw,
    RawRecvSend,
    Reveille,
    Mio,
    Tokio,
    Calloop,
}

impl Peer {
    /// The peers compared unless others are named. All are measured by the first.
    pub(crate) const USUAL: [Peer; 6] =
        [Peer::Raw, Peer::RawRecvSend, Peer::Reveille, Peer::Mio, Peer::Tokio, Peer::Calloop];

    /// The name on the command line and in the tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Raw => "raw",
            Peer::RawRecvSend => "raw-recv",
            Peer::Reveille => "reveille",
            Peer::Mio => "mio",
            Peer::Tokio => "tokio",
            Peer::Calloop => "calloop",
        }
    }

    /// Says in an error whose it was.
    pub(crate) fn blamed<T>(self, result: Result<T>) -> Result<T> {
        result.map_err(|error| format!("{}: {error}", self.name()).into())
    }

    /// The peer of that name.
    pub(crate) fn parse(name: &str) -> std::result::Result<Peer, String> {
        let named = Peer::USUAL.into_iter().find(|peer| peer.name() == name);
        named.ok_or_else(|| format!("no peer is called {name:?}"))
    }
}

/// Runs one echo server until standard input closes.
pub(crate) fn serve(peer: Peer) -> Result<()> {
    match peer {
        Peer::Raw => raw::serve(Calls::ReadWrite),
        Peer::RawRecvSend => raw::serve(Calls::RecvSend),
        Peer::Reveille => reveille::serve(),
        Peer::Mio => mio::serve(),
        Peer::Tokio => tokio::serve(),
        Peer::Calloop => calloop::serve(),
    }
}

/// A non-blocking listener on a free loopback port.
fn listener() -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    // Handed on by the kernel to what is accepted.
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Tells the parent where to connect, and ends the process once the parent closes our input.
fn announce(address: SocketAddr) -> io::Result<()> {
    // The watcher sleeps in `read` for as long as figures are taken, so it costs the server none
    // of its CPU time; its stack is there before the memory is looked at.
    std::thread::Builder::new().name("stdin".into()).spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    })?;
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{address}")?;
    stdout.flush()
}
