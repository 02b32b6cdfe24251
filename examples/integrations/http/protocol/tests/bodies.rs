//! Bodies: where they end, and how ambiguous ones are refused.

use super::{read, status};

fn put(fields: &str, body: &str) -> (Vec<String>, Option<u16>) {
    read(format!("PUT /a HTTP/1.1\r\nHost: x\r\n{fields}\r\n{body}"))
}

fn chunked(body: &str) -> (Vec<String>, Option<u16>) {
    put("Transfer-Encoding: chunked\r\n", body)
}

#[test]
fn a_repeated_or_malformed_length_is_refused() {
    for fields in [
        "Content-Length: 3\nContent-Length: 3",
        "Content-Length: 3\nContent-Length: 4",
        "Content-Length: 3, 3",
        "Content-Length: +3",
        "Content-Length: -3",
        "Content-Length: 0x3",
        "Content-Length: 3 3",
        "Content-Length: ",
        "Content-Length: 3.0",
    ] {
        assert_eq!(status(&format!("PUT / HTTP/1.1\nHost: x\n{fields}\n\n")), 400, "{fields:?}");
    }
    assert_eq!(status(&format!("PUT / HTTP/1.1\nHost: x\nContent-Length: 1{}\n\n", "0".repeat(30))), 413);
    assert_eq!(put("Content-Length: 03\r\n", "abc").0, ["PUT /A [abc]"]);
}

#[test]
fn a_length_with_a_coding_is_refused() {
    let both = ["Content-Length: 3\nTransfer-Encoding: chunked", "Transfer-Encoding: x\nContent-Length: 3"];
    for fields in both {
        assert_eq!(status(&format!("PUT / HTTP/1.1\nHost: x\n{fields}\n\n")), 400, "{fields:?}");
    }
}

#[test]
fn a_coding_other_than_a_final_chunked_is_refused() {
    for (fields, expected) in [
        ("Transfer-Encoding: chunked, chunked", 400),
        ("Transfer-Encoding: chunked\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked, gzip", 400),
        ("Transfer-Encoding: chunked\nTransfer-Encoding: identity", 400),
        ("Transfer-Encoding: identity", 400),
        ("Transfer-Encoding: ", 400),
        ("Transfer-Encoding: xchunked", 400),
        ("Transfer-Encoding: \"chunked\"", 400),
        ("Transfer-Encoding: chunked;q=1", 400),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: gzip\nTransfer-Encoding: chunked", 501),
    ] {
        assert_eq!(status(&format!("PUT / HTTP/1.1\nHost: x\n{fields}\n\n")), expected, "{fields:?}");
    }
    assert_eq!(status("PUT / HTTP/1.0\nTransfer-Encoding: chunked\n\n"), 400);
    assert_eq!(read("PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: , Chunked\r\n\r\n0\r\n\r\n").1, None);
}

#[test]
fn chunks_have_extensions_and_trailers() {
    assert_eq!(chunked("0\r\n\r\n"), (vec!["PUT /A []".to_owned()], None));
    assert_eq!(chunked("00003\r\nabc\r\n000\r\n\r\n").0, ["PUT /A [abc]"]);
    assert_eq!(chunked("a;x;y=z; q=\"1;2\"\r\n0123456789\r\n0;e\r\n\r\n").0, ["PUT /A [0123456789]"]);
    assert_eq!(chunked("A ;x\r\n0123456789\r\n0\r\n\r\n").0, ["PUT /A [0123456789]"]);
    let next = "GET /b HTTP/1.1\r\nHost: x\r\n\r\n";
    let (requests, status) = chunked(&format!("0\r\nContent-Length: 5\r\nX: y\r\n\r\n{next}"));
    assert_eq!((requests, status), (vec!["PUT /A []".to_owned(), "GET /B".to_owned()], None));
}

#[test]
fn a_malformed_chunk_is_refused() {
    for body in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "0x3\r\nabc\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "3;a\rb\r\nabc\r\n0\r\n\r\n",
        "3;\0\r\nabc\r\n0\r\n\r\n",
        "3\u{b}\r\nabc\r\n0\r\n\r\n",
        "3 x\r\nabc\r\n0\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n folded\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX: y\r\n\n",
        "0\r\nno colon\r\n\r\n",
    ] {
        assert_eq!(chunked(body).1, Some(400), "{body:?}");
    }
}

#[test]
fn oversized_parts_of_a_chunked_body_are_refused() {
    assert_eq!(chunked("10000000000000000\r\n").1, Some(413));
    assert_eq!(chunked(&format!("3;{}", "x".repeat(300))).1, Some(400));
    assert_eq!(chunked(&"0".repeat(300)).1, Some(400));
    assert_eq!(chunked(&format!("0\r\nX: {}", "y".repeat(5000))).1, Some(431));
    assert_eq!(chunked(&format!("0\r\n{}\r\n", "X: y\r\n".repeat(33))).1, Some(431));
}
