//! Framing: a thousand frames are found in a slice.

use std::hint::black_box;

use reveille::Buffer;
use reveille::codec::{Decoder, Frames, LengthCodec, LengthPrefix, LineCodec};

use crate::workload::{OPERATIONS, Round};

const LIMIT: usize = 1000;
const FRAME: [u8; 64] = [b'f'; 64];

pub(crate) fn lines() -> Round {
    let codec = LineCodec::new(LIMIT);
    decode(codec.clone(), |input| codec.encode(&FRAME, input).expect("a short line"))
}

pub(crate) fn length_prefixed() -> Round {
    let codec = LengthCodec::new(LengthPrefix::U32Be, LIMIT);
    decode(codec, |input| codec.encode(&FRAME, input).expect("a short frame"))
}

fn decode<D>(decoder: D, encode: impl Fn(&mut Buffer)) -> Round
where
    D: Decoder + Clone + 'static,
{
    let mut input = Buffer::new();
    for _ in 0..OPERATIONS {
        encode(&mut input);
    }
    Box::new(move || {
        let frames = Frames::new(decoder.clone(), black_box(input.readable()));
        assert_eq!(frames.map(black_box).filter(Result::is_ok).count(), OPERATIONS);
    })
}
