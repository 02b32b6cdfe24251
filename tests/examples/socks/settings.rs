//! The files of the example socks: rules, networks and users.

use std::net::{IpAddr, SocketAddr};

use super::network::Network;
use super::rules::Rules;
use super::users::Users;

fn allows(rules: &str, to: &str) -> bool {
    Rules::parse(rules).unwrap().allow(to.parse::<SocketAddr>().unwrap())
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = "# comment\n allow 10.1.0.0/16 80-443 # web\n\ndeny 10.0.0.0/8\ndeny all 25\n";
    for (to, allowed) in [
        ("10.1.2.3:80", true),
        ("10.1.2.3:443", true),
        ("10.1.2.3:444", false),
        ("10.2.0.1:80", false),
        ("11.0.0.1:80", true),
        ("11.0.0.1:25", false),
        ("[2001:db8::1]:25", false),
        ("[2001:db8::1]:26", true),
        ("[::ffff:10.2.0.1]:80", false),
    ] {
        assert_eq!(allows(rules, to), allowed, "{to}");
    }
    assert!(allows("", "1.2.3.4:1"));
}

#[test]
fn the_unspecified_address_is_this_host() {
    assert!(!allows("deny 127.0.0.0/8", "0.0.0.0:80"));
    assert!(!allows("deny ::1", "[::]:80"));
    assert!(!allows("deny 127.0.0.0/8", "[::ffff:0.0.0.0]:80"));
}

#[test]
fn a_wrong_rule_is_reported_with_its_line() {
    for (rules, line) in [
        ("permit all", 1),
        ("\nallow", 2),
        ("allow 10.0.0.0/33", 1),
        ("allow 10.0.0.1/8", 1),
        ("allow example.org", 1),
        ("deny all 80-79", 1),
        ("deny all 65536", 1),
        ("deny all 1 2", 1),
        ("allow 10.0.0.0/+8", 1),
    ] {
        let error = Rules::parse(rules).unwrap_err();
        assert!(error.starts_with(&format!("line {line}: ")), "{error}");
    }
}

#[test]
fn a_network_contains_the_addresses_with_its_prefix() {
    let contains =
        |network: &str, ip: &str| network.parse::<Network>().unwrap().contains(ip.parse::<IpAddr>().unwrap());
    for (network, inside, outside) in [
        ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
        ("10.0.0.1", "10.0.0.1", "10.0.0.2"),
        ("128.0.0.0/1", "255.0.0.1", "127.255.255.255"),
        ("0.0.0.0/0", "255.255.255.255", "::1"),
        ("::/0", "::1", "1.2.3.4"),
        ("2001:db8::/32", "2001:db8:ffff::", "2001:db9::"),
        ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.0"),
        ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.0.0.0"),
    ] {
        assert!(contains(network, inside), "{network} contains {inside}");
        assert!(!contains(network, outside), "{network} does not contain {outside}");
    }
}

#[test]
fn only_users_with_their_password_are_admitted() {
    let users = Users::parse("# comment\nalice:secret\n\nbob:with:colon \n").unwrap();
    assert!(users.admit(b"alice", b"secret"));
    assert!(users.admit(b"bob", b"with:colon "));
    for (name, password) in [
        (&b"alice"[..], &b"secre"[..]),
        (b"alice", b"secrets"),
        (b"alice", b""),
        (b"carol", b""),
        (b"carol", b"secret"),
        (b"", b""),
        (b"# comment", b""),
    ] {
        assert!(!users.admit(name, password), "{name:?}");
    }
    assert_eq!(format!("{users:?}"), "2 users");
    for wrong in ["alice", "alice:", ":secret", "a:b\na:c"] {
        let error = Users::parse(wrong).unwrap_err();
        assert!(error.starts_with("line ") && !error.contains("secret"), "{error}");
    }
    assert!(Users::parse(&format!("a:{}", "p".repeat(255))).is_ok());
    assert!(Users::parse(&format!("a:{}", "p".repeat(256))).is_err());
}
