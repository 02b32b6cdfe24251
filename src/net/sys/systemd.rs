//! Sockets that systemd, or another service manager, passes to the program (sd_listen_fds(3)).
//!
//! The manager sets `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`, and executes the program with
//! the descriptors from number 3 on.

#![allow(unsafe_code, reason = "a descriptor that is inherited by its number has no owner")]

use std::env;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use rustix::io::FdFlags;

/// The number of the first descriptor.
const FIRST: RawFd = 3;

/// The name of a descriptor if the manager passes none.
const UNNAMED: &str = "unknown";

/// Whether the descriptors have been handed out.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// A socket that the service manager has passed. Returned by [`systemd_listeners`].
#[derive(Debug)]
#[non_exhaustive]
pub struct SystemdListener {
    /// Its name: `FileDescriptorName=` of the socket unit, by default the unit's own name;
    /// `unknown` if the manager passes no names.
    pub name: String,
    /// The socket, now close-on-exec. [`TcpServerBuilder::listener`],
    /// [`UdpSocket::from_socket`](crate::UdpSocket::from_socket) and
    /// [`TcpConnection::adopt`](crate::TcpConnection::adopt) take it and check its type.
    ///
    /// [`TcpServerBuilder::listener`]: crate::net::TcpServerBuilder::listener
    pub fd: OwnedFd,
}

/// Takes the descriptors that systemd passes to a socket-activated service (sd_listen_fds(3)). The
/// result is empty if the program was not started in this way: the variables are not set, or are
/// those of another process.
///
/// Called before the program opens descriptors, it reports one that is missing. Afterwards the
/// program may have opened another with its number. The types are checked by what takes them.
///
/// Each descriptor is handed out once; the result of a later call is empty. The variables remain.
/// Child processes ignore them, since they contain the id of this process.
///
/// ```
/// use reveille::{EventLoop, TcpServer, net};
///
/// # fn main() -> std::io::Result<()> {
/// let passed = net::systemd_listeners()?; // first: the loop opens descriptors
/// let event_loop = EventLoop::new()?;
/// let mut builder = TcpServer::builder(&event_loop);
/// if passed.is_empty() {
///     builder = builder.listen("127.0.0.1:0"); // started by hand
/// }
/// for listener in passed {
///     builder = builder.listener(listener.fd);
/// }
/// let _server = builder.serve_fn(|conn, input| conn.send(input.take_all()))?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`InvalidData`](io::ErrorKind::InvalidData) if the variables of this process are malformed, if
/// they name a descriptor that is not open, or one that the program has opened itself. No
/// descriptor is taken then.
pub fn systemd_listeners() -> io::Result<Vec<SystemdListener>> {
    if TAKEN.swap(true, SeqCst) {
        return Ok(Vec::new());
    }
    let taken = take();
    if !taken.as_ref().is_ok_and(|taken| !taken.is_empty()) {
        TAKEN.store(false, SeqCst);
    }
    taken
}

fn take() -> io::Result<Vec<SystemdListener>> {
    let variable = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let [pid, count, names] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(variable);
    let passed = Passed::parse(process::id(), pid.as_deref(), count.as_deref(), names.as_deref())?;
    let numbers = FIRST..FIRST + passed.count;
    numbers.clone().try_for_each(check_inherited)?;
    let names = passed.names.unwrap_or_else(|| numbers.clone().map(|_| UNNAMED.to_owned()).collect());
    let own = |(number, name)| {
        // SAFETY: the descriptor is open, and nothing in this process owns it, so it has exactly
        // one owner from here on:
        // - The manager has passed the number to this very process, by its id, for the program to
        //   take over.
        // - It was inherited by the exec, since it is not close-on-exec. The standard library and
        //   the crates that own descriptors open theirs with that flag. sd_listen_fds(3) sets the
        //   flag on what it hands out, so descriptors that other code took in this way are
        //   excluded.
        // - `TAKEN` excludes another call of this function.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        Ok(SystemdListener { name, fd })
    };
    numbers.zip(names).map(own).collect()
}

/// What the variables say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Passed {
    count: RawFd,
    /// One for each descriptor.
    names: Option<Vec<String>>,
}

impl Passed {
    fn parse(
        this_process: u32,
        pid: Option<&str>,
        count: Option<&str>,
        names: Option<&str>,
    ) -> io::Result<Passed> {
        let (Some(pid), Some(count)) = (pid, count) else { return Ok(Passed::default()) };
        if number("LISTEN_PID", pid)? != i64::from(this_process) {
            return Ok(Passed::default());
        }
        let found = number("LISTEN_FDS", count)?;
        let Some(count) =
            RawFd::try_from(found).ok().filter(|count| (0..=RawFd::MAX - FIRST).contains(count))
        else {
            return invalid(format!("LISTEN_FDS cannot be {found}"));
        };
        let names: Option<Vec<String>> = names.map(|names| names.split(':').map(str::to_owned).collect());
        match names {
            Some(names) if count > 0 && names.len() != count as usize => {
                invalid(format!("LISTEN_FDNAMES has {} names, and LISTEN_FDS is {count}", names.len()))
            }
            names => Ok(Passed { count, names }),
        }
    }
}

fn number(variable: &str, text: &str) -> io::Result<i64> {
    text.parse().or_else(|_| invalid(format!("{variable} is not a number: {text:?}")))
}

fn invalid<T>(message: String) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, message))
}

/// Checks that a descriptor is open and has been inherited by an exec.
fn check_inherited(number: RawFd) -> io::Result<()> {
    // SAFETY: the call takes two integers and no pointer, and changes nothing. A number that is not
    // open is an error.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    match flags {
        -1 => invalid(format!("descriptor {number} was not passed: {}", io::Error::last_os_error())),
        flags if flags & libc::FD_CLOEXEC != 0 => {
            invalid(format!("descriptor {number} was not passed: the program has opened it itself"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
