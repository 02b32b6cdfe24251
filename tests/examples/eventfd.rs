//! The eventfd example as its users meet it: two processes, one counter, and what they print.

use std::process::Output;

use crate::support::{LIMIT, example, with_watchdog};

fn outcome_of(arguments: &[&str]) -> Output {
    example::outcome_of("eventfd", arguments)
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Wrote(u64),
    Read(u64),
    Completed,
}

/// What a run has printed, if it has ended well. That each read is of what had been written before
/// it is seen to here: when it comes is the clock's affair, but not before its number.
#[track_caller]
fn lines_of(arguments: &[&str]) -> Vec<Line> {
    let output = outcome_of(arguments);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    let parse = |line: &str| {
        let number = |line: Option<&str>| Some(line?.split(' ').next()?.parse::<u64>().expect("a number"));
        if let Some(n) = number(line.strip_prefix("Child writing ")) {
            assert_eq!(line, format!("Child writing {n} to efd"));
            return Line::Wrote(n);
        }
        if line == "Child completed write loop" {
            return Line::Completed;
        }
        let n = number(line.strip_prefix("Parent read ")).unwrap_or_else(|| panic!("what is `{line}`?"));
        assert_eq!(line, format!("Parent read {n} (0x{n:x}) from efd"));
        Line::Read(n)
    };
    let lines: Vec<Line> = text.lines().map(parse).collect();
    let mut in_counter = 0_u64;
    for line in &lines {
        match line {
            Line::Wrote(n) => in_counter += n,
            Line::Completed => {}
            Line::Read(n) => {
                let left = in_counter.checked_sub(*n);
                in_counter = left.unwrap_or_else(|| panic!("read before it was written: {text}"));
            }
        }
    }
    assert_eq!(in_counter, 0, "not all has been read: {text}");
    lines
}

fn written(lines: &[Line]) -> Vec<u64> {
    lines.iter().filter_map(|line| if let Line::Wrote(n) = line { Some(*n) } else { None }).collect()
}

fn read(lines: &[Line]) -> Vec<u64> {
    lines.iter().filter_map(|line| if let Line::Read(n) = line { Some(*n) } else { None }).collect()
}

#[test]
fn the_parent_reads_what_the_childs_numbers_add_up_to() {
    with_watchdog(LIMIT, || {
        let lines = lines_of(&["--write-every", "20ms", "--read-every", "30ms", "1", "2", "3", "4", "5"]);
        assert_eq!(written(&lines), [1, 2, 3, 4, 5]);
        assert_eq!(read(&lines).iter().sum::<u64>(), 15);
        assert_eq!(lines[0], Line::Wrote(1), "there is nothing to read before");
        let completed = lines.iter().position(|line| *line == Line::Completed);
        let last_write = lines.iter().rposition(|line| matches!(line, Line::Wrote(_)));
        assert!(completed > last_write, "the child says at its end that it has written all: {lines:?}");
        assert_eq!(lines.iter().filter(|line| **line == Line::Completed).count(), 1);
    });
}

#[test]
fn as_a_semaphore_it_is_read_fifteen_times() {
    with_watchdog(LIMIT, || {
        let lines =
            lines_of(&["-s", "--write-every", "5ms", "--read-every", "10ms", "1", "2", "3", "4", "5"]);
        assert_eq!(written(&lines), [1, 2, 3, 4, 5]);
        assert_eq!(read(&lines), [1; 15]);
    });
}

#[test]
fn a_child_without_room_waits_for_a_read() {
    with_watchdog(LIMIT, || {
        let max = reveille::EventFd::MAX.to_string();
        let arguments = ["--write-every", "0ms", "--read-every", "20ms", &max, "1"];
        let output = outcome_of(&arguments);
        // The second number comes to the counter only when the first has gone, so there are two
        // reads, and both lines of the child may stand before them.
        let text = String::from_utf8(output.stdout).expect("text");
        let reads: Vec<_> = text.lines().filter(|line| line.starts_with("Parent")).collect();
        let first = format!("Parent read {max} (0xfffffffffffffffe) from efd");
        assert_eq!(reads, [first.as_str(), "Parent read 1 (0x1) from efd"]);
    });
}

#[test]
fn wrong_arguments_are_answered_with_a_line_and_the_usage() {
    let wrong: [(&[&str], &str); 9] = [
        (&[], "there is no number to write"),
        (&["-s"], "there is no number to write"),
        (&["one"], "`one` is not a number"),
        (&["18446744073709551615"], "`18446744073709551615` is not a number"),
        (&["-1"], "there is no argument `-1`"),
        (&["--nonsense", "1"], "there is no argument `--nonsense`"),
        (&["1", "--write-every"], "--write-every wants a time"),
        (&["--write-every", "50", "1"], "`50` is not a time"),
        (&["--read-every", "0ms", "1"], "--read-every wants a time above 0"),
    ];
    for (arguments, message) in wrong {
        let output = outcome_of(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let errors = String::from_utf8(output.stderr).expect("text");
        let start = format!("eventfd: {message}");
        assert!(errors.starts_with(&start) && errors.contains("usage: eventfd "), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty());
    }
}
