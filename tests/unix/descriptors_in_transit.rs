//! A user with too many descriptors on their way (ETOOMANYREFS): sends of more are refused or wait,
//! and no connection ends for it.
//!
//! The one test of its binary, as it lowers the limit of the process.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::unix::abstract_name;
use crate::support::{Recorder, net, with_loop};
use reveille::net::{ConnectionState, SendStatus};
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpClient, TcpConnection, TcpServer};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

const MOST: u64 = 64;

/// More than the limit, in a socket that is not read.
fn too_many() -> (UnixStream, UnixStream) {
    let (sender, receiver) = UnixStream::pair().unwrap();
    let file = File::open("/dev/null").unwrap();
    let borrowed = vec![file.as_fd(); MOST as usize + 1];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST as usize + 1))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    rustix::net::sendmsg(&sender, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
    (sender, receiver)
}

/// Without these the kernel holds the thread to the limit.
fn give_up_capabilities() {
    let mut sets = capabilities(None).unwrap();
    sets.effective -= CapabilitySet::SYS_RESOURCE | CapabilitySet::SYS_ADMIN;
    set_capabilities(None, sets).unwrap();
}

/// Notes how many bytes and descriptors it gets.
struct Taker(Recorder<Got>);

#[derive(Debug, PartialEq, Eq)]
enum Got {
    Bytes(usize),
    Descriptors(usize),
}

impl ConnectionHandler for Taker {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.accept_descriptors(4)
    }

    fn on_message(&mut self, _: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        self.0.record(Got::Bytes(input.take_all().len()));
        Ok(())
    }

    fn on_descriptors(&mut self, _: &TcpConnection<'_>, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        self.0.record(Got::Descriptors(descriptors.len()));
        Ok(())
    }
}

#[test]
fn too_many_descriptors_on_their_way_refuse_a_send_and_end_no_connection() {
    with_loop(|event_loop: &EventLoop| {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(MOST), maximum: limit.maximum }).unwrap();
        let (_sender, receiver) = too_many();
        give_up_capabilities();

        let (got, states) = (Recorder::new(), Recorder::new());
        let (getting, telling) = (got.clone(), states.clone());
        let server = TcpServer::bind_unix(event_loop, abstract_name()).unwrap();
        let server = server.serve(move |_| Taker(getting.clone())).unwrap();
        const MUCH: usize = 4 << 20;
        let client = TcpClient::connect(event_loop, server.address())
            .serve(move |conn| {
                let descriptor = || OwnedFd::from(File::open("/dev/null").unwrap());
                let refused = conn.send_with_descriptors("refused", [descriptor()]).unwrap_err();
                telling.record((refused.kind(), conn.state(), conn.unsent()));
                // More than the kernel takes, so what follows is queued.
                assert_eq!(conn.send(vec![0; MUCH]).unwrap(), SendStatus::Queued);
                assert_eq!(conn.send_with_descriptors("queued", [descriptor()]).unwrap(), SendStatus::Queued);
                conn.send("behind").unwrap();
                Taker(Recorder::new())
            })
            .unwrap();
        let bytes =
            |got: &[Got]| got.iter().map(|got| if let Got::Bytes(n) = got { *n } else { 0 }).sum::<usize>();
        let mut all = Vec::new();
        net::turn_until(event_loop, || {
            all.extend(got.take());
            bytes(&all) == MUCH
        });
        let full: ErrorKind = io::Error::from(reveille::net::SendError::Full).kind();
        assert_eq!(states.take(), [(full, ConnectionState::Open, 0)]);
        // Long enough for some tries.
        let tries = event_loop.iteration() + 20;
        net::turn_until(event_loop, || event_loop.iteration() >= tries);
        assert_eq!(bytes(&all) + bytes(&got.take()), MUCH);
        assert!(client.handle().is_some(), "it is still open");
        // A send that the kernel rejects makes the socket writable once more. The loop sleeps
        // between the retries all the same.
        let before = event_loop.iteration();
        event_loop.run_for(Duration::from_millis(100)).unwrap();
        let turns = event_loop.iteration() - before;
        assert!(turns < 60, "{turns} turns in the time of ten retries");

        drop(receiver);
        let rest = MUCH + "queued".len() + "behind".len();
        net::turn_until(event_loop, || {
            all.extend(got.take());
            bytes(&all) == rest
        });
        assert_eq!(all.iter().filter(|got| **got == Got::Descriptors(1)).count(), 1);
    });
}
