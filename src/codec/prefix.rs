//! Numbers as they stand before a frame.

use super::LengthError;

/// How a length is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LengthPrefix {
    /// One byte.
    U8,
    /// Two bytes, the most significant first.
    U16Be,
    /// Two bytes, the least significant first.
    U16Le,
    /// Three bytes, the most significant first.
    U24Be,
    /// Three bytes, the least significant first.
    U24Le,
    /// Four bytes, the most significant first.
    U32Be,
    /// Four bytes, the least significant first.
    U32Le,
    /// Eight bytes, the most significant first.
    U64Be,
    /// Eight bytes, the least significant first.
    U64Le,
    /// One to ten bytes of seven bits each, the least significant first, as in Protocol Buffers (LEB128). Only the shortest way
    /// to write a number is accepted.
    Varint,
}

/// The longest prefix, in bytes.
const LONGEST: usize = 10;

/// A number as it is written.
pub(super) struct Written {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Written {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl LengthPrefix {
    /// Width in bytes, and whether the most significant byte comes first; `None` for what has no width.
    fn shape(self) -> Option<(usize, bool)> {
        Some(match self {
            LengthPrefix::U8 => (1, true),
            LengthPrefix::U16Be => (2, true),
            LengthPrefix::U16Le => (2, false),
            LengthPrefix::U24Be => (3, true),
            LengthPrefix::U24Le => (3, false),
            LengthPrefix::U32Be => (4, true),
            LengthPrefix::U32Le => (4, false),
            LengthPrefix::U64Be => (8, true),
            LengthPrefix::U64Le => (8, false),
            LengthPrefix::Varint => return None,
        })
    }

    /// The number at the front of `input` and how many bytes it has, or `None` if they have not all come.
    pub(super) fn read(self, input: &[u8]) -> Result<Option<(u64, usize)>, LengthError> {
        let Some((width, big_endian)) = self.shape() else { return read_varint(input) };
        let Some(bytes) = input.get(..width) else { return Ok(None) };
        let mut word = [0; 8];
        let number = if big_endian {
            word[8 - width..].copy_from_slice(bytes);
            u64::from_be_bytes(word)
        } else {
            word[..width].copy_from_slice(bytes);
            u64::from_le_bytes(word)
        };
        Ok(Some((number, width)))
    }

    /// `number` as it is written, or `None` if it is too large.
    pub(super) fn write(self, number: u64) -> Option<Written> {
        let Some((width, big_endian)) = self.shape() else { return Some(write_varint(number)) };
        if width < 8 && number >> (8 * width) != 0 {
            return None;
        }
        let mut bytes = [0; LONGEST];
        if big_endian {
            bytes[..width].copy_from_slice(&number.to_be_bytes()[8 - width..]);
        } else {
            bytes[..width].copy_from_slice(&number.to_le_bytes()[..width]);
        }
        Some(Written { bytes, len: width })
    }
}

fn read_varint(input: &[u8]) -> Result<Option<(u64, usize)>, LengthError> {
    let mut number = 0;
    for (i, &byte) in input.iter().take(LONGEST).enumerate() {
        // Of 64 bits the tenth byte has the last one, and none comes behind it. A last byte of zero says nothing that the one
        // before could not have said.
        if i == LONGEST - 1 && byte > 1 || i > 0 && byte == 0 {
            return Err(LengthError::BadVarint);
        }
        number |= u64::from(byte & 0x7F) << (7 * i);
        if byte < 0x80 {
            return Ok(Some((number, i + 1)));
        }
    }
    Ok(None)
}

fn write_varint(mut number: u64) -> Written {
    let mut bytes = [0; LONGEST];
    let mut len = 0;
    while number >= 0x80 {
        bytes[len] = number as u8 | 0x80;
        number >>= 7;
        len += 1;
    }
    bytes[len] = number as u8;
    Written { bytes, len: len + 1 }
}
