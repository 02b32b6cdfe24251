//! Every broken copy of the protocol is rejected, by the claim that its bug breaks and for the right reason.
//!
//! loom may abort when a model fails, so each runs in a child process: the test runs its own binary again, for the
//! one ignored test that explores the broken copy, and reads what the child had to say.

use std::{env, panic, process};

use reveille_loom::{broken, models};

/// Set for the children alone, so that `cargo test -- --include-ignored` explores nothing that must fail.
const CHILD: &str = "REVEILLE_LOOM_MUST_FAIL";

/// What loom says when no thread can go on: the loop sleeps, and nobody is left to wake it.
const LOST_WAKE: &str = "deadlock; threads = ";

/// The exit code of a child whose model has failed.
const FAILED: i32 = 42;

macro_rules! rejects {
    ($($bug:ident: $claim:ident, $reason:expr;)*) => {
        $(
            mod $bug {
                use super::*;

                #[test]
                #[ignore = "fails on purpose, in a child process that the other test starts"]
                fn model() {
                    explore_in_child(models::$claim::<broken::$bug::Queue>);
                }

                #[test]
                fn is_rejected() {
                    expect_rejection(concat!(stringify!($bug), "::model"), $reason);
                }
            }
        )*

        const TESTED: &[&str] = &[$(stringify!($bug)),*];
    };
}

rejects! {
    sleep_is_not_announced: tasks_of_one_thread_are_run_in_order, LOST_WAKE;
    sleeps_over_a_task: tasks_of_one_thread_are_run_in_order, LOST_WAKE;
    sleeps_over_a_quit: a_task_accepted_before_a_quit_is_run_before_the_stop, LOST_WAKE;
    sleep_is_announced_after_the_lock: tasks_of_one_thread_are_run_in_order, LOST_WAKE;
    new_queue_counts_as_awake: an_embedded_loop_shows_every_task, LOST_WAKE;

    push_wakes_nobody: a_task_of_another_thread_is_run, LOST_WAKE;
    quit_wakes_nobody: a_quit_stops_a_sleeping_loop, LOST_WAKE;
    push_looks_before_it_adds: tasks_of_one_thread_are_run_in_order, LOST_WAKE;
    end_sleep_is_two_steps: one_sleep_is_taken_back_once, "how many were asked to end one sleep";
    awake_is_not_noted: a_push_that_knows_the_loop_awake_writes_nothing, "the loop is awake";

    take_reads_quit_after_the_lock: a_task_accepted_before_a_quit_is_run_before_the_stop,
        "a task was accepted before the quit and not run";
    quit_is_not_cleared: a_loop_that_is_run_again_heeds_the_next_quit_only,
        "a task was accepted before the second quit and not run";
    quit_is_cleared_after_the_lock: a_quit_that_comes_too_late_for_one_run_stands_for_the_next, LOST_WAKE;

    close_refuses_nothing: a_task_posted_while_the_loop_is_dropped_has_one_fate, "the tasks that have a fate";
    close_hands_out_nothing: a_task_posted_while_the_loop_is_dropped_has_one_fate, "the tasks that have a fate";
    push_looks_for_close_before_the_lock: a_task_posted_while_the_loop_is_dropped_has_one_fate,
        "the tasks that have a fate";
}

#[test]
fn every_mutation_has_a_test() {
    let sorted = |names: &[&'static str]| {
        let mut names = names.to_vec();
        names.sort_unstable();
        names
    };
    assert_eq!(sorted(TESTED), sorted(broken::NAMES));
}

fn explore_in_child(model: fn()) {
    if env::var_os(CHILD).is_none() {
        return;
    }
    // The first panic is the reason. What would follow it is loom unwinding through its own destructors.
    panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        process::exit(FAILED);
    }));
    model();
}

fn expect_rejection(test: &str, reason: &str) {
    let child = process::Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = [&child.stdout[..], &child.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    println!("{said}");
    assert!(said.contains("running 1 test"), "the child must run {test}, but said:\n{said}");
    assert_eq!(child.status.code(), Some(FAILED), "the child must fail, but said:\n{said}");
    assert!(said.contains(reason), "the child must fail with `{reason}`, but said:\n{said}");
}
