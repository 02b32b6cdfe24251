//! Tests that need a process of their own, because what they are about belongs to a process.

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{self, Command, Output, Stdio};
use std::thread;

use reveille::EventLoop;

use super::{LIMIT, with_watchdog};

const ALONE: &str = "REVEILLE_TEST_ALONE";

/// Runs `test` in a process of its own, which is to succeed.
#[track_caller]
pub(crate) fn alone(test: impl FnOnce() + Send + 'static) {
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

/// Runs `test` with a loop in a process of its own, which is to succeed.
#[track_caller]
pub(crate) fn alone_with_loop(test: impl FnOnce(&EventLoop) + Send + 'static) {
    alone(|| test(&EventLoop::builder().propagate_panics().build().expect("a loop")));
}

/// Runs `test` in a process of its own, and returns how that has ended.
pub(crate) fn outcome_alone(test: impl FnOnce() + Send + 'static) -> Output {
    let outcome = outcome_of(Command::new(program()), test);
    assert!(has_run(&outcome), "the test was not found: {outcome:?}");
    outcome
}

/// As [`alone`], in a process that a shell script prepares, and then becomes with `exec "$@"`.
/// Where the script does not come that far the test cannot be made; then it says so, and passes.
#[track_caller]
pub(crate) fn alone_after(script: &str, test: impl FnOnce() + Send + 'static) {
    let mut shell = Command::new("sh");
    shell.args(["-ec", script, "sh"]).arg(program());
    let outcome = outcome_of(shell, test);
    let errors = String::from_utf8_lossy(&outcome.stderr);
    if has_run(&outcome) {
        assert!(outcome.status.success(), "{}\n{errors}", outcome.status);
    } else {
        skipped(errors.trim());
    }
}

/// Says that this test cannot be made here.
pub(crate) fn skipped(why: impl Display) {
    // Not `eprintln!`, whose output the test harness would keep.
    let _ = writeln!(io::stderr(), "skipped: {}: {why}", thread::current().name().unwrap_or("a test"));
}

fn program() -> PathBuf {
    env::current_exe().expect("this program")
}

fn has_run(outcome: &Output) -> bool {
    String::from_utf8_lossy(&outcome.stdout).contains("running 1 test")
}

/// The process is this test binary once more, told to run the test that this thread is named after;
/// there, this does not return.
fn outcome_of(mut command: Command, test: impl FnOnce() + Send + 'static) -> Output {
    if env::var_os(ALONE).is_some() {
        with_watchdog(LIMIT, test);
        process::exit(0);
    }
    let name = thread::current().name().expect("the name of the test").to_owned();
    command
        .args(["--exact", &name, "--nocapture", "--include-ignored"])
        .env(ALONE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("a process")
}
