//! Why a job is refused, and why an accepted job has no result.

use std::error::Error;
use std::fmt;
use std::io;

use rustix::io::Errno;

/// Why a job was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkersError {
    /// All threads are occupied, and as many jobs wait as the
    /// [limit](crate::task::WorkersBuilder::queue) permits.
    Full,
    /// The pool is [closed](crate::task::Workers::close), or belongs to the process that this one
    /// was forked from.
    Closed,
    /// The loop of the job has [ended](crate::LoopHandle::has_ended), or belongs to the process
    /// that this one was forked from.
    LoopEnded,
}

impl fmt::Display for WorkersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WorkersError::Full => "the queue of the worker threads is full",
            WorkersError::Closed => "the pool of worker threads is closed",
            WorkersError::LoopEnded => "the event loop has ended",
        })
    }
}

impl Error for WorkersError {}

impl From<WorkersError> for io::Error {
    fn from(error: WorkersError) -> io::Error {
        let kind = match error {
            WorkersError::Full => io::ErrorKind::WouldBlock,
            WorkersError::Closed | WorkersError::LoopEnded => io::ErrorKind::BrokenPipe,
        };
        io::Error::new(kind, error)
    }
}

/// Why an accepted job has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobError {
    /// The job was cancelled before it had begun.
    Cancelled,
    /// The job panicked.
    Panicked,
    /// The loop of a [`JobFuture`](crate::task::JobFuture) has ended.
    LoopEnded,
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JobError::Cancelled => "the job was cancelled",
            JobError::Panicked => "the job panicked",
            JobError::LoopEnded => "the event loop has ended",
        })
    }
}

impl Error for JobError {}

impl From<JobError> for io::Error {
    /// A cancelled job has the error of a cancelled file operation, ECANCELED.
    fn from(error: JobError) -> io::Error {
        match error {
            JobError::Cancelled => Errno::CANCELED.into(),
            JobError::Panicked => io::Error::other(error),
            JobError::LoopEnded => io::Error::new(io::ErrorKind::BrokenPipe, error),
        }
    }
}
