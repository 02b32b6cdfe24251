//! [`Descriptors`]: the input and the output of a connection through pipes, terminals, files, or
//! any other descriptors of streams.
//!
//! A connection has one channel, which watches the input. An output of its own is watched by a
//! second channel, which passes its readiness on. epoll rejects regular files and some devices.
//! They are always ready: their calls never return `EAGAIN`.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::Shutdown;

use super::stream_fd::StreamFd;
use super::transport::{Transferred, copy_file, transferred};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::{Description, EventLoop, Refused, Registration, Source};
use crate::readiness::{Interest, Readiness};

/// The directions of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum Directions {
    Input,
    Output,
    Both,
}

impl Directions {
    pub(in crate::net) fn has_input(self) -> bool {
        self != Directions::Output
    }

    pub(in crate::net) fn has_output(self) -> bool {
        self != Directions::Input
    }
}

/// One or two descriptors. Makes the system calls, and keeps no state but the end of the output.
pub(in crate::net) struct Descriptors {
    main: StreamFd,
    /// The directions of `main`.
    directions: Directions,
    /// The output, if it is another descriptor than the input. `None` after its end.
    output: RefCell<Option<Output>>,
}

struct Output {
    fd: Rc<StreamFd>,
    source: Option<Registration<OutputSource>>,
}

impl Descriptors {
    /// A stream of one descriptor.
    pub(in crate::net) fn one(fd: StreamFd, directions: Directions) -> Descriptors {
        Descriptors { main: fd, directions, output: RefCell::new(None) }
    }

    /// A stream of an input and an output.
    ///
    /// # Errors
    /// The error of epoll_ctl(2), with the descriptors.
    pub(in crate::net) fn two(
        event_loop: &EventLoop,
        input: StreamFd,
        output: StreamFd,
    ) -> Result<Descriptors, Refused<(StreamFd, StreamFd), io::Error>> {
        let output = match Output::new(event_loop, output) {
            Ok(output) => output,
            Err(refused) => return Err(refused.map(|output| (input, output))),
        };
        let output = RefCell::new(Some(output));
        Ok(Descriptors { main: input, directions: Directions::Input, output })
    }

    /// The descriptors as the program had them. The output of a stream of one descriptor is `None`.
    pub(in crate::net) fn into_originals(self) -> (OwnedFd, Option<OwnedFd>) {
        let output = self.output.into_inner().map(Output::into_original);
        (self.main.into_original(), output)
    }

    /// Takes the descriptors over for a channel that is being registered.
    pub(in crate::net) fn attach(&mut self, id: ChannelId) {
        self.main.keep();
        if let Some(output) = &*self.output.borrow() {
            output.fd.keep();
            if let Some(registration) = &output.source {
                registration.with(|_, source| source.connection.set(Some(id)));
            }
        }
    }

    /// The readiness that no event will report.
    pub(in crate::net) fn always_ready(&self) -> Readiness {
        let mut ready = Readiness::NONE;
        if !self.main.is_pollable() {
            ready |= Readiness::satisfying(self.interest()) & !Readiness::ERROR;
        }
        if self.output.borrow().as_ref().is_some_and(|output| output.source.is_none()) {
            ready |= Readiness::WRITABLE;
        }
        ready
    }

    pub(in crate::net) fn has_input(&self) -> bool {
        self.directions.has_input()
    }

    /// Whether there is an output that has not ended.
    pub(in crate::net) fn has_output(&self) -> bool {
        self.directions.has_output() || self.output.borrow().is_some()
    }

    /// What the channel of the connection watches its descriptor for.
    pub(in crate::net) fn interest(&self) -> Interest {
        match self.directions {
            Directions::Input => Interest::READABLE,
            Directions::Output => Interest::WRITABLE,
            Directions::Both => Interest::READABLE | Interest::WRITABLE,
        }
    }

    /// The descriptor of the input, or of the output if there is no input.
    pub(in crate::net) fn main(&self) -> BorrowedFd<'_> {
        self.main.as_fd()
    }

    /// Same as [`main`](Descriptors::main); `None` if epoll rejects it.
    pub(in crate::net) fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.main.is_pollable().then(|| self.main.as_fd())
    }

    /// Reads once. The error of a terminal that has hung up is the end of input, as on a master of
    /// a pseudo-terminal whose slaves are closed.
    pub(in crate::net) fn receive(&self, into: &mut [u8]) -> io::Result<Transferred> {
        match retry_on_intr(|| rustix::io::read(&self.main, &mut *into)) {
            Err(Errno::IO) if self.main.is_terminal() => Ok(Transferred::Bytes(0)),
            read => transferred(read),
        }
    }

    pub(in crate::net) fn peek(&self) -> io::Result<Transferred> {
        let state = poll(self.main.as_fd(), PollFlags::IN)?;
        if !state.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return Ok(Transferred::WouldBlock);
        }
        // A descriptor that does not know the number has some bytes or the end, to be read.
        let has_bytes = rustix::io::ioctl_fionread(&self.main).map_or(true, |bytes| bytes > 0);
        Ok(Transferred::Bytes(usize::from(has_bytes)))
    }

    /// Calls `f` with the output.
    ///
    /// # Errors
    /// `EPIPE` if there is none, or it has ended. Otherwise that of `f`.
    fn with_output<R>(&self, f: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
        let output = self.output.borrow();
        match &*output {
            Some(output) => f(output.fd.as_fd()),
            None if self.directions.has_output() => f(self.main.as_fd()),
            None => Err(Errno::PIPE.into()),
        }
    }

    /// Writes until the descriptor is full, because not every descriptor reports readiness after a
    /// short write.
    ///
    /// # Errors
    /// That of the first write that fails, even if earlier ones have taken a part.
    pub(in crate::net) fn send(&self, bytes: &[u8]) -> io::Result<Transferred> {
        self.with_output(|output| write_all(output, bytes))
    }

    /// Same as [`send`](Descriptors::send), for several slices.
    pub(in crate::net) fn send_slices(&self, slices: &[IoSlice<'_>]) -> io::Result<Transferred> {
        self.with_output(|output| {
            let first = transferred(retry_on_intr(|| rustix::io::writev(output, slices)))?;
            let Transferred::Bytes(mut written) = first else { return Ok(first) };
            let mut end = 0;
            for slice in slices {
                end += slice.len();
                if written >= end {
                    continue;
                }
                match write_all(output, &slice[slice.len() - (end - written)..])? {
                    Transferred::Bytes(n) => written += n,
                    Transferred::WouldBlock => break,
                }
                if written < end {
                    break;
                }
            }
            Ok(Transferred::Bytes(written))
        })
    }

    /// Copies a part of a file in the kernel, or through memory if the kernel cannot write to this
    /// descriptor by itself.
    pub(in crate::net) fn send_file(
        &self,
        file: BorrowedFd<'_>,
        offset: &mut u64,
        max: usize,
    ) -> io::Result<Transferred> {
        self.with_output(|output| {
            match retry_on_intr(|| rustix::fs::sendfile(output, file, Some(&mut *offset), max)) {
                Err(Errno::INVAL | Errno::NOSYS) => {
                    copy_file(file, offset, max, |bytes| write_all(output, bytes))
                }
                sent => transferred(sent),
            }
        })
    }

    /// Ends the output: closes its descriptor, if that is not the one of the input. A descriptor
    /// for both directions stays open until the connection closes.
    pub(in crate::net) fn shutdown_write(&self) -> io::Result<()> {
        match self.output.take() {
            // A duplicate, such as the input, would keep the output of a socket open.
            Some(output) if output.fd.is_socket() => Ok(rustix::net::shutdown(&*output.fd, Shutdown::Write)?),
            _ => Ok(()),
        }
    }

    /// The error of an output without a reader, on a connection that has no input to end it.
    pub(in crate::net) fn take_error(&self) -> io::Result<Option<io::Error>> {
        let has_reader = self.directions != Directions::Output
            || !poll(self.main.as_fd(), PollFlags::empty())?.contains(PollFlags::ERR);
        Ok((!has_reader).then(|| Errno::PIPE.into()))
    }

    pub(in crate::net) fn has_output_hung_up(&self) -> bool {
        let state = self.with_output(|output| poll(output, PollFlags::empty()));
        state.map_or(true, |state| state.intersects(PollFlags::HUP | PollFlags::ERR))
    }
}

impl Output {
    fn new(event_loop: &EventLoop, fd: StreamFd) -> Result<Output, Refused<StreamFd, io::Error>> {
        if !fd.is_pollable() {
            return Ok(Output { fd: Rc::new(fd), source: None });
        }
        let registered = event_loop.register_adopted(
            fd,
            |fd| Some(fd.as_fd()),
            Interest::WRITABLE,
            |id, fd| Rc::new(OutputSource { id, fd: Rc::new(fd), connection: Cell::new(None) }),
        );
        registered.map(|source| {
            // The connection counts.
            event_loop.set_counted(source.id, false);
            let fd = Rc::clone(&source.fd);
            Output { fd, source: Some(Registration::new(event_loop, source.id, &source)) }
        })
    }

    fn into_original(self) -> OwnedFd {
        let Output { fd, source } = self;
        // Removes the source from the loop.
        drop(source);
        Rc::into_inner(fd).expect("only the source has another reference").into_original()
    }
}

/// Watches an output, and passes its readiness on to the connection.
struct OutputSource {
    id: ChannelId,
    fd: Rc<StreamFd>,
    connection: Cell<Option<ChannelId>>,
}

impl Source for OutputSource {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    /// An output without a reader is passed on as writable: the next write finds it. Without a
    /// write nothing is lost, and the connection continues to read.
    fn on_ready(&self, event_loop: &EventLoop, _ready: Readiness) {
        event_loop.clear_ready(self.id, !Readiness::NONE);
        if let Some(connection) = self.connection.get() {
            event_loop.add_ready(connection, Readiness::WRITABLE);
        }
    }

    fn describe(&self) -> Description {
        Description::of("the output of a connection")
    }
}

fn poll(fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<PollFlags> {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    retry_on_intr(|| rustix::event::poll(&mut fds, Some(&Timespec::default())))?;
    Ok(fds[0].revents())
}

fn write_all(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<Transferred> {
    let mut written = 0;
    loop {
        match retry_on_intr(|| rustix::io::write(fd, &bytes[written..])) {
            Ok(n) => {
                written += n;
                if written == bytes.len() {
                    return Ok(Transferred::Bytes(written));
                }
                if n == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
            Err(Errno::AGAIN) if written > 0 => return Ok(Transferred::Bytes(written)),
            Err(Errno::AGAIN) => return Ok(Transferred::WouldBlock),
            Err(error) => return Err(error.into()),
        }
    }
}
