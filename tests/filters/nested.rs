//! Filters that use their own connection while they are called.

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex};

use crate::support::net::{self, scripted_with};
use crate::support::{LIMIT, with_watchdog};
use reveille::net::{Filter, FilterContext};
use reveille::{Buffer, ConnectionHandle};

type Shared = Arc<Mutex<Option<ConnectionHandle>>>;

/// Calls `act` with the connection's handle at the first decoding, and adds a mark to each output.
struct Nested {
    handle: Shared,
    act: fn(&ConnectionHandle),
}

impl Filter for Nested {
    fn decode(&mut self, _: &mut FilterContext, input: &mut Buffer, output: &mut Buffer) -> io::Result<()> {
        if let Some(handle) = self.handle.lock().unwrap().take() {
            (self.act)(&handle);
        }
        output.append_buffer(input);
        Ok(())
    }

    fn encode(&mut self, _: &mut FilterContext, input: &mut Buffer, output: &mut Buffer) -> io::Result<()> {
        output.append_buffer(input);
        output.append(b"|");
        Ok(())
    }
}

/// What a client receives after two messages, each of which the handler echoes. The filter acts
/// when the second is decoded.
fn received(act: fn(&ConnectionHandle)) -> Vec<u8> {
    let handle: Shared = Arc::default();
    let for_filter = Arc::clone(&handle);
    let (host, journal) = scripted_with(
        move |builder| builder.filter(move || Nested { handle: Arc::clone(&for_filter), act }),
        move |script| {
            let handle = Arc::clone(&handle);
            script.on_open(move |conn| {
                *handle.lock().unwrap() = Some(conn.handle());
            })
        },
    );
    let mut client = host.connect();
    client.write_all(b"message").unwrap();
    let _ = client.shutdown(Shutdown::Write);
    let received = net::read_to_end(&mut client);
    journal.end_of(0);
    received
}

#[test]
fn a_filter_may_send_on_its_connection_while_it_decodes() {
    with_watchdog(LIMIT, || {
        let received = received(|handle| {
            handle.send("sent ").unwrap();
        });
        assert_eq!(received, b"sent |message|");
    });
}

#[test]
fn a_filter_may_close_its_connection_while_it_decodes() {
    with_watchdog(LIMIT, || assert_eq!(received(|handle| handle.close()), b""));
}

#[test]
fn a_filter_may_shut_its_connection_down_while_it_decodes() {
    with_watchdog(LIMIT, || assert_eq!(received(|handle| handle.shutdown()), b""));
}
