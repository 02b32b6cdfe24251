//! The compared servers: one echo loop each, on one thread, in one file.
//!
//! A server runs in a process of its own. It prints its address on one line, and serves until its
//! standard input is closed. That happens at the latest when its parent dies, so no server is left
//! running.

mod calloop;
mod hyper;
mod mio;
mod monoio;
mod raw;
mod relays;
mod reveille;
mod reveille_async;
mod reveille_tls;
mod smol;
mod tokio;
mod tokio_tls;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::Result;
use crate::http::Version;
use raw::Calls;
pub(crate) use relays::{BACKEND, clean_up, has_nginx};

/// Size of the read buffer that a server shares among its connections.
const SHARED_BUFFER: usize = 64 * 1024;

/// Listen backlog.
const BACKLOG: i32 = 4096;

/// A server to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Raw,
    RawRecvSend,
    Reveille,
    ReveilleAsync,
    Mio,
    Tokio,
    Smol,
    Monoio,
    Calloop,
    ReveilleHttp1,
    TokioHttp1,
    ReveilleHttp2,
    TokioHttp2,
    ReveilleTls,
    TokioTls,
    ReveilleRelay,
    NginxRelay,
}

impl Peer {
    /// The default peers. All are compared with the first.
    pub(crate) const USUAL: [Peer; 9] = [
        Peer::Raw,
        Peer::RawRecvSend,
        Peer::Reveille,
        Peer::ReveilleAsync,
        Peer::Mio,
        Peer::Tokio,
        Peer::Smol,
        Peer::Monoio,
        Peer::Calloop,
    ];

    /// The peers of the command `hyper`.
    pub(crate) const HTTP: [Peer; 4] =
        [Peer::TokioHttp1, Peer::ReveilleHttp1, Peer::TokioHttp2, Peer::ReveilleHttp2];

    /// The peers of the command `tls`. All are compared with the first.
    pub(crate) const TLS: [Peer; 2] = [Peer::TokioTls, Peer::ReveilleTls];

    /// Relays from TLS to a server in plain text, which runs beside each. They belong to the
    /// command `tls` too, in tables of their own.
    pub(crate) const RELAYS: [Peer; 2] = [Peer::NginxRelay, Peer::ReveilleRelay];

    /// The default peers of the command `tls`.
    pub(crate) fn all_tls() -> Vec<Peer> {
        Peer::TLS.into_iter().chain(Peer::RELAYS).collect()
    }

    /// The name on the command line and in the tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Raw => "raw",
            Peer::RawRecvSend => "raw-recv",
            Peer::Reveille => "reveille",
            Peer::ReveilleAsync => "reveille-async",
            Peer::Mio => "mio",
            Peer::Tokio => "tokio",
            Peer::Smol => "smol",
            Peer::Monoio => "monoio",
            Peer::Calloop => "calloop",
            Peer::ReveilleHttp1 => "reveille-http1",
            Peer::TokioHttp1 => "tokio-http1",
            Peer::ReveilleHttp2 => "reveille-http2",
            Peer::TokioHttp2 => "tokio-http2",
            Peer::ReveilleTls => "reveille-tls",
            Peer::TokioTls => "tokio-rustls",
            Peer::ReveilleRelay => "reveille-relay",
            Peer::NginxRelay => "nginx-relay",
        }
    }

    /// Whether its connections are encrypted.
    pub(crate) fn is_tls(self) -> bool {
        Peer::TLS.contains(&self) || self.is_relay()
    }

    /// The version of HTTP that it speaks, if it is a peer of the command `hyper`.
    pub(crate) fn http_version(self) -> Option<Version> {
        match self {
            Peer::ReveilleHttp1 | Peer::TokioHttp1 => Some(Version::Http1),
            Peer::ReveilleHttp2 | Peer::TokioHttp2 => Some(Version::Http2),
            _ => None,
        }
    }

    /// Whether it needs a backend.
    pub(crate) fn is_relay(self) -> bool {
        Peer::RELAYS.contains(&self)
    }

    /// Prefixes an error with the name.
    pub(crate) fn blamed<T>(self, result: Result<T>) -> Result<T> {
        result.map_err(|error| format!("{}: {error}", self.name()).into())
    }

    /// Parses the name of a peer.
    pub(crate) fn parse(name: &str) -> std::result::Result<Peer, String> {
        let mut all = Peer::USUAL.into_iter().chain(Peer::HTTP).chain(Peer::TLS).chain(Peer::RELAYS);
        let named = all.find(|peer| peer.name() == name);
        named.ok_or_else(|| format!("no peer is called {name:?}"))
    }
}

/// Runs one echo server until standard input is closed.
pub(crate) fn serve(peer: Peer) -> Result<()> {
    match peer {
        Peer::Raw => raw::serve(Calls::ReadWrite),
        Peer::RawRecvSend => raw::serve(Calls::RecvSend),
        Peer::Reveille => reveille::serve(),
        Peer::ReveilleAsync => reveille_async::serve(),
        Peer::Mio => mio::serve(),
        Peer::Tokio => tokio::serve(),
        Peer::Smol => smol::serve(),
        Peer::Monoio => monoio::serve(),
        Peer::Calloop => calloop::serve(),
        Peer::ReveilleHttp1 => hyper::serve_on_reveille(Version::Http1),
        Peer::TokioHttp1 => hyper::serve_on_tokio(Version::Http1),
        Peer::ReveilleHttp2 => hyper::serve_on_reveille(Version::Http2),
        Peer::TokioHttp2 => hyper::serve_on_tokio(Version::Http2),
        Peer::ReveilleTls => reveille_tls::serve(),
        Peer::TokioTls => tokio_tls::serve(),
        Peer::ReveilleRelay => relays::serve_reveille(),
        Peer::NginxRelay => match relays::become_nginx()? {},
    }
}

/// A non-blocking listener on a free loopback port.
fn listener() -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Prints the address for the parent, and ends the process once the parent closes the input.
fn announce(address: SocketAddr) -> io::Result<()> {
    // The watcher thread sleeps in `read` during the measurement, so it uses none of the server's
    // CPU time; its stack is allocated before memory is measured.
    std::thread::Builder::new().name("stdin".into()).spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    })?;
    tell(address)
}

/// Prints the address for the parent.
fn tell(address: SocketAddr) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{address}")?;
    stdout.flush()
}
