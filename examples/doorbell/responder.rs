//! The other process: returns each message.

use std::io;
use std::os::fd::AsFd;

use reveille::EventLoop;
use reveille::io::{Channel, Interest};
use reveille::ipc::SharedRing;

use super::process::{Which, descriptors, run_on_cpu};
use super::socket::{receive, receive_descriptors, send};
use super::{CAPACITY, MESSAGE};

pub(crate) fn respond() -> io::Result<()> {
    run_on_cpu(1)?;
    let inherited = descriptors(Which::Inheritable)?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    send(&socket, &inherited.to_ne_bytes())?;
    let ring = SharedRing::from_descriptors(receive_descriptors(socket.as_fd())?, CAPACITY)?;

    let event_loop = EventLoop::new()?;
    let source = ring.watch(&event_loop, |ring, message| {
        ring.send(message).expect("space for all messages in flight");
    })?;
    // Readiness means either the message to continue without the ring, or the end of the first
    // process.
    let channel = Channel::new(&event_loop, socket.try_clone()?, Interest::READABLE, |event| {
        event.event_loop().quit();
    })?;
    event_loop.run()?;
    source.close();
    channel.close();

    let mut message = MESSAGE;
    let mut length = receive(&socket, &mut message)?;
    while length > 0 {
        // The message to continue, of one byte, gets no reply.
        if length == MESSAGE.len() {
            send(&socket, &message)?;
        }
        length = receive(&socket, &mut message)?;
    }
    Ok(())
}
