//! The services over TCP.

use std::io;
use std::time::Instant;

use reveille::Buffer;
use reveille::net::ByteStream;

use super::check::{self, PIECE, Text, invalid};
use super::service::Service;
use super::{Request, clock};

/// The bytes that have been sent to echo and not yet received. They fit the limit of unsent bytes,
/// so a write does not wait for the service.
const IN_FLIGHT: usize = 4 * PIECE;

/// The maximum length of a whole reply.
const LONGEST_REPLY: usize = 4096;

/// The time to read and discard what a service sends after the end.
const CLOSE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// Requests a service, and returns the line to print.
pub(crate) async fn request(service: Service, target: &str, request: Request) -> io::Result<String> {
    let stream = request.within(ByteStream::connect(target)).await?;
    let begin = Instant::now();
    match service {
        Service::Echo => {
            echo(stream, request).await?;
            Ok(check::summary("echo", request.bytes, "verified", begin.elapsed()))
        }
        Service::Discard => {
            discard(stream, request).await?;
            Ok(check::summary("discard", request.bytes, "sent", begin.elapsed()))
        }
        Service::Chargen => {
            chargen(stream, request).await?;
            Ok(check::summary("chargen", request.bytes, "verified", begin.elapsed()))
        }
        Service::Daytime | Service::Qotd => check::only_text(&whole_reply(stream, request).await?),
        Service::Time => check::date(&whole_reply(stream, request).await?, clock::now()),
    }
}

async fn echo(mut stream: ByteStream, request: Request) -> io::Result<()> {
    let (text, mut input) = (Text::new(), Buffer::new());
    let (mut sent, mut received) = (0, 0);
    while received < request.bytes {
        while sent < request.bytes && sent - received < IN_FLIGHT {
            let piece = text.piece(sent, request.bytes - sent);
            request.within(stream.write_all(piece)).await?;
            sent += piece.len();
        }
        if request.within(stream.read_buf(&mut input)).await? == 0 {
            return Err(invalid(format!("the echo ended after {received} bytes")));
        }
        text.verify(received, input.readable())?;
        received += input.len();
        input.clear();
        if received > sent {
            return Err(invalid("more bytes received than sent".to_owned()));
        }
    }
    request.within(stream.shutdown()).await?;
    expect_end(&mut stream, request).await
}

/// The service ends the connection when it has received everything, and sends nothing.
async fn discard(mut stream: ByteStream, request: Request) -> io::Result<()> {
    let (text, mut sent) = (Text::new(), 0);
    while sent < request.bytes {
        let piece = text.piece(sent, request.bytes - sent);
        request.within(stream.write_all(piece)).await?;
        sent += piece.len();
    }
    request.within(stream.shutdown()).await?;
    expect_end(&mut stream, request).await
}

async fn expect_end(stream: &mut ByteStream, request: Request) -> io::Result<()> {
    match request.within(stream.read(&mut [0])).await? {
        0 => Ok(()),
        _ => Err(invalid("more bytes received than sent".to_owned())),
    }
}

async fn chargen(mut stream: ByteStream, request: Request) -> io::Result<()> {
    let (text, mut input, mut received) = (Text::new(), Buffer::new(), 0);
    while received < request.bytes {
        if request.within(stream.read_buf(&mut input)).await? == 0 {
            return Err(invalid(format!("the text ended after {received} bytes")));
        }
        text.verify(received, input.readable())?;
        received += input.len();
        input.clear();
    }
    // The service ends after the half-close of its client. What it has sent before is discarded.
    stream.close(CLOSE_TIMEOUT).await.or(Ok(()))
}

async fn whole_reply(mut stream: ByteStream, request: Request) -> io::Result<Vec<u8>> {
    let mut input = Buffer::new();
    while request.within(stream.read_buf(&mut input)).await? > 0 {
        if input.len() > LONGEST_REPLY {
            return Err(invalid(format!("the reply is longer than {LONGEST_REPLY} bytes")));
        }
    }
    Ok(input.take_all().to_vec())
}
