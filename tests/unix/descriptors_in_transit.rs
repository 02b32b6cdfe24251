//! A user with too many descriptors in transit (ETOOMANYREFS). Further sends of descriptors are
//! rejected or wait, and no connection is closed.
//!
//! The test lowers the limit of descriptors of the whole process.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::alone::alone_with_loop;
use crate::support::net::assert_queued;
use crate::support::unix::abstract_name;
use crate::support::{Recorder, net};
use reveille::net::ConnectionState;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpClient, TcpConnection, TcpServer};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

const DESCRIPTOR_LIMIT: u64 = 64;

/// Puts more descriptors than the limit into a socket that is not read. Returns both of its ends.
fn fill_transit() -> (UnixStream, UnixStream) {
    let (sender, receiver) = UnixStream::pair().unwrap();
    let file = File::open("/dev/null").unwrap();
    let borrowed = vec![file.as_fd(); DESCRIPTOR_LIMIT as usize + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTOR_LIMIT as usize + 1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    rustix::net::sendmsg(&sender, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
    (sender, receiver)
}

/// Drops the capabilities that exempt this thread from the limit.
fn drop_capabilities() {
    let mut sets = capabilities(None).unwrap();
    sets.effective -= CapabilitySet::SYS_RESOURCE | CapabilitySet::SYS_ADMIN;
    set_capabilities(None, sets).unwrap();
}

/// A handler that records the numbers of bytes and descriptors it receives.
struct Receiver(Recorder<Received>);

#[derive(Debug, PartialEq, Eq)]
enum Received {
    Bytes(usize),
    Descriptors(usize),
}

impl ConnectionHandler for Receiver {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.accept_descriptors(4)
    }

    fn on_message(&mut self, _: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        self.0.record(Received::Bytes(input.take_all().len()));
        Ok(())
    }

    fn on_descriptors(&mut self, _: &TcpConnection<'_>, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        self.0.record(Received::Descriptors(descriptors.len()));
        Ok(())
    }
}

#[test]
fn too_many_descriptors_in_transit_close_no_connection() {
    alone_with_loop(|event_loop: &EventLoop| {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTOR_LIMIT), maximum: limit.maximum })
            .unwrap();
        let (_sender, receiver) = fill_transit();
        drop_capabilities();

        let (received, states) = (Recorder::new(), Recorder::new());
        let (recording_received, recording_states) = (received.clone(), states.clone());
        let server = TcpServer::bind_unix(event_loop, abstract_name()).unwrap();
        let server = server.serve(move |_| Receiver(recording_received.clone())).unwrap();
        const LARGE: usize = 4 << 20;
        let client = TcpClient::connect(event_loop, server.local_address())
            .serve(move |conn| {
                let descriptor = || OwnedFd::from(File::open("/dev/null").unwrap());
                let refused = conn.send_with_descriptors("refused", [descriptor()]).unwrap_err();
                recording_states.record((refused.kind(), conn.state(), conn.unsent()));
                // More than the kernel accepts, so all later output is queued.
                assert_queued(conn, conn.send(vec![0; LARGE]));
                assert_queued(conn, conn.send_with_descriptors("queued", [descriptor()]));
                conn.send("behind").unwrap();
                Receiver(Recorder::new())
            })
            .unwrap();
        let size = |part: &Received| if let Received::Bytes(n) = part { *n } else { 0 };
        let bytes = |received: &[Received]| received.iter().map(size).sum::<usize>();
        let mut all = Vec::new();
        net::turn_until(event_loop, || {
            all.extend(received.take());
            bytes(&all) == LARGE
        });
        let full: ErrorKind = io::Error::from(reveille::net::SendError::Full).kind();
        assert_eq!(states.take(), [(full, ConnectionState::Open, 0)]);
        // Enough turns for several retries.
        let last_turn = event_loop.iteration() + 20;
        net::turn_until(event_loop, || event_loop.iteration() >= last_turn);
        assert_eq!(bytes(&all) + bytes(&received.take()), LARGE);
        assert!(client.handle().is_some(), "the connection has been closed");
        // A send that the kernel rejects makes the socket writable again. The loop must still sleep
        // between the retries.
        let before = event_loop.iteration();
        event_loop.run_for(Duration::from_millis(100)).unwrap();
        let turns = event_loop.iteration() - before;
        assert!(turns < 60, "{turns} turns in the time of ten retries");

        drop(receiver);
        let rest = LARGE + "queued".len() + "behind".len();
        net::turn_until(event_loop, || {
            all.extend(received.take());
            bytes(&all) == rest
        });
        assert_eq!(all.iter().filter(|part| **part == Received::Descriptors(1)).count(), 1);
    });
}
