//! How long an established connection waits for its echo while other clients perform handshakes,
//! with all steps of them on the loop, and with `ServerTls::workers`.
//!
//! `cargo bench -p reveille-tls-tests`. The key of RSA is created with the command `openssl`, and
//! left out without it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use reveille::task::Workers;
use reveille::tls::ServerTls;
use reveille::{LoopThread, TcpServer};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};

const PERIOD: Duration = Duration::from_secs(5);
const HANDSHAKERS: usize = 2;

/// Accepts all certificates, so that the clients take little time.
#[derive(Debug)]
struct AcceptsAll;

impl ServerCertVerifier for AcceptsAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256]
    }
}

type Client = StreamOwned<ClientConnection, TcpStream>;

fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Client {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    let session = ClientConnection::new(Arc::clone(config), "localhost".try_into().unwrap()).unwrap();
    StreamOwned::new(session, socket)
}

fn echo(client: &mut Client) {
    let mut reply = [0; 64];
    client.write_all(&[7; 64]).unwrap();
    client.read_exact(&mut reply).unwrap();
}

/// Measures echoes while handshakes run, and prints the result.
fn measure(what: &str, tls: ServerTls) {
    let server_thread = LoopThread::spawn("server").unwrap();
    let address = server_thread
        .handle()
        .call(move |event_loop| {
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().tls(tls);
            let server = server.serve_fn(|conn, input| conn.send(input.take_all())).unwrap();
            let address = server.local_addr().unwrap();
            server.detach();
            address
        })
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptsAll))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    let mut client = connect(address, &config);
    echo(&mut client);
    let (done, handshakes) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut delays = Vec::new();
    thread::scope(|scope| {
        for _ in 0..HANDSHAKERS {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    echo(&mut connect(address, &config));
                    handshakes.fetch_add(1, SeqCst);
                }
            });
        }
        let start = Instant::now();
        while start.elapsed() < PERIOD {
            let sent = Instant::now();
            echo(&mut client);
            delays.push(sent.elapsed());
            thread::sleep(Duration::from_micros(500));
        }
        done.store(true, SeqCst);
    });
    delays.sort_unstable();
    let at = |share: usize| delays[(delays.len() * share / 1000).min(delays.len() - 1)];
    println!(
        "{what}: median {:?}, p99 {:?}, p99.9 {:?}, {} handshakes/s",
        at(500),
        at(990),
        at(999),
        handshakes.load(SeqCst) / PERIOD.as_secs()
    );
}

/// Files with an RSA key of 2048 bits and its certificate.
fn rsa(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let (chain, key) = (folder.join("rsa.pem"), folder.join("rsa.key"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-out"]);
    openssl.arg(&chain).arg("-keyout").arg(&key);
    openssl.output().is_ok_and(|output| output.status.success()).then_some((chain, key))
}

fn main() {
    let folder = std::env::temp_dir().join(format!("handshake_latency_{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let p256 = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (chain, key) = (folder.join("p256.pem"), folder.join("p256.key"));
    std::fs::write(&chain, p256.cert.pem()).unwrap();
    std::fs::write(&key, p256.signing_key.serialize_pem()).unwrap();
    let workers = Workers::builder().threads(1).build().unwrap();
    let keys = [("P-256", Some((chain, key))), ("RSA 2048", rsa(&folder))];
    for (name, files) in keys {
        let Some((chain, key)) = files else { continue };
        let provider = rustls::crypto::ring::default_provider();
        let tls = ServerTls::builder().provider(provider).certificate(chain, key).build().unwrap();
        for _ in 0..2 {
            measure(&format!("{name}, all on the loop"), tls.clone());
            measure(&format!("{name}, with one worker "), tls.clone().workers(&workers));
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
