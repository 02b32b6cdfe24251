//! For the tests of Unix sockets: unique names, servers and clients.

use std::fs;
use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as StdAddress, UnixStream};
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use reveille::net::{AddressError, UnixAddress};
use reveille::{EventLoop, TcpServer};

use super::net;

/// A temporary folder. Dropping this removes it with its contents.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("reveille-{}-{}", process::id(), NEXT.fetch_add(1, SeqCst));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new folder");
        Folder(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("cannot remove the folder");
    }
}

/// A unique abstract name.
pub(crate) fn abstract_name() -> UnixAddress {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    UnixAddress::abstract_name(format!("reveille {} {}", process::id(), NEXT.fetch_add(1, SeqCst))).unwrap()
}

pub(crate) fn echo_server(
    event_loop: &EventLoop,
    address: impl TryInto<UnixAddress, Error: Into<AddressError>>,
) -> TcpServer {
    TcpServer::bind_unix(event_loop, address)
        .unwrap()
        .serve_fn(|conn, input| conn.send(input.take_all()))
        .unwrap()
}

/// Connects a client of the standard library, whose reads fail after a time limit.
pub(crate) fn connect(server: &TcpServer) -> UnixStream {
    connect_to(server.local_address().as_unix().expect("a Unix socket"))
}

/// Same as [`connect`], for an address.
pub(crate) fn connect_to(address: &UnixAddress) -> UnixStream {
    let address = match (address.as_path(), address.as_abstract_name()) {
        (Some(path), _) => StdAddress::from_pathname(path),
        (None, Some(name)) => StdAddress::from_abstract_name(name),
        (None, None) => panic!("the server has no name"),
    };
    let client = UnixStream::connect_addr(&address.unwrap()).expect("a server that listens");
    client.set_read_timeout(Some(net::LIMIT)).unwrap();
    client
}

pub(crate) fn read_exact(client: &mut UnixStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    client.read_exact(&mut bytes).expect("too few bytes");
    bytes
}
