//! Bytes that can be verified at any position: a block of random bytes, repeated.

use fastrand::Rng;

/// A prime, so that the loss of a block of any common size is detected.
const BLOCK: usize = 65_521;

/// An endless sequence of bytes. The same seed yields the same sequence.
pub(super) struct Pattern(Vec<u8>);

impl Pattern {
    pub(super) fn new(random: &mut Rng) -> Pattern {
        let mut block = vec![0; BLOCK];
        random.fill(&mut block);
        Pattern(block)
    }

    /// The bytes from `position` on: at least one, and at most `max`.
    pub(super) fn at(&self, position: u64, max: usize) -> &[u8] {
        let start = (position % BLOCK as u64) as usize;
        &self.0[start..BLOCK.min(start + max)]
    }

    /// Whether `bytes` are the bytes from `position` on.
    pub(super) fn matches(&self, mut position: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let expected = self.at(position, bytes.len());
            let (found, rest) = bytes.split_at(expected.len());
            if found != expected {
                return false;
            }
            position += expected.len() as u64;
            bytes = rest;
        }
        true
    }
}
