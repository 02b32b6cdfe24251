//! The header of the PROXY protocol in the example balance.

use std::net::SocketAddr;

use super::proxy_header::{Header, ProxyVersion};
use crate::support::random::Random;

fn proxied(source: &str, destination: &str) -> Header {
    let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
    Header::Proxied { source: parse(source), destination: parse(destination) }
}

#[test]
fn headers_have_the_bytes_of_the_specification() {
    let v4 = proxied("192.0.2.1:258", "198.51.100.2:443");
    assert_eq!(v4.encode(ProxyVersion::V1), b"PROXY TCP4 192.0.2.1 198.51.100.2 258 443\r\n");
    let expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x02\x01\x02\x01\xbb";
    assert_eq!(v4.encode(ProxyVersion::V2), expected);
    let v6 = proxied("[2001:db8::1]:1", "[2001:db8::2]:2");
    assert_eq!(v6.encode(ProxyVersion::V1), b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n");
    assert_eq!(v6.encode(ProxyVersion::V2)[12..20], [0x21, 0x21, 0, 36, 0x20, 0x01, 0x0d, 0xb8]);
    // A socket for both families reports IPv4 clients by mapped addresses.
    let mapped = proxied("[::ffff:192.0.2.1]:258", "[::ffff:198.51.100.2]:443");
    assert_eq!(mapped.encode(ProxyVersion::V1), v4.encode(ProxyVersion::V1));
    let mixed = proxied("192.0.2.1:1", "[2001:db8::2]:2").encode(ProxyVersion::V1);
    assert_eq!(mixed, b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n");
    assert_eq!(Header::Local.encode(ProxyVersion::V1), b"PROXY UNKNOWN\r\n");
    assert_eq!(Header::Local.encode(ProxyVersion::V2), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
}

#[test]
fn a_header_is_decoded_when_it_is_complete_and_not_before() {
    for header in [
        proxied("192.0.2.1:258", "198.51.100.2:443"),
        proxied("[2001:db8::1]:1", "[2001:db8::2]:2"),
        Header::Local,
    ] {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let bytes = header.encode(version);
            for length in 0..bytes.len() {
                assert_eq!(Header::decode(&bytes[..length]), Ok(None), "{length} bytes of {header:?}");
            }
            let with_data = [&bytes[..], b"GET /"].concat();
            assert_eq!(Header::decode(&with_data), Ok(Some((header, bytes.len()))));
        }
    }
}

#[test]
fn additions_are_skipped_and_other_families_are_local() {
    let mut bytes = proxied("192.0.2.1:258", "198.51.100.2:443").encode(ProxyVersion::V2);
    bytes[15] += 5;
    bytes.extend_from_slice(b"\x04\x00\x02ok");
    let decoded = Header::decode(&bytes);
    assert_eq!(decoded, Ok(Some((proxied("192.0.2.1:258", "198.51.100.2:443"), bytes.len()))));
    bytes[13] = 0x31; // a Unix socket
    assert_eq!(Header::decode(&bytes), Ok(Some((Header::Local, bytes.len()))));
    let unknown = b"PROXY UNKNOWN anything at all\r\n";
    assert_eq!(Header::decode(unknown), Ok(Some((Header::Local, unknown.len()))));
}

#[test]
fn what_is_not_a_header_is_an_error() {
    let long = format!("PROXY TCP4 {}", "1".repeat(200));
    let v2 = |bytes: &[u8]| [b"\r\n\r\n\0\r\nQUIT\n", bytes].concat();
    for wrong in [
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"\r\n\r\nGET".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n".to_vec(),
        b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
        b"PROXY TCP4 ::1 ::2 1 2\r\n".to_vec(),
        b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
        long.into_bytes(),
        v2(&[0x11, 0x11, 0, 0]),
        v2(&[0x22, 0x11, 0, 0]),
        v2(&[0x21, 0x11, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        v2(&[0x21, 0x11, 0xff, 0xff]),
    ] {
        assert!(Header::decode(&wrong).is_err(), "{wrong:?}");
    }
    // The longest line is accepted.
    let line = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 16));
    assert_eq!(Header::decode(line.as_bytes()), Ok(Some((Header::Local, 107))));
}

#[test]
fn random_input_never_has_a_header_beyond_its_end() {
    let mut random = Random::new(18);
    for _ in 0..20_000 {
        let prefix =
            [&b""[..], b"PROXY ", b"PROXY TCP4 1.2.3.4 ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"][random.below(4)];
        let mut input = prefix.to_vec();
        input.extend((0..random.below(60)).map(|_| random.below(256) as u8));
        if let Ok(Some((_, length))) = Header::decode(&input) {
            assert!(length <= input.len());
        }
    }
}
