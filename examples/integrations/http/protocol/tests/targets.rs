//! Targets: the path below the root that they name.

use super::super::target::Target;
use super::super::{Method, Status};

fn target(target: &str) -> Result<Target<'_>, Status> {
    Target::parse(Method::Get, target.as_bytes())
}

fn path(text: &str) -> (String, bool) {
    let target = target(text).unwrap_or_else(|status| panic!("{text:?}: {status:?}"));
    (String::from_utf8_lossy(&target.path).into_owned(), target.is_directory)
}

#[test]
fn a_path_is_decoded_once_and_without_empty_segments() {
    assert_eq!(path("/"), (String::new(), true));
    assert_eq!(path("/a/b.txt"), ("a/b.txt".to_owned(), false));
    assert_eq!(path("/a/"), ("a".to_owned(), true));
    assert_eq!(path("//a//b//"), ("a/b".to_owned(), true));
    assert_eq!(path("/a%20b"), ("a b".to_owned(), false));
    assert_eq!(path("/%2541"), ("%41".to_owned(), false));
    assert_eq!(path("/%C3%a4"), ("ä".to_owned(), false));
    assert_eq!(path("/a..b/c..."), ("a..b/c...".to_owned(), false));
    assert_eq!(path("/a%3Fb?c/../d"), ("a?b".to_owned(), false));
    assert_eq!(target("/a?b=%00").unwrap().query, b"?b=%00");
}

#[test]
fn a_path_with_dots_a_nul_or_an_encoded_slash_is_refused() {
    for text in [
        "/..",
        "/../a",
        "/a/../b",
        "/.",
        "/a/./b",
        "/%2e%2e/a",
        "/.%2E",
        "/a/%2e",
        "/a%00b",
        "/%00",
        "/a%2fb",
        "/..%2f..%2fetc",
        "/%",
        "/%4",
        "/%4x",
        "/%x4",
        "/%%41",
    ] {
        assert_eq!(target(text), Err(Status(400)), "{text:?}");
    }
}

#[test]
fn hidden_names_are_marked_in_every_spelling() {
    for text in ["/.git", "/a/.git/b", "/%2egit", "/...", "/.well-known2"] {
        assert!(target(text).unwrap().is_hidden, "{text:?}");
    }
    for text in ["/a.git", "/.well-known/a", "/a/"] {
        assert!(!target(text).unwrap().is_hidden, "{text:?}");
    }
}

#[test]
fn absolute_targets_name_the_same_paths() {
    assert_eq!(path("http://x/a"), ("a".to_owned(), false));
    assert_eq!(path("HTTPS://x:80/a/"), ("a".to_owned(), true));
    assert_eq!(path("http://x"), (String::new(), true));
    assert_eq!(path("http://x?q"), (String::new(), true));
    for text in [
        "ftp://x/a",
        "http:/a",
        "http:///a",
        "http://u@x/a",
        "http://:80/a",
        "a",
        "",
        "x:80",
        "*",
        "http://x/../a",
    ] {
        assert_eq!(target(text), Err(Status(400)), "{text:?}");
    }
    assert!(Target::parse(Method::Options, b"*").is_ok());
    assert!(Target::parse(Method::Other, b"host:443").is_ok());
}

#[test]
fn bytes_outside_of_a_uri_are_refused() {
    for text in ["/a#b", "/ä", "/a\u{7f}", "/a\tb", "/a\0", "/a\u{b}"] {
        assert_eq!(target(text), Err(Status(400)), "{text:?}");
    }
}
