//! For the tests of the examples: their programs as child processes.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::net::{LIMIT, until};

/// Returns the path of an example. `cargo test` builds the examples too, into a directory next to
/// that of the tests.
#[track_caller]
pub(crate) fn program(name: &str) -> PathBuf {
    let tests = env::current_exe().expect("this program");
    let profile = tests.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let program = profile.join("examples").join(name);
    assert!(program.exists(), "{} is missing: build it with `cargo build --examples`", program.display());
    program
}

/// Runs an example until it exits.
#[track_caller]
pub(crate) fn outcome_of(name: &str, arguments: &[&str]) -> Output {
    Command::new(program(name)).args(arguments).stdin(Stdio::null()).output().expect("the example")
}

/// A running example that is a server. Dropping this kills it.
pub(crate) struct Server {
    process: Child,
    /// The address that it prints.
    pub(crate) address: SocketAddr,
    lines: mpsc::Receiver<String>,
}

impl Server {
    /// Starts it and reads the address from its first line.
    pub(crate) fn start(command: &mut Command) -> Server {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the example");
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut server = Server { process, address: SocketAddr::from(([0; 4], 0)), lines };
        let first = server.line();
        let address = first.split_once(" on ").map(|(_, address)| address);
        let address = address.unwrap_or_else(|| panic!("no address in `{first}`"));
        server.address = address.parse().expect("an address");
        server
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for the next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        self.lines.recv_timeout(LIMIT).expect("the example printed no further line")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("the process has ended");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("a child").is_none()
    }

    /// Waits until it has exited. Returns the status and the last line, which must be the only
    /// unread one.
    #[track_caller]
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        until(|| !self.is_running());
        let status = self.process.wait().expect("a child");
        assert_eq!(status.signal(), None, "a signal killed the example");
        let line = self.line();
        assert!(self.lines.recv_timeout(LIMIT).is_err(), "the example printed more after `{line}`");
        (status, line)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
