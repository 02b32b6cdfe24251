//! The examples, as programs.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Where an example is: `cargo test` builds the examples as well, beside the directory of the tests.
#[track_caller]
pub(crate) fn program(name: &str) -> PathBuf {
    let tests = env::current_exe().expect("this program");
    let profile = tests.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let program = profile.join("examples").join(name);
    assert!(program.exists(), "there is no {}: build it with `cargo build --examples`", program.display());
    program
}

/// Runs an example to its end.
#[track_caller]
pub(crate) fn outcome_of(name: &str, arguments: &[&str]) -> Output {
    Command::new(program(name)).args(arguments).stdin(Stdio::null()).output().expect("the example")
}
