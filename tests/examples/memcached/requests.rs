//! The decoder of both protocols, and the execution of requests, without I/O.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use reveille::codec::Decoder;

use super::clock::Clock;
use super::commands::{After, Commands, Output};
use super::numbers::{signed, unsigned};
use super::protocol::{Protocol, ProtocolError, Request};
use super::table::Table;
use crate::support::random::Random;

const MAX_VALUE: usize = 1000;

const NOW: u32 = 10;

struct Bytes(Vec<u8>);

impl Output for Bytes {
    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    fn share(&mut self, bytes: &Arc<[u8]>, range: Range<usize>) {
        self.0.extend_from_slice(&bytes[range]);
    }
}

fn commands(max_value: usize) -> Commands {
    Commands {
        table: Table::new(1 << 24, max_value),
        clock: Clock::new(Instant::now(), Duration::from_secs(1_000_000_002)),
        threads: 1,
        server: OnceLock::new(),
    }
}

/// The replies to input that arrives in pieces of these lengths, and its remaining bytes.
fn replies(max_value: usize, input: &[u8], mut next_piece: impl FnMut() -> usize) -> (Vec<u8>, usize) {
    let (commands, mut protocol) = (commands(max_value), Protocol::new(max_value));
    let (mut buffer, mut output, mut arrived) = (Vec::new(), Bytes(Vec::new()), 0);
    while arrived < input.len() {
        let end = (arrived + next_piece().max(1)).min(input.len());
        buffer.extend_from_slice(&input[arrived..end]);
        arrived = end;
        while !buffer.is_empty() {
            let Some((request, taken)) = protocol.decode(&buffer).expect("requests") else { break };
            assert!(taken > 0 && taken <= buffer.len());
            if commands.execute(NOW, &request, &mut output) == After::Close {
                return (output.0, buffer.len() - taken);
            }
            buffer.drain(..taken);
        }
        assert!(buffer.len() <= Protocol::max_unread(max_value));
    }
    (output.0, buffer.len())
}

#[track_caller]
fn assert_replies(input: &[u8], expected: &[u8]) {
    let whole = replies(MAX_VALUE, input, || input.len());
    assert_eq!(String::from_utf8_lossy(&whole.0), String::from_utf8_lossy(expected));
    assert_eq!(replies(MAX_VALUE, input, || 1), whole, "byte by byte");
    let mut random = Random::new(input.len() as u64);
    for _ in 0..20 {
        assert_eq!(replies(MAX_VALUE, input, || random.below(20)), whole, "in pieces");
    }
}

#[test]
fn text_commands_get_the_replies_of_memcached() {
    let long_key = "k".repeat(251);
    let exchanges = [
        ("set a 7 0 3\r\nabc\r\n", "STORED\r\n"),
        ("get a\r\n", "VALUE a 7 3\r\nabc\r\nEND\r\n"),
        ("gets a b a \r\n", "VALUE a 7 3 1\r\nabc\r\nVALUE a 7 3 1\r\nabc\r\nEND\r\n"),
        ("add a 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
        ("replace b 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
        ("append a 9 9 1\r\nd\r\n", "STORED\r\n"),
        ("prepend a 9 9 2\r\n\r\n\r\n", "STORED\r\n"),
        ("get a\n", "VALUE a 7 6\r\n\r\nabcd\r\nEND\r\n"),
        ("cas a 0 0 1 1\r\nx\r\n", "EXISTS\r\n"),
        ("cas a 0 0 1 3\r\nx\r\n", "STORED\r\n"),
        ("cas b 0 0 1 3\r\nx\r\n", "NOT_FOUND\r\n"),
        ("set n 0 0 2\r\n10\r\n", "STORED\r\n"),
        ("decr n 1\r\n", "9\r\n"),
        ("get n\r\n", "VALUE n 0 2\r\n9 \r\nEND\r\n"),
        ("incr n 18446744073709551615\r\n", "8\r\n"),
        ("incr n x\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
        ("incr a 1\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
        ("decr none 1\r\n", "NOT_FOUND\r\n"),
        ("touch a 100\r\n", "TOUCHED\r\n"),
        ("touch none 100\r\n", "NOT_FOUND\r\n"),
        ("touch a x\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
        ("gat 0 a none\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n"),
        ("gat 0\r\n", "END\r\n"),
        ("set e 0 -1 1\r\nx\r\nget e\r\n", "STORED\r\nEND\r\n"),
        ("delete a\r\n", "DELETED\r\n"),
        ("delete a\r\n", "NOT_FOUND\r\n"),
        ("delete a 5\r\n", "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n"),
        ("set a 0 0 1 noreply\r\nx\r\nset a 0 0 x noreply\r\n", ""),
        ("set a 0 0 1\r\nxyz\r\n", "CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
        ("set a 0 0 -1\r\n", "CLIENT_ERROR bad command line format\r\n"),
        ("verbosity 1\r\nflush_all noreply\r\nget n\r\n", "OK\r\nEND\r\n"),
        ("flush_all x\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
        ("\r\nget\r\nGET a\r\nset a\r\n", "ERROR\r\nERROR\r\nERROR\r\nERROR\r\n"),
        ("stats reset\r\nstats none\r\nstats sizes\r\n", "RESET\r\nERROR\r\nEND\r\n"),
    ];
    let (mut input, mut expected) = (String::new(), String::new());
    for (command, reply) in exchanges {
        input += command;
        expected += reply;
    }
    input += &format!("get {long_key}\r\nset {long_key} 0 0 1\r\n");
    expected += &"CLIENT_ERROR bad command line format\r\n".repeat(2);
    assert_replies(input.as_bytes(), expected.as_bytes());
}

/// A binary request without extras, or its response with `status` in the place of the magic.
fn packet(opcode: u8, extras: &[u8], key: &[u8], value: &[u8], cas: u64) -> Vec<u8> {
    let body = (extras.len() + key.len() + value.len()) as u32;
    let mut packet = vec![0x80, opcode, 0, key.len() as u8, extras.len() as u8, 0, 0, 0];
    packet.extend(body.to_be_bytes());
    packet.extend([1, 2, 3, 4]);
    packet.extend(cas.to_be_bytes());
    [packet, extras.to_vec(), key.to_vec(), value.to_vec()].concat()
}

fn response(opcode: u8, status: u8, extras: &[u8], key: &[u8], value: &[u8], cas: u64) -> Vec<u8> {
    let mut response = packet(opcode, extras, key, value, cas);
    (response[0], response[7]) = (0x81, status);
    response
}

#[test]
fn binary_requests_get_the_responses_of_memcached() {
    let flags = [0, 0, 0, 7];
    let storing = [0, 0, 0, 7, 0, 0, 0, 0];
    let counting = [[0, 0, 0, 0, 0, 0, 0, 1, 0, 0].as_slice(), &[0, 0, 0, 0, 0, 5, 0, 0, 0, 0]].concat();
    let exchanges = [
        (packet(0x01, &storing, b"a", b"abc", 0), response(0x01, 0, b"", b"", b"", 1)),
        (packet(0x11, &storing, b"q", b"abc", 0), vec![]),
        (packet(0x00, b"", b"a", b"", 0), response(0x00, 0, &flags, b"", b"abc", 1)),
        (packet(0x0c, b"", b"a", b"", 0), response(0x0c, 0, &flags, b"a", b"abc", 1)),
        (packet(0x09, b"", b"none", b"", 0), vec![]),
        (packet(0x00, b"", b"none", b"", 0), response(0x00, 1, b"", b"", b"Not found", 0)),
        (packet(0x0c, b"", b"none", b"", 0), response(0x0c, 1, b"", b"none", b"", 0)),
        (packet(0x02, &storing, b"a", b"x", 0), response(0x02, 2, b"", b"", b"Data exists for key.", 0)),
        (packet(0x12, &storing, b"a", b"x", 0), response(0x12, 2, b"", b"", b"Data exists for key.", 0)),
        (packet(0x03, &storing, b"none", b"x", 0), response(0x03, 1, b"", b"", b"Not found", 0)),
        (packet(0x01, &storing, b"a", b"x", 9), response(0x01, 2, b"", b"", b"Data exists for key.", 0)),
        (packet(0x0e, b"", b"a", b"d", 1), response(0x0e, 0, b"", b"", b"", 3)),
        (packet(0x0e, b"", b"none", b"d", 0), response(0x0e, 5, b"", b"", b"Not stored.", 0)),
        (packet(0x05, &counting, b"n", b"", 0), response(0x05, 0, b"", b"", &[0, 0, 0, 0, 0, 0, 0, 5], 4)),
        (packet(0x15, &counting, b"n", b"", 0), vec![]),
        (packet(0x00, b"", b"n", b"", 0), response(0x00, 0, &[0; 4], b"", b"6", 5)),
        (packet(0x1c, &[0; 4], b"a", b"", 0), response(0x1c, 0, &flags, b"", b"", 3)),
        (packet(0x1d, &[0; 4], b"a", b"", 0), response(0x1d, 0, &flags, b"", b"abcd", 3)),
        (packet(0x23, &[0; 4], b"a", b"", 0), response(0x23, 0, &flags, b"a", b"abcd", 3)),
        (packet(0x04, b"", b"a", b"", 1), response(0x04, 2, b"", b"", b"Data exists for key.", 0)),
        (packet(0x14, b"", b"a", b"", 3), vec![]),
        (packet(0x04, b"", b"a", b"", 0), response(0x04, 1, b"", b"", b"Not found", 0)),
        (packet(0x0b, b"", b"", b"", 0), response(0x0b, 0, b"", b"", b"1.6.18", 0)),
        (packet(0x77, b"", b"", b"skipped", 0), response(0x77, 0x81, b"", b"", b"Unknown command", 0)),
        (packet(0x01, &storing, b"q", &[b'x'; 1001], 0), response(0x01, 3, b"", b"", b"Too large.", 0)),
        (packet(0x10, b"", b"reset", b"", 0), response(0x10, 0, b"", b"", b"", 0)),
        (packet(0x18, b"", b"", b"", 0), vec![]),
        (packet(0x00, b"", b"q", b"", 0), response(0x00, 1, b"", b"", b"Not found", 0)),
        (packet(0x0a, b"", b"", b"", 0), response(0x0a, 0, b"", b"", b"", 0)),
        // Errors of the protocol end the connection.
        (packet(0x00, b"x", b"a", b"", 0), response(0x00, 4, b"", b"", b"Invalid arguments", 0)),
    ];
    let (requests, expected): (Vec<_>, Vec<_>) = exchanges.into_iter().unzip();
    let (requests, expected) = (requests.concat(), expected.concat());
    let whole = replies(MAX_VALUE, &requests, || requests.len()).0;
    let at = whole.iter().zip(&expected).position(|(reply, expected)| reply != expected);
    assert_eq!((at, whole.len()), (None, expected.len()), "the first difference, and the length");
    assert_eq!(replies(MAX_VALUE, &requests, || 1).0, whole, "byte by byte");
}

#[test]
fn a_value_that_is_too_long_is_skipped_and_not_kept() {
    let mut protocol = Protocol::new(10);
    let (request, taken) = protocol.decode(b"set a 0 0 1000000000\r\nxx").unwrap().expect("a request");
    assert!(matches!(request, Request::Text(_)));
    assert_eq!(taken, 22);
    let mut left = 1_000_000_002;
    let piece = [b'x'; 1 << 16];
    while left > 0 {
        let piece = &piece[..piece.len().min(left)];
        assert_eq!(protocol.decode(piece), Ok(Some((Request::Skipped, piece.len()))));
        left -= piece.len();
    }
    assert!(matches!(protocol.decode(b"version\r\n"), Ok(Some((Request::Text(_), 9)))));

    // The item that it was to replace is gone.
    let input = b"set a 0 0 1\r\nx\r\nset a 0 0 1001\r\n";
    let input = [&input[..], &[b'x'; 1001], b"\r\nget a\r\n"].concat();
    assert_replies(&input, b"STORED\r\nSERVER_ERROR object too large for cache\r\nEND\r\n");
}

#[test]
fn lines_without_an_end_are_refused() {
    let decode = |input: &[u8]| Protocol::new(10).decode(input).map(|request| request.is_some());
    assert_eq!(decode(&[b'x'; 2048]), Ok(false));
    assert_eq!(decode(&[b'x'; 2049]), Err(ProtocolError::LineTooLong));
    assert_eq!(decode(&b"gets ".repeat(200_000)), Ok(false));
    assert_eq!(decode(&b"gets ".repeat(220_000)), Err(ProtocolError::LineTooLong));
    assert_eq!(decode(b"GET / HTTP/1.1\r\n"), Err(ProtocolError::Http));
    let mut protocol = Protocol::new(10);
    assert!(protocol.decode(&packet(0x0a, b"", b"", b"", 0)).is_ok());
    assert_eq!(protocol.decode(b"get a\r\n"), Err(ProtocolError::NoMagic));
}

#[test]
fn an_incomplete_value_is_not_searched_again() {
    let mut protocol = Protocol::new(MAX_VALUE);
    let input = [&b"set a 0 0 500\r\n"[..], &[b'\n'; 500], b"\r\n"].concat();
    assert_eq!(protocol.decode(&input[..20]), Ok(None));
    // Only the length is compared until the value is complete.
    assert_eq!(protocol.decode(&[b'\n'; 516]), Ok(None));
    assert!(matches!(protocol.decode(&input), Ok(Some((_, 517)))));
}

#[test]
fn numbers_are_read_as_by_strtoull() {
    let cases = [
        ("0", Some(0)),
        (" \t12 x", Some(12)),
        ("+7\r\n", Some(7)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("-1", None),
        ("-18446744073709551615", Some(1)),
        ("12x", None),
        ("5\0x", Some(5)),
        ("", None),
        ("-", None),
        ("0x10", None),
    ];
    for (text, number) in cases {
        assert_eq!(unsigned(text.as_bytes()), number, "{text:?}");
    }
    assert_eq!(signed(b"-9223372036854775808"), Some(i64::MIN));
    assert_eq!(signed(b"-9223372036854775809"), None);
    assert_eq!(signed(b"9223372036854775808"), None);
}

#[test]
fn expiry_times_are_relative_up_to_thirty_days() {
    let started = Instant::now();
    let clock = Clock::new(started, Duration::from_secs(2_000_000_000));
    let now = clock.second(started + Duration::from_secs(100));
    assert_eq!(clock.unix(now), 2_000_000_100);
    assert_eq!(clock.expiry(now, 0), 0);
    assert_eq!(clock.expiry(now, 1), now + 1);
    assert_eq!(clock.expiry(now, 2_592_000), now + 2_592_000);
    assert_eq!(clock.expiry(now, 2_000_000_150), now + 50);
    // Times that have passed: one second is earlier than all, and 0 would be none.
    for passed in [2_592_001, -1, i64::from(i32::MIN), 1_999_999_999] {
        assert_eq!(clock.expiry(now, passed), 1, "{passed}");
    }
    assert_eq!(clock.expiry(now, i64::from(u32::MAX)), u32::MAX - 1_999_999_998);
}
