//! Which nodes are vacant, and which of them is used next.
//!
//! First those that were given up last, as they are still in the cache. The others come in the order of their indices, so that many
//! timers that are made one after the other lie one behind the other: of a million, in the order in which others had been
//! cancelled before, each cost half as much again.

/// How many are used in the order given up, at most; when there are more, the older half of them is put away. A search for those
/// goes over a word for each 64 nodes there are, once round for each half at most: 60 words each of a million, if they lie far apart.
const RECENT: usize = 512;

pub(super) struct Vacancies {
    /// The last one was given up last.
    recent: Vec<u32>,
    /// A bit for each that was given up earlier.
    earlier: Vec<u64>,
    /// How many bits are set.
    count: usize,
    /// The word of `earlier` where the search goes on.
    word: usize,
}

impl Vacancies {
    pub(super) const fn new() -> Vacancies {
        Vacancies { recent: Vec::new(), earlier: Vec::new(), count: 0, word: 0 }
    }

    /// Adds a node, which must not be here already.
    pub(super) fn put(&mut self, index: u32) {
        if self.recent.len() == RECENT {
            self.put_away();
        }
        self.recent.push(index);
    }

    /// Takes out the node to be used next.
    pub(super) fn take(&mut self) -> Option<u32> {
        match self.recent.pop() {
            None if self.count > 0 => Some(self.take_earlier()),
            recent => recent,
        }
    }

    /// Gives up all room, with what is here.
    pub(super) fn clear(&mut self) {
        *self = Vacancies::new();
    }

    /// Makes room for others that are recent.
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
