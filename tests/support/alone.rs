//! Tests that need a process of their own, because what they are about belongs to a process.

use std::env;
use std::process::{self, Command, Output, Stdio};
use std::thread;

use super::{LIMIT, with_watchdog};

const ALONE: &str = "REVEILLE_TEST_ALONE";

/// Runs `test` in a process of its own, which is to succeed.
#[track_caller]
pub(crate) fn alone(test: impl FnOnce()) {
    let outcome = outcome_alone(test);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        outcome.status.success(),
        "{}\n{}\n{}",
        outcome.status,
        text(&outcome.stdout),
        text(&outcome.stderr)
    );
}

/// Runs `test` in a process of its own, and answers how that has ended.
///
/// The process is this test binary once more, told to run the test that this thread is named after; there, this does not return.
pub(crate) fn outcome_alone(test: impl FnOnce()) -> Output {
    if env::var_os(ALONE).is_some() {
        with_watchdog(LIMIT, test);
        process::exit(0);
    }
    let name = thread::current().name().expect("the name of the test").to_owned();
    let outcome = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", &name, "--nocapture", "--include-ignored"])
        .env(ALONE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("a process");
    let has_run = String::from_utf8_lossy(&outcome.stdout).contains("running 1 test");
    assert!(has_run, "no test has this name: {name}");
    outcome
}
