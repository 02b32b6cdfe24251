//! The set of vacant nodes, and the order in which they are used.
//!
//! The nodes that were vacated last are used first, because they are still in the cache. The others
//! are used in the order of their indices, so that many timers that are created in a row are
//! adjacent. When a million of them used the nodes in the order in which others had been cancelled
//! before, each cost half as much again.

/// The largest number of nodes that are used in reverse order of vacation. If there are more, the
/// older half is moved to the bitmap. A search in the bitmap scans a word per 64 nodes, all of it
/// at most once for each half: 60 words per node for a million, if they are far apart.
const RECENT: usize = 512;

pub(super) struct Vacancies {
    /// A stack: the last one was vacated last.
    recent: Vec<u32>,
    /// A bitmap of those that were vacated earlier.
    earlier: Vec<u64>,
    /// The number of set bits.
    count: usize,
    /// The word of `earlier` where the search continues.
    word: usize,
}

impl Vacancies {
    pub(super) const fn new() -> Vacancies {
        Vacancies { recent: Vec::new(), earlier: Vec::new(), count: 0, word: 0 }
    }

    /// Adds a node, which must not be in the set.
    pub(super) fn put(&mut self, index: u32) {
        if self.recent.len() == RECENT {
            self.put_away();
        }
        self.recent.push(index);
    }

    /// Removes and returns the node to be used next.
    pub(super) fn take(&mut self) -> Option<u32> {
        match self.recent.pop() {
            None if self.count > 0 => Some(self.take_earlier()),
            recent => recent,
        }
    }

    /// Removes all nodes and releases the memory.
    pub(super) fn clear(&mut self) {
        *self = Vacancies::new();
    }

    /// Moves the older half of `recent` to the bitmap.
    fn put_away(&mut self) {
        for index in self.recent.drain(..RECENT / 2) {
            let word = index as usize / 64;
            if word >= self.earlier.len() {
                self.earlier.resize(word + 1, 0);
            }
            self.earlier[word] |= 1 << (index % 64);
            self.count += 1;
        }
    }

    fn take_earlier(&mut self) -> u32 {
        loop {
            let Some(bits) = self.earlier.get_mut(self.word) else {
                self.word = 0;
                continue;
            };
            if *bits != 0 {
                let index = self.word as u32 * 64 + bits.trailing_zeros();
                *bits &= *bits - 1;
                self.count -= 1;
                return index;
            }
            self.word += 1;
        }
    }
}

#[cfg(test)]
mod tests;
