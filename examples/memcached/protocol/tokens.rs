//! The words of a command line.

/// memcached looks at this many words of a line.
const MOST: usize = 23;

/// The words of a line that are arguments of a command which has a fixed number of them.
const KEPT: usize = 7;

/// The words of a line, separated by spaces.
#[derive(Debug)]
pub(crate) struct Tokens<'a> {
    first: [&'a [u8]; KEPT],
    last: &'a [u8],
    count: usize,
}

impl<'a> Tokens<'a> {
    pub(crate) fn of(line: &'a [u8]) -> Tokens<'a> {
        let mut tokens = Tokens { first: [b""; KEPT], last: b"", count: 0 };
        let words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
        for word in words.take(MOST) {
            if let Some(place) = tokens.first.get_mut(tokens.count) {
                *place = word;
            }
            tokens.last = word;
            tokens.count += 1;
        }
        tokens
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The word at `index`, which is below 7; empty if there is none.
    pub(crate) fn get(&self, index: usize) -> &'a [u8] {
        self.first[index]
    }

    /// The last of the words that memcached looks at.
    pub(crate) fn last(&self) -> &'a [u8] {
        self.last
    }
}
