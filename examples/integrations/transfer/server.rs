//! `transfer serve`: sends files by sendfile(2), each at the pace of its client.

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use reveille::codec::{Framed, LineCodec};
use reveille::net::ConnectionLimits;
use reveille::task::Workers;
use reveille::tls::ServerTls;
use reveille::{EventLoop, TcpServer};

use crate::checksums::Checksums;
use crate::options::{Failure, Options};
use crate::protocol::LONGEST_LINE;
use crate::root::Root;
use crate::session::{IDLE, Service, Session};
use crate::{reload, serving};

/// The time that a client has to send the rest of a line.
const LINE_TIME: Duration = Duration::from_secs(10);

const MAX_CONNECTIONS: usize = 10_000;

/// Prevents one address, or one IPv6 network, from taking all connections.
const MAX_PER_ADDRESS: usize = 2_000;

/// A connection is not read while this many bytes of it are unsent, in memory or in files.
const HIGH_WATER: usize = 1 << 20;

/// The memory for output: small files, which are read at once, and one listing.
const MAX_UNSENT: usize = 8 << 20;

/// Lines that wait while the connection is paused.
const MAX_UNREAD: usize = 256 << 10;

/// The number of checksums that a connection may wait for.
const MAX_AWAITED: usize = 16;

pub(crate) struct Arguments {
    root: PathBuf,
    serves_hidden: bool,
    listen: SocketAddr,
    threads: usize,
    tls: Option<(PathBuf, PathBuf)>,
    grace: Duration,
}

impl Arguments {
    pub(crate) fn parse(options: &Options, rest: Vec<OsString>) -> Result<Arguments, Failure> {
        let [root] = <[OsString; 1]>::try_from(rest)
            .map_err(|_| options.wrong("`serve` has one argument, a directory"))?;
        Ok(Arguments {
            root: root.into(),
            serves_hidden: options.has("--hidden"),
            listen: serving::listen(options, 2013)?,
            threads: serving::threads(options)?,
            tls: options.pair("--tls"),
            grace: serving::grace(options)?,
        })
    }
}

pub(crate) fn run(arguments: &Arguments) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let root = Arc::new(Root::open(&arguments.root, arguments.serves_hidden)?);
    let service = Arc::new(Service {
        checksums: Checksums::new(Arc::clone(&root))?,
        root,
        workers: Workers::builder().threads(2).queue(MAX_CONNECTIONS).name("listings").build()?,
        connections: AtomicU64::new(0),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    });
    let builder = TcpServer::bind(&event_loop, arguments.listen)?;
    let tls = arguments.tls.as_ref().map(|(cert, key)| ServerTls::from_pem_files(cert, key)).transpose()?;
    let builder = if let Some(tls) = &tls { builder.tls(tls) } else { builder };
    let serving = Arc::clone(&service);
    let server = builder
        .threads(arguments.threads)
        .max_connections(MAX_CONNECTIONS)
        .max_per_address(MAX_PER_ADDRESS)
        .limits(
            ConnectionLimits::new()
                .idle_timeout(IDLE)
                .water_marks(HIGH_WATER, HIGH_WATER / 2)
                .max_unsent(MAX_UNSENT)
                .max_unread(MAX_UNREAD)
                .max_open_replies(MAX_AWAITED),
        )
        .serve(move |_| {
            let session = Session::new(Arc::clone(&serving));
            Framed::new(LineCodec::new(LONGEST_LINE), session).frame_timeout(LINE_TIME)
        })?;
    let _reload = reload::on_hangup(&event_loop, tls)?;
    let ca = arguments.tls.as_ref().map_or(String::new(), |(cert, _)| format!("--ca {} ", cert.display()));
    serving::run(&event_loop, server, arguments.grace, |ip, port| {
        format!("transfer {ca}get {} . DIRECTORY", SocketAddr::new(ip, port))
    })?;
    // The computations of checksums end with the connections that wait for them.
    drop(event_loop);
    let Service { connections, files, bytes, .. } = &*service;
    let (connections, files, bytes) = (connections.load(Relaxed), files.load(Relaxed), bytes.load(Relaxed));
    let _ = writeln!(io::stdout(), "{connections} connections, {files} files, {bytes} bytes");
    Ok(())
}
