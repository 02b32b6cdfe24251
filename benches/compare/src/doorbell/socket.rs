//! Messages over a pair of blocking sockets.

use std::io::stdin;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::passing::Peer;
use super::{MESSAGE, Task, Trips};
use crate::Result;

/// Tells the peer that there are no more, and this process that the peer is there.
const WORD: [u8; 1] = [1];

pub(super) fn be_peer(task: Task) -> Result<()> {
    let stdin = stdin();
    let socket = stdin.as_fd();
    say(socket, &WORD)?;
    let mut message = [0; MESSAGE];
    let mut count = 0_u64;
    loop {
        match (hear(socket, &mut message)?, task) {
            (0, _) => return Ok(()),
            (MESSAGE, Task::Count) => count += 1,
            (_, Task::Count) => say(socket, &count.to_ne_bytes())?,
            (n, Task::Echo) => say(socket, &message[..n])?,
        }
    }
}

pub(super) fn flood(peer: &Peer, window: Duration) -> Result<(u64, Duration)> {
    let socket = peer.socket();
    let mut answer = [0; 8];
    hear(socket, &mut answer)?;
    let began = Instant::now();
    let mut sent = 0_u64;
    while sent % 64 != 0 || began.elapsed() < window {
        say(socket, &[7; MESSAGE])?;
        sent += 1;
    }
    say(socket, &WORD)?;
    let n = hear(socket, &mut answer)?;
    let took = began.elapsed();
    if n != answer.len() || u64::from_ne_bytes(answer) != sent {
        return Err(format!("{sent} messages were sent, and {} counted", u64::from_ne_bytes(answer)).into());
    }
    Ok((sent, took))
}

pub(super) fn echo(peer: &Peer, under_way: usize, window: Duration) -> Result<Trips> {
    let socket = peer.socket();
    let mut message = [0; MESSAGE];
    hear(socket, &mut message)?;
    let mut trips = Trips::begin(under_way, window);
    for _ in 0..under_way {
        say(socket, &[7; MESSAGE])?;
    }
    let mut out = under_way;
    while out > 0 {
        if hear(socket, &mut message)? != MESSAGE || message != [7; MESSAGE] {
            return Err("a message came back as another".into());
        }
        if trips.returned() {
            say(socket, &message)?;
        } else {
            out -= 1;
        }
    }
    Ok(trips)
}

fn say(socket: BorrowedFd<'_>, message: &[u8]) -> Result<()> {
    match send(socket, message, SendFlags::NOSIGNAL)? {
        n if n == message.len() => Ok(()),
        n => Err(format!("{n} bytes of a message were sent").into()),
    }
}

/// 0 if the other end is closed.
fn hear(socket: BorrowedFd<'_>, message: &mut [u8]) -> Result<usize> {
    Ok(recv(socket, message, RecvFlags::empty())?.0)
}
