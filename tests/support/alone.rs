//! Tests that run in a separate process, because they depend on process-wide state.

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{self, Command, Output, Stdio};
use std::thread;

use reveille::EventLoop;

use super::{LIMIT, with_watchdog};

const ALONE: &str = "REVEILLE_TEST_ALONE";

/// Runs `test` in a separate process. Panics if the process fails.
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

/// Same as [`alone`], with a loop.
#[track_caller]
pub(crate) fn alone_with_loop(test: impl FnOnce(&EventLoop) + Send + 'static) {
    alone(|| test(&EventLoop::builder().propagate_panics().build().expect("a loop")));
}

/// Runs `test` in a separate process and returns the process's status and output.
pub(crate) fn outcome_alone(test: impl FnOnce() + Send + 'static) -> Output {
    let outcome = outcome_of(Command::new(program()), test);
    assert!(has_run(&outcome), "the test was not found: {outcome:?}");
    outcome
}

/// Same as [`alone`], in a process that a shell script prepares and then replaces with `exec "$@"`.
/// If the script fails before that, the test is skipped: it prints a message and passes.
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

/// Prints that this test cannot run on this system.
pub(crate) fn skipped(reason: impl Display) {
    // Not `eprintln!`, because the test harness captures its output.
    let _ = writeln!(io::stderr(), "skipped: {}: {reason}", thread::current().name().unwrap_or("a test"));
}

fn program() -> PathBuf {
    env::current_exe().expect("this program")
}

fn has_run(outcome: &Output) -> bool {
    String::from_utf8_lossy(&outcome.stdout).contains("running 1 test")
}

/// Starts this test binary again, with the name of the current test as filter. In the new process
/// this function runs `test` and does not return.
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
