//! A connection of the client: sends requests, and receives their replies.

use std::io;
use std::time::Duration;

use reveille::codec::Decoder;
use reveille::net::ByteStream;
use reveille::task::with_loop;
use reveille::tls::ClientTls;
use reveille::{Buffer, TcpClient, time};

use crate::protocol::{Part, ProtocolError, Replies, Reply, Request};

/// The time to connect, and the time without a byte after which the server counts as gone.
pub(crate) const IDLE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(10);

pub(crate) struct Connection {
    stream: ByteStream,
    replies: Replies,
    input: Buffer,
}

impl Connection {
    pub(crate) async fn open(target: &str, tls: Option<&ClientTls>) -> io::Result<Connection> {
        let connecting = with_loop(|event_loop| {
            let client = TcpClient::connect(event_loop, target).timeout(CONNECT);
            let client = if let Some(tls) = tls { client.tls(tls.clone()) } else { client };
            client.connect_async()
        });
        let stream = connecting.await?;
        let mut connection = Connection { stream, replies: Replies::new(), input: Buffer::new() };
        match connection.line(IDLE).await? {
            Reply::Hello => Ok(connection),
            _ => Err(ProtocolError("the server is not that of transfer").into()),
        }
    }

    pub(crate) async fn request(&mut self, request: &Request) -> io::Result<()> {
        time::timeout(IDLE, self.stream.write_all(request.encode())).await?
    }

    /// The next line. `limit` is the time without a byte.
    pub(crate) async fn line(&mut self, limit: Duration) -> io::Result<Reply> {
        loop {
            if let Some((part, taken)) = self.replies.decode(self.input.readable())? {
                let Part::Line(reply) = part else {
                    return Err(ProtocolError("bytes of a file instead of a line").into());
                };
                self.input.consume(taken);
                return Ok(reply);
            }
            self.receive(limit).await?;
        }
    }

    /// The next bytes of a file, at least one.
    pub(crate) async fn bytes(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some((part, taken)) = self.replies.decode(self.input.readable())? {
                let Part::Bytes(bytes) = part else {
                    return Err(ProtocolError("a line instead of bytes of a file").into());
                };
                let bytes = bytes.to_vec();
                self.input.consume(taken);
                return Ok(bytes);
            }
            self.receive(IDLE).await?;
        }
    }

    async fn receive(&mut self, limit: Duration) -> io::Result<()> {
        match time::timeout(limit, self.stream.read_buf(&mut self.input)).await?? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server has closed the connection")),
            _ => Ok(()),
        }
    }
}
