//! Frames: pieces of a stream that mean something by themselves.
//!
//! A decoder looks at the bytes at the front and says where the first frame is; it never copies them, and never waits. Who
//! feeds it is another matter: a connection ([`Framed`]), or a loop over a slice ([`Frames`]).

mod framed;
mod length;
mod line;
mod prefix;

use std::error::Error;
use std::fmt;
use std::io;

pub use framed::{FrameHandler, Framed};
pub use length::{LengthCodec, LengthError};
pub use line::{LineCodec, LineEnding, LineError};
pub use prefix::LengthPrefix;

/// Finds the first frame in a stream of bytes.
///
/// [`LineCodec`] and [`LengthCodec`] are decoders, and a protocol of your own is another. [`Framed`] makes one the input of a
/// connection, [`Frames`] takes a slice apart.
///
/// # Examples
/// Records of a type byte, a length byte, and so many bytes of value:
/// ```
/// use reveille::{Buffer, Decoder};
/// use std::io;
///
/// struct Record<'a> {
///     kind: u8,
///     value: &'a [u8],
/// }
///
/// struct Records;
///
/// impl Decoder for Records {
///     type Frame<'a> = Record<'a>;
///     type Error = io::Error;
///
///     fn decode<'a>(&mut self, input: &'a [u8]) -> io::Result<Option<(Record<'a>, usize)>> {
///         let &[kind, length, ref rest @ ..] = input else { return Ok(None) };
///         if kind > 9 {
///             return Err(io::Error::new(io::ErrorKind::InvalidData, "no such record"));
///         }
///         let value = rest.get(..usize::from(length));
///         Ok(value.map(|value| (Record { kind, value }, 2 + value.len())))
///     }
/// }
///
/// let mut input = Buffer::from(b"\x01\x05hello\x02\x03a".to_vec());
/// let (record, taken) = Records.decode(input.readable())?.unwrap();
/// assert_eq!((record.kind, record.value), (1, &b"hello"[..]));
/// input.consume(taken);
/// assert!(Records.decode(input.readable())?.is_none()); // two bytes of the second are yet to come
/// # Ok::<(), io::Error>(())
/// ```
///
/// A layer is a decoder that holds another one. This one has the frames of any framing be text:
/// ```
/// use reveille::{Decoder, Frames, LengthCodec, LengthPrefix};
/// use std::io;
///
/// struct Text<D>(D);
///
/// impl<D: for<'a> Decoder<Frame<'a> = &'a [u8]>> Decoder for Text<D> {
///     type Frame<'a> = &'a str;
///     type Error = io::Error;
///
///     fn decode<'a>(&mut self, input: &'a [u8]) -> io::Result<Option<(&'a str, usize)>> {
///         let Some((frame, taken)) = self.0.decode(input).map_err(Into::into)? else { return Ok(None) };
///         let text = std::str::from_utf8(frame).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
///         Ok(Some((text, taken)))
///     }
/// }
///
/// let text = Text(LengthCodec::new(LengthPrefix::U8, 80));
/// let words: Result<Vec<&str>, _> = Frames::new(text, b"\x05there\x02is").collect();
/// assert_eq!(words.unwrap(), ["there", "is"]);
/// ```
pub trait Decoder {
    /// A frame, which may borrow from the bytes it was found in. One that has to be put together (unescaped, unpacked) is an
    /// owned value.
    type Frame<'a>;

    /// What can be wrong with the bytes. It becomes the [`io::Error`] that closes the connection, unless the handler decides
    /// otherwise.
    type Error: Into<io::Error>;

    /// Looks for a frame at the very front of `input`. Answers it, and how many bytes it takes up with all that belongs to
    /// it (a prefix, a delimiter); or `None` if it is not complete yet.
    ///
    /// The next call gets the same bytes and more behind them if this one has answered `None`, and else what is behind the
    /// frame, so a decoder may remember how far it has searched. `input` is not empty.
    ///
    /// What bounds the memory of a connection is that this gives an error as soon as a frame is bound to be too long, and not
    /// only when it is complete.
    ///
    /// # Errors
    /// The bytes cannot be the beginning of a frame. It is over with this stream then: where the next frame would begin is
    /// unknown.
    ///
    /// # Panics
    /// On no input. A frame that takes up no bytes, or more than there are, is a mistake of the decoder, and whoever called it
    /// panics.
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Option<(Self::Frame<'a>, usize)>, Self::Error>;
}

/// Why there are no more frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError<E> {
    /// The decoder says what is wrong with the bytes.
    Malformed(E),
    /// The input has ended within a frame, of which only so many bytes have come.
    Incomplete {
        /// How many there are, a prefix included; at least one.
        bytes: usize,
    },
}

impl<E: fmt::Display> fmt::Display for FrameError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Malformed(error) => error.fmt(f),
            FrameError::Incomplete { bytes } => f.write_str(&incomplete(*bytes)),
        }
    }
}

impl<E: Error + 'static> Error for FrameError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // Displayed in full already, so what comes next is what is behind it.
            FrameError::Malformed(error) => error.source(),
            FrameError::Incomplete { .. } => None,
        }
    }
}

/// The decoder's own error as it converts itself, or [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
impl<E: Into<io::Error>> From<FrameError<E>> for io::Error {
    fn from(error: FrameError<E>) -> io::Error {
        match error {
            FrameError::Malformed(error) => error.into(),
            FrameError::Incomplete { bytes } => {
                io::Error::new(io::ErrorKind::UnexpectedEof, incomplete(bytes))
            }
        }
    }
}

fn incomplete(bytes: usize) -> String {
    format!("the input ends within a frame, of which there are {bytes} bytes")
}

/// The frames in a slice, one after the other: a datagram, a file, a frame that has frames in it.
///
/// It ends behind the last frame or with the first error. Bytes that are left over are an error.
///
/// # Examples
/// Lines in frames:
/// ```
/// use reveille::{Frames, LengthCodec, LengthPrefix, LineCodec};
///
/// let input = b"\x04a\nb\n\x02c\n";
/// let mut pages = Vec::new();
/// for frame in Frames::new(LengthCodec::new(LengthPrefix::U8, 100), input) {
///     let lines: Result<Vec<&[u8]>, _> = Frames::new(LineCodec::new(80), frame?).collect();
///     pages.push(lines?);
/// }
/// assert_eq!(pages, [vec![b"a", b"b"], vec![b"c"]]);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Frames<'a, D> {
    decoder: D,
    /// Empty once there is nothing more to say.
    rest: &'a [u8],
}

impl<'a, D: Decoder> Frames<'a, D> {
    /// The frames that `decoder` finds in `input`. The decoder must not be in the middle of another stream.
    pub fn new(decoder: D, input: &'a [u8]) -> Frames<'a, D> {
        Frames { decoder, rest: input }
    }
}

impl<'a, D: Decoder> Iterator for Frames<'a, D> {
    type Item = Result<D::Frame<'a>, FrameError<D::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let input = std::mem::take(&mut self.rest);
        Some(match decode_checked(&mut self.decoder, input) {
            Ok(Some((frame, taken))) => {
                self.rest = &input[taken..];
                Ok(frame)
            }
            Ok(None) => Err(FrameError::Incomplete { bytes: input.len() }),
            Err(error) => Err(FrameError::Malformed(error)),
        })
    }
}

/// Calls a decoder, and holds it to what it promises: one that took nothing would be called forever.
fn decode_checked<'a, D: Decoder>(
    decoder: &mut D,
    input: &'a [u8],
) -> Result<Option<(D::Frame<'a>, usize)>, D::Error> {
    let decoded = decoder.decode(input)?;
    if let Some((_, taken)) = decoded {
        let len = input.len();
        assert!((1..=len).contains(&taken), "a decoder took {taken} bytes of {len} for a frame");
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests;
