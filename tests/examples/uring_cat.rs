//! The examples uring_cat and own_ring as programs: their output, their error messages, and their
//! exit status.

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

/// Returns a command that runs uring_cat with the options of a back end.
fn cat(back_end: &[&str]) -> Command {
    let mut command = Command::new(example::program("uring_cat"));
    command.args(back_end).stdin(Stdio::null());
    command
}

/// The options of each back end. The first is the default: a ring if the build and the machine
/// support it, otherwise threads.
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

/// Runs the command and returns its output. Requires success and no error messages.
#[track_caller]
fn printed(command: &mut Command) -> Vec<u8> {
    let output = outcome_of(command);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    output.stdout
}

fn write(folder: &Folder, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).expect("a writable directory");
    path
}

#[test]
fn files_are_printed_byte_for_byte_in_the_order_given() {
    with_watchdog(LIMIT, || {
        let folder = Folder::new();
        // Sizes around the size of a piece and around multiples of it.
        let piece = 128 << 10;
        let sizes = [0, 1, piece - 1, piece, piece + 1, 8 * piece, 8 * piece + 1, (5 << 20) + 17];
        let contents: Vec<_> = sizes.map(pattern).into();
        let write = |(n, bytes): (usize, &Vec<u8>)| write(&folder, &format!("{n}"), bytes);
        let mut paths: Vec<_> = contents.iter().enumerate().map(write).collect();
        for back_end in BACK_ENDS {
            for (path, bytes) in paths.iter().zip(&contents) {
                let printed = printed(cat(back_end).arg(path));
                assert!(printed == *bytes, "{} bytes were printed, not {}", printed.len(), bytes.len());
            }
            assert!(printed(cat(back_end).args(&paths)) == contents.concat());
            paths.push(PathBuf::from("/etc/passwd"));
            let with_passwd = [contents.concat(), fs::read("/etc/passwd").unwrap()].concat();
            assert!(printed(cat(back_end).args(&paths)) == with_passwd);
            paths.pop();
        }
    });
}

/// The limit of descriptors is lower than the number of files.
#[test]
fn printed_files_leave_no_descriptor() {
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

/// Reads from the disk complete in any order, and several are in progress at a time.
#[test]
fn uncached_files_are_printed_in_order() {
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
fn a_file_of_unknown_size_is_read_to_its_end() {
    with_watchdog(LIMIT, || {
        for back_end in BACK_ENDS {
            let printed = printed(cat(back_end).arg("/proc/filesystems"));
            assert_eq!(text(&printed), fs::read_to_string("/proc/filesystems").unwrap());
        }
    });
}

#[test]
fn unreadable_files_are_reported_and_the_others_are_printed() {
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

/// Runs the command with `input`, which arrives through a pipe in pieces of an odd size.
#[track_caller]
fn outcome_of_input(command: &mut Command, input: Vec<u8>) -> Output {
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the example");
    let mut pipe = process.stdin.take().expect("a pipe");
    let writer = thread::spawn(move || input.chunks(50_021).try_for_each(|piece| pipe.write_all(piece)));
    let output = process.wait_with_output().expect("the example");
    writer.join().expect("a thread").expect("a pipe whose reader reads to the end");
    output
}

#[test]
fn standard_input_is_printed_like_a_file() {
    with_watchdog(LIMIT, || {
        let folder = Folder::new();
        let file = write(&folder, "file", b"from a file\n");
        let input = pattern(2 << 20);
        for back_end in BACK_ENDS {
            // Without arguments, and as `-` between two files.
            let output = outcome_of_input(&mut cat(back_end), input.clone());
            assert!(output.status.success() && output.stdout == input);
            let output =
                outcome_of_input(cat(back_end).args([file.as_path(), Path::new("-"), &file]), input.clone());
            assert!(output.status.success());
            assert!(output.stdout == [b"from a file\n", &input[..], b"from a file\n"].concat());
            // A file whose first bytes have already been read.
            let mut partly_read = File::open(&file).unwrap();
            partly_read.read_exact(&mut [0; 5]).unwrap();
            assert_eq!(text(&printed(cat(back_end).stdin(partly_read))), "a file\n");
        }
    });
}

#[test]
fn a_named_pipe_is_read_to_its_end() {
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
fn a_closed_output_pipe_ends_it_without_a_message() {
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
            assert_eq!(output.status.code(), Some(1), "the status does not show that output is missing");
        }
    });
}

#[test]
fn a_full_output_device_is_reported_in_one_line() {
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
fn a_file_is_not_printed_to_itself() {
    with_watchdog(LIMIT, || {
        for back_end in BACK_ENDS {
            let folder = Folder::new();
            let path = write(&folder, "file", b"a line\n");
            let other = write(&folder, "other", b"another\n");
            let output = OpenOptions::new().append(true).open(&path).unwrap();
            let output = outcome_of_appending(cat(back_end).args([&path, &other]), output);
            assert_eq!(
                text(&output.stderr),
                format!("uring_cat: {}: input file is output file\n", path.display())
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
fn the_option_v_prints_the_back_end() {
    with_watchdog(LIMIT, || {
        let reported = |arguments: &[&str]| {
            let output = outcome_of(cat(arguments).args(["-v", "/etc/passwd"]));
            (output.status.success() && output.stdout == fs::read("/etc/passwd").unwrap())
                .then(|| text(&output.stderr).to_owned())
                .ok_or_else(|| text(&output.stderr).to_owned())
        };
        assert_eq!(reported(&["--by", "threads"]), Ok("uring_cat: threads\n".to_owned()));
        // Whether io_uring is available depends on the machine and on the features of the build.
        match reported(&["--by", "io_uring"]) {
            Ok(ring) => {
                assert_eq!(ring, "uring_cat: io_uring\n");
                assert_eq!(reported(&[]), Ok(ring));
            }
            Err(reason) => {
                assert!(reason.starts_with("uring_cat: ") && reason.lines().count() == 1, "{reason}");
                assert_eq!(reported(&[]), Ok("uring_cat: threads\n".to_owned()));
            }
        }
    });
}

#[test]
fn invalid_arguments_are_rejected_with_the_usage() {
    let output = outcome_of(&mut cat(&["--nonsense"]));
    assert_eq!(output.status.code(), Some(2));
    let errors = text(&output.stderr);
    assert!(errors.starts_with("uring_cat: unknown argument `--nonsense`\nusage: uring_cat "), "{errors}");
    for (by, message) in [
        (&["--by"][..], "missing argument for option '--by'"),
        (&["--by", "magic"], "--by takes io_uring or threads"),
    ] {
        let output = outcome_of(&mut cat(by));
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).starts_with(&format!("uring_cat: {message}\n")));
    }
    let output = outcome_of(&mut cat(&["--help"]));
    assert!(output.status.success() && text(&output.stdout).starts_with("usage: uring_cat "));
    // Every argument after `--` is a file name.
    let output = outcome_of(&mut cat(&["--", "-v"]));
    assert_eq!(text(&output.stderr), "uring_cat: -v: No such file or directory\n");
}

#[test]
fn sigint_terminates_it() {
    with_watchdog(LIMIT, || {
        for back_end in BACK_ENDS {
            let mut process =
                cat(back_end).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the example");
            // The program runs, since its first output arrives.
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
fn own_ring_reports_completions_through_an_eventfd() {
    with_watchdog(LIMIT, || {
        let folder = Folder::new();
        let path = write(&folder, "file", b"sixteen bytes\r\n\0and 4");
        let printed = printed(Command::new(example::program("own_ring")).arg(&path).stdin(Stdio::null()));
        let printed = text(&printed);
        if let Some(reason) = printed.strip_prefix("io_uring is not available: ") {
            return skipped(reason.trim_end());
        }
        let mut completed = 0;
        let mut results = Vec::new();
        for line in printed.lines() {
            match line.strip_prefix("counter: ") {
                None => results.push(line),
                Some(counts) => {
                    let (_, number) = counts.split_once(", completions: ").unwrap();
                    completed += number.parse::<usize>().unwrap();
                }
            }
        }
        assert_eq!(completed, 5, "{printed}");
        assert_eq!(results.pop(), Some("5 operations completed"));
        results.sort_unstable();
        let expected = [
            "no-op: done",
            "read at offset 0: 16 bytes, \"sixteen bytes\\r\\n\\0\"",
            "read at offset 1099511627776: 0 bytes, \"\"",
            "read at offset 16: 5 bytes, \"and 4\"",
            "timeout: expired",
        ];
        assert_eq!(results, expected);
    });
}
