//! The parts without commands: random operations compared with a model, numbers and patterns.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::bytes::Bytes;
use super::glob::matches;
use super::numbers::{float, float_text, integer, push_integer};
use super::table::Table;
use crate::support::random::Random;

#[test]
fn a_table_has_the_entries_of_a_map() {
    let mut random = Random::new(2);
    for keys in [5, 12, 100, 3000] {
        let mut table: Table<usize> = Table::default();
        let mut model: HashMap<Vec<u8>, usize> = HashMap::new();
        for value in 0..20_000 {
            // The table grows in the first half and shrinks in the second.
            let key = format!("key {}", random.below(keys)).into_bytes();
            let inserts = random.below(10) < if value < 10_000 { 7 } else { 2 };
            match (table.get_mut(&key), inserts) {
                (Some(old), true) => {
                    assert_eq!(model.insert(key, value), Some(*old));
                    *old = value;
                }
                (None, true) => {
                    assert_eq!(model.insert(key.clone(), value), None);
                    let index = table.insert_new(Bytes::from(key), value);
                    assert_eq!((index, table.at(index).1), (table.len() - 1, &value));
                }
                (_, false) => {
                    let removed = table.remove(&key).map(|(_, value)| value);
                    assert_eq!(removed, model.remove(&key));
                    assert!(!table.contains(&key));
                }
            }
            assert_eq!((table.len(), table.is_empty()), (model.len(), model.is_empty()));
        }
        let found: HashMap<Vec<u8>, usize> =
            table.iter().map(|(key, value)| (key.to_vec(), *value)).collect();
        assert_eq!(found, model);
    }
}

#[test]
fn a_scan_visits_all_entries_that_stay() {
    let mut random = Random::new(3);
    for _ in 0..50 {
        let mut table: Table<()> = Table::default();
        let all: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        for key in &all {
            table.insert_new(Bytes::from(key.as_bytes()), ());
        }
        let (mut visited, mut removed, mut cursor) = (HashSet::new(), HashSet::new(), 0);
        loop {
            let (entries, next) = table.scan(cursor, 7);
            visited.extend(entries.iter().map(|(key, ())| String::from_utf8_lossy(key).into_owned()));
            cursor = next;
            if cursor == 0 {
                break;
            }
            for _ in 0..3 {
                let key = &all[random.below(all.len())];
                if table.remove(key.as_bytes()).is_some() {
                    removed.insert(key.clone());
                }
                table.insert_new(Bytes::from(format!("new {}", random.next()).into_bytes()), ());
            }
        }
        assert!(all.iter().all(|key| visited.contains(key) || removed.contains(key)));
    }
}

#[test]
fn strings_are_equal_wherever_they_are_stored() {
    for length in [0, 1, 21, 22, 23, 100] {
        let text = vec![b'x'; length];
        let mut bytes = Bytes::from(&text[..]);
        assert_eq!((&bytes[..], bytes.clone().into_vec()), (&text[..], text.clone()));
        assert_eq!(bytes, Bytes::from(text));
        for new in [0, 5, 22, 23, length] {
            bytes.assign(&vec![b'y'; new]);
            assert_eq!(bytes[..], vec![b'y'; new]);
        }
    }
    assert_eq!(size_of::<Bytes>(), 24);
    let ordered: BTreeSet<Bytes> =
        ["b", "a", "aa", ""].iter().map(|text| Bytes::from(text.as_bytes())).collect();
    assert!(ordered.iter().map(|bytes| &bytes[..]).eq([&b""[..], b"a", b"aa", b"b"]));
}

#[test]
fn integers_have_one_form() {
    for value in [0, 1, -1, 9, 10, 99, 12345, -987, i64::MAX, i64::MIN, i64::MIN + 1] {
        let mut text = Vec::new();
        push_integer(&mut text, value);
        assert_eq!(text, value.to_string().into_bytes());
        assert_eq!(integer(&text), Some(value));
    }
    for text in [
        "",
        "-",
        "+1",
        "01",
        "-0",
        " 1",
        "1 ",
        "1.0",
        "x",
        "9223372036854775808",
        "-9223372036854775809",
        "99999999999999999999",
    ] {
        assert_eq!(integer(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn floats_are_those_of_the_c_library() {
    for (value, text) in [
        (0.0, "0"),
        (-0.0, "-0"),
        (3.0, "3"),
        (0.1, "0.10000000000000001"),
        (-2.5, "-2.5"),
        (1e15, "1000000000000000"),
        (1e17, "1e+17"),
        (1.5e300, "1.5000000000000001e+300"),
        (1e-4, "0.0001"),
        (1e-5, "1.0000000000000001e-05"),
        (123456789012345680.0, "1.2345678901234568e+17"),
        (12345678901234568.0, "12345678901234568"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
        (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
    ] {
        assert_eq!(float_text(value), text);
        assert_eq!(float(text.as_bytes()).map(f64::to_bits), Some(value.to_bits()));
    }
    for text in ["", "x", "nan", "1e400", "1e-400", " 1", "1 ", "0x10", "1,5"] {
        assert_eq!(float(text.as_bytes()), None, "{text}");
    }
    assert_eq!(
        (float(b"+1"), float(b".5"), float(b"-Infinity"), float(b"0e5")),
        (Some(1.0), Some(0.5), Some(f64::NEG_INFINITY), Some(0.0))
    );
}

#[test]
fn patterns_match_whole_keys() {
    for (pattern, text, expected) in [
        ("", "", true),
        ("", "a", false),
        ("*", "", true),
        ("*", "anything", true),
        ("a*c", "abc", true),
        ("a*c", "abcd", false),
        ("a*b*c", "axbxxbxc", true),
        ("*a*", "bbb", false),
        ("h?llo", "hello", true),
        ("h?llo", "hllo", false),
        ("h[ae]llo", "hallo", true),
        ("h[^e]llo", "hello", false),
        ("h[^e]llo", "hallo", true),
        ("[a-c]", "b", true),
        ("[c-a]", "b", true),
        ("[a-c]", "d", false),
        ("[a\\]]", "]", true),
        ("[", "x", false),
        ("\\*", "*", true),
        ("\\*", "x", false),
        ("?", "", false),
    ] {
        assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
    }
    // The time is not exponential.
    assert!(!matches(&b"*a".repeat(2000), &b"a".repeat(1999)));
}
