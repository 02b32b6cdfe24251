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

/// From now on what the library warns of in this process is counted.
pub(crate) fn count_warnings() {
    log::set_logger(&WARNINGS).expect("the only logger");
    log::set_max_level(log::LevelFilter::Warn);
}

pub(crate) fn warnings() -> u64 {
    WARNINGS.0.load(SeqCst)
}

/// Lets this process have descriptors with numbers below `limit`, or as many as it may.
pub(crate) fn limit_descriptors(limit: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum.map_or(limit, |maximum| maximum.min(limit));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).expect("a limit that is allowed");
}

/// Waits for what becomes of a client of an echo server: whether it is served. If not, it has been
/// turned away.
#[track_caller]
pub(crate) fn is_served(mut client: &TcpStream) -> bool {
    wait(client, PollFlags::OUT);
    // The write may come before the end or after it.
    let _ = client.write_all(b"x");
    wait(client, PollFlags::IN);
    match client.read(&mut [0; 8]) {
        Ok(n) => n == 1,
        Err(error) => {
            let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
            assert!(kinds.contains(&error.kind()), "neither served nor turned away: {error}");
            false
        }
    }
}

#[track_caller]
fn wait(client: &TcpStream, until: PollFlags) {
    let limit = Timespec::try_from(net::LIMIT).unwrap();
    let mut fds = [PollFd::new(client, until)];
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&limit))).expect("a poll");
    assert_eq!(ready, 1, "neither served nor turned away");
}
