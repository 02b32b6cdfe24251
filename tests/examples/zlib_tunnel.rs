//! The zlib_tunnel example as a program.

use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::process::Command;
use std::thread;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::support::example::Server;
use crate::support::net::{self, pattern};
use crate::support::{LIMIT, MIB, example, with_watchdog};

fn start(to: SocketAddr, zlib: &str) -> Server {
    let mut command = Command::new(example::program("zlib_tunnel"));
    Server::start(command.args(["--listen", "127.0.0.1:0", "--connect", &to.to_string(), "--zlib", zlib]))
}

fn echo() -> Server {
    Server::start(Command::new(example::program("echo")).args(["--listen", "127.0.0.1:0"]))
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::with_capacity(bytes.len() + 1000);
    let mut compress = Compress::new(Compression::fast(), true);
    compress.compress_vec(bytes, &mut compressed, FlushCompress::Finish).unwrap();
    compressed
}

fn decompressed(bytes: &[u8], len: usize) -> Vec<u8> {
    let mut decompressed = Vec::with_capacity(len + 1);
    Decompress::new(true).decompress_vec(bytes, &mut decompressed, FlushDecompress::Finish).unwrap();
    decompressed
}

#[test]
fn two_tunnels_return_four_megabytes_unchanged() {
    with_watchdog(LIMIT, || {
        let echo = echo();
        let far = start(echo.address, "listen");
        let near = start(far.address, "connect");
        let bytes = pattern(4 * MIB);
        let mut client = net::connect(near.address);
        let mut writer = client.try_clone().unwrap();
        let sent = bytes.clone();
        let written = thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        assert!(net::read_to_end(&mut client) == bytes, "other bytes arrived");
        written.join().unwrap();
    });
}

#[test]
fn a_zlib_client_reaches_a_plain_server() {
    with_watchdog(LIMIT, || {
        let echo = echo();
        let tunnel = start(echo.address, "listen");
        let bytes = vec![b'z'; MIB];
        let mut client = net::connect(tunnel.address);
        client.write_all(&compressed(&bytes)).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(decompressed(&net::read_to_end(&mut client), MIB) == bytes);
    });
}

#[test]
fn garbage_and_truncated_input_close_only_their_connection() {
    with_watchdog(LIMIT, || {
        let echo = echo();
        let tunnel = start(echo.address, "listen");
        let whole = compressed(b"whole");
        for input in [&b"this is not zlib"[..], &whole[..whole.len() - 4]] {
            let mut client = net::connect(tunnel.address);
            client.write_all(input).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            net::wait_for_end(&mut client);
        }
        let mut client = net::connect(tunnel.address);
        client.write_all(&whole).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(decompressed(&net::read_to_end(&mut client), 5), b"whole");
    });
}
