//! The watchdog of the tests. A test that hangs fails with its name, and the other tests of its
//! binary still run.

mod support;

use std::cell::RefCell;
use std::env;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use support::{LIMIT, OnDrop, panic_of, with_loop, with_watchdog};

/// An environment variable that is set in the child process, where the hanging tests run.
const ROLE: &str = "REVEILLE_TEST_WATCHDOG";

/// The limit of the tests that hang.
const SHORT: Duration = Duration::from_millis(200);

fn is_child() -> bool {
    env::var_os(ROLE).is_some()
}

/// Blocks its thread until the process exits.
fn never_returns() {
    loop {
        thread::park();
    }
}

/// Calls `then` when this thread ends, after its closure has returned.
fn at_thread_end(then: impl FnOnce() + 'static) {
    type Last = OnDrop<Box<dyn FnOnce()>>;
    thread_local! {
        static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
    }
    LAST.set(Some(OnDrop::new(Box::new(then))));
}

#[test]
#[ignore = "runs only in a child process of another test"]
fn role_1_hangs() {
    if is_child() {
        with_watchdog(SHORT, never_returns);
    }
}

#[test]
#[ignore = "runs only in a child process of another test"]
fn role_2_hangs_at_the_end_of_its_thread() {
    if is_child() {
        with_watchdog(SHORT, || at_thread_end(never_returns));
    }
}

#[test]
#[ignore = "runs only in a child process of another test"]
fn role_3_fails() {
    if is_child() {
        with_loop(|_| assert_eq!(1 + 1, 3, "an assertion in the body"));
    }
}

#[test]
#[ignore = "runs only in a child process of another test"]
fn role_4_passes() {
    with_loop(|_| ());
}

#[test]
fn a_hanging_test_fails_by_name_and_other_tests_run() {
    // With one thread the tests run in the order of their names: the last test runs after the tests
    // that hang.
    let child = Command::new(env::current_exe().expect("this program"))
        .args(["role_", "--ignored", "--test-threads", "1"])
        .env(ROLE, "1")
        .stdin(Stdio::null())
        .output()
        .expect("a process");
    let output = String::from_utf8_lossy(&child.stdout);
    assert_eq!(child.status.code(), Some(101), "{output}");
    for line in [
        "test role_1_hangs ... FAILED",
        "test role_2_hangs_at_the_end_of_its_thread ... FAILED",
        "test role_3_fails ... FAILED",
        "test role_4_passes ... ok",
        "role_1_hangs has not ended within 200ms",
        "role_2_hangs_at_the_end_of_its_thread has not ended within 200ms",
        "an assertion in the body",
    ] {
        assert!(output.contains(line), "no `{line}` in:\n{output}");
    }
    let summary = "test result: FAILED. 1 passed; 3 failed;";
    assert!(output.contains(summary), "{output}");
}

#[test]
fn the_body_runs_under_its_tests_name_and_returns_a_result() {
    let own = thread::current().name().map(str::to_owned);
    assert!(own.is_some());
    assert_eq!(with_watchdog(LIMIT, || thread::current().name().map(str::to_owned)), own);
}

#[test]
fn a_panic_of_the_body_is_passed_on() {
    assert_eq!(panic_of(|| with_watchdog(LIMIT, || panic!("the body"))), "the body");
}

#[test]
fn the_thread_of_the_body_ends_before_the_call_returns() {
    let (sender, receiver) = mpsc::channel();
    with_watchdog(LIMIT, move || {
        at_thread_end(move || sender.send(()).expect("a receiver"));
    });
    assert_eq!(receiver.try_recv(), Ok(()));
}
