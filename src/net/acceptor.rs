//! Taking connections from a listening socket, whatever the system is short of.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::socket;

/// What one call to [`Acceptor::accept`] came to.
#[derive(Debug)]
pub(crate) enum Accepted {
    Connection(OwnedFd, SocketAddr),
    /// Nothing waits.
    Drained,
    /// One connection was lost or turned away; others may wait.
    Lost(io::Error),
    /// Nothing can be accepted for now, though connections wait: try again later, and not at once.
    Exhausted(io::Error),
}

/// A listening socket, with a descriptor in reserve.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listener: OwnedFd,
    /// Given up to accept and close a connection when there is no other descriptor left: the peer sees a clean end, and the
    /// backlog, whose edge the failed accept has used up, is emptied.
    reserve: RefCell<Option<File>>,
}

impl Acceptor {
    pub(crate) fn bind(address: SocketAddr, backlog: i32) -> io::Result<Acceptor> {
        let listener = socket::listen(address, backlog)?;
        Ok(Acceptor { listener, reserve: RefCell::new(Some(open_reserve()?)) })
    }

    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        socket::local_address(&self.listener)
    }

    pub(crate) fn accept(&self) -> Accepted {
        match socket::accept(self.listener.as_fd()) {
            Ok((fd, peer)) => Accepted::Connection(fd, peer),
            Err(Errno::AGAIN) => Accepted::Drained,
            Err(error @ (Errno::MFILE | Errno::NFILE)) => self.shed(error),
            Err(error @ (Errno::NOBUFS | Errno::NOMEM)) => Accepted::Exhausted(error.into()),
            // accept(2) passes on errors of the connection itself, and names more than a program can list. The listening
            // socket has not gone, so each of them costs one connection and no more.
            Err(error) => Accepted::Lost(error.into()),
        }
    }

    /// Turns the first connection of the backlog away.
    fn shed(&self, error: Errno) -> Accepted {
        let mut reserve = self.reserve.borrow_mut();
        if reserve.take().is_none() {
            *reserve = open_reserve().ok();
            return Accepted::Exhausted(error.into());
        }
        let shed = socket::accept(self.listener.as_fd());
        drop(shed);
        *reserve = open_reserve().ok();
        Accepted::Lost(error.into())
    }
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

fn open_reserve() -> io::Result<File> {
    File::open("/dev/null")
}
