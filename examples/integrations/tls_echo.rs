//! An echo server over TLS.
//!
//! Run it with `cargo run --release -p integrations --bin tls_echo -- --self-signed`, then
//! connect with the `openssl` command that it prints. The handler is that of any echo server: TLS
//! is one line of the builder. The certificate is loaded again on SIGHUP; connections that are open
//! keep theirs.

mod certificate;
#[path = "../shared/options.rs"]
mod options;
#[path = "../shared/reload.rs"]
mod reload;
#[path = "../shared/serving.rs"]
mod serving;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use reveille::net::ConnectionLimits;
use reveille::tls::{ClientCertificates, ServerTls};
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection, TcpServer};

use certificate::Certificate;
use options::{Failure, Options};

const USAGE: &str = "usage: tls_echo (--tls CERT KEY | --self-signed) [OPTION VALUE]...

  --tls          two PEM files: the certificate of the server with those that lead to its authority,
                 and its key; SIGHUP loads them again
  --self-signed  creates a certificate for localhost, which only this server has
  --client-ca    a PEM file: clients must have a certificate of one of these authorities
  --listen       the address to listen on; default: 127.0.0.1:7006; port 0 selects a free port
  --threads      the number of loops that serve connections; default: 1
  --grace        the time in seconds for connections to close after a signal; default: 3";

/// The time without a byte in either direction after which a connection is closed.
const IDLE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let names = ["--tls", "--client-ca", "--listen", "--threads", "--grace"];
    options::main(USAGE, &names, &["--self-signed"], |options| Ok(run(&Arguments::parse(options)?)?))
}

struct Arguments {
    certificate: Certificate,
    client_ca: Option<PathBuf>,
    listen: SocketAddr,
    threads: usize,
    grace: Duration,
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        options.rest(0)?;
        let certificate = Certificate::parse(options)?
            .ok_or_else(|| options.wrong("either --tls or --self-signed is needed"))?;
        Ok(Arguments {
            certificate,
            client_ca: options.path("--client-ca"),
            listen: serving::listen(options, 7006)?,
            threads: serving::threads(options)?,
            grace: serving::grace(options)?,
        })
    }

    fn tls(&self) -> io::Result<ServerTls> {
        match (&self.certificate, &self.client_ca) {
            (certificate, None) => certificate.tls(&[]),
            (Certificate::Files(cert, key), Some(authorities)) => ServerTls::builder()
                .certificate(cert, key)
                .client_certificates(authorities, ClientCertificates::Required)
                .build(),
            (Certificate::SelfSigned, Some(_)) => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "--client-ca needs --tls"))
            }
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    // The program decides which cryptography is used.
    rustls::crypto::ring::default_provider().install_default().expect("the first provider");
    let tls = arguments.tls()?;
    let event_loop = EventLoop::new()?;
    let server = TcpServer::bind(&event_loop, arguments.listen)?
        .tls(tls.clone())
        .threads(arguments.threads)
        .limits(ConnectionLimits::new().idle_timeout(IDLE))
        .serve(|_| Echo)?;
    let _reload = reload::on_hangup(&event_loop, Some(tls))?;
    serving::run(&event_loop, server, arguments.grace, command)
}

/// The command that connects to the server. A self-signed certificate is not verified by it.
fn command(ip: IpAddr, port: u16) -> String {
    format!("openssl s_client -quiet -connect {}", SocketAddr::new(ip, port))
}

struct Echo;

impl ConnectionHandler for Echo {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        Ok(conn.send(input.take_all())?)
    }
}
