//! Taking connections from a listening socket, whatever the system is short of.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use parking_lot::RwLock;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::socket_path::{AtPath, OwnPath};
use crate::event_loop::process_mark::ProcessMark;
use crate::net::address::Address;
use crate::net::options::SocketOptions;
use crate::net::sys::fd_passing::close_unopened;
use crate::net::sys::stream;

/// What one call to [`Acceptor::accept`] came to.
#[derive(Debug)]
pub(crate) enum Accepted {
    Connection(OwnedFd, Address),
    /// Nothing waits.
    Drained,
    /// One connection was closed for want of a descriptor; others may wait.
    Shed(io::Error),
    /// One connection was lost; others may wait.
    Lost(io::Error),
    /// Nothing can be accepted for now, though connections wait: try again later, and not at once.
    Exhausted(io::Error),
}

/// Held by whoever gives up its reserve for a moment, and shared by those who accept. Descriptors are the whole process's, and a
/// listener on another thread would take the one that has just come free for a connection, and keep it: the reserve would be lost for as
/// long as nobody leaves, and with it the way to turn others away.
static SHEDDING: RwLock<()> = RwLock::new(());

/// A listening socket, with a descriptor in reserve.
#[derive(Debug)]
pub(crate) struct Acceptor {
    /// Of a Unix socket at a path. It goes before the socket does, while nobody else can have found the path to be free.
    _path: Option<OwnPath>,
    is_unix: bool,
    listener: OwnedFd,
    /// Given up to accept and close a connection when there is no other descriptor left: the peer sees a clean end, and the
    /// backlog, whose edge the failed accept has used up, is emptied.
    reserve: RefCell<Option<File>>,
    /// The process that listens. In a forked child the socket is still the parent's.
    process: ProcessMark,
}

impl Acceptor {
    pub(crate) fn bind(
        address: &Address,
        backlog: i32,
        options: &SocketOptions,
        at_path: AtPath,
    ) -> io::Result<Acceptor> {
        let reserve = RefCell::new(Some(open_reserve()?));
        let (path, listener) = match address {
            Address::Inet(address) => (None, stream::listen(*address, backlog, options)?),
            Address::Unix(address) => at_path.listen(address, backlog)?,
        };
        let process = ProcessMark::current();
        Ok(Acceptor { _path: path, is_unix: address.is_unix(), listener, reserve, process })
    }

    pub(crate) fn local_address(&self) -> io::Result<Address> {
        stream::local_address(&self.listener)
    }

    pub(crate) fn accept(&self) -> Accepted {
        // A reserve that could not be had again when it was last needed comes before anything else.
        if self.reserve.borrow().is_none() {
            *self.reserve.borrow_mut() = open_reserve().ok();
        }
        let accepted = {
            let _none_sheds = SHEDDING.read();
            stream::accept(self.listener.as_fd())
        };
        match accepted {
            Ok((fd, peer)) => Accepted::Connection(fd, peer),
            Err(Errno::AGAIN) => Accepted::Drained,
            Err(error @ (Errno::MFILE | Errno::NFILE)) => self.shed(error),
            Err(error) if is_of_connection(error) => Accepted::Lost(error.into()),
            // Out of memory, not allowed by a sandbox (EPERM, for which nothing is taken from the backlog), or something that nobody has
            // thought of: whatever it is, trying again at once is no help.
            Err(error) => Accepted::Exhausted(error.into()),
        }
    }

    /// Whether another [`accept`](Acceptor::accept) may find anything. It does not if the answer is no.
    pub(crate) fn may_have_more(&self) -> bool {
        let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
        // If it cannot be asked, accept(2) tells.
        rustix::event::poll(&mut fds, Some(&Timespec::default())) != Ok(0)
    }

    /// Turns the first connection of the backlog away.
    ///
    /// There may be none: the kernel asks for a free descriptor before it looks at the backlog.
    fn shed(&self, out_of: Errno) -> Accepted {
        let mut reserve = self.reserve.borrow_mut();
        // Without a reserve this fails as the call before did, unless a descriptor has come free meanwhile.
        let _alone = SHEDDING.write();
        drop(reserve.take());
        let shed = stream::accept(self.listener.as_fd()).map(|(fd, peer)| close_unopened(fd, &peer));
        *reserve = open_reserve().ok();
        match shed {
            Err(Errno::AGAIN) => Accepted::Drained,
            Ok(()) => Accepted::Shed(out_of.into()),
            Err(error) if is_of_connection(error) => Accepted::Lost(error.into()),
            Err(error) => Accepted::Exhausted(error.into()),
        }
    }
}

/// Whether accept(2) has passed on an error of the connection that it took from the backlog: that one is lost, and the next
/// may be sound.
fn is_of_connection(error: Errno) -> bool {
    matches!(
        error,
        Errno::CONNABORTED
            | Errno::CONNRESET
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::OPNOTSUPP
            | Errno::TIMEDOUT
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::NONET
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
    )
}

impl Drop for Acceptor {
    /// Connections that wait at a Unix socket may hold descriptors, which are closed with them, and are not to be closed here. A forked
    /// child closes only its copy of the socket: ending the listening would end that of its parent.
    fn drop(&mut self) {
        if self.is_unix && self.process.is_current() {
            // From here on none can come.
            let _ = stream::stop_listening(&self.listener);
            while let Ok((fd, peer)) = stream::accept(self.listener.as_fd()) {
                close_unopened(fd, &peer);
            }
        }
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
