//! What goes wrong in a back end and is nobody's outcome: it is noted where it happens, and logged when nothing is borrowed.

use std::io;

use crate::event_loop::containment::logger;

#[derive(Debug)]
pub(super) enum Trouble {
    /// A thread could not be started.
    NoThread(io::Error),
    /// The kernel takes no operations for the moment.
    NotTaken(io::Error),
    /// The kernel has more outcomes than its queue holds.
    #[cfg(feature = "uring")]
    Overflown,
    /// The kernel reports an operation that it was not given.
    #[cfg(feature = "uring")]
    Unknown,
    #[cfg(feature = "uring")]
    NotCancelled(io::Error),
    #[cfg(feature = "uring")]
    NotReported(io::Error),
    #[cfg(feature = "uring")]
    NotAwaited(io::Error),
    /// So many operations do not end.
    #[cfg(feature = "uring")]
    Abandoned(usize),
}

impl Trouble {
    pub(super) fn log(self) {
        match self {
            Trouble::NoThread(error) => logger::recurring("a thread for files", |left_out| {
                log::warn!("cannot start a thread for files: {error}{left_out}");
            }),
            Trouble::NotTaken(error) => logger::recurring("file operations not taken", |left_out| {
                log::warn!(
                    "the kernel does not take file operations, which will be offered again: {error}{left_out}"
                );
            }),
            #[cfg(feature = "uring")]
            Trouble::Overflown => logger::recurring("the completion queue", |left_out| {
                log::error!(
                    "the completion queue of file operations has overflown; nothing is lost{left_out}"
                );
            }),
            #[cfg(feature = "uring")]
            Trouble::Unknown => logger::recurring("an unknown file operation", |left_out| {
                log::error!("the kernel reports a file operation that it was not given{left_out}");
            }),
            #[cfg(feature = "uring")]
            Trouble::NotCancelled(error) => {
                logger::call(|| log::error!("cannot cancel file operations: {error}"));
            }
            #[cfg(feature = "uring")]
            Trouble::NotReported(error) => logger::recurring("outcomes not reported", |left_out| {
                log::error!("the kernel does not report the outcome of file operations: {error}{left_out}");
            }),
            #[cfg(feature = "uring")]
            Trouble::NotAwaited(error) => {
                logger::call(|| log::error!("cannot wait for file operations: {error}"));
            }
            #[cfg(feature = "uring")]
            Trouble::Abandoned(operations) => logger::call(|| {
                log::error!("{operations} file operations do not end: what they work on is never freed");
            }),
        }
    }
}
