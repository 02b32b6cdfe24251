//! The file, the offsets of the reads, and the check of the data.

use std::cell::Cell;
use std::env;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use super::{BLOCK, Sample, WARM_UP};
use crate::Result;

/// 40 MiB.
const BLOCKS: usize = 10 * 1024;

/// A file of random bytes, removed on drop.
#[derive(Debug)]
pub(super) struct Contents {
    path: PathBuf,
    data: Data,
}

impl Contents {
    /// Writes the file, which leaves it in the page cache.
    pub(super) fn new() -> Result<Contents> {
        let path = env::temp_dir().join(format!("reveille-compare-{}", process::id()));
        let words = (0..BLOCKS * BLOCK / 8).map(|number| mix(number as u64));
        let bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
        fs::write(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        let data = Data::of(&path);
        if data.is_err() {
            // No value exists yet whose drop would remove it.
            let _ = fs::remove_file(&path);
        }
        Ok(Contents { data: data?, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn data(&self) -> &Data {
        &self.data
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The open file, and the sums of its blocks.
#[derive(Clone, Debug)]
pub(super) struct Data {
    pub(super) file: Arc<File>,
    sums: Arc<[u64]>,
}

impl Data {
    /// Reads the whole file once.
    pub(super) fn of(path: &Path) -> Result<Data> {
        let bytes = fs::read(path)?;
        if bytes.len() != BLOCKS * BLOCK {
            return Err(format!("{} has {} bytes", path.display(), bytes.len()).into());
        }
        Ok(Data { file: Arc::new(File::open(path)?), sums: bytes.chunks(BLOCK).map(sum).collect() })
    }

    /// The baseline: only the reads.
    pub(super) fn read_in_a_loop(&self, reads: usize) -> Result<Sample> {
        let mut buffer = vec![0; BLOCK];
        let mut pass = |reads: usize| {
            let check = Check::default();
            for read in 0..reads {
                self.file.read_exact_at(&mut buffer, offset(read))?;
                check.add(read, &buffer);
            }
            check.compare(self, reads)
        };
        pass(WARM_UP)?;
        Sample::of(reads, || pass(reads))
    }
}

/// The offset of the read with this number.
pub(super) fn offset(read: usize) -> u64 {
    (block(read) * BLOCK) as u64
}

fn block(read: usize) -> usize {
    (mix(read as u64 ^ 0x5EED) % BLOCKS as u64) as usize
}

/// The sum of completed reads, independent of their order.
#[derive(Debug, Default)]
pub(super) struct Check {
    sum: Cell<u64>,
    count: Cell<usize>,
}

impl Check {
    pub(super) fn add(&self, read: usize, bytes: &[u8]) {
        self.sum.set(self.sum.get().wrapping_add(word(read, sum(bytes))));
        self.count.set(self.count.get() + 1);
    }

    pub(super) fn count(&self) -> usize {
        self.count.get()
    }

    /// Checks that the sum is that of the first `reads` reads.
    pub(super) fn compare(&self, data: &Data, reads: usize) -> Result<()> {
        let expected =
            (0..reads).fold(0, |all: u64, read| all.wrapping_add(word(read, data.sums[block(read)])));
        if self.count() != reads {
            return Err(format!("{} reads of {reads}", self.count()).into());
        }
        if self.sum.get() != expected {
            return Err("the bytes read differ from the file".into());
        }
        Ok(())
    }
}

/// Combines the number of a read and its data's sum into a word that is practically unique.
fn word(read: usize, sum: u64) -> u64 {
    mix(sum ^ (read as u64).rotate_left(32))
}

/// The sum depends on the order and the position of the words.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")));
    words.fold(bytes.len() as u64, |all, word| all.rotate_left(5).wrapping_add(word))
}

/// The finalizer of splitmix64.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_count_in_any_order_if_each_has_read_what_is_there() {
        let contents = Contents::new().unwrap();
        let data = contents.data();
        let read = |read: usize| {
            let mut buffer = vec![0; BLOCK];
            data.file.read_exact_at(&mut buffer, offset(read)).unwrap();
            buffer
        };
        let check = |reads: &[(usize, Vec<u8>)]| {
            let check = Check::default();
            reads.iter().for_each(|(read, bytes)| check.add(*read, bytes));
            check.compare(data, 2)
        };
        assert!(check(&[(0, read(0)), (1, read(1))]).is_ok());
        assert!(check(&[(1, read(1)), (0, read(0))]).is_ok());
        assert!(check(&[(0, read(0))]).is_err());
        assert!(check(&[(0, read(1)), (1, read(0))]).is_err(), "each has what is the other's");
        assert!(check(&[(0, read(0)), (0, read(0))]).is_err());
        let mut wrong = read(1);
        wrong.swap(0, 8);
        assert!(check(&[(0, read(0)), (1, wrong)]).is_err());
    }
}
