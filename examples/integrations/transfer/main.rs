//! Transfers files and directories, with checksums and resume.
//!
//! Run the server with `cargo run --release -p integrations --bin transfer -- serve DIRECTORY`, and
//! `transfer get 127.0.0.1:2013 NAME DESTINATION` for each client. `protocol.rs` describes the
//! protocol.
//!
//! The server sends files by sendfile(2), each at the pace of its client. `Workers` compute the
//! checksums meanwhile, once for all clients, and keep them for each version of a file. The
//! checksum follows the bytes of its file, in a place that `TcpConnection::reserve_reply` reserves.
//!
//! The client is an async function. A thread writes to `NAME.part`, while the next bytes are
//! received; the file gets its name when its checksum is that of the server. After a lost
//! connection, or when the command is repeated, the client continues at the end of what it holds.
//! Since the checksum is that of the whole file, it also covers the bytes of earlier attempts. If
//! it differs, because the file has changed, the client begins from the start. Files that exist are
//! compared by their checksums, and not received again if they are equal. Files are not flushed to
//! the disk: after a crash of the system the same command finds and repairs what is incomplete.
//!
//! No name leads out of the root of the server or out of the destination of the client: the kernel
//! resolves all paths below these directories, and follows no symbolic link. Symbolic links,
//! devices, pipes and sockets are not transferred; the client reports them. Of the permissions,
//! only that to execute is transferred. Hidden files, whose names begin with a dot, are served with
//! `--hidden`. sendfile(2) reads a file that is not in the page cache from the disk while the loop
//! waits, so slow disks belong to a process of their own.

#[path = "../../shared/options.rs"]
mod options;
#[path = "../../shared/reload.rs"]
mod reload;
#[path = "../../shared/serving.rs"]
mod serving;

mod checksums;
mod client;
mod connection;
mod disk;
mod download;
mod progress;
mod protocol;
mod root;
mod server;
mod session;
mod walk;

use std::process::ExitCode;

use options::{Failure, Options};

const USAGE: &str = "usage: transfer [OPTION VALUE]... serve ROOT
       transfer [OPTION VALUE]... get ADDRESS:PORT NAME DESTINATION

  serve       sends the files below the directory ROOT
  get         receives the file or directory NAME, or `.` for all of the root, into the directory
              DESTINATION; what exists there is continued, or not received again if it is equal

options of serve:
  --listen    the address to listen on; default: 127.0.0.1:2013; port 0 selects a free port
  --threads   the number of loops that serve connections; default: 1
  --tls       two PEM files, a certificate and its key: connections use TLS; SIGHUP loads them again
  --hidden    has no value: files and directories whose names begin with a dot are served too
  --grace     the time in seconds for connections to close after a signal; default: 3

options of get:
  --ca        a PEM file, the certificates of the authorities to trust: the connection uses TLS
  --patience  the time in seconds without progress after which get gives up; default: 60";

const NAMES: [&str; 6] = ["--listen", "--threads", "--tls", "--grace", "--ca", "--patience"];

fn main() -> ExitCode {
    options::main(USAGE, &NAMES, &["--hidden"], run)
}

fn run(options: &mut Options) -> Result<(), Failure> {
    let mut rest = options.rest(4)?;
    if rest.is_empty() {
        return Err(options.wrong("`serve` or `get` is missing"));
    }
    // The program selects the cryptography of TLS.
    rustls::crypto::ring::default_provider().install_default().expect("the first provider");
    let command = rest.remove(0);
    match command.to_str() {
        Some("serve") => {
            reject(options, "serve", &["--ca", "--patience"])?;
            Ok(server::run(&server::Arguments::parse(options, rest)?)?)
        }
        Some("get") => {
            reject(options, "get", &["--listen", "--threads", "--tls", "--grace", "--hidden"])?;
            Ok(client::run(client::Arguments::parse(options, rest)?)?)
        }
        _ => {
            let message = format!("`{}` is neither `serve` nor `get`", command.to_string_lossy());
            Err(options.wrong(message))
        }
    }
}

fn reject(options: &Options, command: &str, others: &[&str]) -> Result<(), Failure> {
    match others.iter().find(|option| options.has(option)) {
        Some(option) => Err(options.wrong(format!("{option} is no option of `{command}`"))),
        None => Ok(()),
    }
}
