//! A file server: HTTP/1.1 on callbacks.
//!
//! Run it with `cargo run --release -p integrations --bin http -- --root DIRECTORY`, then
//! `curl http://127.0.0.1:8080/`. It serves files with HEAD, ranges and conditional requests, lists
//! directories, and receives files with PUT below the directory `--uploads`.
//!
//! It shows a protocol of several layers on a `Decoder`: the folder `protocol` decodes requests and
//! their bodies, without I/O. Responses to pipelined requests leave in one system call, files by
//! sendfile(2). An upload is written by `FileIo`, while the connection does not read. Requests,
//! bodies and responses each have a time limit, and a connection has a limit of memory.
//!
//! Files of up to 64 KiB are kept in memory, and checked for changes once a second and after each
//! upload. Of several ranges in one request none is selected: the response has the whole file,
//! which RFC 9110 permits. Hidden files, whose names begin with a dot, are not served.

#[path = "../../shared/options.rs"]
mod options;
#[path = "../../shared/reload.rs"]
mod reload;
#[path = "../../shared/serving.rs"]
mod serving;

mod cache;
mod clock;
mod content_type;
mod exchange;
mod file_reply;
mod listing;
mod protocol;
mod receiving;
mod reply;
mod root;
mod session;
mod site;
mod totals;
mod upload;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use reveille::codec::Framed;
use reveille::fs::FileIo;
use reveille::net::ConnectionLimits;
use reveille::observe::Inspector;
use reveille::tls::ServerTls;
use reveille::{EventLoop, TcpServer};

use options::{Failure, Options};
use protocol::{Requests, Status};
use root::Root;
use session::{Receiving, Session};
use site::Site;
use totals::{Count, Totals};
use upload::Uploads;

const USAGE: &str = "usage: http --root DIRECTORY [OPTION VALUE]...

  --root        the directory whose files are served
  --uploads     a directory below the root: PUT creates and replaces files in it; default: none
  --max-upload  the size of the largest upload in MiB; default: 64
  --listen      the address to listen on; default: 127.0.0.1:8080; port 0 selects a free port
  --threads     the number of loops that serve connections; default: 1
  --idle        the time in seconds without a byte in either direction after which a connection is
                closed; default: 60
  --inspector   a loopback address: a page there shows what the server does; default: none
  --tls         two PEM files, a certificate and its key: connections use TLS; SIGHUP loads them again
  --grace       the time in seconds for connections to close after a signal; default: 3";

/// The time for the head of a request, and for the line with the size of a chunk.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// Prevents one address, or one IPv6 network, from taking all connections.
const MAX_PER_ADDRESS: usize = 2_000;
const MAX_CONNECTIONS: usize = 10_000;

/// A connection pauses at this number of unsent bytes.
const HIGH_WATER: usize = 1 << 20;

/// One response in memory follows at most: a small file, or the page of a directory.
const MAX_UNSENT: usize = HIGH_WATER + (512 << 10);

/// Input that waits while the connection is paused.
const MAX_UNREAD: usize = 1 << 20;

fn main() -> ExitCode {
    let names = [
        "--root",
        "--uploads",
        "--max-upload",
        "--listen",
        "--threads",
        "--idle",
        "--inspector",
        "--tls",
        "--grace",
    ];
    options::main(USAGE, &names, &[], |options| Ok(run(Arguments::parse(options)?)?))
}

struct Arguments {
    root: PathBuf,
    uploads: Option<String>,
    /// In bytes.
    max_upload: u64,
    listen: SocketAddr,
    threads: usize,
    idle: Duration,
    inspector: Option<SocketAddr>,
    tls: Option<(PathBuf, PathBuf)>,
    grace: Duration,
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        options.rest(0)?;
        let Some(root) = options.path("--root") else {
            return Err(options.wrong("--root is needed"));
        };
        let mebibytes: u32 = options.get("--max-upload", 64, "a number of MiB")?;
        Ok(Arguments {
            root,
            uploads: options.text("--uploads"),
            max_upload: u64::from(mebibytes) << 20,
            listen: serving::listen(options, 8080)?,
            threads: serving::threads(options)?,
            idle: options.seconds("--idle", 60)?,
            inspector: options
                .has("--inspector")
                .then(|| serving::address(options, "--inspector", 8081))
                .transpose()?,
            tls: options.pair("--tls"),
            grace: serving::grace(options)?,
        })
    }
}

fn run(arguments: Arguments) -> io::Result<()> {
    let Arguments { root, uploads, max_upload, listen, threads, idle, inspector, tls, grace } = arguments;
    let event_loop = EventLoop::new()?;
    let tls = match tls {
        None => None,
        Some((cert, key)) => {
            rustls::crypto::ring::default_provider().install_default().expect("the first provider");
            Some(ServerTls::from_pem_files(cert, key)?)
        }
    };
    let limits = ConnectionLimits::new()
        .idle_timeout(idle)
        .water_marks(HIGH_WATER, HIGH_WATER / 2)
        .max_unsent(MAX_UNSENT)
        .max_unread(MAX_UNREAD);
    let builder = TcpServer::bind(&event_loop, listen)?;
    let builder = if let Some(tls) = &tls { builder.tls(tls.clone()) } else { builder };
    let (totals, loops) = (Arc::new(Totals::default()), AtomicUsize::new(0));
    let (counted, completed) = (Arc::clone(&totals), Arc::new(AtomicU64::new(0)));
    let server = builder
        .threads(threads)
        .max_connections(MAX_CONNECTIONS)
        .max_per_address(MAX_PER_ADDRESS)
        .limits(limits)
        .serve_per_loop(
            move |event_loop| {
                let root = Root::open(&root)?;
                let uploads = match &uploads {
                    None => None,
                    Some(path) => {
                        let files = FileIo::new(event_loop)?;
                        let number = loops.fetch_add(1, Relaxed);
                        let uploads =
                            Uploads::new(files, &root, path, max_upload, number, Arc::clone(&completed));
                        Some(Rc::new(uploads.map_err(|status| no_uploads(path, status))?))
                    }
                };
                let site = Site::new(event_loop, root, uploads.is_some(), Arc::clone(&completed));
                Ok((Rc::new(site), uploads))
            },
            move |(site, uploads), _| {
                let count = Count { totals: Arc::clone(&counted), requests: 0 };
                let session = Session {
                    site: Rc::clone(site),
                    uploads: uploads.clone(),
                    count,
                    receiving: Receiving::Nothing,
                    accepted: 0,
                    checked: None,
                };
                Framed::new(Requests::default(), session).frame_timeout(HEAD_TIME)
            },
        )?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let _reload = reload::on_hangup(&event_loop, tls)?;
    let _inspector = inspector.map(|address| inspect(&server, address)).transpose()?;
    serving::run(&event_loop, server, grace, |ip, port| {
        format!("curl {scheme}://{}/", SocketAddr::new(ip, port))
    })?;
    drop(event_loop);
    let (connections, requests) = (totals.connections.load(Relaxed), totals.requests.load(Relaxed));
    let _ = writeln!(io::stdout(), "{connections} connections, {requests} requests");
    Ok(())
}

fn inspect(server: &TcpServer, address: SocketAddr) -> io::Result<Inspector> {
    let inspector =
        Inspector::builder().listen_tcp(address).watch_server("http", &server.handle()).start()?;
    let _ = writeln!(io::stdout(), "inspector: http://{}/", inspector.local_address());
    Ok(inspector)
}

fn no_uploads(path: &str, status: Status) -> io::Error {
    let why = if status == Status(404) { "no such directory below the root" } else { status.phrase() };
    io::Error::other(format!("{path}: {why}"))
}
