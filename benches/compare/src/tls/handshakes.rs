//! [`Handshakes`]: connections that end after their handshake.

use std::fmt;
use std::io::Read;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, HandshakeKind};

use super::echo::connect;
use super::identity::Identity;
use crate::Result;
use crate::turns::Work;

/// Number of concurrent connections. The server's cache of rustls holds 256 sessions by default,
/// and each connection stores two.
const AT_ONCE: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Full,
    Resumed,
}

impl Kind {
    /// Whether a handshake was of this kind. A server may ask for another key share first.
    fn is(self, handshake: Option<HandshakeKind>) -> bool {
        match self {
            Kind::Full => matches!(handshake, Some(HandshakeKind::Full)),
            Kind::Resumed => matches!(handshake, Some(HandshakeKind::Resumed)),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Full => write!(f, "full handshakes, {AT_ONCE} at a time"),
            Kind::Resumed => write!(f, "resumed handshakes, {AT_ONCE} at a time"),
        }
    }
}

/// The load: a connection is made, completes its handshake, and is closed by close_notify.
pub(super) struct Handshakes {
    server: SocketAddr,
    kind: Kind,
    /// One per concurrent connection, so that each finds the session of the one before it.
    configs: Vec<Arc<ClientConfig>>,
}

impl Handshakes {
    pub(super) fn new(server: SocketAddr, kind: Kind) -> Result<Handshakes> {
        let identity = Identity::of_this_run()?;
        let configs = (0..AT_ONCE).map(|_| identity.client_config(kind == Kind::Resumed));
        let mut handshakes = Handshakes { server, kind, configs: configs.collect::<Result<_>>()? };
        if kind == Kind::Resumed {
            handshakes.lives(Kind::Full)?;
        }
        Ok(handshakes)
    }

    fn lives(&mut self, kind: Kind) -> Result<()> {
        let mut streams = Vec::with_capacity(AT_ONCE);
        for config in &self.configs {
            streams.push(connect(self.server, config)?);
        }
        for stream in &mut streams {
            stream.conn.write_tls(&mut stream.sock)?;
        }
        for stream in &mut streams {
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock)?;
            }
            let handshake = stream.conn.handshake_kind();
            if !kind.is(handshake) {
                return Err(format!("a handshake was {handshake:?} instead of {kind:?}").into());
            }
            stream.conn.send_close_notify();
            while stream.conn.wants_write() {
                stream.conn.write_tls(&mut stream.sock)?;
            }
            stream.sock.shutdown(Shutdown::Write)?;
        }
        for stream in &mut streams {
            // Until the server's close_notify. The tickets come before it.
            if stream.read(&mut [0; 16])? > 0 {
                return Err("the server has sent bytes after the handshake".into());
            }
        }
        Ok(())
    }
}

impl Work for Handshakes {
    fn run_for(&mut self, window: Duration) -> Result<u64> {
        let deadline = Instant::now() + window;
        let mut connections = 0;
        while Instant::now() < deadline {
            self.lives(self.kind)?;
            connections += AT_ONCE as u64;
        }
        Ok(connections)
    }
}
