//! Counts the system calls of another process's threads, by tracing them.

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
    /// The calls in which it waits for something to do.
    rests_in: &'static [i64],
}

struct State {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
pub(crate) struct Seen {
    /// How often each call was entered.
    pub(crate) calls: BTreeMap<i64, u64>,
    /// The arguments of each `epoll_ctl` and `sendto`.
    pub(crate) epoll_operations: Vec<u64>,
    pub(crate) send_flags: Vec<u64>,
    /// The call that the thread is in.
    inside: Option<i64>,
    /// How often the thread was stopped, for whatever reason.
    pub(crate) stops: u64,
    /// At its next stop the thread stays stopped.
    held: bool,
}

impl Traced {
    /// Traces the thread `id`, which rests in one of the calls `rests_in`, unless that is not
    /// allowed here.
    pub(crate) fn attach(id: i32, rests_in: &'static [i64]) -> Option<Traced> {
        let state = Arc::new(State { seen: Mutex::default(), changed: Condvar::new() });
        let (report, attached) = mpsc::channel();
        let seen = Arc::clone(&state);
        // A tracer is a thread, so all that is asked of the traced one is asked by this. It ends
        // with the traced one.
        thread::spawn(move || {
            let traced = Pid::from_raw(id);
            let seized = ptrace::seize(traced, ptrace::Options::PTRACE_O_TRACESYSGOOD)
                .and_then(|()| ptrace::interrupt(traced));
            report.send(seized).expect("somebody waits for it");
            if seized.is_ok() {
                seen.follow(traced);
            }
        });
        let seized = attached.recv().expect("a tracer that starts");
        match seized {
            Ok(()) => Some(Traced { state, rests_in }),
            Err(Errno::EPERM | Errno::ENOSYS) => {
                // Not `println!`, which a passing test would keep to itself.
                let _ = writeln!(io::stderr(), "system calls are not counted: ptrace is not allowed here");
                None
            }
            Err(error) => panic!("cannot trace thread {id}: {error}"),
        }
    }

    /// How often it has entered `call`.
    pub(crate) fn count(&self, call: i64) -> u64 {
        self.state.lock().calls.get(&call).copied().unwrap_or(0)
    }

    fn wait(&self, mut until: impl FnMut(&Seen) -> bool) -> MutexGuard<'_, Seen> {
        let seen = self.state.lock();
        let (seen, limit) =
            self.state.changed.wait_timeout_while(seen, net::LIMIT, |seen| !until(seen)).unwrap();
        assert!(!limit.timed_out(), "it does not happen; the calls were {:?}", seen.calls);
        seen
    }

    /// Waits until the thread waits for something to do.
    pub(crate) fn settle(&self) -> MutexGuard<'_, Seen> {
        self.wait(|seen| seen.inside.is_some_and(|call| self.rests_in.contains(&call)))
    }

    /// The calls that `doing` leads to, from rest to rest. What `doing` waits for must be the last
    /// that the thread does.
    pub(crate) fn calls_of(&self, doing: impl FnOnce()) -> Calls {
        let before = self.settle().calls.clone();
        doing();
        let after = self.settle().calls.clone();
        let mut calls = Calls(BTreeMap::new());
        for (call, count) in after {
            let count = count - before.get(&call).copied().unwrap_or(0);
            // A system without a clock in user space asks the kernel for the time; that is not the
            // loop's doing.
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
    /// A test that fails with this in its hands leaves it as good as it was.
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the thread run from one end of a system call to the other, until it is gone.
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
                    // On the way in the kernel has put this where the result will be; no call that
                    // is made here has it.
                    if registers.rax as i64 == -i64::from(libc::ENOSYS) {
                        let call = registers.orig_rax as i64;
                        *seen.calls.entry(call).or_default() += 1;
                        // With a timeout of zero it looks for something to do, and does not wait
                        // for it.
                        let looks = call == libc::SYS_epoll_wait && registers.r10 == 0;
                        seen.inside = (!looks).then_some(call);
                        match call {
                            libc::SYS_epoll_ctl => seen.epoll_operations.push(registers.rsi),
                            libc::SYS_sendto => seen.send_flags.push(registers.r10),
                            _ => {}
                        }
                    } else {
                        seen.inside = None;
                    }
                }
                WaitStatus::Stopped(_, with) => signal = Some(with),
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

    /// Takes the count of `call` out.
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
