//! The decoders of commands and of replies.

use super::protocol::{Arguments, Commands, ProtocolError};
use super::replies::{MAX_REPLY, Replies, encode};
use reveille::codec::Decoder;

/// Decodes the only frame of `input`, byte by byte. Before each further byte, the bytes that the
/// decoder must have passed are overwritten.
fn decodes_each_part_once<D: Decoder>(mut decoder: D, input: &[u8], parts: &[usize]) {
    let mut input = input.to_vec();
    let mut passed = 0;
    for end in 1..input.len() {
        assert!(decoder.decode(&input[..end]).is_ok_and(|frame| frame.is_none()), "{end} bytes are a frame");
        if parts.contains(&end) {
            input[passed..end].fill(b'x');
            passed = end;
        }
    }
    let taken = decoder.decode(&input).ok().flatten().expect("a frame").1;
    assert_eq!(taken, input.len());
}

#[test]
fn complete_parts_of_a_frame_are_not_decoded_again() {
    // After the first line, and after each argument or value.
    decodes_each_part_once(decoder(), b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nvv\r\n", &[4, 13, 20]);
    // The next frame is decoded from its beginning.
    let mut decoder = Commands::new(1000);
    let input = b"*1\r\n$4\r\nPING\r\n*1\r\n";
    (1..14).for_each(|end| assert!(decoder.decode(&input[..end]).is_ok_and(|frame| frame.is_none())));
    assert_eq!(decoder.decode(input).unwrap().expect("a frame").1, 14);
    assert_eq!(decoder.decode(b"A\n").unwrap().expect("a frame").1, 2);
    decodes_each_part_once(Replies::default(), b"*2\r\n*1\r\n+OK\r\n$2\r\nhi\r\n", &[4, 8, 13]);
}

/// A decoder with a limit that no test reaches.
fn decoder() -> Commands {
    Commands::new(1 << 30)
}

/// The arguments of the only command in `input`.
fn decoded(input: &[u8]) -> Result<Vec<String>, ProtocolError> {
    let (arguments, taken) = decoder().decode(input)?.expect("a frame");
    assert_eq!(taken, input.len());
    let text = |argument: &&[u8]| String::from_utf8_lossy(argument).into_owned();
    Ok(arguments.with(|arguments| arguments.iter().map(text).collect()))
}

#[test]
fn commands_are_decoded_whatever_their_number_of_arguments() {
    for count in [0, 1, 5, 6, 7, 1000] {
        let words: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        assert_eq!(decoded(&encode(&words)), Ok(words.clone()));
        assert_eq!(decoded(format!("{}\r\n", words.join(" ")).as_bytes()), Ok(words));
    }
    let lengths: Vec<String> = [0, 9, 10, 99, 100, 1000].map(|length| "x".repeat(length)).to_vec();
    assert_eq!(decoded(&encode(&lengths)), Ok(lengths));
    assert_eq!(decoded(b"*-1\r\n"), Ok(vec![]));
    let (arguments, _) = decoder().decode(b"PING\r\n").unwrap().expect("a frame");
    assert!(matches!(arguments, Arguments::Few(_, 1)));
}

#[test]
fn words_of_an_inline_command_may_be_quoted() {
    for (line, words) in [
        (r#"a "b c" 'd e'"#, vec!["a", "b c", "d e"]),
        (r#""\x41\x4g" "\"\\" '\'' '\n'"#, vec!["Ax4g", "\"\\", "'", "\\n"]),
        (r#""\n\r\t\b\a\q" """#, vec!["\n\r\t\x08\x07q", ""]),
        (r#"a"b c" d"#, vec!["ab c", "d"]),
    ] {
        assert_eq!(
            decoded(format!("{line}\r\n").as_bytes()),
            Ok(words.iter().map(|w| w.to_string()).collect())
        );
    }
    for line in [r#"""#, r#"a 'b"#, r#""a"b"#, r#"'a'"b""#, r#""\"#] {
        assert_eq!(decoded(format!("{line}\r\n").as_bytes()), Err(ProtocolError::Quotes), "{line}");
    }
}

#[test]
fn commands_that_are_too_long_are_refused_before_they_are_complete() {
    let refuses = |input: &[u8]| Commands::new(1000).decode(input).is_err();
    assert!(refuses(b"*1048577\r\n") && !refuses(b"*1048576\r\n"));
    let limit = 1000 - b"*1\r\n$980\r\n\r\n".len();
    assert!(!refuses(format!("*1\r\n${limit}\r\n").as_bytes()));
    assert!(refuses(format!("*1\r\n${}\r\n", limit + 1).as_bytes()));
    // The limit applies to all arguments together.
    let input = [format!("*2\r\n$900\r\n{}\r\n", "x".repeat(900)), "$90\r\n".to_owned()];
    assert!(refuses(input.concat().as_bytes()));
    let line = |length: usize| decoder().decode(&vec![b'x'; length]).map(|frame| frame.is_some());
    assert_eq!((line(65_536), line(65_537)), (Ok(false), Err(ProtocolError::InlineLine)));
    let bulk = |length: i64| decoder().decode(format!("*1\r\n${length}\r\n").as_bytes()).is_ok();
    assert!(bulk(536_870_912) && !bulk(536_870_913) && !bulk(-1));
}

#[test]
fn replies_that_are_too_long_or_deep_are_bounded() {
    let decode = |input: &[u8]| Replies::default().decode(input).map(|reply| reply.is_some());
    // Arrays of arrays: the decoder is not recursive.
    let deep = [b"*1\r\n".repeat(1_000_000), b":1\r\n".to_vec()].concat();
    assert_eq!(decode(&deep), Ok(true));
    assert!(decode(format!("*{MAX_REPLY}\r\n").as_bytes()).is_err());
    assert!(decode(&b"*1000000\r\n".repeat(100)).is_err());
    assert!(decode(b"$99999999\r\n").is_err() && decode(b"$-2\r\n").is_err() && decode(b"\r\n").is_err());
    assert!(decode(&[b'+'; 2000]).is_err());
    let mut replies = Replies::default();
    let (error, taken) = replies.decode(b"-ERR\r\n$-1\r\n").unwrap().expect("a frame");
    assert!(error.is_error() && taken == 6);
}
