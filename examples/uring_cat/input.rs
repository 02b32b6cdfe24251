//! A file that is being printed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::rc::Rc;

use reveille::fs::File;

/// Maximum number of pieces that are being read or wait for an earlier piece.
const AHEAD: usize = 8;

/// The input being printed.
pub(crate) struct Input {
    pub(crate) name: OsString,
    pub(crate) file: Rc<File>,
    /// The size, if the file is read at several offsets at a time. Otherwise reads are sequential.
    pub(crate) size: Option<u64>,
    /// Offset up to which reads have been issued.
    pub(crate) requested: u64,
    /// Offset up to which data has been written to the output.
    pub(crate) written: u64,
    /// Number of reads in flight.
    pub(crate) reading: usize,
    /// Pieces that have been read and not written, by file offset.
    pub(crate) pieces: BTreeMap<u64, Piece>,
    /// Set once one of the pieces is the end.
    pub(crate) has_end: bool,
}

pub(crate) enum Piece {
    Bytes(Vec<u8>),
    /// The end of the input, regular or because of an error.
    End(Option<io::Error>),
}

impl Input {
    pub(crate) fn new(name: OsString, file: Rc<File>, size: Option<u64>) -> Input {
        let pieces = BTreeMap::new();
        Input { name, file, size, requested: 0, written: 0, reading: 0, pieces, has_end: false }
    }

    /// Whether another read may be issued. Up to the reported size several are in flight; beyond
    /// it, or without a size, one at a time.
    pub(crate) fn may_read(&self) -> bool {
        let may_be_more = if self.size.is_some_and(|size| self.requested < size) {
            self.reading + self.pieces.len() < AHEAD
        } else {
            self.reading == 0 && self.pieces.len() < AHEAD
        };
        may_be_more && !self.has_end
    }
}
