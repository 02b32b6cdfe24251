//! The examples uring_cat and own_ring as their users meet them: what they print, where, and how
//! they end.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread;

use crate::support::alone::skipped;
use crate::support::folder::Folder;
use crate::support::net::{pattern, until};
use crate::support::{LIMIT, example, with_watchdog};

/// uring_cat with the back end that there is, or with the other.
fn cat(back_end: &[&str]) -> Command {
    let mut command = Command::new(example::program("uring_cat"));
    command.args(back_end).stdin(Stdio::null());
    command
}

/// With what is there first, and that is a ring if the build has one, and then with threads.
const BACK_ENDS: [&[&str]; 2] = [&[], &["--by", "threads"]];

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[track_caller]
fn outcome_of(command: &mut Command) -> Output {
    let output = command.output().expect("the example");
    assert_eq!(output.status.signal(), None, "{}", text(&output.stderr));
    output
}

/// Requires that all went well, and answers what was printed.
#[track_caller]
fn printed(command: &mut Command) -> Vec<u8> {
    let output = outcome_of(command);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    output.stdout
}

fn write(folder: &Folder, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).expect("a file of our own");
    path
}

#[test]
fn files_are_printed_byte_for_byte_in_the_order_given() {
    with_watchdog(LIMIT, || {
        let folder = Folder::new();
        // Sizes around that of a piece, and one of many pieces.
        let piece = 128 << 10;
        let sizes = [0, 1, piece - 1, piece, piece + 1, 8 * piece, 8 * piece + 1, (5 << 20) + 17];
        let contents: Vec<_> = sizes.map(pattern).into();
        let write = |(n, bytes): (usize, &Vec<u8>)| write(&folder, &format!("{n}"), bytes);
        let mut paths: Vec<_> = contents.iter().enumerate().map(write).collect();
        for back_end in BACK_ENDS {
            for (path, bytes) in paths.iter().zip(&contents) {
                let printed = printed(cat(back_end).arg(path));
                assert!(printed == *bytes, "{} bytes of {}", printed.len(), bytes.len());
            }
            assert!(printed(cat(back_end).args(&paths)) == contents.concat());
            paths.push(PathBuf::from("/etc/passwd"));
            let with_passwd = [contents.concat(), fs::read("/etc/passwd").unwrap()].concat();
            assert!(printed(cat(back_end).args(&paths)) == with_passwd);
            paths.pop();
        }
    });
}

/// One at a time is open, whatever the files are.
#[test]
fn no_descriptor_is_left_of_a_file_that_is_printed() {
    with_watchdog(LIMIT, || {
        let folder = Folder::new();
        let large = write(&folder, "large", &pattern(300_000));
        let missing = folder.join("missing");
        for back_end in BACK_ENDS {
            let mut command = Command::new("sh");
            command
                .args(["-c", "ulimit -n 24 && exec \"$@\"", "sh"])
                .arg(example::program("uring_cat"))
                .args(back_end);
            for _ in 0..100 {
                command.args([&large, &missing, folder.path(), Path::new("/dev/null")]);
            }
            let output = outcome_of(command.stdin(Stdio::null()));
            assert_eq!(output.stdout.len(), 100 * 300_000);
            assert_eq!(text(&output.stderr).lines().count(), 200, "{}", text(&output.stderr));
        }
    });
}

/// From the disk the pieces come as they like, and several at a time.
#[test]
fn what_is_not_in_the_cache_is_printed_in_order_too() {
    with_watchdog(LIMIT, || {
        let folder = Folder::new();
        let bytes = pattern(24 << 20);
        let path = write(&folder, "file", &bytes);
        for back_end in BACK_ENDS {
            let file = File::open(&path).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            assert!(printed(cat(back_end).arg(&path)) == bytes);
        }
    });
}

#[test]
fn a_file_without_a_size_is_read_to_its_end() {
    with_watchdog(LIMIT, || {
        for back_end in BACK_ENDS {
            let printed = printed(cat(back_end).arg("/proc/filesystems"));
            assert_eq!(text(&printed), fs::read_to_string("/proc/filesystems").unwrap());
        }
    });
}

#[test]
fn what_is_missing_is_one_clear_line_and_the_others_are_printed() {
    with_watchdog(LIMIT, || {
        let folder = Folder::new();
        let (first, last) = (write(&folder, "first", b"one\n"), write(&folder, "last", b"two\n"));
        let missing = folder.join("missing");
        for back_end in BACK_ENDS {
            let output = outcome_of(cat(back_end).args([&first, &missing, &folder.path().into(), &last]));
            assert_eq!(text(&output.stdout), "one\ntwo\n");
            let errors = format!(
                "uring_cat: {}: No such file or directory\nuring_cat: {}: Is a directory\n",
                missing.display(),
                folder.path().display()
            );
            assert_eq!(text(&output.stderr), errors);
            assert_eq!(output.status.code(), Some(1));
        }
    });
}

/// Runs it with `input` coming through a pipe, in pieces of odd sizes.
#[track_caller]
fn fed(command: &mut Command, input: Vec<u8>) -> Output {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the example");
    let mut pipe = process.stdin.take().expect("a pipe");
    let feeder = thread::spawn(move || input.chunks(50_021).try_for_each(|piece| pipe.write_all(piece)));
    let output = process.wait_with_output().expect("the example");
    feeder.join().expect("a thread").expect("a pipe that is read to its end");
    output
}

#[test]
fn the_standard_input_is_a_file_like_others() {
    with_watchdog(LIMIT, || {
        let folder = Folder::new();
        let file = write(&folder, "file", b"from a file\n");
        let input = pattern(2 << 20);
        for back_end in BACK_ENDS {
            // No name at all, and one among others.
            let output = fed(&mut cat(back_end), input.clone());
            assert!(output.status.success() && output.stdout == input);
            let output = fed(cat(back_end).args([file.as_path(), Path::new("-"), &file]), input.clone());
            assert!(output.status.success());
            assert!(output.stdout == [b"from a file\n", &input[..], b"from a file\n"].concat());
            // A file that somebody has read the beginning of.
            let mut opened = File::open(&file).unwrap();
            opened.read_exact(&mut [0; 5]).unwrap();
            assert_eq!(text(&printed(cat(back_end).stdin(opened))), "a file\n");
        }
    });
}

#[test]
fn a_pipe_with_a_name_is_waited_for() {
    with_watchdog(LIMIT, || {
        for back_end in BACK_ENDS {
            let folder = Folder::new();
            let path = folder.join("pipe");
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
            let reader = cat(back_end).arg(&path).stdout(Stdio::piped()).spawn().expect("the example");
            let mut pipe = OpenOptions::new().write(true).open(&path).unwrap();
            for line in ["one\n", "two\n"] {
                pipe.write_all(line.as_bytes()).unwrap();
            }
            drop(pipe);
            let output = reader.wait_with_output().unwrap();
            assert_eq!(text(&output.stdout), "one\ntwo\n");
            assert!(output.status.success());
        }
    });
}

#[test]
fn a_reader_that_has_enough_ends_it_without_a_word() {
    with_watchdog(LIMIT, || {
        let folder = Folder::new();
        let path = write(&folder, "large", &pattern(4 << 20));
        for back_end in BACK_ENDS {
            let mut process = cat(back_end)
                .arg(&path)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the example");
            let mut pipe = process.stdout.take().expect("a pipe");
            pipe.read_exact(&mut [0; 100]).unwrap();
            drop(pipe);
            let output = process.wait_with_output().unwrap();
            assert_eq!(text(&output.stderr), "");
            assert_eq!(output.status.code(), Some(1), "not all was printed");
        }
    });
}

#[test]
fn an_output_without_room_is_one_clear_line() {
    with_watchdog(LIMIT, || {
        for back_end in BACK_ENDS {
            let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            let output =
                cat(back_end).arg("/etc/passwd").stdout(full).stderr(Stdio::piped()).spawn().unwrap();
            let output = output.wait_with_output().unwrap();
            assert_eq!(text(&output.stderr), "uring_cat: standard output: No space left on device\n");
            assert_eq!(output.status.code(), Some(1));
        }
    });
}

#[test]
fn a_file_that_is_the_output_is_not_printed_to_itself() {
    with_watchdog(LIMIT, || {
        for back_end in BACK_ENDS {
            let folder = Folder::new();
            let path = write(&folder, "file", b"a line\n");
            let other = write(&folder, "other", b"another\n");
            let output = OpenOptions::new().append(true).open(&path).unwrap();
            let output = outcome_of_appending(cat(back_end).args([&path, &other]), output);
            assert_eq!(
                text(&output.stderr),
                format!("uring_cat: {}: is the output as well\n", path.display())
            );
            assert_eq!(output.status.code(), Some(1));
            assert_eq!(fs::read_to_string(&path).unwrap(), "a line\nanother\n");
        }
    });
}

fn outcome_of_appending(command: &mut Command, to: File) -> Output {
    let process = command.stdout(to).stderr(Stdio::piped()).spawn().expect("the example");
    process.wait_with_output().expect("the example")
}

#[test]
fn it_says_what_reads_if_it_is_asked() {
    with_watchdog(LIMIT, || {
        let said = |arguments: &[&str]| {
            let output = outcome_of(cat(arguments).args(["-v", "/etc/passwd"]));
            (output.status.success() && output.stdout == fs::read("/etc/passwd").unwrap())
                .then(|| text(&output.stderr).to_owned())
                .ok_or_else(|| text(&output.stderr).to_owned())
        };
        assert_eq!(said(&["--by", "threads"]), Ok("uring_cat: threads\n".to_owned()));
        // What there is depends on the machine, and on what the examples have been built with.
        match said(&["--by", "io_uring"]) {
            Ok(ring) => {
                assert_eq!(ring, "uring_cat: io_uring\n");
                assert_eq!(said(&[]), Ok(ring));
            }
            Err(why) => {
                assert!(why.starts_with("uring_cat: ") && why.lines().count() == 1, "{why}");
                assert_eq!(said(&[]), Ok("uring_cat: threads\n".to_owned()));
            }
        }
    });
}

#[test]
fn arguments_that_are_none_are_answered_with_the_usage() {
    let output = outcome_of(&mut cat(&["--nonsense"]));
    assert_eq!(output.status.code(), Some(2));
    let errors = text(&output.stderr);
    assert!(
        errors.starts_with("uring_cat: there is no argument `--nonsense`\nusage: uring_cat "),
        "{errors}"
    );
    for by in [&["--by"][..], &["--by", "magic"]] {
        let output = outcome_of(&mut cat(by));
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).starts_with("uring_cat: --by wants io_uring or threads\n"));
    }
    let output = outcome_of(&mut cat(&["--help"]));
    assert!(output.status.success() && text(&output.stdout).starts_with("usage: uring_cat "));
    // Behind `--` everything is a name.
    let output = outcome_of(&mut cat(&["--", "-v"]));
    assert_eq!(text(&output.stderr), "uring_cat: -v: No such file or directory\n");
}

#[test]
fn an_interrupt_ends_it_as_it_ends_others() {
    with_watchdog(LIMIT, || {
        for back_end in BACK_ENDS {
            let mut process =
                cat(back_end).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the example");
            // It is at work when it has printed something.
            process.stdin.as_mut().expect("a pipe").write_all(b"!").unwrap();
            process.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).unwrap();
            let id = rustix::process::Pid::from_child(&process);
            rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
            let mut status: Option<ExitStatus> = None;
            until(|| {
                status = process.try_wait().expect("a child");
                status.is_some()
            });
            assert_eq!(status.and_then(|status| status.signal()), Some(2));
        }
    });
}

#[test]
fn a_ring_of_ones_own_tells_through_an_eventfd_what_has_completed() {
    with_watchdog(LIMIT, || {
        let folder = Folder::new();
        let path = write(&folder, "file", b"sixteen bytes\r\n\0and 4");
        let printed = printed(Command::new(example::program("own_ring")).arg(&path).stdin(Stdio::null()));
        let printed = text(&printed);
        if let Some(why) = printed.strip_prefix("There is no io_uring for this process: ") {
            return skipped(why.trim_end());
        }
        let mut completed = 0;
        let mut results = Vec::new();
        for line in printed.lines() {
            match line.strip_prefix("the counter was at ") {
                None => results.push(line),
                Some(counts) => {
                    let (_, number) =
                        counts.strip_suffix(" had completed").unwrap().split_once(", and ").unwrap();
                    completed += number.parse::<usize>().unwrap();
                }
            }
        }
        assert_eq!(completed, 5, "{printed}");
        assert_eq!(results.pop(), Some("5 in all"));
        results.sort_unstable();
        let expected = [
            "a read from 0 on: 16 bytes, \"sixteen bytes\\r\\n\\0\"",
            "a read from 1099511627776 on: 0 bytes, \"\"",
            "a read from 16 on: 5 bytes, \"and 4\"",
            "a wait: over",
            "nothing: done",
        ];
        assert_eq!(results, expected);
    });
}
