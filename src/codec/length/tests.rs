use super::*;
use crate::codec::tests::PREFIXES;
use crate::codec::{FrameError, Frames};

/// A codec whose prefix counts itself if `counts` is true.
fn codec_of(prefix: LengthPrefix, limit: usize, counts: bool) -> LengthCodec {
    let codec = LengthCodec::new(prefix, limit);
    if counts { codec.counts_prefix() } else { codec }
}

#[test]
fn prefixes_are_encoded_as_their_names_state() {
    let encoded = |prefix, counts| {
        let mut output = Buffer::new();
        codec_of(prefix, 1000, counts).encode(&[b'-'; 200], &mut output).unwrap();
        output.readable()[..output.len() - 200].to_vec()
    };
    assert_eq!(encoded(LengthPrefix::U8, false), [200]);
    assert_eq!(encoded(LengthPrefix::U8, true), [201]);
    assert_eq!(encoded(LengthPrefix::U16Be, true), [0, 202]);
    assert_eq!(encoded(LengthPrefix::U16Le, true), [202, 0]);
    assert_eq!(encoded(LengthPrefix::U24Be, false), [0, 0, 200]);
    assert_eq!(encoded(LengthPrefix::U24Le, false), [200, 0, 0]);
    assert_eq!(encoded(LengthPrefix::U32Be, true), [0, 0, 0, 204]);
    assert_eq!(encoded(LengthPrefix::U32Le, false), [200, 0, 0, 0]);
    assert_eq!(encoded(LengthPrefix::U64Be, false), [0, 0, 0, 0, 0, 0, 0, 200]);
    assert_eq!(encoded(LengthPrefix::U64Le, true), [208, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(encoded(LengthPrefix::Varint, false), [0xC8, 1]);
    assert_eq!(encoded(LengthPrefix::Varint, true), [0xCA, 1]);
}

#[test]
fn a_frame_has_at_most_limit_bytes() {
    for prefix in PREFIXES {
        for counts in [false, true] {
            let codec = codec_of(prefix, 100, counts);
            let mut output = Buffer::new();
            codec.encode(&[1; 100], &mut output).unwrap();
            let found: Vec<_> = Frames::new(codec, output.readable()).collect();
            assert_eq!(found, [Ok(&[1; 100][..])], "{prefix:?}");

            let too_long = LengthError::TooLong { length: 101, limit: 100 };
            assert_eq!(codec.encode(&[1; 101], &mut output), Err(too_long));
            let mut longer = Buffer::new();
            codec_of(prefix, 101, counts).encode(&[1; 101], &mut longer).unwrap();
            // The length is rejected before any byte of the frame has arrived.
            let header = &longer.readable()[..longer.len() - 101];
            assert_eq!(codec.clone().decode(header), Err(too_long), "{prefix:?}");
        }
    }
}

#[test]
fn the_largest_lengths_are_rejected_as_too_long() {
    for prefix in PREFIXES {
        let input = match prefix {
            LengthPrefix::Varint => &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1][..],
            _ => &[255; 10],
        };
        for counts in [false, true] {
            let mut codec = codec_of(prefix, 100, counts);
            let error = codec.decode(input).unwrap_err();
            assert!(matches!(error, LengthError::TooLong { limit: 100, .. }), "{prefix:?}: {error:?}");
            // Without a limit the decoder waits for the frame.
            let mut unlimited = codec_of(prefix, usize::MAX, counts);
            assert_eq!(unlimited.decode(input), Ok(None), "{prefix:?}");
        }
    }
}

#[test]
fn a_length_less_than_its_counted_prefix_is_rejected() {
    let codec = LengthCodec::new(LengthPrefix::U32Be, 100).counts_prefix();
    let found: Vec<_> = Frames::new(codec, b"\0\0\0\x05a\0\0\0\x04\0\0\0\x03").collect();
    let too_short = FrameError::Malformed(LengthError::TooShort { number: 3 });
    assert_eq!(found, [Ok(&b"a"[..]), Ok(&b""[..]), Err(too_short)]);
}

#[test]
fn a_length_that_does_not_fit_its_prefix_is_rejected() {
    let assert_rejected = |prefix, counts, len: usize| {
        let mut output = Buffer::from(b"before".to_vec());
        let codec = codec_of(prefix, usize::MAX, counts);
        let not_expressible = Err(LengthError::NotExpressible { length: len as u64 });
        assert_eq!(codec.encode(&vec![0; len], &mut output), not_expressible);
        assert_eq!(output.readable(), b"before");
        assert_eq!(codec.encode(&vec![0; len - 1], &mut output), Ok(()));
    };
    assert_rejected(LengthPrefix::U8, false, 256);
    assert_rejected(LengthPrefix::U8, true, 255);
    assert_rejected(LengthPrefix::U16Be, false, 65_536);
    assert_rejected(LengthPrefix::U16Le, true, 65_534);
}

#[test]
fn varints_round_trip_over_their_whole_range() {
    let numbers = (0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1u64 << bit) + 1]).chain([u64::MAX]);
    for number in numbers {
        let encoded = LengthPrefix::Varint.encode(number).unwrap();
        let len = encoded.bytes().len();
        assert_eq!(len, (64 - number.leading_zeros() as usize).div_ceil(7).max(1), "{number}");
        assert_eq!(LengthPrefix::Varint.decode(encoded.bytes()), Ok(Some((number, len))));
        assert_eq!(LengthPrefix::Varint.decode(&encoded.bytes()[..len - 1]), Ok(None));
    }
}

#[test]
fn overlong_and_too_large_varints_are_rejected() {
    let decode = |bytes: &[u8]| LengthPrefix::Varint.decode(bytes);
    let bad = Err(LengthError::BadVarint);
    assert_eq!(decode(&[0x80, 0]), bad);
    assert_eq!(decode(&[0xFF, 0x80, 0]), bad);
    assert_eq!(decode(&[0]), Ok(Some((0, 1))));
    assert_eq!(decode(&[0xFF; 9]), Ok(None));
    let tenth = |last| decode(&[255, 255, 255, 255, 255, 255, 255, 255, 255, last]);
    assert_eq!(tenth(1), Ok(Some((u64::MAX, 10))));
    assert_eq!(tenth(2), bad);
    assert_eq!(tenth(0x81), bad);
    assert_eq!(tenth(0), bad);
}

/// Tests lengths near those at which the varint takes one byte more, since this byte is part of the
/// encoded length.
#[test]
fn a_varint_that_counts_itself_round_trips() {
    let codec = LengthCodec::new(LengthPrefix::Varint, usize::MAX).counts_prefix();
    for len in (0..300).chain(16_370..16_400) {
        let frame = vec![7; len];
        let mut output = Buffer::new();
        codec.encode(&frame, &mut output).unwrap();
        let found: Vec<_> = Frames::new(codec, output.readable()).collect();
        assert_eq!(found, [Ok(&frame[..])]);
    }
}

#[test]
fn enclose_encodes_in_place() {
    for prefix in PREFIXES {
        let codec = LengthCodec::new(prefix, 100);
        let (mut encoded, mut enclosed) = (Buffer::new(), Buffer::from(b"some bytes".to_vec()));
        codec.encode(b"some bytes", &mut encoded).unwrap();
        codec.enclose(&mut enclosed).unwrap();
        assert_eq!(enclosed.readable(), encoded.readable());
    }
    let mut enclosed = Buffer::from(vec![0; 101]);
    assert!(LengthCodec::new(LengthPrefix::U8, 100).enclose(&mut enclosed).is_err());
    assert_eq!(enclosed.len(), 101);
}
