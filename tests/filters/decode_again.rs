//! Filters whose output is much longer than their input.

use std::cell::Cell;
use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::mpsc;

use crate::support::net::{self, scripted_with};
use crate::support::{LIMIT, MIB, with_watchdog};
use reveille::Buffer;
use reveille::net::{Filter, FilterContext};

/// Replaces each byte by a mebibyte of it, in pieces.
#[derive(Default)]
struct Expand {
    /// The byte in progress, and how often it is still to be repeated.
    rest: Option<(u8, usize)>,
}

impl Filter for Expand {
    fn decode(
        &mut self,
        context: &mut FilterContext,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        assert!(output.is_empty());
        if self.rest.is_none() && !input.is_empty() {
            self.rest = Some((input.take(1)[0], MIB));
        }
        if let Some((byte, left)) = self.rest {
            let len = left.min(FilterContext::PIECE);
            output.append(&vec![byte; len]);
            self.rest = (left > len).then_some((byte, left - len));
        }
        if self.rest.is_some() || !input.is_empty() {
            context.decode_again();
        }
        Ok(())
    }

    fn on_peer_shutdown(
        &mut self,
        _: &mut FilterContext,
        input: &mut Buffer,
        _: &mut Buffer,
    ) -> io::Result<()> {
        assert!(self.rest.is_none() && input.is_empty(), "the end overtook the input");
        Ok(())
    }
}

#[test]
fn a_long_output_reaches_the_handler_in_pieces() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with(
            |builder| builder.filter(Expand::default),
            |script| {
                let count = Cell::new(0);
                script.terse().on_message(move |conn, input| {
                    assert!(input.len() <= FilterContext::PIECE);
                    count.set(count.get() + input.take_all().len());
                    if count.get() == 3 * MIB {
                        conn.send("all").unwrap();
                    }
                })
            },
        );
        let mut client = host.connect();
        client.write_all(b"abc").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut client), b"all");
        journal.end_of(0);
        host.assert_idle();
    });
}

#[test]
fn a_connection_that_has_paused_decodes_nothing() {
    with_watchdog(LIMIT, || {
        let (sender, paused) = mpsc::channel();
        let (host, _) = scripted_with(
            |builder| builder.filter(Expand::default),
            move |script| {
                let (count, sender) = (Cell::new(0), sender.clone());
                script.terse().on_message(move |conn, input| {
                    if count.replace(count.get() + input.take_all().len()) == 0 {
                        conn.pause_reading();
                        sender.send(conn.handle()).unwrap();
                    }
                    if count.get() == 2 * MIB {
                        conn.send("all").unwrap();
                    }
                })
            },
        );
        let mut client = host.connect();
        client.write_all(b"ab").unwrap();
        let handle = paused.recv_timeout(LIMIT).unwrap();
        host.assert_idle();
        handle.resume_reading();
        assert_eq!(net::read_exact(&mut client, 3), b"all");
    });
}
