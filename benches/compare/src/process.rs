//! A server in a child process, and its figures from the kernel.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use crate::Result;
use crate::machine::Machine;
use crate::servers::{self, Peer};
use crate::tls::Identity;

/// Limit for the start, and for the end, of a server.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A running server. Killed on drop.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    peer: Peer,
    /// The server that a relay relays to.
    backend: Option<Box<Server>>,
}

impl Server {
    /// Starts this program again as the server of `peer`, and waits until it listens.
    pub(crate) fn start(peer: Peer, machine: &Machine) -> Result<Server> {
        Server::start_on(peer, machine, machine.server_cpu)
    }

    fn start_on(peer: Peer, machine: &Machine, cpu: Option<usize>) -> Result<Server> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg(peer.name());
        command.args(cpu.map(|cpu| cpu.to_string()));
        if peer.is_tls() {
            command.envs(Identity::of_this_run()?.variables());
        }
        let mut backend = None;
        if peer.is_relay() {
            // On the CPU of the generator: what it costs does not count.
            let server = Server::start_on(Peer::Raw, machine, machine.generator_cpu)?;
            command.env(servers::BACKEND, server.address.to_string());
            backend = Some(Box::new(server));
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut server = Server { child, address: ([0, 0, 0, 0], 0).into(), peer, backend };
        server.address = server.announced_address()?;
        if peer == Peer::NginxRelay {
            server.await_listener()?;
        }
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

    /// nginx begins to listen after its address is known.
    fn await_listener(&mut self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        while TcpStream::connect(self.address).is_err() {
            if Instant::now() > deadline || self.child.try_wait()?.is_some() {
                return Err("nginx has not started; its message is above".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
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
        if self.peer == Peer::NginxRelay {
            kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        }
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => break,
                Some(status) => return Err(format!("ended with {status}").into()),
                None if Instant::now() > deadline => {
                    return Err(format!("did not end within {TIMEOUT:?}").into());
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        match self.backend.take() {
            Some(backend) => backend.stop(),
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail harmlessly after `stop` has reaped the child.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.peer == Peer::NginxRelay {
            servers::clean_up(self.child.id());
        }
    }
}
