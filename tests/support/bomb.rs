//! Values and panics whose destructors panic.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::panic_any;

use super::Count;

/// A panic payload whose destructor panics with another one.
pub(crate) struct Payload;

impl Drop for Payload {
    fn drop(&mut self) {
        panic_any(Payload);
    }
}

/// A value whose destructor counts its call and then panics with a [`Payload`].
pub(crate) struct Bomb(Count);

impl Bomb {
    pub(crate) fn new(drops: &Count) -> Bomb {
        Bomb(drops.clone())
    }

    /// Does nothing. A closure that calls it captures the whole value, not only a field.
    pub(crate) fn keep(&self) {}
}

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.add();
        panic_any(Payload);
    }
}

impl fmt::Debug for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bomb")
    }
}

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bomb")
    }
}

impl std::error::Error for Bomb {}

/// A descriptor whose destructor panics.
pub(crate) struct BombSocket {
    pub(crate) socket: UnixStream,
    pub(crate) bomb: Bomb,
}

impl AsFd for BombSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
