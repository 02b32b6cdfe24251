//! The doorbell example as a program: two processes, and a table of measurements.

use crate::support::example::outcome_of;
use crate::support::{LIMIT, with_watchdog};

/// Returns the numbers in the line that begins with `name`.
#[track_caller]
fn numbers(text: &str, name: &str) -> Vec<f64> {
    let rest = text.lines().find_map(|line| line.trim_start().strip_prefix(name));
    let rest = rest.unwrap_or_else(|| panic!("no line `{name}` in: {text}"));
    let words = rest.split(|c: char| !c.is_ascii_digit() && c != '.');
    words.filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn both_transports_are_measured_and_no_descriptor_leaks() {
    with_watchdog(LIMIT, || {
        let output = outcome_of("doorbell", &[]);
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(
            output.status.success(),
            "{}: {text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));

        let ring = numbers(&text, "shared ring  ");
        let socket = numbers(&text, "socket pair  ");
        // The speeds depend on the machine and its load, so the test checks only that they are
        // present.
        for figures in [&ring, &socket] {
            assert!(figures.len() == 2 && figures.iter().all(|figure| *figure > 0.0), "{text}");
        }
        let ratio = numbers(&text, "shared ring : socket pair =")[0];
        assert!((ratio - ring[0] / socket[0]).abs() < 0.06, "{text}");
        let [rings, messages] = numbers(&text, "the bells were rung")[..] else { panic!("{text}") };
        assert!(0.0 < rings && rings <= messages, "{text}");
        let [before, after, _inherited] = numbers(&text, "descriptors:")[..] else { panic!("{text}") };
        assert_eq!(before, after);
    });
}

#[test]
fn an_argument_is_rejected_with_the_usage() {
    let output = outcome_of("doorbell", &["fast"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).expect("text"),
        "doorbell: `fast` is an extra argument\nusage: doorbell\n"
    );
    assert!(output.stdout.is_empty());
}
