//! Serves the files of a directory over TCP.
//!
//! Run it with `cargo run --release --features uring --example file_server -- DIRECTORY`, then ask for a file with
//! `echo 'GET name' | nc -N 127.0.0.1 2008`. A request is a line, and so is the beginning of its answer: `OK LENGTH`, with so many
//! bytes behind it, or `ERR REASON`. Requests of one connection are answered one after the other.
//!
//! It shows a handler that waits for something else than its peer: while a file is read the connection's input is paused, and while
//! the peer does not read what it gets, the file is not read further. A few pieces are all that a connection ever holds. (A file that
//! is to be sent as it is could also be left to `send_file`, which reads it in the loop's own time.)

#[path = "file_server/transfer.rs"]
mod transfer;

use std::cell::{Cell, RefCell};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use reveille::{
    CloseReason, EventLoop, FileIo, FileIoBackend, FileIoBuilder, FrameError, FrameHandler, Framed,
    LineCodec, LineError, Signal, Signals, TcpConnection, TcpServer,
};

use transfer::{PIECE, Transfer};

const USAGE: &str =
    "usage: file_server [--listen ADDRESS:PORT] [--port PORT] [--by io_uring|threads] DIRECTORY

  DIRECTORY  whose files are served; what is below in further directories is not
  --listen   where to listen; 127.0.0.1:2008 if not given, port 0 for one that is free
  --port     the same, on 127.0.0.1
  --by       what is to read the files; io_uring if there is one, if not given";

/// The longest name that a file can have, and the command before it.
const LONGEST_REQUEST: usize = 255 + "GET ".len();

/// With so many bytes that the kernel has not taken, a connection's file is read no further; with so many it goes on.
const HIGH_WATER: usize = 2 * PIECE;
const LOW_WATER: usize = PIECE;

/// Each connection needs two descriptors.
const MAX_CONNECTIONS: usize = 400;

/// So that no address, or network of IPv6 addresses, takes all of them.
const MAX_PER_ADDRESS: usize = 100;

/// How long nothing may move on a connection, be it that the client does not ask or does not read.
const IDLE: Duration = Duration::from_secs(60);

/// How long, after a signal, files that are on their way may take, and then connections to end.
const GRACE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
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
    let service = Rc::new(Service::new(builder.build(&event_loop)?, directory));
    let serving = Rc::clone(&service);
    let server = TcpServer::bind(&event_loop, arguments.listen)?
        .max_connections(MAX_CONNECTIONS)
        .max_per_address(MAX_PER_ADDRESS)
        .idle_timeout(IDLE)
        .water_marks(HIGH_WATER, LOW_WATER)
        .serve(move |_| {
            serving.connections.set(serving.connections.get() + 1);
            Framed::new(
                LineCodec::new(LONGEST_REQUEST),
                Session { service: Rc::clone(&serving), transfer: None },
            )
        })?;
    let local = server.local_addr();
    service.server.replace(Some(server));

    let ending = Rc::clone(&service);
    let _signals = Signals::new(&event_loop, [Signal::INT, Signal::TERM], move |event_loop, _| {
        if ending.is_ending.get() {
            // The second signal: whoever sent it does not want to wait.
            event_loop.quit();
        } else {
            ending.end(event_loop);
        }
    })?;
    let by = if service.files.backend() == FileIoBackend::IoUring { "io_uring" } else { "threads" };
    let (ip, port) = (local.ip(), local.port());
    // If nobody reads this it serves all the same, so a write may fail.
    let _ = writeln!(
        io::stdout(),
        "listening on {local}\nreading by {by}\ntry: echo 'GET name' | nc -N {ip} {port}"
    );
    event_loop.run()?;
    drop(event_loop);
    let Service { connections, files_sent, bytes, .. } = &*service;
    let (connections, files, bytes) = (connections.get(), files_sent.get(), bytes.get());
    let _ = writeln!(io::stdout(), "{connections} connections, {files} files, {bytes} bytes");
    Ok(())
}

/// What all connections have in common.
struct Service {
    files: FileIo,
    directory: PathBuf,
    /// Until it is stopped.
    server: RefCell<Option<TcpServer>>,
    /// How many requests have not been answered to the end.
    under_way: Cell<usize>,
    is_ending: Cell<bool>,
    connections: Cell<u64>,
    files_sent: Cell<u64>,
    /// Of files, given to connections.
    bytes: Cell<u64>,
}

impl Service {
    fn new(files: FileIo, directory: PathBuf) -> Service {
        Service {
            files,
            directory,
            server: RefCell::new(None),
            under_way: Cell::new(0),
            is_ending: Cell::new(false),
            connections: Cell::new(0),
            files_sent: Cell::new(0),
            bytes: Cell::new(0),
        }
    }

    /// Where the file of this name is, if a file of the directory can have it.
    ///
    /// One name and no path, so there is nothing on the way that could be a symbolic link, or `..`. What is at its end is opened
    /// without following it.
    fn path_of(&self, name: &[u8]) -> Option<PathBuf> {
        let is_name =
            !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, b'/' | 0));
        is_name.then(|| self.directory.join(OsStr::from_bytes(name)))
    }

    /// Takes nobody else, and stops when those are served that have asked, but not too late.
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
        if self.is_ending.get() && self.under_way.get() == 0 {
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
    /// The last one, whether it is over or not.
    transfer: Option<Rc<Transfer>>,
}

impl FrameHandler<LineCodec> for Session {
    fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
        let Some(name) = line.strip_prefix(b"GET ") else {
            conn.send("ERR a request is GET and a name\n")?;
            return Ok(());
        };
        match self.service.path_of(name) {
            None => {
                conn.send("ERR this is no file's name\n")?;
            }
            Some(path) => {
                // Reading has resumed by itself if the file before this one could not be sent to its end.
                if let Some(transfer) = self.transfer.take() {
                    transfer.end();
                }
                // The next request waits, in the kernel for the most part, until this one has been answered.
                conn.pause_reading();
                self.transfer = Some(Transfer::begin(&self.service, conn.handle(), path));
            }
        }
        Ok(())
    }

    fn on_frame_error(&mut self, conn: &TcpConnection, error: FrameError<LineError>) -> io::Result<()> {
        if let FrameError::Malformed(_) = error {
            conn.send("ERR no file has so long a name\n")?;
        }
        conn.close_gracefully(GRACE);
        Ok(())
    }

    fn on_high_water(&mut self, _conn: &TcpConnection, _unsent: usize) -> io::Result<()> {
        if let Some(transfer) = &self.transfer {
            transfer.hold(true);
        }
        Ok(())
    }

    fn on_low_water(&mut self, _conn: &TcpConnection) -> io::Result<()> {
        if let Some(transfer) = &self.transfer {
            transfer.hold(false);
        }
        Ok(())
    }

    /// The time for what is on its way is up by now. Cut off, it is not taken for the whole.
    fn on_stop(&mut self, conn: &TcpConnection) -> io::Result<()> {
        if self.transfer.as_ref().is_some_and(|transfer| !transfer.is_over()) {
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
    directory: PathBuf,
}

impl Arguments {
    /// `None` if the user asks for help.
    fn parse(mut given: impl Iterator<Item = OsString>) -> Result<Option<Arguments>, String> {
        let (mut listen, mut by, mut directory) = ("127.0.0.1:2008".to_owned(), None, None);
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
                        _ => return Err("--by wants io_uring or threads".to_owned()),
                    });
                }
                Some(option) if option.starts_with('-') => {
                    return Err(format!("there is no argument `{option}`"));
                }
                _ if directory.is_some() => {
                    return Err(format!("`{}` is one directory too many", argument.to_string_lossy()));
                }
                _ => directory = Some(PathBuf::from(argument)),
            }
        }
        let directory = directory.ok_or("whose files are to be served?")?;
        let listen = listen
            .parse()
            .map_err(|_| format!("`{listen}` is not an address with a port, such as 127.0.0.1:2008"))?;
        Ok(Some(Arguments { listen, by, directory }))
    }
}
