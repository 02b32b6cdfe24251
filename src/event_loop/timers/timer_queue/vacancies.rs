//! The set of vacant nodes, and the order in which they are used.
//!
//! The nodes that were vacated last are used first, because they are still in the cache. The others
//! are used in the order of their indices, so that many timers that are created in a row are
//! adjacent. When a million of them used the nodes in the order in which others had been cancelled
//! before, each cost half as much again.

use std::mem;

/// The largest number of nodes that are used in reverse order of vacation. If there are more, the
/// older half is moved to the bitmap. A search in the bitmap scans a word per 64 nodes, all of it
/// at most once for each half: 60 words per node for a million, if they are far apart.
const RECENT: usize = 512;

pub(super) struct Vacancies {
    /// A stack: the last one was vacated last. All are before `end`.
    recent: Vec<u32>,
    /// A bitmap of the others.
    earlier: Vec<u64>,
    /// The number of bits that are set before `end`.
    count: usize,
    /// The word of `earlier` where the search continues.
    word: usize,
    /// The word of `earlier` from which on nodes are used only when there are no others.
    end: usize,
}

impl Vacancies {
    pub(super) const fn new() -> Vacancies {
        Vacancies { recent: Vec::new(), earlier: Vec::new(), count: 0, word: 0, end: usize::MAX }
    }

    /// Adds a node, which must not be in the set.
    #[inline]
    pub(super) fn put(&mut self, index: u32) {
        if index as usize / 64 >= self.end {
            self.mark(index);
            return;
        }
        if self.recent.len() == RECENT {
            self.put_away();
        }
        self.recent.push(index);
    }

    /// Removes and returns the node to be used next.
    #[inline]
    pub(super) fn take(&mut self) -> Option<u32> {
        match self.recent.pop() {
            None => self.take_earlier(),
            recent => recent,
        }
    }

    /// Uses the nodes from about `end` on only when there are no others, which lifts this rule.
    pub(super) fn prefer_before(&mut self, end: usize) {
        self.end = end / 64;
        let recent = mem::take(&mut self.recent);
        recent.into_iter().for_each(|index| self.mark(index));
        let before = self.end.min(self.earlier.len());
        self.count = self.earlier[..before].iter().map(|bits| bits.count_ones() as usize).sum();
    }

    /// Removes the nodes from `len` on, and releases their memory.
    pub(super) fn truncate(&mut self, len: usize) {
        self.recent.retain(|&index| (index as usize) < len);
        let (words, rest) = (len / 64, len % 64);
        for word in words..self.earlier.len() {
            let kept = if word == words { (1 << rest) - 1 } else { 0 };
            if word < self.end {
                self.count -= (self.earlier[word] & !kept).count_ones() as usize;
            }
            self.earlier[word] &= kept;
        }
        self.earlier.truncate(words + 1);
        // Each release copies the rest, so it has to pay.
        if self.earlier.len() <= self.earlier.capacity() / 2 {
            self.earlier.shrink_to_fit();
        }
    }

    /// Moves the older half of `recent` to the bitmap.
    fn put_away(&mut self) {
        for position in 0..RECENT / 2 {
            self.mark(self.recent[position]);
            self.count += 1;
        }
        self.recent.drain(..RECENT / 2);
    }

    fn mark(&mut self, index: u32) {
        let word = index as usize / 64;
        if word >= self.earlier.len() {
            self.earlier.resize(word + 1, 0);
        }
        self.earlier[word] |= 1 << (index % 64);
    }

    fn take_earlier(&mut self) -> Option<u32> {
        if self.count == 0 && self.end != usize::MAX {
            self.prefer_before(usize::MAX);
            self.end = usize::MAX;
        }
        if self.count == 0 {
            return None;
        }
        loop {
            let word = self.word;
            match self.earlier.get_mut(word).filter(|_| word < self.end) {
                None => self.word = 0,
                Some(0) => self.word += 1,
                Some(bits) => {
                    let bit = bits.trailing_zeros();
                    *bits &= *bits - 1;
                    self.count -= 1;
                    return Some(word as u32 * 64 + bit);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
