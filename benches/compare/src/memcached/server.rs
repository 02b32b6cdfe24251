//! The servers, as processes.

use std::env;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::Result;
use crate::machine::{Machine, pin_this_thread};

/// Limit for the start, and for the end, of a server.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A program that speaks the protocol of memcached.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    path: PathBuf,
    is_example: bool,
}

/// memcached and the example. The error says which one is missing.
pub(super) fn programs() -> std::result::Result<[Program; 2], &'static str> {
    let path = env::var_os("PATH").unwrap_or_default();
    let real =
        env::split_paths(&path).map(|folder| folder.join("memcached")).find(|program| program.exists());
    let own = env::current_exe().unwrap_or_default();
    let example = own.parent().unwrap_or(Path::new("")).join("examples/memcached");
    if !example.exists() {
        return Err("the example is not built: `cargo build --release --example memcached`");
    }
    Ok([
        Program {
            name: "memcached -t 1",
            path: real.ok_or("memcached is not installed")?,
            is_example: false,
        },
        Program { name: "example, one loop", path: example, is_example: true },
    ])
}

/// A running server. Killed on drop.
#[derive(Debug)]
pub(super) struct Server {
    name: &'static str,
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts a server on the CPU of the servers, and waits until it listens.
    pub(super) fn start(program: &Program, machine: &Machine) -> Result<Server> {
        // A free one. memcached cannot inherit a listener.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let port = address.port().to_string();
        let mut command = Command::new(&program.path);
        if program.is_example {
            command.args(["--listen", &address.to_string(), "--threads", "1", "--memory-limit", "256"]);
        } else {
            command.args(["-l", "127.0.0.1", "-p", &port, "-U", "0", "-t", "1", "-m", "256", "-c", "4096"]);
            if geteuid().is_root() {
                command.args(["-u", "root"]);
            }
        }
        // A child inherits the CPU of the thread that starts it.
        machine.server_cpu.map_or(Ok(()), pin_this_thread)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        machine.generator_cpu.map_or(Ok(()), pin_this_thread)?;
        let mut server = Server { name: program.name, child: child?, address };
        let deadline = Instant::now() + TIMEOUT;
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline || server.child.try_wait()?.is_some() {
                return Err(format!("{} has not started", program.name).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(server)
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// CPU time of all its threads so far.
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let schedstat = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds += schedstat.split(' ').next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Ends the server, and requires that it ends without an error.
    pub(super) fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("{} ended with {status}", self.name).into()),
                None if Instant::now() > deadline => {
                    return Err(format!("{} did not end within {TIMEOUT:?}", self.name).into());
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail harmlessly after `stop` has reaped the child.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
