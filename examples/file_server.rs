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
//! `--cert` and `--key` encrypt the connections. They need a build with a crypto provider, which is
//! the program `tls_file_server` of the package `integrations`: it is this program, with TLS.

#[path = "file_server/transfer.rs"]
mod transfer;

use std::cell::{Cell, RefCell};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use reveille::codec::{FrameError, FrameHandler, Framed, LineCodec, LineError};
use reveille::fs::{FileIo, FileIoBackend, FileIoBuilder};
use reveille::net::{CloseReason, ConnectionLimits, TcpServerBuilder};
use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, TcpConnection, TcpServer};

use transfer::{PIECE, Transfer};

const USAGE: &str = "usage: file_server [OPTION VALUE]... DIRECTORY

  DIRECTORY  the files in it are served; subdirectories are not
  --listen   the address to listen on; default: 127.0.0.1:2008; port 0 selects a free port
  --port     the port to listen on, at 127.0.0.1
  --by       the backend that reads files: io_uring or threads; default: io_uring if available
  --timeout  the time in seconds that a client has to complete a request; default: 10
  --slowest  the bytes per second at which a client must read a file; default: 16384
  --cert     a PEM file: the certificate; connections use TLS; only in tls_file_server
  --key      a PEM file: the key of the certificate";

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

/// Time after a signal for pending files to be sent; the same time then applies to closing the
/// connections.
const GRACE: Duration = Duration::from_secs(3);

pub(crate) fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let arguments = match Arguments::parse(env::args_os().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            let _ = writeln!(io::stdout(), "{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("file_server: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("file_server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let named =
        |what: String| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    let in_directory = named(arguments.directory.display().to_string());
    let directory = fs::canonicalize(&arguments.directory)
        .and_then(|directory| fs::read_dir(&directory).map(|_| directory))
        .map_err(in_directory)?;

    let event_loop = EventLoop::new()?;
    let builder = arguments.by.into_iter().fold(FileIo::builder(), FileIoBuilder::backend);
    let service = Rc::new(Service::new(builder.build(&event_loop)?, directory, arguments));
    let serving = Rc::clone(&service);
    let builder = TcpServer::bind(&event_loop, arguments.listen)?;
    let builder = match &arguments.tls {
        Some((cert, key)) => encrypted(builder, cert, key)?,
        None => builder,
    };
    let server = builder
        .max_connections(MAX_CONNECTIONS)
        .max_per_address(MAX_PER_ADDRESS)
        .limits(ConnectionLimits::new().idle_timeout(IDLE).water_marks(HIGH_WATER, LOW_WATER))
        .serve(move |_| {
            serving.connections.set(serving.connections.get() + 1);
            let session = Session { service: Rc::clone(&serving), transfer: None };
            Framed::new(LineCodec::new(LONGEST_REQUEST), session).frame_timeout(serving.timeout)
        })?;
    let local = server.local_addr()?;
    service.server.replace(Some(server));

    let ending = Rc::clone(&service);
    let _signals = Signals::new(&event_loop, [Signal::INT, Signal::TERM], move |event_loop, _| {
        if ending.is_ending.get() {
            // The second signal skips the grace period.
            event_loop.quit();
        } else {
            ending.end(event_loop);
        }
    })?;
    let by = if service.files.backend() == FileIoBackend::IoUring { "io_uring" } else { "threads" };
    let (ip, port) = (local.ip(), local.port());
    let client = match arguments.tls {
        Some(_) => format!("openssl s_client -quiet -connect {local}"),
        None => format!("nc -N {ip} {port}"),
    };
    // Serving does not depend on the output, so the write may fail.
    let _ = writeln!(io::stdout(), "listening on {local}\nreading by {by}\ntry: echo 'GET name' | {client}");
    event_loop.run()?;
    drop(event_loop);
    let Service { connections, files_sent, bytes, .. } = &*service;
    let (connections, files, bytes) = (connections.get(), files_sent.get(), bytes.get());
    let _ = writeln!(io::stdout(), "{connections} connections, {files} files, {bytes} bytes");
    Ok(())
}

#[cfg(feature = "tls")]
fn encrypted<'a>(builder: TcpServerBuilder<'a>, cert: &Path, key: &Path) -> io::Result<TcpServerBuilder<'a>> {
    Ok(builder.tls(reveille::tls::ServerTls::from_pem_files(cert, key)?))
}

#[cfg(not(feature = "tls"))]
fn encrypted<'a>(_: TcpServerBuilder<'a>, _: &Path, _: &Path) -> io::Result<TcpServerBuilder<'a>> {
    let message = "this build has no TLS: run tls_file_server of the package integrations";
    Err(io::Error::new(io::ErrorKind::Unsupported, message))
}

/// State shared by all connections.
struct Service {
    files: FileIo,
    directory: PathBuf,
    /// The time limit of a request.
    timeout: Duration,
    /// The bytes per second at which a client must read a file.
    slowest: NonZeroU64,
    /// `None` once it is being stopped.
    server: RefCell<Option<TcpServer>>,
    /// Number of requests whose reply is not complete.
    in_flight: Cell<usize>,
    is_ending: Cell<bool>,
    connections: Cell<u64>,
    files_sent: Cell<u64>,
    /// File bytes passed to connections.
    bytes: Cell<u64>,
}

impl Service {
    fn new(files: FileIo, directory: PathBuf, arguments: &Arguments) -> Service {
        Service {
            files,
            directory,
            timeout: arguments.timeout,
            slowest: arguments.slowest,
            server: RefCell::new(None),
            in_flight: Cell::new(0),
            is_ending: Cell::new(false),
            connections: Cell::new(0),
            files_sent: Cell::new(0),
            bytes: Cell::new(0),
        }
    }

    /// The path of the file with this name, if the directory can contain it.
    ///
    /// The name is a single component, so the path contains no symbolic link and no `..`. The last
    /// component is opened without following symbolic links.
    fn path_of(&self, name: &[u8]) -> Option<PathBuf> {
        let is_name =
            !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, b'/' | 0));
        is_name.then(|| self.directory.join(OsStr::from_bytes(name)))
    }

    /// Stops accepting. Stops the server once all pending requests are served, or at the deadline.
    fn end(self: &Rc<Service>, event_loop: &EventLoop) {
        self.is_ending.set(true);
        if let Some(server) = &*self.server.borrow() {
            server.pause_accepting();
        }
        self.stop_if_idle();
        let this = Rc::clone(self);
        event_loop.run_after(GRACE, move |_| this.stop());
    }

    fn stop_if_idle(&self) {
        if self.is_ending.get() && self.in_flight.get() == 0 {
            self.stop();
        }
    }

    fn stop(&self) {
        let server = self.server.take();
        if let Some(server) = server {
            server.stop(GRACE, |event_loop, _| event_loop.quit());
        }
    }
}

/// One connection.
struct Session {
    service: Rc<Service>,
    /// The last transfer, completed or not.
    transfer: Option<Rc<Transfer>>,
}

impl FrameHandler<LineCodec> for Session {
    fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
        let Some(name) = line.strip_prefix(b"GET ") else {
            conn.send("ERR invalid request\n")?;
            return Ok(());
        };
        match self.service.path_of(name) {
            None => {
                conn.send("ERR invalid file name\n")?;
            }
            Some(path) => {
                // If the previous file could not be sent completely, reading has been resumed.
                if let Some(transfer) = self.transfer.take() {
                    transfer.end();
                }
                // The next request waits, mostly in the kernel, until this one is served.
                conn.pause_reading();
                self.transfer = Some(Transfer::begin(&self.service, conn.handle(), path));
            }
        }
        Ok(())
    }

    fn on_frame_error(&mut self, conn: &TcpConnection, error: FrameError<LineError>) -> io::Result<()> {
        match error {
            FrameError::Malformed(_) => conn.send("ERR the file name is too long\n")?,
            FrameError::TimedOut { .. } => conn.send("ERR the request is incomplete\n")?,
            _ => {}
        }
        conn.close_gracefully(GRACE);
        Ok(())
    }

    fn on_high_water(&mut self, _conn: &TcpConnection, _unsent: usize) -> io::Result<()> {
        if let Some(transfer) = &self.transfer {
            transfer.set_paused(true);
        }
        Ok(())
    }

    fn on_low_water(&mut self, _conn: &TcpConnection) -> io::Result<()> {
        if let Some(transfer) = &self.transfer {
            transfer.set_paused(false);
        }
        Ok(())
    }

    /// The time limit of the last file has passed.
    fn on_deadline(&mut self, conn: &TcpConnection) -> io::Result<()> {
        if conn.unsent() > 0 || self.transfer.as_ref().is_some_and(|transfer| !transfer.is_done()) {
            log::info!("{}: reads too slowly", conn.peer_address());
            conn.close();
        }
        Ok(())
    }

    /// The grace period is over. The reset signals to the client that the file is incomplete.
    fn on_stop(&mut self, conn: &TcpConnection) -> io::Result<()> {
        if self.transfer.as_ref().is_some_and(|transfer| !transfer.is_done()) {
            conn.close();
        }
        Ok(())
    }

    fn on_close(&mut self, _conn: &TcpConnection, _reason: &CloseReason) {
        if let Some(transfer) = self.transfer.take() {
            transfer.end();
        }
    }
}

struct Arguments {
    listen: SocketAddr,
    by: Option<FileIoBackend>,
    timeout: Duration,
    slowest: NonZeroU64,
    /// The certificate and its key.
    tls: Option<(PathBuf, PathBuf)>,
    directory: PathBuf,
}

impl Arguments {
    /// Returns `None` for `--help`.
    fn parse(mut given: impl Iterator<Item = OsString>) -> Result<Option<Arguments>, String> {
        let (mut listen, mut by, mut directory) = ("127.0.0.1:2008".to_owned(), None, None);
        let (mut cert, mut key) = (None, None);
        let (mut timeout, mut slowest) = (Duration::from_secs(10), NonZeroU64::MIN.saturating_add(16383));
        while let Some(argument) = given.next() {
            let mut value = || match given.next() {
                Some(value) => Ok(value.to_string_lossy().into_owned()),
                None => Err(format!("{} wants a value", argument.to_string_lossy())),
            };
            match argument.to_str() {
                Some("--help" | "-h") => return Ok(None),
                Some("--listen") => listen = value()?,
                Some("--port") => listen = format!("127.0.0.1:{}", value()?),
                Some("--by") => {
                    by = Some(match &*value()? {
                        "io_uring" => FileIoBackend::IoUring,
                        "threads" => FileIoBackend::ThreadPool,
                        _ => return Err("--by takes io_uring or threads".to_owned()),
                    });
                }
                Some("--cert") => cert = Some(PathBuf::from(value()?)),
                Some("--key") => key = Some(PathBuf::from(value()?)),
                Some("--timeout") => {
                    let value = value()?;
                    let seconds =
                        value.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                    timeout = seconds.ok_or_else(|| format!("`{value}` is not a number of seconds"))?;
                }
                Some("--slowest") => {
                    let value = value()?;
                    slowest = value.parse().map_err(|_| format!("`{value}` is not a number from 1"))?;
                }
                Some(option) if option.starts_with('-') => {
                    return Err(format!("unknown argument `{option}`"));
                }
                _ if directory.is_some() => {
                    return Err(format!("`{}` is an extra directory", argument.to_string_lossy()));
                }
                _ => directory = Some(PathBuf::from(argument)),
            }
        }
        let directory = directory.ok_or("whose files are to be served?")?;
        let listen = listen
            .parse()
            .map_err(|_| format!("`{listen}` is not an address with a port, such as 127.0.0.1:2008"))?;
        let tls = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err("--cert and --key are needed together".to_owned()),
        };
        Ok(Some(Arguments { listen, by, timeout, slowest, tls, directory }))
    }
}
