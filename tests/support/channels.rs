//! Pairs of sockets, and channels on them.

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use reveille::EventLoop;
use reveille::io::{Channel, ChannelEvent, Interest};

use super::Count;

/// Two connected non-blocking sockets.
pub(crate) fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours, theirs)
}

/// Whether the other end has been closed.
pub(crate) fn is_closed(mut theirs: &UnixStream) -> bool {
    match theirs.read(&mut [0; 64]) {
        Ok(n) => n == 0,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    }
}

/// A channel whose callback counts its calls and reads nothing.
pub(crate) fn counted(event_loop: &EventLoop, source: UnixStream, calls: &Count) -> Channel<UnixStream> {
    let calls = calls.clone();
    Channel::new(event_loop, source, Interest::READABLE, move |_| calls.add()).unwrap()
}

/// Reads an event's stream until it ends or would block. Returns the number of bytes read and
/// whether the stream has ended.
pub(crate) fn drain(event: &ChannelEvent<'_, impl AsFd>) -> (usize, bool) {
    let (mut total, mut bytes) = (0, [0; 1024]);
    loop {
        match rustix::io::read(event.source(), &mut bytes) {
            Ok(0) => return (total, true),
            Ok(n) => total += n,
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                return (total, false);
            }
        }
    }
}
