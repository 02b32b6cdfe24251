//! Counters of all services, and the throughput line of discard.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use reveille::EventLoop;

/// The counters. All services are on one loop, so they need no lock.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) connections: Cell<u64>,
    /// The bytes that were received over TCP.
    pub(crate) bytes: Cell<u64>,
    pub(crate) datagrams: Cell<u64>,
    /// The datagrams without a reply that the guard has refused.
    pub(crate) refused: Cell<u64>,
    /// The bytes that discard has received, over TCP and UDP.
    pub(crate) discarded: Cell<u64>,
}

pub(crate) fn add(counter: &Cell<u64>, number: usize) {
    counter.set(counter.get() + number as u64);
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { connections, bytes, datagrams, refused, .. } = self;
        let (connections, bytes, datagrams) = (connections.get(), bytes.get(), datagrams.get());
        write!(
            f,
            "{connections} connections, {bytes} bytes, {datagrams} datagrams, {} refused",
            refused.get()
        )
    }
}

/// The throughput of `bytes` in a period.
pub(crate) fn throughput(bytes: u64, period: Duration) -> String {
    format!("{:.1} MiB/s", bytes as f64 / f64::from(1 << 20) / period.as_secs_f64().max(1e-9))
}

/// Prints a line for each `period` in which discard has received bytes.
pub(crate) fn report_throughput(
    event_loop: &EventLoop,
    period: Duration,
    discarded: impl Fn() -> u64 + 'static,
) -> io::Result<()> {
    let lines = printer()?;
    let (mut before, mut at) = (discarded(), event_loop.now());
    event_loop.run_every(period, move |event_loop| {
        let (bytes, now): (u64, Instant) = (discarded() - before, event_loop.now());
        if bytes > 0 {
            let rate = throughput(bytes, now.saturating_duration_since(at));
            // A line is lost while the reader of the output does not read.
            let _ = lines.try_send(format!("discard: {rate}, {bytes} bytes"));
        }
        (before, at) = (before + bytes, now);
    });
    Ok(())
}

/// A thread that prints lines: standard output may be a pipe that is not read, and the loop must
/// not wait for it.
fn printer() -> io::Result<SyncSender<String>> {
    let (sender, lines) = mpsc::sync_channel::<String>(1);
    thread::Builder::new().name("printer".into()).spawn(move || {
        for line in lines {
            let _ = writeln!(io::stdout(), "{line}");
        }
    })?;
    Ok(sender)
}
