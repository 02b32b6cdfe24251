//! The correct protocols fulfil every claim.

use reveille_loom::{correct::Queue, correct_indices::Marks, models};

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
    a_task_pushed_while_a_socket_wakes_the_loop_is_run
    an_embedded_loop_shows_every_task

    a_quit_stops_a_sleeping_loop
    a_task_accepted_before_a_quit_is_run_before_the_stop
    tasks_known_to_be_accepted_before_a_quit_are_run_before_the_stop
    a_loop_that_is_run_again_heeds_the_next_quit_only
    a_quit_that_comes_too_late_for_one_run_stands_for_the_next

    a_task_posted_while_the_loop_is_dropped_has_one_fate
    a_closed_queue_stays_closed

    one_sleep_is_taken_back_once
    writes_never_outnumber_sleeps
    a_push_that_knows_the_loop_awake_writes_nothing

    tasks_of_a_thread_that_waits_for_room_are_run_in_order
    two_threads_that_wait_for_room_for_one_are_let_in
    two_threads_that_wait_for_room_for_two_are_let_in
    threads_that_wait_for_room_are_refused_by_a_close
    a_task_that_waits_while_the_loop_is_dropped_has_one_fate
    tasks_that_waited_for_room_before_a_quit_are_run_before_the_stop
    a_full_queue_gives_back_what_it_refuses
    a_queue_holds_no_more_than_it_may

    an_internal_task_of_another_thread_is_run
    an_internal_task_has_room_in_a_full_queue
    an_internal_task_accepted_before_a_quit_is_run_before_the_stop
    an_internal_task_sent_while_the_loop_is_dropped_has_one_fate

    a_busy_loop_runs_every_task_and_is_not_written_to
    a_busy_loop_heeds_internal_tasks_and_a_quit
    a_busy_loop_finds_what_is_there
}

holds! {
    Marks:
    a_consumer_does_not_sleep_over_a_number
    a_producer_does_not_sleep_over_room
    a_mark_is_rung_for_once_at_most
}
