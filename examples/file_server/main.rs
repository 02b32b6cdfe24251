//! Serves the files of a directory over TCP.
//!
//! Run it with `cargo run --release --features uring --example file_server -- DIRECTORY`, then
//! request a file with `echo 'GET name' | nc -N 127.0.0.1 2008`. A request is one line. The first
//! line of a reply is `OK LENGTH`, followed by `LENGTH` bytes, or `ERR REASON`. The requests of a
//! connection are served one after the other.
//!
//! It shows a handler that waits for something other than its peer. While a file is being read, the
//! connection's input is paused. While the peer does not read its data, the file is not read
//! further. So a connection holds at most a few pieces of a file. (A file to be sent unmodified
//! could also be left to `send_file`, which reads it on the loop.)
//!
//! `--tls` encrypts the connections. It needs a build with a crypto provider, which is the program
//! `tls_file_server` of the package `integrations`: it is this program, with TLS.

#[path = "../shared/file_backend.rs"]
mod file_backend;
#[path = "../shared/options.rs"]
mod options;
#[cfg(feature = "tls")]
#[path = "../shared/reload.rs"]
mod reload;
#[path = "../shared/serving.rs"]
mod serving;

mod service;
mod session;
mod transfer;

use std::fs;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use reveille::codec::{Framed, LineCodec};
use reveille::net::{ConnectionLimits, TcpServerBuilder};
use reveille::signal::Signals;
use reveille::{EventLoop, TcpServer};

use options::{Failure, Options};
use service::Service;
use session::Session;
use transfer::PIECE;

/// The program `tls_file_server` has another name.
const USAGE: &str = concat!(
    "usage: ",
    env!("CARGO_BIN_NAME"),
    " [OPTION VALUE]... DIRECTORY

  DIRECTORY  the files in it are served; subdirectories are not
  --listen   the address to listen on; default: 127.0.0.1:2008; port 0 selects a free port
  --by       the backend that reads files: io_uring or threads; default: io_uring if available
  --timeout  the time in seconds that a client has to complete a request; default: 10
  --slowest  the bytes per second at which a client must read a file; default: 16384
  --tls      two PEM files, a certificate and its key: connections use TLS; SIGHUP loads them again;
             only in tls_file_server"
);

/// The command, and the longest file name.
const LONGEST_REQUEST: usize = 255 + "GET ".len();

/// Reading of the file pauses when this many bytes of a connection are unsent, and resumes at the
/// low mark.
const HIGH_WATER: usize = 2 * PIECE;
const LOW_WATER: usize = PIECE;

/// Each connection needs two descriptors.
const MAX_CONNECTIONS: usize = 400;

/// Prevents one address, or one IPv6 network, from taking all connections.
const MAX_PER_ADDRESS: usize = 100;

/// Time without progress after which a connection is closed, whether the client does not request or
/// does not read. A client that makes little progress is closed by the time limit of its request,
/// or by that of its file.
const IDLE: Duration = Duration::from_secs(60);

pub(crate) fn main() -> ExitCode {
    options::main(USAGE, &["--listen", "--by", "--timeout", "--slowest", "--tls"], &[], run)
}

fn run(options: &mut Options) -> Result<(), Failure> {
    let directory = options.only("the directory")?;
    let (listen, tls) = (serving::listen(options, 2008)?, options.pair("--tls"));
    let seconds = options.get("--timeout", 10.0, "a number of seconds")?;
    let timeout = Duration::try_from_secs_f64(seconds)
        .map_err(|_| options.wrong(format!("`{seconds}` is not a number of seconds")))?;
    let slowest = NonZeroU64::MIN.saturating_add(16383);
    let slowest = options.get("--slowest", slowest, "a number from 1")?;
    let files = file_backend::builder(options)?;

    let directory = fs::canonicalize(&directory)
        .and_then(|path| fs::read_dir(&path).map(|_| path))
        .map_err(|error| Failure::Error(format!("{}: {error}", directory.to_string_lossy())))?;
    let event_loop = EventLoop::new()?;
    let service = Rc::new(Service::new(files.build(&event_loop)?, directory, timeout, slowest));
    let shared = Rc::clone(&service);
    let mut builder = TcpServer::bind(&event_loop, listen)?;
    let mut _reload = None;
    if let Some((cert, key)) = &tls {
        (builder, _reload) = encrypted(&event_loop, builder, cert, key)?;
    }
    let server = builder
        .max_connections(MAX_CONNECTIONS)
        .max_per_address(MAX_PER_ADDRESS)
        .limits(ConnectionLimits::new().idle_timeout(IDLE).water_marks(HIGH_WATER, LOW_WATER))
        .serve(move |_| {
            shared.connections.set(shared.connections.get() + 1);
            let session = Session { service: Rc::clone(&shared), transfer: None };
            Framed::new(LineCodec::new(LONGEST_REQUEST), session).frame_timeout(timeout)
        })?;

    let local = server.local_addr()?;
    let _signals = service.end_on_signal(&event_loop, server)?;
    let client = match tls {
        Some(_) => format!("openssl s_client -quiet -connect {local}"),
        None => format!("nc -N {} {}", local.ip(), local.port()),
    };
    let by = file_backend::name(&service.files);
    // Serving does not depend on the output, so the write may fail.
    let _ = writeln!(io::stdout(), "listening on {local}\nreading by {by}\ntry: echo 'GET name' | {client}");
    event_loop.run()?;
    drop(event_loop);
    let Service { connections, files_sent, bytes, .. } = &*service;
    let (connections, files, bytes) = (connections.get(), files_sent.get(), bytes.get());
    let _ = writeln!(io::stdout(), "{connections} connections, {files} files, {bytes} bytes");
    Ok(())
}

/// A server with TLS, whose certificate SIGHUP loads again.
type Encrypted<'a> = (TcpServerBuilder<'a>, Option<Signals>);

#[cfg(feature = "tls")]
fn encrypted<'a>(
    event_loop: &EventLoop,
    builder: TcpServerBuilder<'a>,
    cert: &Path,
    key: &Path,
) -> io::Result<Encrypted<'a>> {
    let tls = reveille::tls::ServerTls::from_pem_files(cert, key)?;
    Ok((builder.tls(&tls), reload::on_hangup(event_loop, Some(tls))?))
}

#[cfg(not(feature = "tls"))]
fn encrypted<'a>(_: &EventLoop, _: TcpServerBuilder<'a>, _: &Path, _: &Path) -> io::Result<Encrypted<'a>> {
    let message = "this build has no TLS: run tls_file_server of the package integrations";
    Err(io::Error::new(io::ErrorKind::Unsupported, message))
}
