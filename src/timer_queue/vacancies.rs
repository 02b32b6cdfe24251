//! Which nodes are vacant, and which of them is used next.
//!
//! First those that were given up last, as they are still in the cache. The others come in the order of their indices, so that many
//! timers that are made one after the other lie one behind the other: of a million, in the order in which others had been
//! cancelled before, each cost half as much again.

use std::mem;

/// How many are used in the order given up, at most; when there are more, the older half of them is put away. A search for those
/// goes over a word for each 64 nodes there are, once round for each half at most: 60 words each of a million, if they lie far apart.
const RECENT: usize = 512;

pub(super) struct Vacancies {
    /// The last one was given up last. All lie before `end`.
    recent: Vec<u32>,
    /// A bit for each of the others.
    earlier: Vec<u64>,
    /// How many bits are set before `end`.
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

    /// Adds a node, which must not be here already.
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

    /// Takes out the node to be used next.
    #[inline]
    pub(super) fn take(&mut self) -> Option<u32> {
        match self.recent.pop() {
            None => self.take_earlier(),
            recent => recent,
        }
    }

    /// From here on, the nodes from about `end` on are used only when there are no others. Then this ends.
    pub(super) fn prefer_before(&mut self, end: usize) {
        self.end = end / 64;
        let recent = mem::take(&mut self.recent);
        recent.into_iter().for_each(|index| self.mark(index));
        let before = self.end.min(self.earlier.len());
        self.count = self.earlier[..before].iter().map(|bits| bits.count_ones() as usize).sum();
    }

    /// Removes the nodes from `len` on, and the room for them.
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
        // Half of the room at a time, as each time copies what is left.
        if self.earlier.len() <= self.earlier.capacity() / 2 {
            self.earlier.shrink_to_fit();
        }
    }

    /// Makes room for others that are recent.
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
