//! Frames: the messages in a stream of bytes.
//!
//! A decoder finds the first frame at the front of its input. It never copies and never blocks. Its
//! caller is a connection ([`Framed`]) or an iterator over a slice ([`Frames`]).

mod framed;
mod length;
mod line;
mod prefix;

use std::error::Error;
use std::fmt;
use std::io;

pub use framed::{FrameHandler, Framed, OnFrame};
pub use length::{LengthCodec, LengthError};
pub use line::{LineCodec, LineEnding, LineError};
pub use prefix::LengthPrefix;

/// Finds the first frame in a stream of bytes.
///
/// [`LineCodec`] and [`LengthCodec`] are decoders. Implement this trait for other protocols.
/// [`Framed`] decodes the input of a connection, [`Frames`] decodes a slice.
///
/// # Examples
/// Records of a type byte, a length byte, and a value of that length:
/// ```
/// use reveille::Buffer;
/// use reveille::codec::Decoder;
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
/// assert!(Records.decode(input.readable())?.is_none()); // two bytes of the second are missing
/// # Ok::<(), io::Error>(())
/// ```
///
/// A layer is a decoder that wraps another one. This one converts the frames of any framing to
/// text:
/// ```
/// use reveille::codec::{Decoder, Frames, LengthCodec, LengthPrefix};
/// use std::io;
///
/// struct Text<D>(D);
///
/// impl<D: for<'a> Decoder<Frame<'a> = &'a [u8]>> Decoder for Text<D> {
///     type Frame<'a> = &'a str;
///     type Error = io::Error;
///
///     fn decode<'a>(&mut self, input: &'a [u8]) -> io::Result<Option<(&'a str, usize)>> {
///         match self.0.decode(input).map_err(Into::into)? {
///             Some((frame, taken)) => {
///                 let text = std::str::from_utf8(frame).map_err(|_| io::ErrorKind::InvalidData)?;
///                 Ok(Some((text, taken)))
///             }
///             None => Ok(None),
///         }
///     }
/// }
///
/// let text = Text(LengthCodec::new(LengthPrefix::U8, 80));
/// let words: Result<Vec<&str>, _> = Frames::new(text, b"\x05there\x02is").collect();
/// assert_eq!(words.unwrap(), ["there", "is"]);
/// ```
pub trait Decoder {
    /// A frame, which may borrow from the input. A frame that must be assembled (unescaped,
    /// unpacked) is an owned value.
    type Frame<'a>;

    /// The error for malformed input. It is converted to the [`io::Error`] that closes the
    /// connection, unless the handler handles it.
    type Error: Into<io::Error>;

    /// Decodes the frame at the front of `input`, which is not empty. Returns the frame and the
    /// number of bytes it occupies, including its prefix or delimiter. Returns `None` if the frame
    /// is not complete yet.
    ///
    /// After `None`, the next call gets the same bytes with more appended; otherwise it gets the
    /// bytes after the frame. A decoder may therefore remember how far it has searched.
    ///
    /// Return an error as soon as a frame is certain to be too long, not only when it is complete:
    /// this is what bounds the memory of a connection.
    ///
    /// # Errors
    /// The bytes cannot begin a frame. The stream cannot be decoded further, since the start of the
    /// next frame is unknown.
    ///
    /// # Panics
    /// Implementations must not panic. A returned length of zero, or beyond `input`, is a bug in
    /// the decoder; the caller panics.
    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Option<(Self::Frame<'a>, usize)>, Self::Error>;
}

/// Why decoding a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError<E> {
    /// The decoder's error for malformed input.
    Malformed(E),
    /// The input ended within a frame.
    Incomplete {
        /// The number of bytes of that frame, including its prefix; at least one.
        bytes: usize,
    },
    /// The rest of a frame did not arrive within the [time limit](Framed::frame_timeout).
    TimedOut {
        /// The number of bytes of that frame that have arrived; at least one.
        bytes: usize,
    },
}

impl<E: fmt::Display> fmt::Display for FrameError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Malformed(error) => error.fmt(f),
            FrameError::Incomplete { bytes } => {
                write!(f, "the input ends within a frame, of which there are {bytes} bytes")
            }
            FrameError::TimedOut { bytes } => {
                write!(f, "a frame, of which there are {bytes} bytes, was not complete in time")
            }
        }
    }
}

impl<E: Error + 'static> Error for FrameError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // `Display` includes the whole error, so the source is the next one in the chain.
            FrameError::Malformed(error) => error.source(),
            FrameError::Incomplete { .. } | FrameError::TimedOut { .. } => None,
        }
    }
}

/// The decoder's error, converted by its own `Into`;
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof); or [`TimedOut`](io::ErrorKind::TimedOut).
impl<E: Into<io::Error>> From<FrameError<E>> for io::Error {
    fn from(error: FrameError<E>) -> io::Error {
        let (kind, error) = match error {
            FrameError::Malformed(error) => return error.into(),
            FrameError::Incomplete { bytes } => {
                (io::ErrorKind::UnexpectedEof, FrameError::<io::Error>::Incomplete { bytes })
            }
            FrameError::TimedOut { bytes } => {
                (io::ErrorKind::TimedOut, FrameError::<io::Error>::TimedOut { bytes })
            }
        };
        io::Error::new(kind, error)
    }
}

/// Iterates over the frames in a slice: a datagram, a file, or a frame that contains frames.
///
/// Ends after the last frame or the first error. Trailing bytes of an incomplete frame are an
/// error.
///
/// # Examples
/// Lines within length-prefixed frames:
/// ```
/// use reveille::codec::{Frames, LengthCodec, LengthPrefix, LineCodec};
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
    /// Empty once the iterator has ended.
    remaining: &'a [u8],
}

impl<'a, D: Decoder> Frames<'a, D> {
    /// Decodes `input` with `decoder`, which must be at the start of a frame.
    pub fn new(decoder: D, input: &'a [u8]) -> Frames<'a, D> {
        Frames { decoder, remaining: input }
    }
}

impl<'a, D: Decoder> Iterator for Frames<'a, D> {
    type Item = Result<D::Frame<'a>, FrameError<D::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.remaining.is_empty() {
            return None;
        }
        let input = std::mem::take(&mut self.remaining);
        Some(match decode_checked(&mut self.decoder, input) {
            Ok(Some((frame, taken))) => {
                self.remaining = &input[taken..];
                Ok(frame)
            }
            Ok(None) => Err(FrameError::Incomplete { bytes: input.len() }),
            Err(error) => Err(FrameError::Malformed(error)),
        })
    }
}

/// Calls a decoder and checks the returned length: a length of zero would repeat forever.
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
