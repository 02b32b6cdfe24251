use super::*;
use crate::codec::tests::ENDINGS;
use crate::codec::{FrameError, Frames};

fn lines(codec: &LineCodec, input: &[u8]) -> Vec<Result<String, FrameError<LineError>>> {
    let frames = Frames::new(codec.clone(), input);
    frames.map(|frame| frame.map(|line| line.escape_ascii().to_string())).collect()
}

fn line(text: &str) -> Result<String, FrameError<LineError>> {
    Ok(text.to_owned())
}

#[test]
fn an_ending_is_lf_or_crlf_with_at_most_one_cr() {
    for ending in [LineEnding::LfOrCrlf, LineEnding::CrlfOrLf] {
        let codec = LineCodec::new(10).ending(ending);
        let found = lines(&codec, b"a\nb\r\n\n\r\nc\r\r\nd\re\n");
        let expected = ["a", "b", "", "", "c\\r", "d\\re"].map(line);
        assert_eq!(found, expected);
    }
}

#[test]
fn a_strict_line_contains_neither_cr_nor_lf() {
    let codec = LineCodec::new(10).ending(LineEnding::Crlf);
    assert_eq!(lines(&codec, b"a\r\n\r\n"), [line("a"), line("")]);
    let lone = || Err(FrameError::Malformed(LineError::LoneCrOrLf));
    assert_eq!(lines(&codec, b"a\r\nb\nc\r\n"), [line("a"), lone()]);
    assert_eq!(lines(&codec, b"\n"), [lone()]);
    assert_eq!(lines(&codec, b"a\rb\r\n"), [lone()]);
    assert_eq!(lines(&codec, b"a\r\r\n"), [lone()]);
}

#[test]
fn a_custom_delimiter_keeps_all_other_bytes() {
    let codec = LineCodec::new(10).ending(LineEnding::Byte(b';'));
    assert_eq!(lines(&codec, b"a\r\n;;b;"), [line("a\\r\\n"), line(""), line("b")]);
    let codec = LineCodec::new(10).ending(LineEnding::Byte(b'\n'));
    assert_eq!(lines(&codec, b"a\r\n"), [line("a\\r")]);
}

#[test]
fn a_line_has_at_most_limit_bytes() {
    for ending in ENDINGS {
        let codec = LineCodec::new(4).ending(ending);
        let mut output = Buffer::new();
        codec.encode(b"four", &mut output).unwrap();
        assert_eq!(lines(&codec, output.readable()), [line("four")], "{ending:?}");
        let too_long = LineError::TooLong { limit: 4 };
        assert_eq!(codec.encode(b"fiver", &mut output), Err(too_long));
        // With and without its ending.
        let mut input = b"fiver".to_vec();
        assert_eq!(lines(&codec, &input), [Err(FrameError::Malformed(too_long))], "{ending:?}");
        input.extend(&output.readable()[4..]);
        assert_eq!(lines(&codec, &input), [Err(FrameError::Malformed(too_long))], "{ending:?}");
    }
}

#[test]
fn a_cr_at_the_limit_may_belong_to_the_ending() {
    for ending in [LineEnding::LfOrCrlf, LineEnding::Crlf] {
        let mut codec = LineCodec::new(4).ending(ending);
        assert_eq!(codec.decode(b"four\r"), Ok(None));
        assert_eq!(codec.decode(b"four\r\n"), Ok(Some((&b"four"[..], 6))));
        assert_eq!(codec.decode(b"four\r"), Ok(None));
        assert_eq!(codec.decode(b"four\r\r"), Err(LineError::TooLong { limit: 4 }));
    }
}

#[test]
fn limits_of_zero_and_usize_max_work() {
    let mut none = LineCodec::new(0);
    assert_eq!(none.decode(b"\n"), Ok(Some((&b""[..], 1))));
    assert_eq!(none.decode(b"a"), Err(LineError::TooLong { limit: 0 }));
    let mut all = LineCodec::new(usize::MAX);
    assert_eq!(all.decode(b"abc"), Ok(None));
    assert_eq!(all.decode(b"abc\n"), Ok(Some((&b"abc"[..], 4))));
}

#[test]
fn a_last_line_without_an_ending_is_incomplete() {
    let codec = LineCodec::new(10);
    assert_eq!(lines(&codec, b"a\nbc"), [line("a"), Err(FrameError::Incomplete { bytes: 2 })]);
    assert_eq!(lines(&codec, b""), []);
}

#[test]
fn bytes_that_arrive_singly_are_searched_once() {
    const LEN: usize = 20_000;
    let mut input = vec![b'-'; LEN];
    let mut codec = LineCodec::new(LEN);
    for len in 1..=LEN {
        assert_eq!(codec.decode(&input[..len]), Ok(None));
    }
    // Searched bytes are not searched again; otherwise this one would be found.
    input[LEN / 2] = b'\n';
    assert_eq!(codec.decode(&input), Ok(None));
}

#[test]
fn a_line_that_would_not_round_trip_is_rejected() {
    let assert_rejected = |ending, text: &[u8]| {
        let mut output = Buffer::from(b"before".to_vec());
        let result = LineCodec::new(10).ending(ending).encode(text, &mut output);
        assert_eq!(result, Err(LineError::HoldsEnding), "{ending:?} {text:?}");
        assert_eq!(output.readable(), b"before");
    };
    for ending in [LineEnding::LfOrCrlf, LineEnding::CrlfOrLf, LineEnding::Crlf] {
        assert_rejected(ending, b"a\nb");
        assert_rejected(ending, b"\n");
        assert_rejected(ending, b"a\r\n");
    }
    assert_rejected(LineEnding::LfOrCrlf, b"a\r");
    assert_rejected(LineEnding::Crlf, b"a\rb");
    assert_rejected(LineEnding::Byte(b';'), b"a;b");
}
