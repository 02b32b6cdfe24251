use super::*;

fn accepted(head: &str) -> Request {
    match parse(head.as_bytes()) {
        Parsed::Request(request) => request,
        other => panic!("{head:?} gives {other:?}"),
    }
}

fn refused(head: &str) -> u16 {
    match parse(head.as_bytes()) {
        Parsed::Refused(status) => status.0,
        other => panic!("{head:?} gives {other:?}"),
    }
}

#[test]
fn a_request_is_parsed_at_its_end_and_not_before() {
    let text = "GET /api/connections?sort=age&order=asc HTTP/1.1\r\nHost: localhost:80\r\n\r\n";
    for length in 0..text.len() {
        assert_eq!(parse(&text.as_bytes()[..length]), Parsed::Incomplete, "{length} bytes");
    }
    let request = accepted(&format!("{text}GET /next"));
    assert_eq!((request.path.as_str(), request.length), ("/api/connections", text.len()));
    assert_eq!(request.host.as_deref(), Some("localhost:80"));
    assert_eq!((request.parameter("sort"), request.parameter("order")), (Some("age"), Some("asc")));
    assert_eq!(request.parameter("limit"), None);
    assert!(request.manner.keeps_alive && !request.manner.is_head);
}

#[test]
fn persistence_depends_on_the_version_and_the_field() {
    let keeps = |version, field| {
        accepted(&format!("GET / HTTP/{version}\r\nHost: localhost\r\n{field}\r\n")).manner.keeps_alive
    };
    assert!(keeps("1.1", ""));
    assert!(!keeps("1.1", "Connection: foo, Close\r\n"));
    assert!(!keeps("1.0", ""));
    assert!(keeps("1.0", "Connection: keep-alive\r\n"));
    let old = accepted("HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let response = response(Status::OK, "text/plain", "body", old.manner);
    let text = String::from_utf8(response).expect("text");
    assert!(text.contains("\r\nConnection: keep-alive\r\n") && text.contains("\r\nContent-Length: 4\r\n"));
    assert!(text.ends_with("\r\n\r\n"), "a response to HEAD has no body: {text}");
}

#[test]
fn requests_that_could_be_read_in_two_ways_are_refused() {
    for (fields, status) in [
        ("", 400),
        ("Host: a\r\nHost: b\r\n", 400),
        ("Host: a\r\nContent-Length: 5\r\n", 400),
        ("Host: a\r\nContent-Length: 0\r\nContent-Length: 1\r\n", 400),
        ("Host: a\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Host : a\r\n", 400),
        ("Host: a\r\n folded: b\r\n", 400),
    ] {
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{fields}\r\n")), status, "{fields:?}");
    }
    assert_eq!(refused("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n"), 405);
    assert_eq!(refused("GET / HTTP/2.0\r\nHost: localhost\r\n\r\n"), 505);
    assert_eq!(refused("GET * HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400);
    assert_eq!(refused("\u{1}\u{2}\r\n\r\n"), 400);
}

#[test]
fn a_head_has_at_most_eight_kibibytes_and_sixty_four_fields() {
    let head = |padding: usize| {
        let rest = "GET / HTTP/1.1\r\nHost: localhost\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(padding - rest))
    };
    assert_eq!(accepted(&head(MAX_HEAD)).length, MAX_HEAD);
    assert_eq!(refused(&head(MAX_HEAD + 1)), 431);
    let fields = |n: usize| format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(n - 1));
    accepted(&fields(64));
    assert_eq!(refused(&fields(65)), 431);
}

#[test]
fn the_absolute_form_replaces_the_host() {
    let request = accepted("GET http://evil.example/metrics?a=b HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(request.host.as_deref(), Some("evil.example"));
    assert_eq!((request.path.as_str(), request.query.as_str()), ("/metrics", "a=b"));
    let request = accepted("GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(request.path, "/");
}

#[test]
fn only_loopback_and_named_hosts_are_allowed() {
    let allowed = ["status.example".to_owned(), "192.0.2.1".to_owned()];
    for host in ["localhost", "LOCALHOST:80", "127.0.0.1:9", "127.9.9.9", "[::1]", "[::1]:80"] {
        assert!(is_allowed_host(Some(host), &[]), "{host}");
    }
    for host in ["status.example", "Status.Example:80", "192.0.2.1:80"] {
        assert!(is_allowed_host(Some(host), &allowed), "{host}");
        assert!(!is_allowed_host(Some(host), &[]), "{host}");
    }
    for host in [
        "",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "localhost:evil",
        "[::1",
        "[::1]x",
        "[::2]",
        "0.0.0.0",
        "10.0.0.1",
        "evil@localhost",
    ] {
        assert!(!is_allowed_host(Some(host), &allowed), "{host}");
    }
    assert!(is_allowed_host(None, &[]));
}
