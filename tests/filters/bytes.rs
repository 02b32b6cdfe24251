//! The bytes of filtered connections: all of them, in order, whatever sends them.

use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::samples::{Blocks, Cipher, REQUEST, block, cipher, unblock};
use crate::support::folder::Folder;
use crate::support::net::{self, Host, pattern, scripted_with};
use crate::support::{LIMIT, MIB, with_watchdog};
use reveille::net::{ConnectionGroup, ConnectionLimits, Filter, FilterContext, FullPolicy};
use reveille::{Buffer, ConnectionHandle, ConnectionHandler, TcpClient, TcpConnection, TcpServer};

fn encoded(mut bytes: Vec<u8>) -> Vec<u8> {
    cipher(&mut bytes, &mut 0);
    bytes
}

/// Writes on another thread, then half-closes.
fn write_all(client: &TcpStream, bytes: Vec<u8>) -> thread::JoinHandle<()> {
    let mut client = client.try_clone().unwrap();
    thread::spawn(move || {
        client.write_all(&bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    })
}

#[test]
fn sixteen_megabytes_return_unchanged_through_a_filter() {
    with_watchdog(LIMIT, || {
        let (host, _) = scripted_with(|builder| builder.filter(Cipher::default), |script| script);
        let mut client = host.connect();
        let bytes = pattern(16 * MIB);
        let writer = write_all(&client, bytes.clone());
        assert!(net::read_to_end(&mut client) == bytes, "other bytes arrived");
        writer.join().unwrap();
    });
}

#[test]
fn the_handler_sees_decoded_bytes_and_the_peer_encoded_ones() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with(
            |builder| builder.filter(Cipher::default),
            |script| {
                script.on_message(|conn, input| {
                    assert_eq!(input.take_all(), b"question");
                    conn.send("answer").unwrap();
                    conn.shutdown();
                })
            },
        );
        let mut client = host.connect();
        client.write_all(&encoded(b"question".to_vec())).unwrap();
        assert_eq!(net::read_to_end(&mut client), encoded(b"answer".to_vec()));
        drop(client);
        journal.end_of(0);
    });
}

#[test]
fn the_first_filter_is_next_to_the_socket() {
    with_watchdog(LIMIT, || {
        let (host, _) = scripted_with(
            |builder| builder.filter(Cipher::default).filter(Blocks::default),
            |script| script.on_message(|conn, input| conn.send(input.take_all()).unwrap()),
        );
        let mut client = host.connect();
        let mut sent = block(b"one");
        sent.extend(block(b"two"));
        sent.extend(REQUEST);
        client.write_all(&encoded(sent)).unwrap();
        let expected = [&REQUEST[..], &block(b"onetwo")].concat();
        assert_eq!(net::read_exact(&mut client, expected.len()), encoded(expected));
    });
}

#[test]
fn a_filter_gets_what_it_left_before_new_input() {
    with_watchdog(LIMIT, || {
        let (host, _) = scripted_with(|builder| builder.filter(Blocks::default), |script| script);
        let mut client = host.connect();
        let bytes = pattern(3000);
        for byte in bytes.chunks(1000).flat_map(block).chain([0, 0]) {
            client.write_all(&[byte]).unwrap();
        }
        client.shutdown(Shutdown::Write).unwrap();
        let (returned, has_ended) = unblock(&net::read_to_end(&mut client));
        assert!(returned == bytes && has_ended);
    });
}

#[test]
fn output_of_every_kind_passes_through_the_filter_in_order() {
    with_watchdog(LIMIT, || {
        let folder = Folder::new();
        let file = folder.join("bytes");
        fs::write(&file, pattern(3 * MIB)).unwrap();
        let (host, _) = scripted_with(
            |builder| builder.filter(Cipher::default).limits(ConnectionLimits::new().max_unsent(64 * MIB)),
            move |script| {
                let file = file.clone();
                script.on_message(move |conn, input| {
                    input.clear();
                    let bytes = pattern(3 * MIB);
                    conn.send(&bytes[..10]).unwrap();
                    let early = conn.reserve_reply().unwrap();
                    conn.send_owned(bytes[20..MIB].to_vec()).unwrap();
                    let slices =
                        [IoSlice::new(&bytes[MIB..MIB + 5000]), IoSlice::new(&bytes[MIB + 5000..2 * MIB])];
                    conn.send_vectored(&slices).unwrap();
                    conn.send_shared(&bytes[2 * MIB..].into()).unwrap();
                    let opened = File::open(&file).unwrap();
                    conn.send_file(opened, 0, 3 * MIB as u64).unwrap();
                    conn.send_owned(&bytes[..100]).unwrap();
                    early.fill(&bytes[10..20]).unwrap();
                    conn.handle().send(&bytes[..7]).unwrap();
                    conn.shutdown();
                })
            },
        );
        let mut client = host.connect();
        client.write_all(b"?").unwrap();
        let bytes = pattern(3 * MIB);
        let expected = [&bytes, &bytes, &bytes[..100], &bytes[..7]].concat();
        assert!(net::read_to_end(&mut client) == encoded(expected), "other bytes arrived");
    });
}

#[test]
fn a_group_sends_encoded_bytes_to_its_filtered_members() {
    with_watchdog(LIMIT, || {
        let group = ConnectionGroup::new(FullPolicy::Close);
        let members = group.clone();
        let (host, _) = scripted_with(
            |builder| builder.filter(Cipher::default),
            move |script| {
                let members = members.clone();
                script.on_message(move |conn, input| {
                    input.clear();
                    members.join(&conn.handle());
                    conn.send("+").unwrap();
                })
            },
        );
        let mut clients = [host.connect(), host.connect()];
        for client in &mut clients {
            client.write_all(b"?").unwrap();
            net::read_exact(client, 1);
        }
        group.send(*b"to all").unwrap();
        for client in &mut clients {
            let mut expected = b"to all".to_vec();
            cipher(&mut expected, &mut 1);
            assert_eq!(net::read_exact(client, 6), expected);
        }
    });
}

#[test]
fn a_filtered_client_speaks_with_a_filtered_server() {
    with_watchdog(LIMIT, || {
        let (host, _) =
            scripted_with(|builder| builder.filter(Cipher::default).filter(Blocks::default), |script| script);
        let target = host.address();
        // Plain on one side, filtered on the other.
        let relay = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve(move |_| Forward { target, client: None })
        });
        let mut client = relay.connect();
        let bytes = pattern(4 * MIB);
        let writer = write_all(&client, bytes.clone());
        assert!(net::read_to_end(&mut client) == bytes, "other bytes arrived");
        writer.join().unwrap();
    });
}

/// Relays each connection to `target`, through filters.
struct Forward {
    target: SocketAddr,
    client: Option<TcpClient>,
}

impl ConnectionHandler for Forward {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.pause_reading();
        let plain = conn.handle();
        let client = TcpClient::connect(conn.event_loop(), self.target)
            .filter(Cipher::default)
            .filter(Blocks::default)
            .serve(move |_| Relay(plain.clone()))?;
        self.client = Some(client);
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection<'_>, _: &mut Buffer) -> io::Result<()> {
        unreachable!("the connection is paused, then relayed")
    }
}

struct Relay(ConnectionHandle);

impl ConnectionHandler for Relay {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.relay_to(&self.0)
    }

    fn on_message(&mut self, _: &TcpConnection<'_>, _: &mut Buffer) -> io::Result<()> {
        unreachable!("the connection is relayed")
    }
}

/// Passes bytes on, and records where they are.
struct Watch(Arc<Mutex<Vec<usize>>>);

impl Filter for Watch {
    fn decode(&mut self, _: &mut FilterContext, input: &mut Buffer, output: &mut Buffer) -> io::Result<()> {
        self.0.lock().unwrap().push(input.readable().as_ptr() as usize);
        output.append_buffer(input);
        Ok(())
    }

    fn encode(&mut self, _: &mut FilterContext, input: &mut Buffer, output: &mut Buffer) -> io::Result<()> {
        self.0.lock().unwrap().push(input.readable().as_ptr() as usize);
        output.append_buffer(input);
        Ok(())
    }
}

#[test]
fn filters_that_pass_bytes_on_copy_nothing() {
    with_watchdog(LIMIT, || {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (one, two, of_handler) = (Arc::clone(&seen), Arc::clone(&seen), Arc::clone(&seen));
        let (host, _) = scripted_with(
            move |builder| {
                let builder = builder.filter(move || Watch(Arc::clone(&one)));
                builder.filter(move || Watch(Arc::clone(&two)))
            },
            move |script| {
                let seen = Arc::clone(&of_handler);
                script.on_message(move |conn, input| {
                    seen.lock().unwrap().push(input.readable().as_ptr() as usize);
                    conn.send_owned(input.take_all()).unwrap();
                })
            },
        );
        let mut client = host.connect();
        net::exchange(&mut client, b"message");
        let seen = seen.lock().unwrap();
        let [decoded, decoded_again, handled, encoded, encoded_again] = seen[..] else {
            panic!("{} places", seen.len())
        };
        assert_eq!((decoded, decoded), (decoded_again, handled));
        assert_eq!(encoded, encoded_again);
    });
}
