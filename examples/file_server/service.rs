//! What all connections share: the files, the counters, and the end of the program.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use reveille::fs::FileIo;
use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, TcpServer};

/// Time after a signal for pending files to be sent; the same time then applies to closing the
/// connections.
pub(crate) const GRACE: Duration = Duration::from_secs(3);

/// State shared by all connections.
pub(crate) struct Service {
    pub(crate) files: FileIo,
    directory: PathBuf,
    /// The time limit of a request.
    pub(crate) timeout: Duration,
    /// The bytes per second at which a client must read a file.
    pub(crate) slowest: NonZeroU64,
    /// `None` once it is being stopped.
    server: RefCell<Option<TcpServer>>,
    /// Number of requests whose reply is not complete.
    pub(crate) in_flight: Cell<usize>,
    is_ending: Cell<bool>,
    pub(crate) connections: Cell<u64>,
    pub(crate) files_sent: Cell<u64>,
    /// File bytes passed to connections.
    pub(crate) bytes: Cell<u64>,
}

impl Service {
    pub(crate) fn new(files: FileIo, directory: PathBuf, timeout: Duration, slowest: NonZeroU64) -> Service {
        Service {
            files,
            directory,
            timeout,
            slowest,
            server: RefCell::new(None),
            in_flight: Cell::new(0),
            is_ending: Cell::new(false),
            connections: Cell::new(0),
            files_sent: Cell::new(0),
            bytes: Cell::new(0),
        }
    }

    /// Stops `server` on SIGINT or SIGTERM, once all pending requests are served. A second signal
    /// quits the loop.
    pub(crate) fn end_on_signal(
        self: &Rc<Service>,
        event_loop: &EventLoop,
        server: TcpServer,
    ) -> io::Result<Signals> {
        self.server.replace(Some(server));
        let ending = Rc::clone(self);
        Signals::new(event_loop, [Signal::INT, Signal::TERM], move |event_loop, _| {
            if ending.is_ending.get() {
                event_loop.quit();
            } else {
                ending.end(event_loop);
            }
        })
    }

    /// The path of the file with this name, if the directory can contain it.
    ///
    /// The name is a single component, so the path contains no symbolic link and no `..`. The last
    /// component is opened without following symbolic links.
    pub(crate) fn path_of(&self, name: &[u8]) -> Option<PathBuf> {
        let is_name =
            !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, b'/' | 0));
        is_name.then(|| self.directory.join(OsStr::from_bytes(name)))
    }

    /// Stops accepting. Stops the server once all pending requests are served, or at the deadline.
    fn end(self: &Rc<Service>, event_loop: &EventLoop) {
        self.is_ending.set(true);
        if let Some(server) = &*self.server.borrow() {
            server.pause_accepting();
        }
        self.stop_if_idle();
        let this = Rc::clone(self);
        event_loop.run_after(GRACE, move |_| this.stop());
    }

    pub(crate) fn stop_if_idle(&self) {
        if self.is_ending.get() && self.in_flight.get() == 0 {
            self.stop();
        }
    }

    fn stop(&self) {
        let server = self.server.take();
        if let Some(server) = server {
            server.stop(GRACE, |event_loop, _| event_loop.quit());
        }
    }
}
