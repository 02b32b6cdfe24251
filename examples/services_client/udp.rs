//! The services over UDP. A datagram or its reply may be lost, so requests are repeated.

use std::io;
use std::time::{Duration, Instant};

use reveille::net::AsyncUdpSocket;
use reveille::{UdpSocket, task, time};

use super::check::{self, Text};
use super::service::Service;
use super::{Request, clock};

/// The length of the datagrams to echo and discard.
const DATAGRAM: usize = 1024;

/// How often a datagram is sent until there is a reply.
const ATTEMPTS: u32 = 5;

/// Discard has no replies that could slow down its client, so the client makes pauses.
const DATAGRAMS_PER_PAUSE: usize = 16;
const PAUSE: Duration = Duration::from_millis(1);

/// Requests a service, and returns the line to print.
pub(crate) async fn request(service: Service, target: &str, request: Request) -> io::Result<String> {
    let socket = task::with_loop(|event_loop| UdpSocket::connect(event_loop, target)?.open_async())?;
    let begin = Instant::now();
    let any = |_: &[u8]| true;
    match service {
        Service::Echo => {
            let repeated = echo(&socket, request).await?;
            let done = format!("verified, {repeated} datagrams repeated");
            Ok(check::summary("echo", request.bytes, &done, begin.elapsed()))
        }
        Service::Discard => {
            discard(&socket, request.bytes).await?;
            Ok(check::summary("discard", request.bytes, "sent", begin.elapsed()))
        }
        Service::Chargen => {
            let (reply, _) = reply_to(&socket, b"", request, any).await?;
            Text::new().verify_lines(&reply)?;
            Ok(format!("{}\nchargen: {} bytes verified", check::text(&reply), reply.len()))
        }
        Service::Daytime | Service::Qotd => check::only_text(&reply_to(&socket, b"", request, any).await?.0),
        Service::Time => check::date(&reply_to(&socket, b"", request, any).await?.0, clock::now()),
    }
}

/// Sends the text, one datagram at a time, each with a number. Returns how many were repeated.
async fn echo(socket: &AsyncUdpSocket, request: Request) -> io::Result<u32> {
    let text = Text::new();
    let (mut position, mut number, mut repeated) = (0, 0_u64, 0);
    while position < request.bytes {
        let piece = text.piece(position, (request.bytes - position).min(DATAGRAM));
        let datagram = [&number.to_be_bytes(), piece].concat();
        // An echo of an earlier datagram, which was repeated too early, is not the reply.
        let is_echo = |reply: &[u8]| reply.starts_with(&datagram[..8]);
        let (reply, again) = reply_to(socket, &datagram, request, is_echo).await?;
        text.verify(position, &reply[8..])?;
        if reply.len() != datagram.len() {
            let lengths = format!("{} bytes were echoed as {}", datagram.len(), reply.len());
            return Err(check::invalid(lengths));
        }
        position += piece.len();
        number += 1;
        repeated += again;
    }
    Ok(repeated)
}

async fn discard(socket: &AsyncUdpSocket, bytes: usize) -> io::Result<()> {
    let (text, mut sent, mut datagrams) = (Text::new(), 0, 0);
    while sent < bytes {
        let piece = text.piece(sent, (bytes - sent).min(DATAGRAM));
        socket.send(piece).await?;
        sent += piece.len();
        datagrams += 1;
        if datagrams % DATAGRAMS_PER_PAUSE == 0 {
            time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// Sends a datagram until a reply to it arrives. Returns the reply, and how often the datagram was
/// repeated.
async fn reply_to(
    socket: &AsyncUdpSocket,
    datagram: &[u8],
    request: Request,
    is_reply: impl Fn(&[u8]) -> bool,
) -> io::Result<(Vec<u8>, u32)> {
    let mut buffer = vec![0; 65536];
    for repeated in 0..ATTEMPTS {
        socket.send(datagram).await?;
        let receive = async {
            loop {
                let (n, _) = socket.recv_from(&mut buffer).await?;
                if is_reply(&buffer[..n]) {
                    return io::Result::Ok(n);
                }
            }
        };
        if let Ok(received) = time::timeout(request.timeout / ATTEMPTS, receive).await {
            buffer.truncate(received?);
            return Ok((buffer, repeated));
        }
    }
    let message = format!("the service did not reply within {} s", request.timeout.as_secs());
    Err(io::Error::new(io::ErrorKind::TimedOut, message))
}
