//! The results of the clients.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

/// Counts for each scenario. May be changed from any thread.
#[derive(Default)]
pub(crate) struct Tally(Mutex<BTreeMap<&'static str, Count>>);

#[derive(Clone, Copy, Default)]
struct Count {
    runs: u64,
    /// The number of received bytes that were compared and correct.
    verified: u64,
    failures: u64,
}

impl Tally {
    /// Counts one run of a scenario: its verified bytes, or its failure, which is also printed.
    pub(crate) fn count(&self, scenario: &'static str, result: Result<u64, String>) {
        let mut counts = self.0.lock().expect("no panic while it is locked");
        let count = counts.entry(scenario).or_default();
        count.runs += 1;
        match result {
            Ok(verified) => count.verified += verified,
            Err(message) => {
                count.failures += 1;
                println!("FAILED: {scenario}: {message}");
            }
        }
    }

    pub(crate) fn failures(&self) -> u64 {
        self.sum(|count| count.failures)
    }

    pub(crate) fn verified(&self) -> u64 {
        self.sum(|count| count.verified)
    }

    fn sum(&self, field: impl Fn(&Count) -> u64) -> u64 {
        self.0.lock().expect("no panic while it is locked").values().map(field).sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (scenario, count) in &*self.0.lock().expect("no panic while it is locked") {
            let Count { runs, verified, failures } = count;
            writeln!(f, "{scenario:32} {runs:7} runs {:8} KiB verified {failures} failures", verified >> 10)?;
        }
        Ok(())
    }
}
