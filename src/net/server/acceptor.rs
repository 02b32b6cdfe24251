//! `Acceptor`: accepts connections from a listening socket, also when the process is out of file
//! descriptors.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use parking_lot::RwLock;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::socket_path::{PathGuard, PathOptions};
use crate::event_loop::process_mark::ProcessMark;
use crate::net::address::Address;
use crate::net::disposal::close_descriptors;
use crate::net::options::SocketOptions;
use crate::net::sys::adopted::Flags;
use crate::net::sys::fd_passing::close_unopened;
use crate::net::sys::stream;

/// The result of one call of [`Acceptor::accept`].
#[derive(Debug)]
pub(crate) enum Accepted {
    Connection(OwnedFd, Address),
    /// The backlog is empty.
    Drained,
    /// One connection was rejected because no file descriptor was left. There may be more.
    Rejected(io::Error),
    /// One connection was lost to an error. There may be more.
    Lost(io::Error),
    /// Accepting failed although connections may wait. Retry after a back-off, not at once.
    Exhausted(io::Error),
}

/// Locked exclusively while a listener has closed its reserve descriptor, and shared while one
/// accepts.
///
/// Descriptors belong to the whole process. Without the lock, a listener on another thread could
/// use the freed descriptor for a connection. Then the reserve, and with it the ability to reject
/// connections, would be lost until some connection closes.
static REJECTING: RwLock<()> = RwLock::new(());

/// A listening socket with a reserve file descriptor.
#[derive(Debug)]
pub(crate) struct Acceptor {
    /// The path of a Unix socket. It is removed before the socket is closed: until then no other
    /// server can have found the path to be stale.
    _path: Option<PathGuard>,
    is_unix: bool,
    /// Other processes may have the socket too, and accept from it later.
    is_adopted: bool,
    /// `None` only during the drop of an adopted one.
    listener: Option<OwnedFd>,
    /// Given up to accept and close a connection when no other descriptor is left. The peer sees a
    /// regular close, and the backlog is drained, whose edge the failed accept has consumed.
    reserve: RefCell<Option<File>>,
    /// The process that listens. In a forked child the socket still belongs to the parent.
    process: ProcessMark,
}

impl Acceptor {
    pub(crate) fn bind(
        address: &Address,
        backlog: i32,
        options: &SocketOptions,
        path_options: PathOptions,
    ) -> io::Result<Acceptor> {
        let reserve = RefCell::new(Some(open_reserve()?));
        let (path, listener) = match address {
            Address::Inet(address) => (None, stream::listen(*address, backlog, options)?),
            Address::Unix(address) => path_options.listen(address, backlog)?,
            Address::Unaddressed => return Err(stream::unaddressed()),
        };
        let process = ProcessMark::current();
        let is_unix = address.is_unix();
        Ok(Acceptor { _path: path, is_unix, is_adopted: false, listener: Some(listener), reserve, process })
    }

    /// Takes over a socket that listens already.
    pub(super) fn adopt(socket: OwnedFd) -> io::Result<Acceptor> {
        let reserve = RefCell::new(Some(open_reserve()?));
        let is_unix = stream::local_address(&socket)?.is_unix();
        Flags::prepare(&socket)?;
        let process = ProcessMark::current();
        Ok(Acceptor { _path: None, is_unix, is_adopted: true, listener: Some(socket), reserve, process })
    }

    fn listener(&self) -> &OwnedFd {
        self.listener.as_ref().expect("it is taken by the drop only")
    }

    pub(crate) fn local_address(&self) -> io::Result<Address> {
        stream::local_address(self.listener())
    }

    pub(crate) fn accept(&self) -> Accepted {
        // If the last rejection could not reopen the reserve, retry that first.
        if self.reserve.borrow().is_none() {
            *self.reserve.borrow_mut() = open_reserve().ok();
        }
        let accepted = {
            let _no_rejection = REJECTING.read();
            stream::accept(self.listener().as_fd())
        };
        match accepted {
            Ok((fd, peer)) => Accepted::Connection(fd, peer),
            Err(Errno::AGAIN) => Accepted::Drained,
            Err(error @ (Errno::MFILE | Errno::NFILE)) => self.reject(error),
            Err(error) if is_of_connection(error) => Accepted::Lost(error.into()),
            // Out of memory, denied by a sandbox (EPERM, which takes nothing from the backlog), or
            // an unknown error: an immediate retry does not help.
            Err(error) => Accepted::Exhausted(error.into()),
        }
    }

    /// Whether the next [`accept`](Acceptor::accept) may find a connection. `false` is definite.
    pub(crate) fn may_have_more(&self) -> bool {
        let mut fds = [PollFd::new(self.listener(), PollFlags::IN)];
        // If the poll fails, leave it to accept(2).
        rustix::event::poll(&mut fds, Some(&Timespec::default())) != Ok(0)
    }

    /// Rejects the first connection of the backlog.
    ///
    /// The backlog may be empty: the kernel allocates a descriptor before it checks the backlog.
    fn reject(&self, out_of: Errno) -> Accepted {
        let mut reserve = self.reserve.borrow_mut();
        // Without a reserve this fails like the call before, unless a descriptor has been freed.
        let _exclusive = REJECTING.write();
        drop(reserve.take());
        let closed = stream::accept(self.listener().as_fd()).map(|(fd, peer)| close_unopened(fd, &peer));
        *reserve = open_reserve().ok();
        match closed {
            Err(Errno::AGAIN) => Accepted::Drained,
            Ok(()) => Accepted::Rejected(out_of.into()),
            Err(error) if is_of_connection(error) => Accepted::Lost(error.into()),
            Err(error) => Accepted::Exhausted(error.into()),
        }
    }
}

/// Whether accept(2) has returned a pending error of the connection that it took from the backlog.
/// That connection is lost; the next one may be fine.
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
    /// Drains the backlog of a Unix socket. Connections in it may carry descriptors, whose close
    /// could block this thread; `close_unopened` closes them elsewhere. A forked child closes only
    /// its copy of the socket: a shutdown would end the listening of its parent.
    ///
    /// An adopted socket may listen on in another process. If this descriptor is the last one, its
    /// close discards the backlog, so it is closed elsewhere.
    fn drop(&mut self) {
        if !self.is_unix || !self.process.is_current() {
            return;
        }
        if self.is_adopted {
            return close_descriptors(self.listener.take());
        }
        // From here on no connection can arrive.
        let _ = stream::stop_listening(self.listener());
        while let Ok((fd, peer)) = stream::accept(self.listener().as_fd()) {
            close_unopened(fd, &peer);
        }
    }
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener().as_fd()
    }
}

fn open_reserve() -> io::Result<File> {
    File::open("/dev/null")
}
