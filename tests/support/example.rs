//! The examples, as programs.

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

/// Where an example is: `cargo test` builds the examples as well, beside the directory of the
/// tests.
#[track_caller]
pub(crate) fn program(name: &str) -> PathBuf {
    let tests = env::current_exe().expect("this program");
    let profile = tests.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let program = profile.join("examples").join(name);
    assert!(program.exists(), "there is no {}: build it with `cargo build --examples`", program.display());
    program
}

/// Runs an example to its end.
#[track_caller]
pub(crate) fn outcome_of(name: &str, arguments: &[&str]) -> Output {
    Command::new(program(name)).args(arguments).stdin(Stdio::null()).output().expect("the example")
}

/// An example that serves, while it runs. It is killed by the drop.
pub(crate) struct Server {
    process: Child,
    /// Where it says that it listens.
    pub(crate) address: SocketAddr,
    lines: mpsc::Receiver<String>,
}

impl Server {
    /// Starts it, and reads its first line.
    pub(crate) fn start(command: &mut Command) -> Server {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the example");
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        let (say, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        let mut server = Server { process, address: SocketAddr::from(([0; 4], 0)), lines };
        let first = server.line();
        let address = first.strip_prefix("listening on ");
        let address = address.unwrap_or_else(|| panic!("no address in `{first}`"));
        server.address = address.parse().expect("an address");
        server
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        self.lines.recv_timeout(LIMIT).expect("another line")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("a process that is there");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("a child").is_none()
    }

    /// Waits for its end, and answers the status and the line that is left.
    #[track_caller]
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        until(|| !self.is_running());
        let status = self.process.wait().expect("a child");
        assert_eq!(status.signal(), None, "it has been killed");
        let line = self.line();
        assert!(self.lines.recv_timeout(LIMIT).is_err(), "there is more after `{line}`");
        (status, line)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
