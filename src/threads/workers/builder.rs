//! The settings of a pool.

use std::io;
use std::num::NonZeroUsize;
use std::thread;

use super::Workers;
use super::pool::Threads;

/// Sets the options of a [`Workers`] and starts its threads.
///
/// ```
/// use reveille::task::Workers;
///
/// # fn main() -> std::io::Result<()> {
/// // One thread, so jobs run one after the other. At most 16 of them wait.
/// let workers = Workers::builder().threads(1).queue(16).name("database").build()?;
/// workers.execute(|| println!("{:?}", std::thread::current().name()))?; // "database-0"
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder starts nothing until `build` is called"]
pub struct WorkersBuilder {
    threads: Option<usize>,
    queue: usize,
    name: String,
}

impl WorkersBuilder {
    pub(super) fn new() -> WorkersBuilder {
        WorkersBuilder { threads: None, queue: 1024, name: "reveille-worker".to_owned() }
    }

    /// Sets the number of threads. Default: the number of processors that are
    /// [available](thread::available_parallelism). With 0 [`build`](WorkersBuilder::build) returns
    /// an error.
    pub fn threads(mut self, threads: usize) -> WorkersBuilder {
        self.threads = Some(threads);
        self
    }

    /// Sets how many jobs may wait for a thread. Default: 1024. With 0 a job is refused unless a
    /// thread is free.
    pub fn queue(mut self, jobs: usize) -> WorkersBuilder {
        self.queue = jobs;
        self
    }

    /// Sets the name of the threads, which is followed by `-` and a number. Default:
    /// `reveille-worker`.
    pub fn name(mut self, name: impl Into<String>) -> WorkersBuilder {
        self.name = name.into();
        self
    }

    /// Starts the threads. They run until the pool is closed or its last clone is dropped.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the number of threads is 0 or the name
    /// contains a NUL byte. Otherwise the error of starting a thread; those that were started
    /// before it have ended.
    pub fn build(self) -> io::Result<Workers> {
        let available = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = self.threads.unwrap_or_else(available);
        if threads == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a pool of workers needs a thread"));
        }
        if self.name.contains('\0') {
            let message = "the name of a thread contains a NUL byte";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(Workers { threads: Threads::start(threads, self.queue, &self.name)?.into() })
    }
}
