//! Heads: which are requests, and how they are refused.

use reveille::codec::Decoder;

use super::super::{Event, Requests};
use super::{read, read_in_pieces, status};

#[test]
fn pipelined_requests_are_found_in_order_in_any_pieces() {
    let input = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n\r\nPUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello\
        PUT /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n2\r\nde\r\n0\r\nT: u\r\n\r\n\
        HEAD /d HTTP/1.0\r\n\r\n";
    let expected = ["GET /A", "PUT /B [hello]", "PUT /C [abcde]", "HEAD /D"];
    for piece in 1..input.len() {
        let (requests, status) = read_in_pieces(input, piece);
        assert_eq!((requests, status), (expected.map(str::to_owned).to_vec(), None), "pieces of {piece}");
    }
}

#[test]
fn a_line_that_does_not_end_with_crlf_is_refused() {
    for input in [
        "GET / HTTP/1.1\nHost: x\n\n",
        "GET / HTTP/1.1\r\nHost: x\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\n",
        "GET / HTTP/1.1\rHost: x\r\r",
        "GET / HTTP/1.1\r\nHost: x\rX: y\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\r\n\r\n",
    ] {
        assert_eq!(read(input), (vec![], Some(400)), "{input:?}");
        assert_eq!(read_in_pieces(input.as_bytes(), 1), (vec![], Some(400)), "{input:?}");
    }
}

#[test]
fn a_malformed_head_is_refused() {
    for head in [
        "GET  / HTTP/1.1\nHost: x\n\n",
        "GET / HTTP/1.1 \nHost: x\n\n",
        " GET / HTTP/1.1\nHost: x\n\n",
        "GET\t/\tHTTP/1.1\nHost: x\n\n",
        "GET /\nHost: x\n\n",
        "GET / a HTTP/1.1\nHost: x\n\n",
        "GET / http/1.1\nHost: x\n\n",
        "GET / HTTP/1.\nHost: x\n\n",
        "GET / HTTP/11\nHost: x\n\n",
        "G(T / HTTP/1.1\nHost: x\n\n",
        "GET / HTTP/1.1\nHost: x\nX : y\n\n",
        "GET / HTTP/1.1\nHost: x\n folded: y\n\n",
        "GET / HTTP/1.1\n Host: x\n\n",
        "GET / HTTP/1.1\nHost: x\nX: y\n\tz\n\n",
        "GET / HTTP/1.1\nHost: x\n: y\n\n",
        "GET / HTTP/1.1\nHost: x\nno colon\n\n",
        "GET / HTTP/1.1\nHost: x\nX(: y\n\n",
        "GET / HTTP/1.1\nHost: x\nX: \0\n\n",
        "GET / HTTP/1.1\nHost: x\nX: \u{b}\n\n",
        "\n\n\n\n\n\nGET / HTTP/1.1\nHost: x\n\n",
    ] {
        assert_eq!(status(head), 400, "{head:?}");
    }
    assert_eq!(status("\nGET / HTTP/1.1\nHost: x\n\n"), 0);
    assert_eq!(status("GET / HTTP/1.1\nHost:x\nX:\t y \t\nEmpty:\n\n"), 0);
}

#[test]
fn a_request_has_one_valid_host() {
    for head in [
        "GET / HTTP/1.1\n\n",
        "GET / HTTP/1.1\nHost: x\nHost: x\n\n",
        "GET / HTTP/1.0\nHost: x\nhost: y\n\n",
        "GET / HTTP/1.1\nHost: x y\n\n",
        "GET / HTTP/1.1\nHost: x/y\n\n",
        "GET / HTTP/1.1\nHost: u@x\n\n",
        "GET / HTTP/1.1\nHost: x,y\n\n",
        "GET / HTTP/1.1\nHost: x:8x\n\n",
        "GET / HTTP/1.1\nHost: [::1\n\n",
        "GET / HTTP/1.1\nHost: []:80\n\n",
        "GET http://x/ HTTP/1.1\n\n",
    ] {
        assert_eq!(status(head), 400, "{head:?}");
    }
    for host in ["x", "x:", "x:80", "[::1]", "[::1]:80", "127.0.0.1:8080", "", "a-b.example"] {
        assert_eq!(status(&format!("GET / HTTP/1.1\nHost: {host}\n\n")), 0, "{host:?}");
    }
    assert_eq!(status("GET / HTTP/1.0\n\n"), 0);
}

#[test]
fn methods_versions_and_expectations_have_their_statuses() {
    assert_eq!(status("BREW / HTTP/1.1\nHost: x\n\n"), 501);
    assert_eq!(status("get / HTTP/1.1\nHost: x\n\n"), 501);
    assert_eq!(status("POST / HTTP/1.1\nHost: x\n\n"), 0);
    assert_eq!(status("GET / HTTP/2.0\nHost: x\n\n"), 505);
    assert_eq!(status("GET / HTTP/0.9\n\n"), 505);
    assert_eq!(status("PUT / HTTP/1.1\nHost: x\nContent-Length: 1\nExpect: more\n\n"), 417);
    assert_eq!(read("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").1, Some(505));
}

#[test]
fn oversized_heads_are_refused_before_they_are_complete() {
    assert_eq!(read("A".repeat(8193)).1, Some(414));
    assert_eq!(read(format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(8192))).1, Some(414));
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}", "a".repeat(16 << 10));
    assert_eq!(read(&long).1, Some(431));
    assert_eq!(read(format!("{long}\r\n\r\n")).1, Some(431));
    let many = format!("GET / HTTP/1.1\nHost: x\n{}\n", "X: y\n".repeat(64));
    assert_eq!(status(&many), 431);
    let most = format!("GET / HTTP/1.1\nHost: x\n{}\n", "X: y\n".repeat(63));
    assert_eq!(status(&most), 0);
}

#[test]
fn the_connection_field_and_the_version_decide_about_keep_alive() {
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: a\r\nConnection: b, close\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: x\r\nConnection: closed\r\n\r\n", true),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
        ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", false),
    ] {
        let mut requests = Requests::default();
        let Ok(Some((Event::Request(request), _))) = requests.decode(head.as_bytes()) else {
            panic!("{head:?}");
        };
        assert_eq!(request.keeps_alive, expected, "{head:?}");
    }
}

/// Each prefix, each missing byte and each inserted byte: the decoder returns, and takes what it
/// takes at once from a single piece and from single bytes.
#[test]
fn damaged_requests_are_read_in_one_way_in_any_pieces() {
    let valid = b"PUT /a%20b?q HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;e\r\nab\r\n0\r\nT: u\r\n\r\n\
        GET /c HTTP/1.1\r\nHost: x\r\n\r\n";
    let same = |input: &[u8]| {
        let (whole, single) = (read(input), read_in_pieces(input, 1));
        assert_eq!(whole, single, "{}", input.escape_ascii());
    };
    for at in 0..valid.len() {
        same(&valid[..at]);
        same(&[&valid[..at], &valid[at + 1..]].concat());
        for byte in [b'\r', b'\n', b' ', b'\t', 0, b':', b'0', b';', b'%', 0xff] {
            same(&[&valid[..at], &[byte], &valid[at..]].concat());
            same(&[&valid[..at], &[byte], &valid[at + 1..]].concat());
        }
    }
}
