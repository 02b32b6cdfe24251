//! Totals of all loops.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
}

/// Counts for one connection, and adds to the totals when it is dropped.
pub(crate) struct Count {
    pub(crate) totals: Arc<Totals>,
    pub(crate) requests: u64,
}

impl Drop for Count {
    fn drop(&mut self) {
        self.totals.connections.fetch_add(1, Relaxed);
        self.totals.requests.fetch_add(self.requests, Relaxed);
    }
}
