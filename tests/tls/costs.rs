//! Allocations per message, and the memory of idle connections, next to those of rustls alone.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use reveille::tls::ServerTls;
use reveille::{EventLoop, TcpConnection};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{Connection, ServerConfig};

use crate::authority::{BOTH, NAME, client_config_with, server_config};
use crate::support::counting::{Counts, counts};
use crate::support::with_loop;
use crate::tls_peer::client_session;

/// Allocations and frees, and the bytes that are still held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    allocated: u64,
    held: i64,
}

impl Cost {
    fn add(&mut self, counts: Counts) {
        self.allocated += counts.allocated;
        self.held += counts.held;
    }
}

/// A server that is given records and returns records.
trait Server {
    /// Processes `records`, and appends what is sent to `replies`. Only its own work is counted.
    fn process(&mut self, records: &[u8], replies: &mut Vec<u8>, cost: &mut Cost);
}

/// An echo server on a loop of this thread.
struct OnLoop<'a> {
    event_loop: &'a EventLoop,
    socket: UnixStream,
}

impl<'a> OnLoop<'a> {
    fn new(event_loop: &'a EventLoop, tls: &ServerTls, cost: &mut Cost) -> OnLoop<'a> {
        let (socket, connected) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let before = counts();
        let builder = TcpConnection::builder(event_loop).tls(tls).unwrap();
        builder.adopt(connected, |_| Echo).unwrap();
        event_loop.run_ready().unwrap();
        cost.add(counts() - before);
        OnLoop { event_loop, socket }
    }
}

/// Keeps nothing in memory.
struct Echo;

impl reveille::ConnectionHandler for Echo {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut reveille::Buffer) -> std::io::Result<()> {
        Ok(conn.send(input.take_all())?)
    }
}

impl Server for OnLoop<'_> {
    fn process(&mut self, records: &[u8], replies: &mut Vec<u8>, cost: &mut Cost) {
        self.socket.write_all(records).unwrap();
        let before = counts();
        self.event_loop.run_ready().unwrap();
        cost.add(counts() - before);
        // The error is that nothing more is there.
        let _ = self.socket.read_to_end(replies);
    }
}

/// A session of rustls that echoes, with buffers that exist already.
struct Alone {
    session: UnbufferedServerConnection,
    input: Vec<u8>,
    output: Vec<u8>,
    plain: Vec<u8>,
}

impl Alone {
    fn new(config: &Arc<ServerConfig>, cost: &mut Cost) -> Alone {
        let [input, output, plain] = [(); 3].map(|()| Vec::with_capacity(64 * 1024));
        // The connection of the crate is a heap object; this session is not.
        cost.held += size_of::<UnbufferedServerConnection>() as i64;
        let before = counts();
        let session = UnbufferedServerConnection::new(Arc::clone(config)).unwrap();
        cost.add(counts() - before);
        Alone { session, input, output, plain }
    }

    fn step(&mut self) -> bool {
        let UnbufferedStatus { mut discard, state } = self.session.process_tls_records(&mut self.input);
        let goes_on = match state.unwrap() {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.unwrap();
                    discard += record.discard;
                    self.plain.extend_from_slice(record.payload);
                }
                true
            }
            ConnectionState::EncodeTlsData(mut data) => {
                let end = self.output.len();
                self.output.resize(end + 16 * 1024, 0);
                let written = data.encode(&mut self.output[end..]).unwrap();
                self.output.truncate(end + written);
                true
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                true
            }
            ConnectionState::WriteTraffic(mut traffic) if !self.plain.is_empty() => {
                let end = self.output.len();
                self.output.resize(end + self.plain.len() + 1024, 0);
                let written = traffic.encrypt(&self.plain, &mut self.output[end..]).unwrap();
                self.output.truncate(end + written);
                self.plain.clear();
                true
            }
            _ => false,
        };
        self.input.drain(..discard);
        goes_on
    }
}

impl Server for Alone {
    fn process(&mut self, records: &[u8], replies: &mut Vec<u8>, cost: &mut Cost) {
        self.input.extend_from_slice(records);
        let before = counts();
        while self.step() {}
        cost.add(counts() - before);
        replies.extend(&self.output);
        self.output.clear();
    }
}

/// Exchanges records until neither side sends more.
fn exchange(client: &mut Connection, server: &mut impl Server, cost: &mut Cost) {
    loop {
        let mut records = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut records).unwrap();
        }
        if records.is_empty() {
            return;
        }
        let mut replies = Vec::new();
        server.process(&records, &mut replies, cost);
        let mut replies = &replies[..];
        while !replies.is_empty() {
            client.read_tls(&mut replies).unwrap();
            client.process_new_packets().unwrap();
            let mut plain = Vec::new();
            let _ = client.reader().read_to_end(&mut plain);
        }
    }
}

/// Performs the handshake and exchanges messages of 64 bytes. Returns the allocations per message,
/// and the memory that the idle connection holds.
fn measure(client: &mut Connection, server: &mut impl Server, mut cost: Cost) -> Cost {
    const MESSAGES: u64 = 100;
    let mut send = |client: &mut Connection, cost: &mut Cost| {
        client.writer().write_all(&[b'x'; 64]).unwrap();
        exchange(client, server, cost);
    };
    // The first contains the end of the handshake, and buffers grow until they suffice.
    (0..20).for_each(|_| send(client, &mut cost));
    let before = cost.allocated;
    (0..MESSAGES).for_each(|_| send(client, &mut cost));
    let allocated = cost.allocated - before;
    assert_eq!(allocated % MESSAGES, 0, "each message costs the same");
    Cost { allocated: allocated / MESSAGES, held: cost.held }
}

/// The memory of a connection without TLS.
fn plain_connection(event_loop: &EventLoop) -> i64 {
    let (_socket, connected) = UnixStream::pair().unwrap();
    let before = counts();
    TcpConnection::builder(event_loop).adopt(connected, |_| Echo).unwrap();
    event_loop.run_ready().unwrap();
    (counts() - before).held
}

#[test]
fn a_message_allocates_what_rustls_allocates_alone() {
    with_loop(|event_loop| {
        for version in BOTH {
            let config = server_config();
            let tls = ServerTls::from(Arc::clone(&config));
            let client = client_config_with(&[version], None, |_| ());
            let mut last = Cost::default();
            // The buffers of the loop grow with the first connection.
            let connections: Vec<_> = (0..4)
                .map(|_| {
                    let mut cost = Cost::default();
                    let mut server = OnLoop::new(event_loop, &tls, &mut cost);
                    let mut session = client_session(Arc::clone(&client), NAME);
                    last = measure(&mut session, &mut server, cost);
                    server
                })
                .collect();
            let mut alone = Cost::default();
            let mut server = Alone::new(&config, &mut alone);
            let alone = measure(&mut client_session(client, NAME), &mut server, alone);
            let plain = plain_connection(event_loop);
            println!("{version:?}: {last:?}, rustls alone: {alone:?}, without TLS: {plain}");
            assert_eq!(last.allocated, alone.allocated, "allocations per message");
            // The filter, its name, and the state of the filters.
            let more = last.held - alone.held - plain;
            assert!(more < 1024, "{last:?}, rustls alone: {alone:?}, without TLS: {plain}");
            drop(connections);
        }
    });
}
