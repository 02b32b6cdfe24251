//! The server process, as seen by its parent: it is queried through its standard input and measured
//! through /proc.

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::server::Services;

/// A server process. It ends at the end of its standard input.
pub(crate) struct Server {
    child: Child,
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    services: Services,
}

impl Server {
    pub(crate) fn start() -> io::Result<Server> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let requests = child.stdin.take();
        let mut replies = BufReader::new(child.stdout.take().expect("a piped standard output"));
        let services = Services::parse(&read_line(&mut replies)?)?;
        Ok(Server { child, requests, replies, services })
    }

    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    /// The number of open connections of all services. The reply comes from the loop, so it shows
    /// that the loop makes turns.
    pub(crate) fn open_connections(&mut self) -> io::Result<u64> {
        let requests = self.requests.as_mut().expect("not stopped");
        writeln!(requests, "open")?;
        read_line(&mut self.replies)?.parse().map_err(io::Error::other)
    }

    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let statm = fs::read_to_string(self.path("statm"))?;
        let pages: u64 =
            statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("a page count");
        let descriptors = fs::read_dir(self.path("fd"))?.count();
        let page = rustix::param::page_size() as u64;
        Ok(Usage { resident: pages * page, descriptors })
    }

    /// The CPU use of the process over one second. To be called while no client is connected.
    pub(crate) fn cpu_when_idle(&self) -> io::Result<Cpu> {
        let before = self.cpu()?;
        thread::sleep(Duration::from_secs(1));
        let after = self.cpu()?;
        Ok(Cpu {
            nanoseconds: after.nanoseconds - before.nanoseconds,
            switches: after.switches - before.switches,
        })
    }

    /// The CPU time and the voluntary context switches of all threads so far.
    fn cpu(&self) -> io::Result<Cpu> {
        let mut cpu = Cpu { nanoseconds: 0, switches: 0 };
        for thread in fs::read_dir(self.path("task"))? {
            let thread = thread?.path();
            let schedstat = fs::read_to_string(thread.join("schedstat"))?;
            let on_cpu = schedstat.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
            cpu.nanoseconds += on_cpu.expect("nanoseconds");
            let status = fs::read_to_string(thread.join("status"))?;
            let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            cpu.switches +=
                switches.and_then(|n| n.trim().parse::<u64>().ok()).expect("a number of switches");
        }
        Ok(cpu)
    }

    pub(crate) fn stop(mut self) -> io::Result<()> {
        drop(self.requests.take());
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("the server ended with {status}")))
        }
    }

    fn path(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.requests.take().is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server process has ended"));
    }
    Ok(line.trim_end().to_owned())
}

/// The resources that a process holds.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
    pub(crate) descriptors: usize,
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB resident, {} descriptors", self.resident >> 10, self.descriptors)
    }
}

/// CPU time and voluntary context switches.
pub(crate) struct Cpu {
    nanoseconds: u64,
    switches: u64,
}

impl Cpu {
    /// Whether the values are those of an idle process. The kernel may wake a thread once or twice
    /// without a cause in the process.
    pub(crate) fn is_idle(&self) -> bool {
        self.nanoseconds < 5_000_000 && self.switches <= 3
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} us, {} switches", self.nanoseconds / 1000, self.switches)
    }
}
