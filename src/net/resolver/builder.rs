//! The settings of a resolver.

use std::io;
use std::time::Duration;

use super::Resolver;
use super::cache::Cache;
use super::threads::Threads;
use crate::event_loop::EventLoop;

/// Sets the options of a [`Resolver`].
#[derive(Clone, Debug)]
#[must_use = "a builder has no effect until `build` is called"]
pub struct ResolverBuilder {
    threads: usize,
    queue: usize,
    time_to_live: Duration,
    entries: usize,
}

impl ResolverBuilder {
    pub(super) fn new() -> ResolverBuilder {
        ResolverBuilder { threads: 4, queue: 1024, time_to_live: Duration::ZERO, entries: 0 }
    }

    /// Sets how many queries run at a time, each on a thread. Default: 4. With 0
    /// [`build`](ResolverBuilder::build) returns an error.
    pub fn threads(mut self, threads: usize) -> ResolverBuilder {
        self.threads = threads;
        self
    }

    /// Sets how many lookups may be unfinished. Default: 1024. Lookups that share a query count one
    /// by one. With 0 every lookup is refused, also one that needs no query.
    pub fn queue(mut self, lookups: usize) -> ResolverBuilder {
        self.queue = lookups;
        self
    }

    /// Keeps successful results for `time_to_live`, of at most `entries` queries. Default: none are
    /// kept. A full cache replaces its oldest entry. Failures are not kept. If one of the values
    /// is zero, nothing is kept.
    ///
    /// The time is that of the loop's clock.
    pub fn cache(mut self, time_to_live: Duration, entries: usize) -> ResolverBuilder {
        (self.time_to_live, self.entries) = (time_to_live, entries);
        self
    }

    /// Builds the resolver. Starts no thread.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the number of threads is 0.
    /// [`Unsupported`](io::ErrorKind::Unsupported) in a forked child of the loop's process.
    pub fn build(self, event_loop: &EventLoop) -> io::Result<Resolver> {
        event_loop.check_process()?;
        if self.threads == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a resolver needs a thread"));
        }
        let (threads, cache) = (Threads::new(self.threads), Cache::new(self.time_to_live, self.entries));
        Ok(Resolver::with_threads(event_loop, threads, self.queue, cache))
    }
}
