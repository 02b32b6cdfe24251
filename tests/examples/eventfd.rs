//! The eventfd example as a program: two processes, one counter, and their output.

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

/// Runs the example and returns the lines that it has printed. Requires success, and that no number
/// is read before it is written. How long after the write the read comes is not checked, since it
/// depends on the scheduler.
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
        let n = number(line.strip_prefix("Parent read ")).unwrap_or_else(|| panic!("unexpected: `{line}`"));
        assert_eq!(line, format!("Parent read {n} (0x{n:x}) from efd"));
        Line::Read(n)
    };
    let lines: Vec<Line> = text.lines().map(parse).collect();
    let mut counter = 0_u64;
    for line in &lines {
        match line {
            Line::Wrote(n) => counter += n,
            Line::Completed => {}
            Line::Read(n) => {
                let left = counter.checked_sub(*n);
                counter = left.unwrap_or_else(|| panic!("{n} was read before it was written: {text}"));
            }
        }
    }
    assert_eq!(counter, 0, "{counter} was written and not read: {text}");
    lines
}

fn written(lines: &[Line]) -> Vec<u64> {
    lines.iter().filter_map(|line| if let Line::Wrote(n) = line { Some(*n) } else { None }).collect()
}

fn read(lines: &[Line]) -> Vec<u64> {
    lines.iter().filter_map(|line| if let Line::Read(n) = line { Some(*n) } else { None }).collect()
}

#[test]
fn the_parent_reads_the_sum_of_the_childs_numbers() {
    with_watchdog(LIMIT, || {
        let lines = lines_of(&["--write-every", "20ms", "--read-every", "30ms", "1", "2", "3", "4", "5"]);
        assert_eq!(written(&lines), [1, 2, 3, 4, 5]);
        assert_eq!(read(&lines).iter().sum::<u64>(), 15);
        assert_eq!(lines[0], Line::Wrote(1), "the first line is not the first write");
        let completed = lines.iter().position(|line| *line == Line::Completed);
        let last_write = lines.iter().rposition(|line| matches!(line, Line::Wrote(_)));
        assert!(completed > last_write, "the child reports its end before its last write: {lines:?}");
        assert_eq!(lines.iter().filter(|line| **line == Line::Completed).count(), 1);
    });
}

#[test]
fn a_semaphore_is_read_once_per_unit() {
    with_watchdog(LIMIT, || {
        let lines =
            lines_of(&["-s", "--write-every", "5ms", "--read-every", "10ms", "1", "2", "3", "4", "5"]);
        assert_eq!(written(&lines), [1, 2, 3, 4, 5]);
        assert_eq!(read(&lines), [1; 15]);
    });
}

#[test]
fn a_write_beyond_the_maximum_waits_for_a_read() {
    with_watchdog(LIMIT, || {
        let max = reveille::EventFd::MAX.to_string();
        let arguments = ["--write-every", "0ms", "--read-every", "20ms", &max, "1"];
        let output = outcome_of(&arguments);
        // The second number is added only after the first has been read, so there are two reads.
        // Both lines of the child may be printed before them.
        let text = String::from_utf8(output.stdout).expect("text");
        let reads: Vec<_> = text.lines().filter(|line| line.starts_with("Parent")).collect();
        let first = format!("Parent read {max} (0xfffffffffffffffe) from efd");
        assert_eq!(reads, [first.as_str(), "Parent read 1 (0x1) from efd"]);
    });
}

#[test]
fn invalid_arguments_are_rejected_with_the_usage() {
    let invalid: [(&[&str], &str); 9] = [
        (&[], "there is no number to write"),
        (&["-s"], "there is no number to write"),
        (&["one"], "`one` is not a number"),
        (&["18446744073709551615"], "`18446744073709551615` is not a number"),
        (&["-1"], "unknown argument `-1`"),
        (&["--nonsense", "1"], "unknown argument `--nonsense`"),
        (&["--write-every"], "missing argument for option '--write-every'"),
        (&["--write-every", "50", "1"], "`--write-every`: `50` is not a time"),
        (&["--read-every", "0ms", "1"], "--read-every takes a time above 0"),
    ];
    for (arguments, message) in invalid {
        let output = outcome_of(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let errors = String::from_utf8(output.stderr).expect("text");
        let start = format!("eventfd: {message}");
        assert!(errors.starts_with(&start) && errors.contains("usage: eventfd "), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty());
    }
}
