//! How much all connections of a group may hold together, in bytes, and whether it is too much.
//!
//! Once it is, it counts as too much until a good part has gone, so that connections do not stop and go for every few bytes.

use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};

/// A count of bytes with a limit, for any number of threads.
///
/// The count and the mark that it is too much are two words, and whoever changes the one looks at the other afterwards. That needs
/// one order of all these accesses that every thread agrees on; with less, one that sets the mark and one that takes the last bytes
/// away could each miss what the other does, and the mark would stand for ever.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    /// To what the count must fall before it is no longer too much.
    enough: usize,
    used: AtomicUsize,
    exceeded: AtomicBool,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Budget {
        let enough = limit - limit / 4;
        Budget { limit, enough, used: AtomicUsize::new(0), exceeded: AtomicBool::new(false) }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Whether too much is held, as far as is known here: for a look that costs nothing.
    #[inline]
    pub(crate) fn seems_exceeded(&self) -> bool {
        self.exceeded.load(Relaxed)
    }

    pub(crate) fn is_exceeded(&self) -> bool {
        self.exceeded.load(SeqCst)
    }

    /// Somebody who held `before` holds `after`. Answers whether that, or what others have done meanwhile, ends a time of too much, so
    /// that the caller must have those go on who have stopped for it.
    #[must_use]
    pub(crate) fn change(&self, before: usize, after: usize) -> bool {
        if after > before {
            let used = self.used.fetch_add(after - before, SeqCst) + (after - before);
            if used <= self.limit || self.exceeded.swap(true, SeqCst) {
                return false;
            }
            // Whoever has taken bytes away before the mark stood has not seen it.
            self.used.load(SeqCst) <= self.enough && self.exceeded.swap(false, SeqCst)
        } else {
            let used = self.used.fetch_sub(before - after, SeqCst) - (before - after);
            used <= self.enough && self.exceeded.load(SeqCst) && self.exceeded.swap(false, SeqCst)
        }
    }
}

#[cfg(test)]
mod tests;
