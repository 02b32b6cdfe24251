//! Every broken copy of a protocol is rejected: a claim that its bug violates fails, with the
//! expected message.
//!
//! loom may abort when a model fails, so each model runs in a child process. The test starts its
//! own binary with the ignored test that explores the broken copy, and reads the output.

use std::{env, panic, process};

use reveille_loom::{broken, models};

/// The environment variable that marks a child process. Without it the ignored tests do nothing, so
/// `cargo test -- --include-ignored` passes.
const CHILD: &str = "REVEILLE_LOOM_MUST_FAIL";

/// loom's message when no thread can continue: the loop sleeps or a thread waits for capacity, and
/// no thread is left to wake it.
const LOST_WAKE: &str = "deadlock; threads = ";

/// loom's message when an execution has too many steps: here the loop makes turns without end,
/// because its queue reports work that does not exist.
const SPINS: &str = "Model exceeded maximum number of branches";

/// The exit code of a child whose model has failed.
const FAILED: i32 = 42;

macro_rules! rejects {
    ($($protocol:ident { $($bug:ident: $claim:ident, $reason:expr;)* })*) => {
        $($(
            mod $bug {
                use super::*;

                #[test]
                #[ignore = "fails on purpose; `is_rejected` runs it in a child process"]
                fn model() {
                    explore_in_child(models::$claim::<broken::$bug::$protocol>);
                }

                #[test]
                fn is_rejected() {
                    expect_rejection(concat!(stringify!($bug), "::model"), $reason);
                }
            }
        )*)*

        const TESTED: &[&str] = &[$($(stringify!($bug)),*),*];
    };
}

rejects! {
    Queue {
        sleep_is_not_announced: tasks_of_one_thread_are_run_in_order, LOST_WAKE;
        sleeps_over_a_task: tasks_of_one_thread_are_run_in_order, LOST_WAKE;
        sleeps_over_an_internal_task: an_internal_task_of_another_thread_is_run, LOST_WAKE;
        sleeps_over_a_quit: a_task_accepted_before_a_quit_is_run_before_the_stop, LOST_WAKE;
        sleep_is_announced_after_the_lock: tasks_of_one_thread_are_run_in_order, LOST_WAKE;
        new_queue_counts_as_awake: an_embedded_loop_shows_every_task, LOST_WAKE;

        has_work_stands_for_may_sleep: a_busy_loop_runs_every_task_and_is_not_written_to, LOST_WAKE;
        may_sleep_stands_for_has_work: a_busy_loop_runs_every_task_and_is_not_written_to, "writes to a busy loop for";
        has_work_overlooks_tasks: a_busy_loop_finds_what_is_there, "a busy loop overlooks a task";

        push_wakes_nobody: a_task_of_another_thread_is_run, LOST_WAKE;
        waiting_push_wakes_nobody: tasks_of_a_thread_that_waits_for_room_are_run_in_order, LOST_WAKE;
        internal_push_wakes_nobody: an_internal_task_of_another_thread_is_run, LOST_WAKE;
        quit_wakes_nobody: a_quit_stops_a_sleeping_loop, LOST_WAKE;
        push_looks_before_it_adds: tasks_of_one_thread_are_run_in_order, LOST_WAKE;
        waiting_push_looks_before_it_adds: tasks_of_a_thread_that_waits_for_room_are_run_in_order, LOST_WAKE;
        internal_push_looks_before_it_adds: an_internal_task_of_another_thread_is_run, LOST_WAKE;
        end_sleep_is_two_steps: one_sleep_is_taken_back_once, "how many were asked to end one sleep";
        awake_is_not_noted: a_push_that_knows_the_loop_awake_writes_nothing, "the loop is awake";

        queue_has_room_for_one_more: a_queue_holds_no_more_than_it_may, "one of the tasks has room";
        push_looks_for_room_before_the_lock: a_queue_holds_no_more_than_it_may, "one of the tasks has room";
        waiting_push_ignores_capacity: two_threads_that_wait_for_room_for_one_are_let_in, "the batch exceeds the queue's capacity";
        waiting_push_adds_after_the_lock: two_threads_that_wait_for_room_for_one_are_let_in,
            SPINS;
        waiting_push_waits_with_its_task_added: two_threads_that_wait_for_room_for_one_are_let_in,
            "the batch exceeds the queue's capacity";
        take_lets_nobody_in: two_threads_that_wait_for_room_for_one_are_let_in, LOST_WAKE;
        take_lets_in_above_capacity_only: two_threads_that_wait_for_room_for_one_are_let_in, LOST_WAKE;
        take_lets_in_below_capacity_only: two_threads_that_wait_for_room_for_two_are_let_in, LOST_WAKE;
        take_lets_in_before_it_takes: two_threads_that_wait_for_room_for_one_are_let_in, LOST_WAKE;
        take_looks_who_waits_before_the_lock: two_threads_that_wait_for_room_for_two_are_let_in, LOST_WAKE;

        internal_tasks_need_room: an_internal_task_has_room_in_a_full_queue, "there is always room for an internal task";
        take_forgets_internal_tasks: an_internal_task_accepted_before_a_quit_is_run_before_the_stop,
            "an internal task was accepted before the quit and not run";
        take_leaves_internal_tasks_to_the_next: an_internal_task_accepted_before_a_quit_is_run_before_the_stop,
            "an internal task was accepted before the quit and not run";

        take_reads_quit_after_the_lock: a_task_accepted_before_a_quit_is_run_before_the_stop,
            "a task was accepted before the quit and not run";
        quit_is_not_cleared: a_loop_that_is_run_again_heeds_the_next_quit_only,
            "a task was accepted before the second quit and not run";
        quit_is_cleared_after_the_lock: a_quit_that_comes_too_late_for_one_run_stands_for_the_next, LOST_WAKE;

        close_refuses_nothing: a_task_posted_while_the_loop_is_dropped_has_one_fate, "the tasks that have a fate";
        close_lets_nobody_go: threads_that_wait_for_room_are_refused_by_a_close, LOST_WAKE;
        close_lets_go_before_it_closes: threads_that_wait_for_room_are_refused_by_a_close, "the tasks given back";
        close_hands_out_nothing: a_task_posted_while_the_loop_is_dropped_has_one_fate, "the tasks that have a fate";
        close_hands_out_no_internal_tasks: an_internal_task_sent_while_the_loop_is_dropped_has_one_fate, "the tasks that have a fate";
        push_looks_for_close_before_the_lock: a_task_posted_while_the_loop_is_dropped_has_one_fate,
            "the tasks that have a fate";
        waiting_push_ignores_close: threads_that_wait_for_room_are_refused_by_a_close, "the tasks given back";
        waiting_push_waits_at_a_closed_queue: threads_that_wait_for_room_are_refused_by_a_close, LOST_WAKE;
        waiting_push_takes_closed_for_full: threads_that_wait_for_room_are_refused_by_a_close, "the tasks given back";
        internal_push_ignores_close: an_internal_task_sent_while_the_loop_is_dropped_has_one_fate, "the tasks that have a fate";
    }

    Marks {
        move_has_no_fence: a_consumer_does_not_sleep_over_a_number, LOST_WAKE;
        mark_has_no_fence: a_producer_does_not_sleep_over_room, LOST_WAKE;
        mark_is_looked_at_before_the_move: a_consumer_does_not_sleep_over_a_number, LOST_WAKE;
        mark_is_set_after_the_last_look: a_consumer_does_not_sleep_over_a_number, LOST_WAKE;
        move_is_relaxed: a_consumer_does_not_sleep_over_a_number, "a number that was not sent";
        mark_is_beyond_itself: a_consumer_does_not_sleep_over_a_number, LOST_WAKE;
        every_move_rings: a_mark_is_rung_for_once_at_most, "rings for two marks at most";
        no_move_rings: a_producer_does_not_sleep_over_room, LOST_WAKE;
    }
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
    // Only the first panic counts. loom's destructors may cause further ones.
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
    let output = [&child.stdout[..], &child.stderr[..]].concat();
    let output = String::from_utf8_lossy(&output);
    println!("{output}");
    assert!(output.contains("running 1 test"), "the child did not run {test}:\n{output}");
    assert_eq!(child.status.code(), Some(FAILED), "the child did not fail:\n{output}");
    assert!(output.contains(reason), "the child did not fail with `{reason}`:\n{output}");
}
