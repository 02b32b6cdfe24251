//! A connection of the client: sends requests, and receives their replies.

use std::io;
use std::time::{Duration, Instant};

use reveille::codec::Decoder;
use reveille::net::ByteStream;
use reveille::task::with_loop;
use reveille::tls::ClientTls;
use reveille::{Buffer, TcpClient, time};

use crate::protocol::{Part, ProtocolError, Replies, Reply, Request};

/// The time to connect.
const CONNECT: Duration = Duration::from_secs(10);

pub(crate) struct Connection {
    stream: ByteStream,
    replies: Replies,
    input: Buffer,
    /// The time without a byte after which the server counts as gone.
    silence: Duration,
}

impl Connection {
    /// Connects. `limit` is the time for this and for the first line.
    pub(crate) async fn open(
        target: &str,
        tls: Option<&ClientTls>,
        limit: Duration,
    ) -> io::Result<Connection> {
        let started = Instant::now();
        let connecting = with_loop(|event_loop| {
            let client = TcpClient::connect(event_loop, target).timeout(CONNECT);
            let client = if let Some(tls) = tls { client.tls(tls.clone()) } else { client };
            client.connect_async()
        });
        let stream = within(limit, connecting).await?;
        let silence = limit.saturating_sub(started.elapsed());
        Ok(Connection { stream, replies: Replies::new(), input: Buffer::new(), silence })
    }

    /// Receives the first line. `silence` applies to the others.
    pub(crate) async fn hello(&mut self, silence: Duration) -> io::Result<()> {
        let Reply::Hello = self.line(Duration::ZERO).await? else {
            return Err(ProtocolError("the server is not that of transfer").into());
        };
        self.silence = silence;
        Ok(())
    }

    pub(crate) async fn request(&mut self, request: &Request) -> io::Result<()> {
        within(self.silence, self.stream.write_all(request.encode())).await
    }

    /// The next line, for which the server may need a time in addition.
    pub(crate) async fn line(&mut self, computing: Duration) -> io::Result<Reply> {
        loop {
            if let Some((part, taken)) = self.replies.decode(self.input.readable())? {
                let Part::Line(reply) = part else {
                    return Err(ProtocolError("bytes of a file instead of a line").into());
                };
                self.input.consume(taken);
                return Ok(reply);
            }
            self.receive(self.silence + computing).await?;
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
            self.receive(self.silence).await?;
        }
    }

    async fn receive(&mut self, limit: Duration) -> io::Result<()> {
        match within(limit, self.stream.read_buf(&mut self.input)).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server has closed the connection")),
            _ => Ok(()),
        }
    }
}

async fn within<T>(limit: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let result = time::timeout(limit, future).await;
    result.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the server does not reply"))?
}
