//! [`Transport`]: where the bytes of a connection come from, and where they go.
//!
//! All input and output of a connection passes through [`receive`](Transport::receive) and
//! [`send`](Transport::send).

use std::io::{self, IoSlice};
#[cfg(any(feature = "tokio", feature = "hyper"))]
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use super::descriptors::Descriptors;
use super::fd_passing::receive_with_descriptors;
use super::memory::MemoryEnd;
use super::stream::{self, take_error};

/// The maximum number of slices in one call (`IOV_MAX`, readv(2)).
const MAX_SLICES: usize = 1024;

/// The size of the pieces in which a file is copied that the kernel does not copy.
const PIECE: usize = 64 * 1024;

/// The most that a read into memory that is not initialised receives from other kinds than sockets.
#[cfg(any(feature = "tokio", feature = "hyper"))]
const COPIED: usize = 8 * 1024;

/// The result of a read or a write.
#[derive(Debug)]
pub(in crate::net) enum Transferred {
    /// The number of bytes. For a read, 0 is the end of input.
    Bytes(usize),
    WouldBlock,
}

pub(in crate::net) fn transferred(result: Result<usize, Errno>) -> io::Result<Transferred> {
    match result {
        Ok(n) => Ok(Transferred::Bytes(n)),
        Err(Errno::AGAIN) => Ok(Transferred::WouldBlock),
        Err(error) => Err(error.into()),
    }
}

/// Initialises the first bytes of `into` with `bytes`, of which there are at most as many.
#[cfg(any(feature = "tokio", feature = "hyper"))]
pub(in crate::net) fn write_copy(into: &mut [MaybeUninit<u8>], bytes: &[u8]) {
    for (place, byte) in into[..bytes.len()].iter_mut().zip(bytes) {
        place.write(*byte);
    }
}

/// Where the bytes of a connection come from, and where they go. Makes the system calls.
pub(in crate::net) enum Transport {
    /// A connected stream socket, or one that is connecting.
    Socket(OwnedFd),
    /// Pipes, terminals, files: one or two descriptors.
    Descriptors(Box<Descriptors>),
    /// An end of a pair in memory.
    Memory(Box<MemoryEnd>),
}

impl Transport {
    /// The descriptor that is watched. `None` if there is none, or if epoll rejects it.
    pub(in crate::net) fn watched_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Transport::Socket(socket) => Some(socket.as_fd()),
            Transport::Descriptors(descriptors) => descriptors.watched(),
            Transport::Memory(_) => None,
        }
    }

    /// The descriptor, or that of the input if there are two.
    pub(in crate::net) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Transport::Socket(socket) => Some(socket.as_fd()),
            Transport::Descriptors(descriptors) => Some(descriptors.main()),
            Transport::Memory(_) => None,
        }
    }

    /// The socket, for calls that only sockets have.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) for any other kind.
    pub(in crate::net) fn socket(&self) -> io::Result<&OwnedFd> {
        match self {
            Transport::Socket(socket) => Ok(socket),
            Transport::Descriptors(_) | Transport::Memory(_) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "the connection is not a socket"))
            }
        }
    }

    /// Reads once. 0 bytes are the end of input.
    #[inline]
    pub(in crate::net) fn receive(&self, into: &mut [u8]) -> io::Result<Transferred> {
        match self {
            Transport::Socket(socket) => {
                let receive = || rustix::net::recv(socket, &mut *into, RecvFlags::empty());
                transferred(retry_on_intr(receive).map(|(_, n)| n))
            }
            _ => self.receive_otherwise(into),
        }
    }

    /// Same as [`receive`](Transport::receive), into memory that need not be initialised: the first
    /// bytes become initialised, as many as were received. Other kinds than sockets receive at most
    /// [`COPIED`] bytes, and copy them.
    #[cfg(any(feature = "tokio", feature = "hyper"))]
    pub(in crate::net) fn receive_uninit(&self, into: &mut [MaybeUninit<u8>]) -> io::Result<Transferred> {
        let Transport::Socket(socket) = self else {
            let mut bytes = [0; COPIED];
            let most = into.len().min(COPIED);
            let received = self.receive_otherwise(&mut bytes[..most])?;
            if let Transferred::Bytes(n) = received {
                write_copy(into, &bytes[..n]);
            }
            return Ok(received);
        };
        let receive = || match rustix::net::recv(socket, &mut *into, RecvFlags::empty()) {
            Ok(((received, _), _)) => Ok(received.len()),
            Err(error) => Err(error),
        };
        transferred(retry_on_intr(receive))
    }

    /// Not inlined, so that a socket does not pay for the other kinds.
    #[cold]
    #[inline(never)]
    fn receive_otherwise(&self, into: &mut [u8]) -> io::Result<Transferred> {
        match self {
            Transport::Socket(_) => self.receive(into),
            Transport::Descriptors(descriptors) => descriptors.receive(into),
            Transport::Memory(end) => end.receive(into),
        }
    }

    /// Reads once, with descriptors that the peer has sent; see [`receive_with_descriptors`].
    #[inline(never)]
    pub(in crate::net) fn receive_passing(
        &self,
        into: &mut [u8],
        max: u8,
        received: &mut Vec<OwnedFd>,
    ) -> io::Result<Transferred> {
        receive_with_descriptors(self.socket()?.as_fd(), into, max, received)
    }

    /// Returns what a read would return, for at most one byte. It consumes no byte, but it does
    /// consume a pending error.
    pub(in crate::net) fn peek(&self) -> io::Result<Transferred> {
        match self {
            Transport::Socket(socket) => {
                let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
                let peek = || rustix::net::recv(socket, &mut [0; 1], flags);
                transferred(retry_on_intr(peek).map(|(_, n)| n))
            }
            Transport::Descriptors(descriptors) => descriptors.peek(),
            Transport::Memory(end) => end.peek(),
        }
    }

    /// Offers `bytes` to the kernel, in one call. Without `SIGPIPE`: a closed peer is an error like
    /// any other. The exception are descriptors that are not sockets, for which no flag suppresses
    /// the signal.
    #[inline]
    pub(in crate::net) fn send(&self, bytes: &[u8]) -> io::Result<Transferred> {
        match self {
            Transport::Socket(socket) => {
                transferred(retry_on_intr(|| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)))
            }
            _ => self.send_otherwise(bytes),
        }
    }

    /// Same as [`receive_otherwise`](Transport::receive_otherwise).
    #[cold]
    #[inline(never)]
    fn send_otherwise(&self, bytes: &[u8]) -> io::Result<Transferred> {
        match self {
            Transport::Socket(_) => self.send(bytes),
            Transport::Descriptors(descriptors) => descriptors.send(bytes),
            Transport::Memory(end) => end.send(bytes),
        }
    }

    /// Same as [`send`](Transport::send), for several slices in sequence. One system call, unless
    /// there are more slices than the kernel takes in one call.
    pub(in crate::net) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<Transferred> {
        let mut total = 0;
        for slices in slices.chunks(MAX_SLICES) {
            match self.send_slices(slices) {
                Ok(Transferred::Bytes(n)) => {
                    total += n;
                    if n < slices.iter().map(|slice| slice.len()).sum() {
                        break;
                    }
                }
                // If the condition persists, the next call reports it again.
                Ok(Transferred::WouldBlock) | Err(_) if total > 0 => break,
                blocked_or_failed => return blocked_or_failed,
            }
        }
        Ok(Transferred::Bytes(total))
    }

    fn send_slices(&self, slices: &[IoSlice<'_>]) -> io::Result<Transferred> {
        match self {
            Transport::Socket(socket) => transferred(retry_on_intr(|| {
                let mut no_control = SendAncillaryBuffer::default();
                rustix::net::sendmsg(socket, slices, &mut no_control, SendFlags::NOSIGNAL)
            })),
            Transport::Descriptors(descriptors) => descriptors.send_slices(slices),
            Transport::Memory(end) => end.send_slices(slices),
        }
    }

    /// Sends up to `max` bytes of `file`, beginning at `offset`, and advances the offset
    /// (sendfile(2)). 0 bytes mean the end of the file.
    ///
    /// The bytes go from the page cache to the socket inside the kernel. Bytes that are not in the
    /// cache are read from the disk, and the call blocks for that time. Unlike the other calls it
    /// has no flag that suppresses `SIGPIPE`.
    pub(in crate::net) fn send_file(
        &self,
        file: BorrowedFd<'_>,
        offset: &mut u64,
        max: usize,
    ) -> io::Result<Transferred> {
        match self {
            Transport::Socket(socket) => {
                transferred(retry_on_intr(|| rustix::fs::sendfile(socket, file, Some(&mut *offset), max)))
            }
            Transport::Descriptors(descriptors) => descriptors.send_file(file, offset, max),
            Transport::Memory(end) if end.space() == 0 => end.send(&[0]),
            Transport::Memory(end) => copy_file(file, offset, max.min(end.space()), |bytes| end.send(bytes)),
        }
    }

    /// Ends the output: the peer reads the end of input after the bytes that were sent before.
    pub(in crate::net) fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Transport::Socket(socket) => match rustix::net::shutdown(socket, Shutdown::Write) {
                Ok(()) => Ok(()),
                // A reset from the peer ends the connected state. The error of the reset is
                // pending, and the caller needs it now rather than at the next read.
                Err(Errno::NOTCONN) => Err(take_error(socket)?.unwrap_or_else(|| Errno::CONNRESET.into())),
                Err(error) => Err(error.into()),
            },
            Transport::Descriptors(descriptors) => descriptors.shutdown_write(),
            Transport::Memory(end) => end.shutdown_write(),
        }
    }

    /// Takes the pending error (`SO_ERROR`).
    pub(in crate::net) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Transport::Socket(socket) => take_error(socket),
            Transport::Descriptors(descriptors) => descriptors.take_error(),
            Transport::Memory(end) => Ok(end.check_reset().err()),
        }
    }

    /// Returns `true` if the write direction is disconnected. `error` is the error of a write.
    pub(in crate::net) fn is_disconnected(&self, error: &io::Error) -> bool {
        if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
            return true;
        }
        match self {
            Transport::Socket(socket) => {
                let mut fds = [PollFd::new(socket, PollFlags::empty())];
                let polled = retry_on_intr(|| rustix::event::poll(&mut fds, Some(&Timespec::default())));
                polled.is_ok() && fds[0].revents().contains(PollFlags::HUP)
            }
            Transport::Descriptors(descriptors) => descriptors.has_output_hung_up(),
            Transport::Memory(_) => false,
        }
    }

    /// Makes the close reset the connection and discard unsent data, so that the peer can
    /// distinguish it from an orderly end. Descriptors that are not sockets have no reset.
    pub(in crate::net) fn reset_on_close(&self) -> io::Result<()> {
        match self {
            Transport::Socket(socket) => stream::reset_on_close(socket),
            Transport::Descriptors(_) => Ok(()),
            Transport::Memory(end) => {
                end.reset_on_close();
                Ok(())
            }
        }
    }

    /// The number of sent bytes that the peer's system has not acknowledged; see
    /// [`stream::unacknowledged`]. 0 for descriptors that are not sockets: nothing acknowledges
    /// their bytes, and a close leaves them to the reader.
    pub(in crate::net) fn unacknowledged(&self) -> io::Result<u32> {
        match self {
            Transport::Socket(socket) => stream::unacknowledged(socket),
            Transport::Descriptors(_) => Ok(0),
            Transport::Memory(end) => Ok(end.unacknowledged()),
        }
    }
}

/// Same as [`send_file`](Transport::send_file), through memory. Calls `write` once.
pub(super) fn copy_file(
    file: BorrowedFd<'_>,
    offset: &mut u64,
    max: usize,
    write: impl FnOnce(&[u8]) -> io::Result<Transferred>,
) -> io::Result<Transferred> {
    let mut piece = vec![0; max.min(PIECE)];
    let read = retry_on_intr(|| rustix::io::pread(file, &mut piece[..], *offset))?;
    if read == 0 {
        return Ok(Transferred::Bytes(0));
    }
    let written = write(&piece[..read])?;
    if let Transferred::Bytes(n) = written {
        *offset += n as u64;
    }
    Ok(written)
}
