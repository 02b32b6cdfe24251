//! Every claim holds for the correct protocols.

use reveille_loom::{correct::Queue, correct_indices::Marks, correct_state::LoomState, models};

macro_rules! holds {
    ($protocol:ident: $($claim:ident)*) => {
        $(
            #[test]
            fn $claim() {
                models::$claim::<$protocol>();
            }
        )*
    };
}

holds! {
    Queue:
    a_task_of_another_thread_is_run
    tasks_of_one_thread_are_run_in_order
    tasks_of_two_threads_are_all_run
    two_tasks_of_each_of_two_threads_are_all_run
    a_task_posted_while_a_socket_wakes_the_loop_is_run
    an_embedded_loop_becomes_readable_for_every_task

    a_quit_stops_a_sleeping_loop
    a_task_accepted_before_a_quit_is_run_before_the_stop
    posts_of_two_threads_before_a_quit_are_run_before_the_stop
    a_second_run_stops_only_at_the_second_quit
    a_quit_after_the_last_batch_stops_the_next_run

    a_task_posted_during_the_drop_has_one_outcome
    a_closed_queue_stays_closed

    one_sleep_is_ended_by_one_producer
    writes_never_outnumber_sleeps
    a_push_from_a_running_task_needs_no_write

    waiting_posts_of_one_thread_are_run_in_order
    waiting_posts_of_two_threads_are_run_at_capacity_one
    waiting_posts_of_two_threads_are_run_at_capacity_two
    a_close_refuses_waiting_posts
    a_waiting_post_during_the_drop_has_one_outcome
    waiting_posts_before_a_quit_are_run_before_the_stop
    a_full_queue_returns_refused_tasks
    a_queue_never_exceeds_its_capacity

    internal_tasks_of_another_thread_are_run_in_order
    a_full_queue_accepts_an_internal_task
    an_internal_task_accepted_before_a_quit_is_run_before_the_stop
    an_internal_task_posted_during_the_drop_has_one_outcome

    a_busy_loop_runs_every_task_without_extra_writes
    a_busy_loop_runs_internal_tasks_and_stops
    a_busy_loop_finds_pending_work_before_it_sleeps
}

holds! {
    Marks:
    a_consumer_receives_every_number
    a_producer_resumes_when_space_is_free
    a_mark_causes_at_most_one_ring
}

holds! {
    LoomState:
    a_poll_after_a_wake_up_sees_what_preceded_it
    wake_ups_are_coalesced_until_they_are_taken
    an_abort_is_found_by_the_loop
    a_join_handle_gets_the_result
    a_result_without_a_handle_is_dropped_once
}
