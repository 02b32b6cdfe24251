//! Connections to loops of this process, with their handles.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use reveille::{Buffer, ConnectionHandle, ConnectionHandler, LoopThread, TcpConnection, TcpServer};

use crate::Result;
use crate::machine::{Machine, pin_this_thread};

/// An operation that takes longer counts as hung.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Connections whose handles and peers are here.
pub(super) struct Connections {
    pub(super) handles: Vec<ConnectionHandle>,
    peers: Vec<TcpStream>,
    loops: Vec<LoopThread>,
}

/// Reports the handle of its connection.
struct Introduce(Sender<ConnectionHandle>);

impl ConnectionHandler for Introduce {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.0.send(conn.handle()).map_err(io::Error::other)
    }

    fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        Ok(())
    }
}

impl Connections {
    /// Opens `count` connections, distributed over `loops` loops on the servers' CPU.
    pub(super) fn open(machine: &Machine, loops: usize, count: usize) -> Result<Connections> {
        let (introduce, handles) = mpsc::channel();
        let mut connections = Connections { handles: Vec::new(), peers: Vec::new(), loops: Vec::new() };
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for _ in 0..loops {
            let (introduce, cpu) = (introduce.clone(), machine.server_cpu);
            let (hand_out, address) = mpsc::channel();
            connections.loops.push(LoopThread::spawn_with("loop", move |event_loop| {
                if let Some(cpu) = cpu {
                    pin_this_thread(cpu).map_err(|error| io::Error::other(error.to_string()))?;
                }
                let server = TcpServer::bind(event_loop, "127.0.0.1:0")?
                    .serve(move |_| Introduce(introduce.clone()))?;
                hand_out.send(server.local_addr()?).map_err(io::Error::other)?;
                Ok(server)
            })?);
            addresses.push(address.recv_timeout(TIMEOUT)?);
        }
        for address in addresses.iter().cycle().take(count) {
            let peer = TcpStream::connect(address)?;
            peer.set_read_timeout(Some(TIMEOUT))?;
            connections.peers.push(peer);
            connections.handles.push(handles.recv_timeout(TIMEOUT)?);
        }
        Ok(connections)
    }

    /// Waits until each loop has run its tasks.
    pub(super) fn wait_until_idle(&self) -> Result<()> {
        for event_loop in &self.loops {
            event_loop.handle().call(|_| ())?;
        }
        Ok(())
    }

    /// Returns the next `len` bytes of each peer.
    pub(super) fn receive(&self, len: usize) -> Result<Vec<Vec<u8>>> {
        let receive = |mut peer: &TcpStream| {
            let mut received = vec![0; len];
            peer.read_exact(&mut received)?;
            Ok(received)
        };
        self.peers.iter().map(receive).collect()
    }
}
