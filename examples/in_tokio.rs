//! A loop inside tokio: an echo server with delayed replies, on one thread with a tokio runtime.
//!
//! Run it with `cargo run --release --example in_tokio`, then connect with `nc 127.0.0.1 2007`;
//! each message is returned after 10 ms. It shows a loop whose descriptor tokio watches
//! ([`embed`]), a handler that spawns a tokio task, and a task that sends on a connection of the
//! loop.

#[path = "shared/options.rs"]
mod options;
#[path = "shared/serving.rs"]
mod serving;

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use options::{Failure, Options};
use reveille::net::ConnectionLimits;
use reveille::signal::{Signal, Signals};
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection, TcpServer};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The delay of a reply.
const DELAY: Duration = Duration::from_millis(10);

/// The time without a byte in either direction after which a connection is closed.
const IDLE: Duration = Duration::from_secs(300);

const USAGE: &str = "usage: in_tokio [--listen ADDRESS:PORT]

  --listen  the address to listen on; default: 127.0.0.1:2007; port 0 selects a free port";

fn main() -> ExitCode {
    options::main(USAGE, &["--listen"], &[], run)
}

fn run(options: &mut Options) -> Result<(), Failure> {
    options.rest(0)?;
    let address = serving::listen(options, 2007)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let event_loop = EventLoop::new()?;
    let limits = ConnectionLimits::new().idle_timeout(IDLE);
    let server = TcpServer::bind(&event_loop, address)?.limits(limits).serve(|_| LateEcho)?;
    let _signals = Signals::new(&event_loop, [Signal::INT, Signal::TERM], |event_loop, _| event_loop.quit())?;
    runtime.block_on(async {
        let descriptor = watched(&event_loop)?;
        let _ = writeln!(io::stdout(), "echoing on {}", server.local_addr()?);
        Ok(embed(&event_loop, &descriptor).await?)
    })
}

/// Echoes what it receives, from a tokio task for each message.
struct LateEcho;

impl ConnectionHandler for LateEcho {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        let (bytes, connection) = (input.take_all().to_vec(), conn.handle());
        // `tokio::spawn` works here because the loop runs inside `block_on`.
        tokio::spawn(async move {
            tokio::time::sleep(DELAY).await;
            // Fails if the connection has been closed: the reply is dropped.
            let _ = connection.send(bytes);
        });
        Ok(())
    }

    /// By default the connection would be shut down here, before the pending replies.
    fn on_peer_shutdown(&mut self, conn: &TcpConnection) -> io::Result<()> {
        let connection = conn.handle();
        tokio::spawn(async move {
            tokio::time::sleep(2 * DELAY).await;
            connection.shutdown();
        });
        Ok(())
    }
}

/// Runs the loop whenever its descriptor becomes readable, until it quits. Other tasks of the
/// runtime run in between.
async fn embed(event_loop: &EventLoop, descriptor: &AsyncFd<OwnedFd>) -> io::Result<()> {
    while !event_loop.is_quitting() {
        // Clear first, so that an event during the turns is reported again.
        descriptor.readable().await?.clear_ready();
        event_loop.run_ready()?;
    }
    Ok(())
}

/// A duplicate of the loop's descriptor, since tokio needs to own one. It reports the same edges.
#[allow(
    deprecated,
    reason = "the other constructor is unsafe; the requirement of this one, an owned descriptor, is met"
)]
fn watched(event_loop: &EventLoop) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(event_loop.as_fd().try_clone_to_owned()?, Interest::READABLE)
}
