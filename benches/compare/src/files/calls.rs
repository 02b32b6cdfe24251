//! System calls per read, counted from outside.
//!
//! Runs this program under strace twice, with few and with many reads; the difference is that of
//! the reads.

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{FILE, READS, Reader};
use crate::Result;

/// Number of reads in the smaller run.
const FEW: usize = 1000;

/// System calls per read, of all threads together. Returns `None` if they cannot be counted.
pub(super) fn each(reader: Reader, file: &Path) -> Result<Option<f64>> {
    let (Some(few), Some(many)) = (count(reader, file, FEW)?, count(reader, file, FEW + READS)?) else {
        return Ok(None);
    };
    Ok(Some((many as f64 - few as f64) / READS as f64))
}

fn count(reader: Reader, file: &Path, reads: usize) -> Result<Option<u64>> {
    let program = env::current_exe()?;
    let output = Command::new("strace")
        .args(["-f", "-c", "-q"])
        .arg(program)
        .args(["read-files", reader.name(), &reads.to_string()])
        .env(FILE, file)
        .stdin(Stdio::null())
        .output();
    // strace writes its summary to stderr, as does the program its errors.
    match output {
        Ok(output) if output.status.success() => Ok(total(&String::from_utf8_lossy(&output.stderr))),
        _ => Ok(None),
    }
}

/// The total of calls in strace's summary, from its last line. The columns are `% time, seconds,
/// usecs/call, calls, errors, syscall`.
fn total(summary: &str) -> Option<u64> {
    let line = summary.lines().find(|line| line.ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found_with_and_without_errors() {
        let summary = "% time     seconds  usecs/call     calls    errors syscall\n\
                       ------ ----------- ----------- --------- --------- ----------------\n\
                       100.00    0.001000           1      1000         2 read\n\
                       ------ ----------- ----------- --------- --------- ----------------\n";
        let with = |total: &str| super::total(&format!("{summary}{total}\n"));
        assert_eq!(with("100.00    0.001000           1      1234         2 total"), Some(1234));
        assert_eq!(with("100.00    0.001000           1      1234           total"), Some(1234));
        assert_eq!(total("strace: not permitted"), None);
    }
}
