//! Processes: the open descriptors of this process, and child processes that run the test binary in
//! a role.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use super::LIMIT;

/// Returns the number of open descriptors of the kinds that the library uses: sockets, epoll and
/// eventfd descriptors, pipes, and `/dev/null` for the reserve. Other files are not counted,
/// because the standard library opens files occasionally.
pub(crate) fn open_descriptors() -> usize {
    let kinds = ["socket:", "anon_inode:", "pipe:", "/dev/null"];
    descriptors()
        .filter(|(_, file)| kinds.iter().any(|kind| file.to_string_lossy().starts_with(kind)))
        .count()
}

/// Returns the open sockets: the path of each descriptor in procfs and the name of its socket.
pub(crate) fn open_sockets() -> BTreeSet<(PathBuf, PathBuf)> {
    descriptors().filter(|(_, file)| file.to_string_lossy().starts_with("socket:")).collect()
}

fn descriptors() -> impl Iterator<Item = (PathBuf, PathBuf)> {
    let entries = fs::read_dir("/proc/self/fd").expect("procfs");
    entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let file = fs::read_link(&path).ok()?;
        Some((path, file))
    })
}

const ROLE: &str = "REVEILLE_TEST_ROLE";

/// A child process that runs this test binary. It runs only the test `child_role` in the module of
/// the test that starts it. That test is marked as ignored. Dropping this kills the child.
pub(crate) struct Child {
    process: process::Child,
    replies: mpsc::Receiver<String>,
}

impl Child {
    pub(crate) fn start(role: &str) -> Child {
        let program = env::current_exe().expect("this program");
        let thread = thread::current();
        let test = thread.name().expect("the name of the test");
        let module = test.rsplit_once("::").map_or(String::new(), |(module, _)| format!("{module}::"));
        let mut process = Command::new(program)
            .args(["--exact", &format!("{module}child_role")])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        let (sender, replies) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines() {
                let Ok(line) = line else { return };
                // The test harness prints to the same output, and its text may precede a reply on
                // the same line.
                if let Some((_, reply)) = line.split_once(MARK) {
                    let _ = sender.send(reply.to_owned());
                }
            }
        });
        Child { process, replies }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for the next line that the child sends.
    #[track_caller]
    pub(crate) fn next_reply(&mut self) -> String {
        self.replies.recv_timeout(LIMIT).expect("no line from the child")
    }

    /// Sends a line to the child and waits for the reply.
    #[track_caller]
    pub(crate) fn request(&mut self, line: &str) -> String {
        let input = self.process.stdin.as_mut().expect("a pipe");
        writeln!(input, "{line}").expect("cannot write to the child");
        self.next_reply()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Precedes each line that the child sends, to distinguish it from the output of the test harness.
const MARK: &str = "@@ ";

/// In a child process: returns its role. In any other process: `None`.
pub(crate) fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// In a child process: sends a line to the parent.
pub(crate) fn send_to_parent(line: impl std::fmt::Display) {
    println!("{MARK}{line}");
}
