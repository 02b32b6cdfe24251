//! What belongs to a process: the descriptors that it has open, and a child in which the test
//! binary plays a role of its own.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use super::LIMIT;

/// How many descriptors of the kinds that the library uses this process has open: sockets, pollers,
/// counters, and `/dev/null` for the reserve. The standard library reads a file of its own now and
/// then.
pub(crate) fn open_descriptors() -> usize {
    let kinds = ["socket:", "anon_inode:", "pipe:", "/dev/null"];
    descriptors()
        .filter(|(_, file)| kinds.iter().any(|kind| file.to_string_lossy().starts_with(kind)))
        .count()
}

/// The descriptors that are sockets, each by its path in procfs and the name of the socket.
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

/// Another process of this test binary. It runs only the test `child_role` of the module of the
/// test that starts it, which is ignored otherwise.
pub(crate) struct Child {
    process: process::Child,
    answers: mpsc::Receiver<String>,
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
        let (heard, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines() {
                let Ok(line) = line else { return };
                // The test harness speaks as well, and not always in whole lines.
                if let Some((_, answer)) = line.split_once(MARK) {
                    let _ = heard.send(answer.to_owned());
                }
            }
        });
        Child { process, answers }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    #[track_caller]
    pub(crate) fn hear(&mut self) -> String {
        self.answers.recv_timeout(LIMIT).expect("a child that answers")
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, question: &str) -> String {
        let input = self.process.stdin.as_mut().expect("a pipe");
        writeln!(input, "{question}").expect("a child that listens");
        self.hear()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const MARK: &str = "@@ ";

/// For the child: the role it is to play, if it is a child at all.
pub(crate) fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// For the child: what its parent will [hear](Child::hear).
pub(crate) fn answer(text: impl std::fmt::Display) {
    println!("{MARK}{text}");
}
