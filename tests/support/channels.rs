//! What the tests of channels share: sockets, a channel that counts, and a turn for those that look
//! at descriptor numbers.

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use reveille::EventLoop;
use reveille::io::{Channel, ChannelEvent, Interest};

use super::{Count, LIMIT, with_watchdog};

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`with_loop`], for a test that makes its loops itself.
pub(crate) fn alone<R: Send + 'static>(test: impl FnOnce() -> R + Send + 'static) -> R {
    let _turn = one_at_a_time();
    with_watchdog(LIMIT, test)
}

/// Runs `test` with a loop, while no other test of the binary runs: descriptor numbers belong to
/// the process.
pub(crate) fn with_loop<R: Send + 'static>(test: impl FnOnce(&EventLoop) -> R + Send + 'static) -> R {
    let _turn = one_at_a_time();
    super::with_loop(test)
}

/// Two sockets, connected with each other.
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

/// A channel that counts its calls and reads nothing.
pub(crate) fn counted(event_loop: &EventLoop, source: UnixStream, calls: &Count) -> Channel<UnixStream> {
    let calls = calls.clone();
    Channel::new(event_loop, source, Interest::READABLE, move |_| calls.add()).unwrap()
}

/// Takes an event's stream to its end, or until it would block. Answers what was read, and whether
/// that was the end.
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
