use super::*;
use crate::buffer::Buffer;
use crate::random::Random;

pub(super) const PREFIXES: [LengthPrefix; 10] = [
    LengthPrefix::U8,
    LengthPrefix::U16Be,
    LengthPrefix::U16Le,
    LengthPrefix::U24Be,
    LengthPrefix::U24Le,
    LengthPrefix::U32Be,
    LengthPrefix::U32Le,
    LengthPrefix::U64Be,
    LengthPrefix::U64Le,
    LengthPrefix::Varint,
];

pub(super) const ENDINGS: [LineEnding; 5] = [
    LineEnding::LfOrCrlf,
    LineEnding::CrlfOrLf,
    LineEnding::Crlf,
    LineEnding::Byte(b'\n'),
    LineEnding::Byte(0),
];

// --- Decoders that are wrong
// ----------------------------------------------------------------------

/// A decoder that returns a frame of this length for any input.
struct ReturnsLength(usize);

impl Decoder for ReturnsLength {
    type Frame<'a> = ();
    type Error = io::Error;

    fn decode(&mut self, _: &[u8]) -> io::Result<Option<((), usize)>> {
        Ok(Some(((), self.0)))
    }
}

#[test]
#[should_panic(expected = "a decoder took 0 bytes of 3 for a frame")]
fn a_decoded_length_of_zero_panics() {
    Frames::new(ReturnsLength(0), b"abc").for_each(drop);
}

#[test]
#[should_panic(expected = "a decoder took 4 bytes of 3 for a frame")]
fn a_decoded_length_beyond_the_input_panics() {
    Frames::new(ReturnsLength(4), b"abc").for_each(drop);
}

// --- At random
// ------------------------------------------------------------------------------------

type DecodedFrames<E> = Vec<Result<Vec<u8>, FrameError<E>>>;

/// Decodes a stream that arrives in pieces, like a connection does.
fn in_pieces<D>(mut decoder: D, pieces: &[&[u8]]) -> DecodedFrames<D::Error>
where
    D: for<'a> Decoder<Frame<'a> = &'a [u8]>,
{
    let mut input = Buffer::new();
    let mut found = Vec::new();
    for piece in pieces {
        input.append(piece);
        while !input.is_empty() {
            match decode_checked(&mut decoder, input.readable()) {
                Ok(Some((frame, taken))) => {
                    found.push(Ok(frame.to_vec()));
                    input.consume(taken);
                }
                Ok(None) => break,
                Err(error) => {
                    found.push(Err(FrameError::Malformed(error)));
                    return found;
                }
            }
        }
        // The limit bounds the buffered bytes of an incomplete frame.
        assert!(input.len() <= LIMIT + 10, "{} bytes are buffered", input.len());
    }
    if !input.is_empty() {
        found.push(Err(FrameError::Incomplete { bytes: input.len() }));
    }
    found
}

const LIMIT: usize = 300;

/// Checks that the split makes no difference and that no frame exceeds the limit. Returns the
/// frames.
fn check<D>(decoder: D, input: &[u8], rng: &mut Random) -> DecodedFrames<D::Error>
where
    D: for<'a> Decoder<Frame<'a> = &'a [u8]> + Clone,
    D::Error: fmt::Debug + PartialEq,
{
    let whole: DecodedFrames<D::Error> =
        Frames::new(decoder.clone(), input).map(|frame| frame.map(<[u8]>::to_vec)).collect();
    let mut pieces = Vec::new();
    let (mut rest, longest) = (input, [1, 3, 40, 1000][rng.below(4)]);
    while !rest.is_empty() {
        let (piece, others) = rest.split_at((1 + rng.below(longest)).min(rest.len()));
        pieces.push(piece);
        rest = others;
    }
    assert_eq!(in_pieces(decoder, &pieces), whole);
    assert!(whole.iter().flatten().all(|frame| frame.len() <= LIMIT));
    whole
}

fn random_length_codec(rng: &mut Random) -> LengthCodec {
    let codec = LengthCodec::new(PREFIXES[rng.below(PREFIXES.len())], LIMIT);
    if rng.below(2) == 0 { codec.counts_prefix() } else { codec }
}

fn random_line_codec(rng: &mut Random) -> LineCodec {
    LineCodec::new(LIMIT).ending(ENDINGS[rng.below(ENDINGS.len())])
}

/// Bytes that are often significant to one of the codecs.
fn random_bytes(rng: &mut Random, len: usize) -> Vec<u8> {
    let kind = rng.below(4);
    let byte = |rng: &mut Random| match rng.below(if kind == 0 { 4 } else { 40 * kind }) {
        0 => b'\n',
        1 => b'\r',
        2 => 0,
        3 => 0x80,
        _ => rng.below(256) as u8,
    };
    (0..len).map(|_| byte(rng)).collect()
}

fn random_len(rng: &mut Random) -> usize {
    match rng.below(8) {
        0 => LIMIT - 2 + rng.below(5),
        1 => rng.below(LIMIT),
        _ => rng.below(12),
    }
}

#[test]
fn random_frames_survive_any_split_of_the_stream() {
    for seed in 1..=6_000 {
        let mut rng = Random::new(seed);
        let mut output = Buffer::new();
        let mut frames = Vec::new();
        let (length, line) = (random_length_codec(&mut rng), random_line_codec(&mut rng));
        let is_length = rng.below(2) == 0;
        for _ in 0..rng.below(12) {
            let len = random_len(&mut rng);
            let frame = random_bytes(&mut rng, len);
            let before = output.len();
            let encoded = if is_length {
                length.encode(&frame, &mut output).is_ok()
            } else {
                line.encode(&frame, &mut output).is_ok()
            };
            if encoded {
                frames.push(frame);
            } else {
                assert_eq!(output.len(), before);
            }
        }
        if is_length {
            let found = check(length, output.readable(), &mut rng);
            assert_eq!(found, frames.into_iter().map(Ok).collect::<Vec<_>>());
        } else {
            let found = check(line, output.readable(), &mut rng);
            assert_eq!(found, frames.into_iter().map(Ok).collect::<Vec<_>>());
        }
    }
}

#[test]
fn arbitrary_bytes_decode_the_same_for_any_split() {
    let mut valid = 0;
    for seed in 1..=12_000 {
        let mut rng = Random::new(seed);
        let len = random_len(&mut rng) * (1 + rng.below(3));
        let input = random_bytes(&mut rng, len);
        let length = random_length_codec(&mut rng);
        valid += usize::from(check(length, &input, &mut rng).iter().any(Result::is_ok));
        let line = random_line_codec(&mut rng);
        valid += usize::from(check(line, &input, &mut rng).iter().any(Result::is_ok));
    }
    // Input without any valid frame would test little.
    assert!(valid > 4_000, "only {valid} of the inputs contain a frame");
}
