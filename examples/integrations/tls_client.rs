//! Sends the lines of its standard input over TLS, and prints what the server returns.
//!
//! Try it with `tls_echo`, whose certificate it gets as `--ca`. It prints the version of TLS, the
//! cipher suite and the protocol of the session, and says why a server is not trusted.

#[path = "../shared/options.rs"]
mod options;

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use reveille::net::CloseReason;
use reveille::tls::ClientTls;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpClient, TcpConnection};

use options::{Failure, Options};

const USAGE: &str = "usage: tls_client --ca FILE [OPTION VALUE]... HOST:PORT

  --ca     a PEM file: the authorities, one of which must have issued the certificate of the server
  --name   the name that the certificate must be valid for; default: the host
  --tls    two PEM files: the certificate of the client, and its key
  --alpn   the protocol to offer";

/// The time to connect, handshake included.
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    options::main(USAGE, &["--ca", "--name", "--tls", "--alpn"], &[], |options| {
        Ok(run(&Arguments::parse(options)?)?)
    })
}

struct Arguments {
    ca: PathBuf,
    name: Option<String>,
    certificate: Option<(PathBuf, PathBuf)>,
    alpn: Option<String>,
    target: String,
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        let target = options.only("the server")?.to_string_lossy().into_owned();
        let Some(ca) = options.path("--ca") else { return Err(options.wrong("--ca is missing")) };
        let (name, alpn) = (options.text("--name"), options.text("--alpn"));
        Ok(Arguments { ca, name, certificate: options.pair("--tls"), alpn, target })
    }

    fn tls(&self) -> io::Result<ClientTls> {
        let mut builder = ClientTls::builder(&self.ca).alpn(self.alpn.clone());
        if let Some((cert, key)) = &self.certificate {
            builder = builder.certificate(cert, key);
        }
        let tls = builder.build()?;
        Ok(match &self.name {
            Some(name) => tls.server_name(name),
            None => tls,
        })
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    // The program decides which cryptography is used.
    rustls::crypto::ring::default_provider().install_default().expect("the first provider");
    let event_loop = EventLoop::new()?;
    let result = Rc::new(Cell::new(Ok(())));
    let (failed, closed) = (Rc::clone(&result), Rc::clone(&result));
    let _client = TcpClient::connect(&event_loop, arguments.target.as_str())
        .timeout(TIMEOUT)
        .tls(arguments.tls()?)
        .on_failure(move |event_loop, error| {
            failed.set(Err(error.into()));
            event_loop.quit();
        })
        .serve(move |_| Session { is_linked: false, result: Rc::clone(&closed) })?;
    event_loop.run()?;
    result.replace(Ok(()))
}

/// The connection to the server. It is linked with standard input and output.
struct Session {
    is_linked: bool,
    result: Rc<Cell<io::Result<()>>>,
}

impl ConnectionHandler for Session {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        if let Some(tls) = conn.tls() {
            let alpn = tls.alpn().map(String::from_utf8_lossy).unwrap_or_default();
            let resumed = if tls.is_resumed() { "resumed" } else { "new" };
            eprintln!("{:?} {:?} {resumed} {alpn}", tls.version(), tls.cipher_suite());
        }
        let (input, output) =
            (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
        let terminal = TcpConnection::adopt_pipes(conn.event_loop(), input, output, |_| Terminal)?;
        conn.relay_to(&terminal)?;
        self.is_linked = true;
        Ok(())
    }

    /// Not called: the input is relayed.
    fn on_message(&mut self, _: &TcpConnection, _: &mut Buffer) -> io::Result<()> {
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection, reason: &CloseReason) {
        if !matches!(reason, CloseReason::Finished) {
            self.result.set(Err(io::Error::other(reason.to_string())));
        }
        // Otherwise standard output may still take what was received.
        if !self.is_linked {
            conn.event_loop().quit();
        }
    }
}

/// Standard input and output.
struct Terminal;

impl ConnectionHandler for Terminal {
    /// Not called: the input is relayed.
    fn on_message(&mut self, _: &TcpConnection, _: &mut Buffer) -> io::Result<()> {
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection, _: &CloseReason) {
        conn.event_loop().quit();
    }
}
