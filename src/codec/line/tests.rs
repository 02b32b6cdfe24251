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
fn an_ending_is_lf_or_crlf_and_takes_one_cr_at_most() {
    for ending in [LineEnding::LfOrCrlf, LineEnding::CrlfOrLf] {
        let codec = LineCodec::new(10).ending(ending);
        let found = lines(&codec, b"a\nb\r\n\n\r\nc\r\r\nd\re\n");
        let expected = ["a", "b", "", "", "c\\r", "d\\re"].map(line);
        assert_eq!(found, expected);
    }
}

#[test]
fn a_strict_line_ends_with_crlf_and_has_neither_in_it() {
    let codec = LineCodec::new(10).ending(LineEnding::Crlf);
    assert_eq!(lines(&codec, b"a\r\n\r\n"), [line("a"), line("")]);
    let lone = || Err(FrameError::Malformed(LineError::LoneCrOrLf));
    assert_eq!(lines(&codec, b"a\r\nb\nc\r\n"), [line("a"), lone()]);
    assert_eq!(lines(&codec, b"\n"), [lone()]);
    assert_eq!(lines(&codec, b"a\rb\r\n"), [lone()]);
    assert_eq!(lines(&codec, b"a\r\r\n"), [lone()]);
}

#[test]
fn a_byte_may_end_lines_and_others_are_theirs() {
    let codec = LineCodec::new(10).ending(LineEnding::Byte(b';'));
    assert_eq!(lines(&codec, b"a\r\n;;b;"), [line("a\\r\\n"), line(""), line("b")]);
    let codec = LineCodec::new(10).ending(LineEnding::Byte(b'\n'));
    assert_eq!(lines(&codec, b"a\r\n"), [line("a\\r")]);
}

#[test]
fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
    for ending in ENDINGS {
        let codec = LineCodec::new(4).ending(ending);
        let mut output = Buffer::new();
        codec.encode(b"four", &mut output).unwrap();
        assert_eq!(lines(&codec, output.readable()), [line("four")], "{ending:?}");
        let too_long = LineError::TooLong { limit: 4 };
        assert_eq!(codec.encode(b"fiver", &mut output), Err(too_long));
        // Whether its ending is there or not.
        let mut input = b"fiver".to_vec();
        assert_eq!(lines(&codec, &input), [Err(FrameError::Malformed(too_long))], "{ending:?}");
        input.extend(&output.readable()[4..]);
        assert_eq!(lines(&codec, &input), [Err(FrameError::Malformed(too_long))], "{ending:?}");
    }
}

#[test]
fn a_cr_behind_a_line_of_the_limit_may_yet_be_a_part_of_its_ending() {
    for ending in [LineEnding::LfOrCrlf, LineEnding::Crlf] {
        let mut codec = LineCodec::new(4).ending(ending);
        assert_eq!(codec.decode(b"four\r"), Ok(None));
        assert_eq!(codec.decode(b"four\r\n"), Ok(Some((&b"four"[..], 6))));
        assert_eq!(codec.decode(b"four\r"), Ok(None));
        assert_eq!(codec.decode(b"four\r\r"), Err(LineError::TooLong { limit: 4 }));
    }
}

#[test]
fn limits_of_nothing_and_of_everything_are_limits() {
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
fn bytes_that_come_one_at_a_time_are_searched_once_each() {
    const LEN: usize = 20_000;
    let mut input = vec![b'-'; LEN];
    let mut codec = LineCodec::new(LEN);
    for len in 1..=LEN {
        assert_eq!(codec.decode(&input[..len]), Ok(None));
    }
    // What has been searched is not looked at again, or this would be found.
    input[LEN / 2] = b'\n';
    assert_eq!(codec.decode(&input), Ok(None));
}

#[test]
fn a_line_that_would_not_be_read_as_itself_is_not_written() {
    let refused = |ending, text: &[u8]| {
        let mut output = Buffer::from(b"before".to_vec());
        let result = LineCodec::new(10).ending(ending).encode(text, &mut output);
        assert_eq!(result, Err(LineError::HoldsEnding), "{ending:?} {text:?}");
        assert_eq!(output.readable(), b"before");
    };
    for ending in [LineEnding::LfOrCrlf, LineEnding::CrlfOrLf, LineEnding::Crlf] {
        refused(ending, b"a\nb");
        refused(ending, b"\n");
        refused(ending, b"a\r\n");
    }
    refused(LineEnding::LfOrCrlf, b"a\r");
    refused(LineEnding::Crlf, b"a\rb");
    refused(LineEnding::Byte(b';'), b"a;b");
}
