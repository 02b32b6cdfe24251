//! Every broken copy of a protocol is rejected: a claim that its bug violates fails, with the
//! expected message.
//!
//! loom may abort the process when a model fails, so each model runs in a child process. The test
//! starts its own binary with the ignored test that explores the broken copy, and checks the exit
//! code and the output.

use std::{env, panic, process};

use reveille_loom::{broken, models};

/// The environment variable that identifies a child process. Without it the ignored tests do
/// nothing, so `cargo test -- --include-ignored` passes.
const CHILD: &str = "REVEILLE_LOOM_MUST_FAIL";

/// loom's message when no thread can continue: the loop sleeps or a thread waits for capacity, and
/// no thread is left to wake it.
const LOST_WAKE_UP: &str = "deadlock; threads = ";

/// loom's message when an execution has too many steps: the loop makes turns without end, because
/// its queue reports work that does not exist.
const ENDLESS_TURNS: &str = "Model exceeded maximum number of branches";

/// loom's message when two threads use a cell at the same time.
const CONCURRENT_ACCESS: &str = "Causality violation: Concurrent";

/// The exit code of a child whose model has failed.
const FAILED: i32 = 42;

macro_rules! rejects {
    ($($protocol:ident { $($bug:ident: $claim:ident, $reason:expr;)* })*) => {
        $($(
            mod $bug {
                use super::*;

                #[test]
                #[ignore = "runs only in a child process of another test"]
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
        sleep_is_not_announced: tasks_of_one_thread_are_run_in_order, LOST_WAKE_UP;
        may_sleep_ignores_tasks: tasks_of_one_thread_are_run_in_order, LOST_WAKE_UP;
        may_sleep_ignores_internal_tasks: internal_tasks_of_another_thread_are_run_in_order, LOST_WAKE_UP;
        may_sleep_ignores_quit: a_task_accepted_before_a_quit_is_run_before_the_stop, LOST_WAKE_UP;
        sleep_is_announced_after_the_lock: tasks_of_one_thread_are_run_in_order, LOST_WAKE_UP;
        new_queue_counts_as_awake: an_embedded_loop_becomes_readable_for_every_task, LOST_WAKE_UP;

        has_work_replaces_may_sleep: a_busy_loop_runs_every_task_without_extra_writes, LOST_WAKE_UP;
        may_sleep_replaces_has_work: a_busy_loop_runs_every_task_without_extra_writes, "writes to a busy loop for";
        has_work_ignores_tasks: a_busy_loop_finds_pending_work_before_it_sleeps, "a busy loop does not find a task";

        push_omits_the_wake_up: a_task_of_another_thread_is_run, LOST_WAKE_UP;
        waiting_push_omits_the_wake_up: waiting_posts_of_one_thread_are_run_in_order, LOST_WAKE_UP;
        internal_push_omits_the_wake_up: internal_tasks_of_another_thread_are_run_in_order, LOST_WAKE_UP;
        quit_omits_the_wake_up: a_quit_stops_a_sleeping_loop, LOST_WAKE_UP;
        push_ends_sleep_before_it_adds: tasks_of_one_thread_are_run_in_order, LOST_WAKE_UP;
        waiting_push_ends_sleep_before_it_adds: waiting_posts_of_one_thread_are_run_in_order, LOST_WAKE_UP;
        internal_push_ends_sleep_before_it_adds: internal_tasks_of_another_thread_are_run_in_order, LOST_WAKE_UP;
        end_sleep_is_not_atomic: one_sleep_is_ended_by_one_producer, "exactly one producer must end a sleep";
        awake_does_not_clear_the_sleep: a_push_from_a_running_task_needs_no_write, "a running task must not wake the loop";

        capacity_is_exceeded_by_one: a_queue_never_exceeds_its_capacity, "exactly one post must be accepted";
        push_checks_capacity_before_the_lock: a_queue_never_exceeds_its_capacity, "exactly one post must be accepted";
        waiting_push_ignores_capacity: waiting_posts_of_two_threads_are_run_at_capacity_one, "the batch exceeds the queue's capacity";
        waiting_push_adds_after_the_lock: waiting_posts_of_two_threads_are_run_at_capacity_one, ENDLESS_TURNS;
        waiting_push_adds_before_it_waits: waiting_posts_of_two_threads_are_run_at_capacity_one,
            "the batch exceeds the queue's capacity";
        take_does_not_notify: waiting_posts_of_two_threads_are_run_at_capacity_one, LOST_WAKE_UP;
        take_notifies_only_above_capacity: waiting_posts_of_two_threads_are_run_at_capacity_one, LOST_WAKE_UP;
        take_notifies_only_below_capacity: waiting_posts_of_two_threads_are_run_at_capacity_two, LOST_WAKE_UP;
        take_notifies_before_it_takes: waiting_posts_of_two_threads_are_run_at_capacity_one, LOST_WAKE_UP;
        take_checks_capacity_before_the_lock: waiting_posts_of_two_threads_are_run_at_capacity_two, LOST_WAKE_UP;

        internal_push_checks_capacity: a_full_queue_accepts_an_internal_task, "a full queue must accept an internal task";
        take_drops_internal_tasks: an_internal_task_accepted_before_a_quit_is_run_before_the_stop,
            "an internal task accepted before the quit was not run";
        take_defers_internal_tasks: an_internal_task_accepted_before_a_quit_is_run_before_the_stop,
            "an internal task accepted before the quit was not run";

        take_reads_quit_after_the_lock: a_task_accepted_before_a_quit_is_run_before_the_stop,
            "a task accepted before the quit was not run";
        quit_is_not_cleared: a_second_run_stops_only_at_the_second_quit,
            "a task accepted before the second quit was not run";
        quit_is_cleared_after_the_lock: a_quit_after_the_last_batch_stops_the_next_run, LOST_WAKE_UP;

        close_leaves_the_queue_open: a_task_posted_during_the_drop_has_one_outcome, "each task must have exactly one outcome";
        close_does_not_notify: a_close_refuses_waiting_posts, LOST_WAKE_UP;
        close_notifies_before_it_closes: a_close_refuses_waiting_posts, "both posts must be refused because the queue is closed";
        close_returns_nothing: a_task_posted_during_the_drop_has_one_outcome, "each task must have exactly one outcome";
        close_returns_no_internal_tasks: an_internal_task_posted_during_the_drop_has_one_outcome, "each task must have exactly one outcome";
        push_checks_closed_before_the_lock: a_task_posted_during_the_drop_has_one_outcome,
            "each task must have exactly one outcome";
        waiting_push_ignores_close: a_close_refuses_waiting_posts, "both posts must be refused because the queue is closed";
        waiting_push_waits_on_a_closed_queue: a_close_refuses_waiting_posts, LOST_WAKE_UP;
        waiting_push_reports_closed_as_full: a_close_refuses_waiting_posts, "both posts must be refused because the queue is closed";
        internal_push_ignores_close: an_internal_task_posted_during_the_drop_has_one_outcome, "each task must have exactly one outcome";
    }

    Marks {
        move_on_has_no_fence: a_consumer_receives_every_number, LOST_WAKE_UP;
        set_mark_has_no_fence: a_producer_resumes_when_space_is_free, LOST_WAKE_UP;
        mark_is_read_before_the_move: a_consumer_receives_every_number, LOST_WAKE_UP;
        mark_is_set_after_the_recheck: a_consumer_receives_every_number, LOST_WAKE_UP;
        move_is_relaxed: a_consumer_receives_every_number, "a number that was not sent";
        passes_is_off_by_one: a_consumer_receives_every_number, LOST_WAKE_UP;
        every_move_rings: a_mark_causes_at_most_one_ring, "rings for at most two marks";
        no_move_rings: a_producer_resumes_when_space_is_free, LOST_WAKE_UP;
    }

    LoomState {
        wake_loads_before_it_sets: a_poll_after_a_wake_up_sees_what_preceded_it, LOST_WAKE_UP;
        wake_ignores_pending_ones: wake_ups_are_coalesced_until_they_are_taken, "two wake-ups must cause one notice";
        wake_ignores_the_completion: wake_ups_are_coalesced_until_they_are_taken, "an ended future must not be woken";
        wake_does_not_notify: a_poll_after_a_wake_up_sees_what_preceded_it, LOST_WAKE_UP;
        deliver_does_nothing: a_poll_after_a_wake_up_sees_what_preceded_it, LOST_WAKE_UP;
        abort_does_not_notify: an_abort_is_found_by_the_loop, LOST_WAKE_UP;
        abort_is_not_stored: an_abort_is_found_by_the_loop, LOST_WAKE_UP;
        arrival_is_not_pending: an_abort_is_found_by_the_loop, "a notice before the arrival";
        complete_loads_before_it_sets: a_join_handle_gets_the_result, LOST_WAKE_UP;
        complete_keeps_every_result: a_result_without_a_handle_is_dropped_once, "the result must be taken once";
        complete_forgets_the_joiner: a_join_handle_gets_the_result, LOST_WAKE_UP;
        publish_ignores_the_completion: a_join_handle_gets_the_result, LOST_WAKE_UP;
        withdraw_only_loads: a_join_handle_gets_the_result, CONCURRENT_ACCESS;
        withdraw_ignores_a_late_completion: a_join_handle_gets_the_result, CONCURRENT_ACCESS;
        release_keeps_the_waker_published: a_result_without_a_handle_is_dropped_once, CONCURRENT_ACCESS;
        release_ignores_the_completion: a_result_without_a_handle_is_dropped_once, CONCURRENT_ACCESS;
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
