//! Encoding and decoding of length prefixes.

use super::LengthError;

/// The encoding of a length prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LengthPrefix {
    /// One byte.
    U8,
    /// Two bytes, big-endian.
    U16Be,
    /// Two bytes, little-endian.
    U16Le,
    /// Three bytes, big-endian.
    U24Be,
    /// Three bytes, little-endian.
    U24Le,
    /// Four bytes, big-endian.
    U32Be,
    /// Four bytes, little-endian.
    U32Le,
    /// Eight bytes, big-endian.
    U64Be,
    /// Eight bytes, little-endian.
    U64Le,
    /// One to ten bytes of seven bits each, least significant first, as in Protocol Buffers
    /// (LEB128). Only the shortest form of a number is accepted.
    Varint,
}

/// The maximum length of a prefix, in bytes.
const MAX_PREFIX_LEN: usize = 10;

/// An encoded prefix.
pub(super) struct EncodedPrefix {
    bytes: [u8; MAX_PREFIX_LEN],
    len: usize,
}

impl EncodedPrefix {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl LengthPrefix {
    /// The width in bytes, and whether the encoding is big-endian; `None` for a variable width.
    fn layout(self) -> Option<(usize, bool)> {
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

    /// Decodes the number at the front of `input`. Returns it and its length in bytes, or `None` if
    /// it is incomplete.
    pub(super) fn decode(self, input: &[u8]) -> Result<Option<(u64, usize)>, LengthError> {
        let Some((width, big_endian)) = self.layout() else { return decode_varint(input) };
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

    /// Encodes `number`. Returns `None` if it is too large for the width.
    pub(super) fn encode(self, number: u64) -> Option<EncodedPrefix> {
        let Some((width, big_endian)) = self.layout() else { return Some(encode_varint(number)) };
        if width < 8 && number >> (8 * width) != 0 {
            return None;
        }
        let mut bytes = [0; MAX_PREFIX_LEN];
        if big_endian {
            bytes[..width].copy_from_slice(&number.to_be_bytes()[8 - width..]);
        } else {
            bytes[..width].copy_from_slice(&number.to_le_bytes()[..width]);
        }
        Some(EncodedPrefix { bytes, len: width })
    }
}

fn decode_varint(input: &[u8]) -> Result<Option<(u64, usize)>, LengthError> {
    let mut number = 0;
    for (i, &byte) in input.iter().take(MAX_PREFIX_LEN).enumerate() {
        // The tenth byte holds the last of 64 bits and ends the number. A last byte of zero adds
        // nothing, so the form is not the shortest.
        if i == MAX_PREFIX_LEN - 1 && byte > 1 || i > 0 && byte == 0 {
            return Err(LengthError::BadVarint);
        }
        number |= u64::from(byte & 0x7F) << (7 * i);
        if byte < 0x80 {
            return Ok(Some((number, i + 1)));
        }
    }
    Ok(None)
}

fn encode_varint(mut number: u64) -> EncodedPrefix {
    let mut bytes = [0; MAX_PREFIX_LEN];
    let mut len = 0;
    while number >= 0x80 {
        bytes[len] = number as u8 | 0x80;
        number >>= 7;
        len += 1;
    }
    bytes[len] = number as u8;
    EncodedPrefix { bytes, len: len + 1 }
}
