//! A filter with a handshake, and its peers.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};

use reveille::Buffer;
use reveille::net::{Filter, FilterContext};

use super::net;

/// Sends [`GREETING`] first. It is ready when it has received [`KNOCK`], panics for [`BOMB`], and
/// fails for another byte.
#[derive(Default)]
pub(crate) struct Knock {
    is_ready: bool,
}

pub(crate) const GREETING: &[u8] = b"?";
pub(crate) const KNOCK: &[u8] = b"!";
pub(crate) const BOMB: &[u8] = b"*";

impl Filter for Knock {
    fn on_open(&mut self, context: &mut FilterContext<'_>) -> io::Result<()> {
        context.to_peer().append(GREETING);
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.is_ready
    }

    fn decode(
        &mut self,
        _: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        if !self.is_ready {
            match input.take(1) {
                KNOCK => self.is_ready = true,
                BOMB => panic!("a filter"),
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "not a knock")),
            }
        }
        output.append_buffer(input);
        Ok(())
    }
}

/// How a peer ends its handshake, apart from [completing](complete) it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Garbage,
    Fin,
    Reset,
}

pub(crate) const FAILURES: [Failure; 3] = [Failure::Garbage, Failure::Fin, Failure::Reset];

/// Completes the handshake, and checks that an echo server replies. The peer must have read the
/// greeting.
#[track_caller]
pub(crate) fn complete(peer: &mut TcpStream) {
    peer.write_all(KNOCK).expect("a server that reads");
    net::assert_echoes(peer);
}

#[track_caller]
pub(crate) fn read_greeting(peer: &mut TcpStream) {
    assert_eq!(net::read_exact(peer, GREETING.len()), GREETING);
}

/// Ends the handshake. The peer must have read the greeting.
#[track_caller]
pub(crate) fn fail(mut peer: TcpStream, failure: Failure) {
    match failure {
        Failure::Garbage => {
            peer.write_all(b"x").unwrap();
            net::wait_for_end(&mut peer);
        }
        Failure::Fin => {
            peer.shutdown(Shutdown::Write).unwrap();
            net::wait_for_end(&mut peer);
        }
        Failure::Reset => net::reset(peer),
    }
}
