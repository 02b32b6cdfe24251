//! A server in a child process, and its figures from the kernel.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Result;
use crate::machine::Machine;
use crate::servers::Peer;
use crate::tls::Identity;

/// Limit for the start, and for the end, of a server.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A running server. Killed on drop.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts this program again as the server of `peer`, and waits until it listens.
    pub(crate) fn start(peer: Peer, machine: &Machine) -> Result<Server> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg(peer.name());
        command.args(machine.server_cpu.map(|cpu| cpu.to_string()));
        if peer.is_tls() {
            command.envs(Identity::of_this_run()?.variables());
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut server = Server { child, address: ([0, 0, 0, 0], 0).into() };
        server.address = server.announced_address()?;
        Ok(server)
    }

    fn announced_address(&mut self) -> Result<SocketAddr> {
        let stdout = self.child.stdout.take().ok_or("the server has no output")?;
        let bound = Timespec::try_from(TIMEOUT)?;
        if poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&bound))? == 0 {
            return Err(format!("did not start within {TIMEOUT:?}").into());
        }
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse();
        Ok(address.map_err(|_| "ended before it served; its message is above")?)
    }

    /// The address of the listener.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// CPU time of all its threads so far. The kernel updates the figure of a running thread at
    /// every scheduler tick, so it lags by at most 4 ms at 250 ticks per second.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let schedstat = fs::read_to_string(thread?.path().join("schedstat"))?;
            let on_cpu = schedstat.split(' ').next().unwrap_or_default();
            nanoseconds += on_cpu.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Resident memory now, in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|value| value.trim().strip_suffix(" kB"));
        Ok(kibibytes.ok_or("the server has no resident memory: it is gone")?.parse::<u64>()? * 1024)
    }

    /// Ends the server by closing its input. Fails if it was no longer running, or ends with an
    /// error.
    pub(crate) fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("ended with {status}").into()),
                None if Instant::now() > deadline => {
                    return Err(format!("did not end within {TIMEOUT:?}").into());
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
