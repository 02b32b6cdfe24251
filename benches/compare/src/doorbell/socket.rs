//! Messages over a pair of blocking sockets.

use std::io::stdin;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::passing::Peer;
use super::{MESSAGE, Task, Trips};
use crate::Result;

/// Control message: ends the stream, and reports that the peer is ready.
const CONTROL: [u8; 1] = [1];

pub(super) fn be_peer(task: Task) -> Result<()> {
    let stdin = stdin();
    let socket = stdin.as_fd();
    send_message(socket, &CONTROL)?;
    let mut message = [0; MESSAGE];
    let mut count = 0_u64;
    loop {
        match (receive(socket, &mut message)?, task) {
            (0, _) => return Ok(()),
            (MESSAGE, Task::Count) => count += 1,
            (_, Task::Count) => send_message(socket, &count.to_ne_bytes())?,
            (n, Task::Echo) => send_message(socket, &message[..n])?,
        }
    }
}

pub(super) fn flood(peer: &Peer, window: Duration) -> Result<(u64, Duration)> {
    let socket = peer.socket();
    let mut reply = [0; 8];
    receive(socket, &mut reply)?;
    let began = Instant::now();
    let mut sent = 0_u64;
    while sent % 64 != 0 || began.elapsed() < window {
        send_message(socket, &[7; MESSAGE])?;
        sent += 1;
    }
    send_message(socket, &CONTROL)?;
    let n = receive(socket, &mut reply)?;
    let took = began.elapsed();
    if n != reply.len() || u64::from_ne_bytes(reply) != sent {
        return Err(format!("{sent} messages were sent, and {} counted", u64::from_ne_bytes(reply)).into());
    }
    Ok((sent, took))
}

pub(super) fn echo(peer: &Peer, in_flight: usize, window: Duration) -> Result<Trips> {
    let socket = peer.socket();
    let mut message = [0; MESSAGE];
    receive(socket, &mut message)?;
    let mut trips = Trips::begin(in_flight, window);
    for _ in 0..in_flight {
        send_message(socket, &[7; MESSAGE])?;
    }
    let mut out = in_flight;
    while out > 0 {
        if receive(socket, &mut message)? != MESSAGE || message != [7; MESSAGE] {
            return Err("a returned message was altered".into());
        }
        if trips.returned() {
            send_message(socket, &message)?;
        } else {
            out -= 1;
        }
    }
    Ok(trips)
}

fn send_message(socket: BorrowedFd<'_>, message: &[u8]) -> Result<()> {
    match send(socket, message, SendFlags::NOSIGNAL)? {
        n if n == message.len() => Ok(()),
        n => Err(format!("{n} bytes of a message were sent").into()),
    }
}

/// Receives a message. Returns 0 if the other end is closed.
fn receive(socket: BorrowedFd<'_>, message: &mut [u8]) -> Result<usize> {
    Ok(recv(socket, message, RecvFlags::empty())?.0)
}
