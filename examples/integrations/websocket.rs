//! A WebSocket echo server (RFC 6455) with async-tungstenite, over the futures-io traits of the
//! stream.
//!
//! Run it with `cargo run --release -p integrations --bin websocket`, then use the command that it
//! prints. Messages have a maximum size, a silent client is pinged, and a stop closes the
//! connections with the code 1001.

mod certificate;
#[path = "../shared/options.rs"]
mod options;
#[path = "../shared/reload.rs"]
mod reload;
#[path = "../shared/serving.rs"]
mod serving;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use async_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use async_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use async_tungstenite::tungstenite::{Bytes, Error, Message};
use async_tungstenite::{WebSocketStream, accept_async_with_config};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use reveille::net::{ByteStream, ConnectionLimits};
use reveille::time::timeout;
use reveille::{EventLoop, TcpServer};

use certificate::Certificate;
use options::{Failure, Options};

const USAGE: &str = "usage: websocket [--tls CERT KEY | --self-signed] [OPTION VALUE]...

  --tls          two PEM files: the certificate of the server with those that lead to its authority,
                 and its key; SIGHUP loads them again
  --self-signed  creates a certificate for localhost, which only this server has
  --max-message  the maximum size of a message in bytes; default: 1048576
  --listen       the address to listen on; default: 127.0.0.1:9001; port 0 selects a free port
  --threads      the number of loops that serve connections; default: 1
  --grace        the time in seconds for connections to close after a signal; default: 3

Without a certificate there is no TLS.";

const MAX_CONNECTIONS: usize = 10_000;
/// The time for the handshake of HTTP.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The time without a frame after which a client is pinged. Without one for the same time again,
/// its connection is closed.
const SILENCE: Duration = Duration::from_secs(30);
/// The time without a byte in either direction, for a client that does not read.
const IDLE: Duration = Duration::from_secs(90);
/// The time for the reply to a close.
const CLOSING: Duration = Duration::from_secs(5);

type Socket = WebSocketStream<ByteStream>;

fn main() -> ExitCode {
    let names = ["--tls", "--max-message", "--listen", "--threads", "--grace"];
    options::main(USAGE, &names, &["--self-signed"], |options| Ok(run(&Arguments::parse(options)?)?))
}

struct Arguments {
    certificate: Option<Certificate>,
    max_message: usize,
    listen: SocketAddr,
    threads: usize,
    grace: Duration,
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        options.rest(0)?;
        Ok(Arguments {
            certificate: Certificate::parse(options)?,
            max_message: options.get("--max-message", 1 << 20, "a number of bytes")?,
            listen: serving::listen(options, 9001)?,
            threads: serving::threads(options)?,
            grace: serving::grace(options)?,
        })
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    // The program decides which cryptography is used.
    rustls::crypto::ring::default_provider().install_default().expect("the first provider");
    let config = WebSocketConfig::default()
        .max_message_size(Some(arguments.max_message))
        .max_frame_size(Some(arguments.max_message))
        .read_buffer_size(4 * 1024)
        .write_buffer_size(4 * 1024);
    let event_loop = EventLoop::new()?;
    let tls = arguments.certificate.as_ref().map(|certificate| certificate.tls(&["http/1.1"])).transpose()?;
    let mut builder = TcpServer::bind(&event_loop, arguments.listen)?
        .max_connections(MAX_CONNECTIONS)
        .limits(ConnectionLimits::new().idle_timeout(IDLE));
    if let Some(tls) = &tls {
        builder = builder.tls(tls);
    }
    let server = builder.threads(arguments.threads).serve_async(move |stream| serve(stream, config))?;
    let scheme = if tls.is_some() { "wss" } else { "ws" };
    let _reload = reload::on_hangup(&event_loop, tls)?;
    serving::run(&event_loop, server, arguments.grace, |ip, port| {
        format!("python3 -m websockets {scheme}://{}/", SocketAddr::new(ip, port))
    })
}

/// Serves a connection until the client or a stop ends it.
async fn serve(stream: ByteStream, config: WebSocketConfig) -> io::Result<()> {
    let stop = stream.stop_requested();
    let peer = stream.peer_address()?;
    let accepted = timeout(HANDSHAKE, accept_async_with_config(stream, Some(config))).await;
    let mut socket = match accepted {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => {
            log::info!("{peer}: no handshake: {error}");
            return Ok(());
        }
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let ended = match select(stop, std::pin::pin!(echo(&mut socket))).await {
        Either::Left(((), _)) => None,
        Either::Right((ended, _)) => Some(ended),
    };
    let code = match &ended {
        None => CloseCode::Away,
        // The close handshake is complete.
        Some(Ok(())) => return Ok(()),
        Some(Err(error)) => {
            log::info!("{peer}: {error}");
            match code_of(error) {
                Some(code) => code,
                // The connection is broken, or the client has left without a close.
                None => return Ok(()),
            }
        }
    };
    // A client that does not reply is closed all the same.
    let is_failure = ended.is_some();
    _ = timeout(CLOSING, close(&mut socket, code, is_failure)).await;
    Ok(())
}

/// Returns each message, until the client has closed.
async fn echo(socket: &mut Socket) -> Result<(), Error> {
    let mut is_pinged = false;
    loop {
        let message = match timeout(SILENCE, socket.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(message)) => message?,
            Err(_) if is_pinged => return Err(Error::Io(io::ErrorKind::TimedOut.into())),
            Err(_) => {
                is_pinged = true;
                socket.send(Message::Ping(Bytes::new())).await?;
                continue;
            }
        };
        is_pinged = false;
        // Waits until the kernel has taken the message, so a client that does not read is not read
        // either. A ping is answered by the crate.
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
}

/// The code that names an error to the client (RFC 6455, section 7.4.1).
fn code_of(error: &Error) -> Option<CloseCode> {
    match error {
        Error::Protocol(_) => Some(CloseCode::Protocol),
        Error::Utf8(_) => Some(CloseCode::Invalid),
        Error::Capacity(_) => Some(CloseCode::Size),
        _ => None,
    }
}

/// Sends a close, and waits for the reply, unless the client has broken the protocol.
async fn close(socket: &mut Socket, code: CloseCode, is_failure: bool) -> Result<(), Error> {
    socket.close(Some(CloseFrame { code, reason: "".into() })).await?;
    while !is_failure && socket.next().await.transpose()?.is_some() {}
    Ok(())
}
