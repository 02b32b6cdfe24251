//! The protocol of the example socks, without I/O.

use std::net::SocketAddr;

use super::protocol::{
    Code, Command, Datagram, Handshake, Host, Refusal, Request, Step, Version, decode_datagram,
    encode_datagram, reply,
};
use crate::support::random::Random;

/// Gives the input to a handshake in pieces that end at `cuts`. Returns the steps, the input that
/// is left, and the refusal.
fn outcome_of(needs_password: bool, input: &[u8], cuts: &[usize]) -> (Vec<Step>, Vec<u8>, Option<Refusal>) {
    let mut handshake = Handshake::new(needs_password);
    let (mut steps, mut buffer, mut from) = (Vec::new(), Vec::new(), 0);
    for &to in cuts.iter().chain([&input.len()]) {
        buffer.extend_from_slice(&input[from..to]);
        from = to;
        while !matches!(steps.last(), Some(Step::Request(_))) {
            match handshake.step(&buffer) {
                Ok(Some((step, length))) => {
                    buffer.drain(..length);
                    steps.push(step);
                }
                Ok(None) => break,
                Err(refusal) => return (steps, buffer, Some(refusal)),
            }
        }
    }
    (steps, buffer, None)
}

fn request(version: Version, command: Command, host: Host, port: u16) -> Step {
    Step::Request(Request { version, command, host, port })
}

fn name(name: &str) -> Host {
    Host::Name(name.to_owned())
}

fn address(ip: &str) -> Host {
    Host::Address(ip.parse().unwrap())
}

/// Valid handshakes, each with its steps.
fn handshakes() -> Vec<(bool, Vec<u8>, Vec<Step>)> {
    let v5 = |rest: &[u8]| [&[5, 1, 0][..], rest].concat();
    let select = Step::Send([5, 0]);
    let connect = |host, port| request(Version::V5, Command::Connect, host, port);
    let of_v4 = |host, port| request(Version::V4, Command::Connect, host, port);
    let v6 = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let login = Step::Credentials { name: b"me".to_vec(), password: b"pass".to_vec() };
    vec![
        (
            false,
            v5(&[5, 1, 0, 1, 10, 1, 2, 3, 0, 80]),
            vec![select.clone(), connect(address("10.1.2.3"), 80)],
        ),
        (
            false,
            v5(&[&[5, 1, 0, 4][..], &v6, &[1, 0]].concat()),
            vec![select.clone(), connect(address("2001:db8::1"), 256)],
        ),
        (false, v5(b"\x05\x01\x00\x03\x03a.b\x00\x50"), vec![select.clone(), connect(name("a.b"), 80)]),
        // A name that is an address is not looked up.
        (false, v5(b"\x05\x01\x00\x03\x03::1\x00\x50"), vec![select.clone(), connect(address("::1"), 80)]),
        (
            false,
            v5(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]),
            vec![select, request(Version::V5, Command::UdpAssociate, address("0.0.0.0"), 0)],
        ),
        (
            true,
            b"\x05\x02\x00\x02\x01\x02me\x04pass\x05\x01\x00\x03\x01x\x00\x07".to_vec(),
            vec![Step::Send([5, 2]), login, connect(name("x"), 7)],
        ),
        (false, b"\x04\x01\x00\x50\x0a\x01\x02\x03user\x00".to_vec(), vec![of_v4(address("10.1.2.3"), 80)]),
        (false, b"\x04\x01\x00\x50\x00\x00\x00\x09\x00a.b\x00".to_vec(), vec![of_v4(name("a.b"), 80)]),
        (false, b"\x04\x01\x00\x50\x00\x00\x00\x00\x00".to_vec(), vec![of_v4(address("0.0.0.0"), 80)]),
    ]
}

#[test]
fn a_handshake_is_the_same_in_any_two_pieces_and_keeps_what_follows() {
    for (needs_password, input, steps) in handshakes() {
        let input = [&input[..], b"data"].concat();
        for cut in 0..=input.len() {
            let expected = (steps.clone(), b"data".to_vec(), None);
            assert_eq!(outcome_of(needs_password, &input, &[cut]), expected, "{input:?} in two at {cut}");
        }
    }
}

#[test]
fn an_incomplete_handshake_waits() {
    for (needs_password, input, steps) in handshakes() {
        let (found, _, refusal) = outcome_of(needs_password, &input[..input.len() - 1], &[]);
        assert_eq!((found.len(), refusal), (steps.len() - 1, None), "{input:?}");
    }
}

#[test]
fn a_refusal_has_the_reply_of_its_protocol() {
    let of_v4 = vec![0, 91, 0, 0, 0, 0, 0, 0];
    let of_v5 = |code| vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0];
    let cases: &[(bool, &[u8], Vec<u8>)] = &[
        (false, b"GET / HTTP/1.1", vec![]),
        (false, &[5, 0], vec![5, 255]),
        (false, &[5, 2, 1, 2], vec![5, 255]),
        (true, &[5, 1, 0], vec![5, 255]),
        (true, &[5, 1, 2, 2], vec![1, 1]),
        (false, &[5, 1, 0, 4, 1, 0, 1], of_v5(1)),
        (false, &[5, 1, 0, 5, 2, 0, 1, 1, 2, 3, 4, 0, 1], of_v5(7)),
        (false, &[5, 1, 0, 5, 1, 0, 2, 1, 2, 3, 4, 0, 1], of_v5(8)),
        (false, &[5, 1, 0, 5, 1, 0, 3, 0, 0, 1], of_v5(1)),
        (false, &[5, 1, 0, 5, 1, 0, 3, 2, b'a', b'\n', 0, 1], of_v5(1)),
        (true, &[4, 1, 0, 80, 1, 2, 3, 4, 0], of_v4.clone()),
        (false, &[4, 2, 0, 80, 1, 2, 3, 4, 0], of_v4.clone()),
        (false, &[4, 1, 0, 80, 0, 0, 0, 1, 0, 0], of_v4.clone()),
    ];
    for (needs_password, input, reply) in cases {
        let (_, _, refusal) = outcome_of(*needs_password, input, &[]);
        assert_eq!(refusal.map(|refusal| refusal.reply).as_ref(), Some(reply), "{input:?}");
    }
    // Texts without a length field are bounded: 255 bytes are accepted.
    let text = |length| [&[4, 1, 0, 80, 1, 2, 3, 4][..], &vec![b'u'; length], &[0]].concat();
    assert_eq!(outcome_of(false, &text(255), &[]).2, None);
    assert_eq!(outcome_of(false, &text(256)[..8 + 256], &[]).2.map(|refusal| refusal.reply), Some(of_v4));
}

#[test]
fn replies_contain_the_bound_address() {
    let v4 = "10.1.2.3:258".parse().ok();
    let v6: Option<SocketAddr> = "[2001:db8::1]:258".parse().ok();
    let mapped: Option<SocketAddr> = "[::ffff:10.1.2.3]:258".parse().ok();
    for bound in [v4, mapped] {
        assert_eq!(reply(Version::V5, Code::Succeeded, bound), [5, 0, 0, 1, 10, 1, 2, 3, 1, 2]);
        assert_eq!(reply(Version::V4, Code::Succeeded, bound), [0, 90, 1, 2, 10, 1, 2, 3]);
    }
    assert_eq!(reply(Version::V5, Code::Succeeded, v6)[..8], [5, 0, 0, 4, 0x20, 0x01, 0x0d, 0xb8]);
    assert_eq!(reply(Version::V4, Code::Succeeded, v6), [0, 90, 1, 2, 0, 0, 0, 0]);
    assert_eq!(reply(Version::V4, Code::NotAllowed, None), [0, 91, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn datagrams_return_what_was_encoded_and_fragments_are_dropped() {
    for from in ["10.1.2.3:53", "[2001:db8::1]:53"] {
        let from: SocketAddr = from.parse().unwrap();
        for payload in [&b""[..], b"payload"] {
            let mut bytes = encode_datagram(from, payload);
            let expected = Datagram { host: Host::Address(from.ip()), port: from.port(), payload };
            assert_eq!(decode_datagram(&bytes), Some(expected));
            bytes[2] = 1;
            assert_eq!(decode_datagram(&bytes), None, "a fragment");
        }
    }
    let by_name = Datagram { host: name("a.b"), port: 53, payload: b"x" };
    assert_eq!(decode_datagram(b"\0\0\0\x03\x03a.b\x00\x35x"), Some(by_name));
    assert_eq!(decode_datagram(b"\0\0\0\x03\x03a.b\x00"), None);
    assert_eq!(decode_datagram(b"\0\0"), None);
}

#[test]
fn random_input_never_advances_beyond_its_end() {
    let mut random = Random::new(18);
    for _ in 0..20_000 {
        let length = random.below(40);
        let mut input: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        let prefix = [&[][..], &[5, 1, 0], &[5, 1, 0, 5], &[4, 1], &[5, 1, 2, 1]][random.below(5)];
        input.splice(..0, prefix.iter().copied());
        let (_, left, _) = outcome_of(random.below(2) == 0, &input, &[]);
        assert!(input.ends_with(&left));
        let _ = decode_datagram(&input);
    }
}

#[test]
fn errors_have_the_codes_of_the_protocol() {
    use std::io::ErrorKind as Kind;
    for (kind, code) in [
        (Kind::ConnectionRefused, Code::ConnectionRefused),
        (Kind::NetworkUnreachable, Code::NetworkUnreachable),
        (Kind::HostUnreachable, Code::HostUnreachable),
        (Kind::NotFound, Code::HostUnreachable),
        (Kind::TimedOut, Code::TtlExpired),
        (Kind::Other, Code::Failed),
    ] {
        assert_eq!(Code::of(&kind.into()), code);
    }
}
