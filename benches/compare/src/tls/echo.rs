//! [`Echo`]: messages over TLS connections, with every reply checked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::identity::{Identity, server_name};
use crate::Result;
use crate::memory::Idle;
use crate::turns::Work;

/// A server that takes longer for a reply has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

const MEBIBYTE: usize = 1024 * 1024;

/// The connections to one server. In each round, all send a message and then receive the reply.
pub(super) struct Echo {
    connections: Vec<StreamOwned<ClientConnection, TcpStream>>,
    message: Vec<u8>,
    reply: Vec<u8>,
    number: u64,
}

impl Echo {
    /// Opens connections. Each has echoed one message of `size` bytes.
    pub(super) fn open(server: SocketAddr, connections: usize, size: usize) -> Result<Echo> {
        let config = Identity::of_this_run()?.client_config(false)?;
        let mut echo = Echo {
            connections: Vec::with_capacity(connections),
            message: (0..size).map(|position| (position % 251) as u8).collect(),
            reply: vec![0; size],
            number: 0,
        };
        for _ in 0..connections {
            let mut stream = connect(server, &config)?;
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock)?;
            }
            echo.connections.push(stream);
        }
        echo.echo_all()?;
        Ok(echo)
    }

    fn echo_all(&mut self) -> Result<()> {
        let Echo { connections, message, reply, number } = self;
        // All messages are encrypted before the first is sent, so that the server gets them as fast
        // as it can process them.
        let first = *number;
        for stream in &mut *connections {
            *number += 1;
            message[..8].copy_from_slice(&number.to_le_bytes());
            stream.conn.writer().write_all(message)?;
        }
        for stream in &mut *connections {
            while stream.conn.wants_write() {
                stream.conn.write_tls(&mut stream.sock)?;
            }
        }
        for (stream, number) in connections.iter_mut().zip(first + 1..) {
            stream.read_exact(reply)?;
            message[..8].copy_from_slice(&number.to_le_bytes());
            if reply != message {
                return Err(format!("a wrong reply to message {number}").into());
            }
        }
        Ok(())
    }
}

/// Connects, and leaves the handshake to the caller.
pub(super) fn connect(
    server: SocketAddr,
    config: &Arc<ClientConfig>,
) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut session = ClientConnection::new(Arc::clone(config), server_name()?)?;
    session.set_buffer_limit(None);
    Ok(StreamOwned::new(session, stream))
}

/// Counts messages if they are small, and MiB otherwise.
impl Work for Echo {
    fn run_for(&mut self, window: Duration) -> Result<u64> {
        let deadline = Instant::now() + window;
        let a_round = self.connections.len() * self.message.len();
        let (rounds, units) = match self.message.len() >= 1024 {
            true => (MEBIBYTE.div_ceil(a_round), a_round * MEBIBYTE.div_ceil(a_round) / MEBIBYTE),
            false => (1, self.connections.len()),
        };
        let mut done = 0;
        while Instant::now() < deadline {
            for _ in 0..rounds {
                self.echo_all()?;
            }
            done += units as u64;
        }
        Ok(done)
    }
}

impl Idle for Echo {
    fn open(server: SocketAddr, connections: usize) -> Result<Echo> {
        Echo::open(server, connections, 64)
    }

    fn echo_once(&mut self) -> Result<()> {
        self.echo_all()
    }
}
