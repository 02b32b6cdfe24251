//! The variables of sd_listen_fds(3).

use std::io::ErrorKind;

use super::Passed;

const THIS: u32 = 77;

fn parse(pid: &str, count: &str, names: Option<&str>) -> Result<Passed, ErrorKind> {
    Passed::parse(THIS, Some(pid), Some(count), names).map_err(|error| error.kind())
}

#[test]
fn variables_of_this_process_name_its_descriptors() {
    assert_eq!(parse("77", "2", None), Ok(Passed { count: 2, names: None }));
    let names = Some(vec!["http".to_owned(), String::new()]);
    assert_eq!(parse("77", "2", Some("http:")), Ok(Passed { count: 2, names }));
}

#[test]
fn missing_variables_and_those_of_another_process_name_nothing() {
    for (pid, count) in [(None, None), (Some("77"), None), (None, Some("1"))] {
        assert_eq!(Passed::parse(THIS, pid, count, None).unwrap(), Passed::default());
    }
    assert_eq!(parse("78", "2", None), Ok(Passed::default()));
    // They are not read.
    assert_eq!(parse("78", "many", Some("a:b:c")), Ok(Passed::default()));
    assert_eq!(parse("77", "0", Some("")).unwrap().count, 0);
}

#[test]
fn malformed_variables_are_errors() {
    for (pid, count, names) in [
        ("", "1", None),
        ("7x", "1", None),
        ("77", "", None),
        ("77", "-1", None),
        ("77", "1.5", None),
        ("77", "2147483647", None),
        ("77", "99999999999", None),
        ("77", "99999999999999999999", None),
        ("77", "2", Some("one")),
        ("77", "1", Some("one:two")),
    ] {
        assert_eq!(parse(pid, count, names), Err(ErrorKind::InvalidData), "{pid} {count} {names:?}");
    }
}
