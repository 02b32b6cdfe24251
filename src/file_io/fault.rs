//! Errors of a backend that belong to no operation. They are collected where they occur, and logged
//! when nothing is borrowed.

use std::io;

use crate::event_loop::containment::logger;

#[derive(Debug)]
pub(super) enum Fault {
    /// A thread could not be started.
    NoThread(io::Error),
    /// The kernel accepts no operations at the moment.
    NotAccepted(io::Error),
    /// The kernel has more completions than its queue can hold.
    #[cfg(feature = "uring")]
    Overflowed,
    /// The kernel reports the completion of an unknown operation.
    #[cfg(feature = "uring")]
    Unknown,
    #[cfg(feature = "uring")]
    NotCancelled(io::Error),
    #[cfg(feature = "uring")]
    NotReported(io::Error),
    #[cfg(feature = "uring")]
    NotAwaited(io::Error),
    /// This number of operations do not complete.
    #[cfg(feature = "uring")]
    Abandoned(usize),
}

impl Fault {
    pub(super) fn log(self) {
        match self {
            Fault::NoThread(error) => logger::recurring("a thread for files", |left_out| {
                log::warn!("cannot start a thread for files: {error}{left_out}");
            }),
            Fault::NotAccepted(error) => logger::recurring("file operations not accepted", |left_out| {
                log::warn!(
                    "the kernel does not accept file operations, which will be submitted again: {error}{left_out}"
                );
            }),
            #[cfg(feature = "uring")]
            Fault::Overflowed => logger::recurring("the completion queue", |left_out| {
                log::error!(
                    "the completion queue of file operations has overflowed; nothing is lost{left_out}"
                );
            }),
            #[cfg(feature = "uring")]
            Fault::Unknown => logger::recurring("an unknown file operation", |left_out| {
                log::error!("the kernel reports the completion of an unknown file operation{left_out}");
            }),
            #[cfg(feature = "uring")]
            Fault::NotCancelled(error) => {
                logger::call(|| log::error!("cannot cancel file operations: {error}"));
            }
            #[cfg(feature = "uring")]
            Fault::NotReported(error) => logger::recurring("outcomes not reported", |left_out| {
                log::error!("the kernel does not report the outcome of file operations: {error}{left_out}");
            }),
            #[cfg(feature = "uring")]
            Fault::NotAwaited(error) => {
                logger::call(|| log::error!("cannot wait for file operations: {error}"));
            }
            #[cfg(feature = "uring")]
            Fault::Abandoned(operations) => logger::call(|| {
                log::error!("{operations} file operations do not complete: their memory is never freed");
            }),
        }
    }
}
