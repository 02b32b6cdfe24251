//! Counts the system calls of threads of another process with ptrace(2).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::net;

/// A thread of another process whose system calls are counted.
pub(crate) struct Traced {
    state: Arc<State>,
    /// The system calls in which it sleeps while it is idle.
    idle_calls: &'static [i64],
}

struct State {
    seen: Mutex<Seen>,
    changed: Condvar,
}

/// The observations of a tracer.
#[derive(Default)]
pub(crate) struct Seen {
    /// The number of entries into each call.
    pub(crate) calls: BTreeMap<i64, u64>,
    /// The operation argument of each `epoll_ctl`.
    pub(crate) epoll_operations: Vec<u64>,
    /// The flags argument of each `sendto`.
    pub(crate) send_flags: Vec<u64>,
    /// The call that the thread is in.
    inside: Option<i64>,
    /// The number of stops of the thread, for any reason.
    pub(crate) stops: u64,
    /// Whether the thread remains stopped after its next stop.
    held: bool,
}

impl Traced {
    /// Traces the thread `id`, which sleeps in one of `idle_calls` while it is idle. Prints a
    /// message and returns `None` if tracing is not permitted.
    pub(crate) fn attach(id: i32, idle_calls: &'static [i64]) -> Option<Traced> {
        let state = Arc::new(State { seen: Mutex::default(), changed: Condvar::new() });
        let (sender, receiver) = mpsc::channel();
        let tracer_state = Arc::clone(&state);
        // The kernel accepts ptrace calls only from the thread that attached. So one thread makes
        // all of them. It ends with the traced thread.
        thread::spawn(move || {
            let traced = Pid::from_raw(id);
            let seized = ptrace::seize(traced, ptrace::Options::PTRACE_O_TRACESYSGOOD)
                .and_then(|()| ptrace::interrupt(traced));
            sender.send(seized).expect("the receiver was dropped");
            if seized.is_ok() {
                tracer_state.follow(traced);
            }
        });
        let seized = receiver.recv().expect("the tracer did not start");
        match seized {
            Ok(()) => Some(Traced { state, idle_calls }),
            Err(Errno::EPERM | Errno::ENOSYS) => {
                // Not `println!`, because the test harness captures its output.
                let _ = writeln!(io::stderr(), "system calls are not counted: ptrace is not permitted");
                None
            }
            Err(error) => panic!("cannot trace thread {id}: {error}"),
        }
    }

    /// Returns the number of entries into `call`.
    pub(crate) fn count(&self, call: i64) -> u64 {
        self.state.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// Waits until the thread is idle.
    pub(crate) fn wait_until_idle(&self) -> MutexGuard<'_, Seen> {
        let is_busy = |seen: &mut Seen| seen.inside.is_none_or(|call| !self.idle_calls.contains(&call));
        let seen = self.state.lock();
        let (seen, limit) = self.state.changed.wait_timeout_while(seen, net::LIMIT, is_busy).unwrap();
        assert!(!limit.timed_out(), "the thread does not become idle; its calls were {:?}", seen.calls);
        seen
    }

    /// Counts the calls that the thread makes because of `action`, from idle to idle. `action` must
    /// wait for the last effect that it causes on the thread.
    pub(crate) fn calls_of(&self, action: impl FnOnce()) -> Calls {
        let before = self.wait_until_idle().calls.clone();
        action();
        let after = self.wait_until_idle().calls.clone();
        let mut calls = Calls(BTreeMap::new());
        for (call, count) in after {
            let count = count - before.get(&call).copied().unwrap_or(0);
            // Reading the time is a system call only on a system without a clock in user space.
            if count > 0 && call != libc::SYS_clock_gettime {
                calls.0.insert(call, count);
            }
        }
        calls
    }

    pub(crate) fn hold(&self) {
        self.state.lock().held = true;
    }

    pub(crate) fn release(&self) {
        self.state.lock().held = false;
        self.state.changed.notify_all();
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.release();
    }
}

impl State {
    /// Ignores poisoning: a test that fails while it holds the guard leaves the state consistent.
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the thread from one entry or exit of a system call to the next, until it has ended.
    fn follow(&self, traced: Pid) {
        loop {
            let status = match waitpid(traced, Some(WaitPidFlag::__WALL)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(_) => break,
            };
            let mut seen = self.lock();
            seen.stops += 1;
            let mut signal: Option<Signal> = None;
            match status {
                WaitStatus::PtraceSyscall(_) => {
                    let Ok(registers) = ptrace::getregs(traced) else { break };
                    // At the entry of a call the kernel sets the result register to -ENOSYS. No
                    // call of the tests returns that.
                    if registers.rax as i64 == -i64::from(libc::ENOSYS) {
                        let call = registers.orig_rax as i64;
                        *seen.calls.entry(call).or_default() += 1;
                        // With a timeout of zero the call does not sleep: the thread is not idle.
                        let never_sleeps = call == libc::SYS_epoll_wait && registers.r10 == 0;
                        seen.inside = (!never_sleeps).then_some(call);
                        match call {
                            libc::SYS_epoll_ctl => seen.epoll_operations.push(registers.rsi),
                            libc::SYS_sendto => seen.send_flags.push(registers.r10),
                            _ => {}
                        }
                    } else {
                        seen.inside = None;
                    }
                }
                WaitStatus::Stopped(_, received) => signal = Some(received),
                WaitStatus::PtraceEvent(..) => seen.inside = None,
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => break,
                _ => {}
            }
            self.changed.notify_all();
            drop(self.changed.wait_while(seen, |seen| seen.held));
            if ptrace::syscall(traced, signal).is_err() {
                break;
            }
        }
    }
}

/// Counts of calls by their numbers.
#[derive(PartialEq, Eq)]
pub(crate) struct Calls(BTreeMap<i64, u64>);

impl Calls {
    pub(crate) fn of<const N: usize>(calls: [(i64, u64); N]) -> Calls {
        Calls(calls.into())
    }

    pub(crate) fn count(&self, call: i64) -> u64 {
        self.0.get(&call).copied().unwrap_or(0)
    }

    /// Removes the count of `call` and returns it.
    pub(crate) fn take(&mut self, call: i64) -> u64 {
        self.0.remove(&call).unwrap_or(0)
    }
}

impl std::fmt::Debug for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = |call| match call {
            libc::SYS_recvfrom => "recvfrom".to_owned(),
            libc::SYS_sendto => "sendto".to_owned(),
            libc::SYS_epoll_wait => "epoll_wait".to_owned(),
            libc::SYS_epoll_ctl => "epoll_ctl".to_owned(),
            libc::SYS_accept4 => "accept4".to_owned(),
            libc::SYS_setsockopt => "setsockopt".to_owned(),
            libc::SYS_shutdown => "shutdown".to_owned(),
            libc::SYS_close => "close".to_owned(),
            libc::SYS_read => "read".to_owned(),
            libc::SYS_write => "write".to_owned(),
            libc::SYS_fcntl => "fcntl".to_owned(),
            libc::SYS_futex => "futex".to_owned(),
            libc::SYS_timerfd_settime => "timerfd_settime".to_owned(),
            other => format!("call {other}"),
        };
        f.debug_map().entries(self.0.iter().map(|(call, count)| (name(*call), count))).finish()
    }
}
