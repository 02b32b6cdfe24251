//! Conditions and ranges.

use std::time::{Duration, SystemTime};

use super::super::{
    Fields, Method, Outcome, Selected, Validators, is_same_representation, precondition, select,
};

/// The time of modification is 1 s after this date, less a fraction.
const BEFORE: &[u8] = b"Thu, 01 Jan 1970 00:16:39 GMT";
const SAME: &[u8] = b"Thu, 01 Jan 1970 00:16:40 GMT";

fn version() -> Validators {
    let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_700);
    Validators { tag: "v1".to_owned(), modified }
}

fn later() -> SystemTime {
    version().modified + Duration::from_secs(60)
}

fn check(method: Method, fields: Fields<'_>) -> Outcome {
    precondition(method, &fields, Some(&version()), later())
}

#[test]
fn tags_are_compared_in_lists() {
    for (list, expected) in [
        ("\"v1\"", true),
        ("W/\"v1\"", true),
        ("\"a\", W/\"b\" ,\"v1\"", true),
        ("*", true),
        ("\"v,1\", \"V1\"", false),
        ("v1", false),
        ("\"v1", false),
        ("x, \"v1\"", false),
        ("", false),
    ] {
        let fields = || Fields { if_none_match: vec![list.as_bytes()], ..Fields::default() };
        let expected_get = if expected { Outcome::NotModified } else { Outcome::Proceed };
        let expected_put = if expected { Outcome::Failed } else { Outcome::Proceed };
        assert_eq!(check(Method::Get, fields()), expected_get, "{list:?}");
        assert_eq!(check(Method::Put, fields()), expected_put, "{list:?}");
    }
    let two_fields = Fields { if_none_match: vec![b"\"a\"", b"\"v1\""], ..Fields::default() };
    assert_eq!(check(Method::Head, two_fields), Outcome::NotModified);
}

#[test]
fn if_match_needs_a_strong_tag() {
    for (list, expected) in [
        ("\"v1\"", Outcome::Proceed),
        ("W/\"v1\"", Outcome::Failed),
        ("\"x\"", Outcome::Failed),
        ("*", Outcome::Proceed),
    ] {
        let fields = Fields { if_match: vec![list.as_bytes()], ..Fields::default() };
        assert_eq!(check(Method::Get, fields), expected, "{list:?}");
    }
    let any = Fields { if_match: vec![b"*"], ..Fields::default() };
    assert_eq!(precondition(Method::Put, &any, None, later()), Outcome::Failed);
    // Right after a change, another one may not be visible.
    let same = Fields { if_match: vec![b"\"v1\""], ..Fields::default() };
    let outcome = precondition(Method::Put, &same, Some(&version()), version().modified);
    assert_eq!(outcome, Outcome::Failed);
}

#[test]
fn dates_are_compared_by_the_second() {
    let since = |date| Fields { if_modified_since: Some(date), ..Fields::default() };
    assert_eq!(check(Method::Get, since(SAME)), Outcome::NotModified);
    assert_eq!(check(Method::Get, since(b"Thursday, 01-Jan-70 00:16:40 GMT")), Outcome::NotModified);
    assert_eq!(check(Method::Get, since(BEFORE)), Outcome::Proceed);
    assert_eq!(check(Method::Get, since(b"yesterday")), Outcome::Proceed);
    assert_eq!(check(Method::Put, since(SAME)), Outcome::Proceed);
    let unmodified = |date| Fields { if_unmodified_since: Some(date), ..Fields::default() };
    assert_eq!(check(Method::Get, unmodified(SAME)), Outcome::Proceed);
    assert_eq!(check(Method::Get, unmodified(BEFORE)), Outcome::Failed);
    assert_eq!(check(Method::Get, unmodified(b"")), Outcome::Proceed);
}

#[test]
fn tags_take_precedence_over_dates() {
    let fields = Fields { if_match: vec![b"\"v1\""], if_unmodified_since: Some(BEFORE), ..Fields::default() };
    assert_eq!(check(Method::Get, fields), Outcome::Proceed);
    let fields = Fields { if_none_match: vec![b"\"x\""], if_modified_since: Some(SAME), ..Fields::default() };
    assert_eq!(check(Method::Get, fields), Outcome::Proceed);
    let fields = Fields { if_match: vec![b"\"x\""], if_none_match: vec![b"\"v1\""], ..Fields::default() };
    assert_eq!(check(Method::Get, fields), Outcome::Failed);
}

#[test]
fn if_range_needs_the_same_strong_version() {
    let same = |value: &str, now| is_same_representation(Some(value.as_bytes()), &version(), now);
    assert!(same("\"v1\"", later()) && same(std::str::from_utf8(SAME).unwrap(), later()));
    assert!(!same("W/\"v1\"", later()) && !same("\"x\"", later()) && !same("", later()));
    assert!(!same(std::str::from_utf8(BEFORE).unwrap(), later()) && !same("\"v1\"", version().modified));
    assert!(is_same_representation(None, &version(), later()));
}

#[test]
fn one_valid_range_selects_a_part() {
    let part = |first, last| Selected::Part { first, last };
    for (range, expected) in [
        ("bytes=0-0", part(0, 0)),
        ("bytes=0-", part(0, 99)),
        ("bytes=10-19", part(10, 19)),
        ("Bytes=99-500", part(99, 99)),
        ("bytes=0-99999999999999999999999", part(0, 99)),
        ("bytes=-1", part(99, 99)),
        ("bytes=-500", part(0, 99)),
        ("bytes=100-", Selected::Nothing),
        ("bytes=99999999999999999999999-", Selected::Nothing),
        ("bytes=100-200", Selected::Nothing),
        ("bytes=-0", Selected::Nothing),
        ("bytes=5-4", Selected::Whole),
        ("bytes=200-100", Selected::Whole),
        ("bytes=0-1,3-4", Selected::Whole),
        ("bytes=-", Selected::Whole),
        ("bytes=", Selected::Whole),
        ("bytes=a-b", Selected::Whole),
        ("bytes=100-x", Selected::Whole),
        ("bytes=+1-2", Selected::Whole),
        ("lines=1-2", Selected::Whole),
        ("", Selected::Whole),
    ] {
        assert_eq!(select(range.as_bytes(), 100), expected, "{range:?}");
    }
    assert_eq!(select(b"bytes=0-", 0), Selected::Nothing);
    assert_eq!(select(b"bytes=-5", 0), Selected::Whole);
    assert_eq!(select(b"bytes=-0", 0), Selected::Nothing);
}
