//! For the tests of servers that run out of descriptors.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::net;

struct Warnings(AtomicU64);

static WARNINGS: Warnings = Warnings(AtomicU64::new(0));

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn flush(&self) {}
}

/// Installs a logger that counts the library's warnings in this process.
pub(crate) fn count_warnings() {
    log::set_logger(&WARNINGS).expect("the only logger");
    log::set_max_level(log::LevelFilter::Warn);
}

pub(crate) fn warnings() -> u64 {
    WARNINGS.0.load(SeqCst)
}

/// Sets this process's descriptor limit to `limit`, or to its hard limit if that is lower.
pub(crate) fn limit_descriptors(limit: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum.map_or(limit, |maximum| maximum.min(limit));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).expect("a permitted limit");
}

/// Waits until an echo server has served or rejected a client. Returns whether it was served.
#[track_caller]
pub(crate) fn is_served(mut client: &TcpStream) -> bool {
    wait(client, PollFlags::OUT);
    // The write fails if the server has closed the connection already.
    let _ = client.write_all(b"x");
    wait(client, PollFlags::IN);
    match client.read(&mut [0; 8]) {
        Ok(n) => n == 1,
        Err(error) => {
            let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
            assert!(kinds.contains(&error.kind()), "neither served nor rejected: {error}");
            false
        }
    }
}

#[track_caller]
fn wait(client: &TcpStream, flags: PollFlags) {
    let limit = Timespec::try_from(net::LIMIT).unwrap();
    let mut fds = [PollFd::new(client, flags)];
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&limit))).expect("a poll");
    assert_eq!(ready, 1, "neither served nor rejected");
}
