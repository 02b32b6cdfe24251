//! Copies of the protocols with one bug each. `build.rs` defines the bugs and writes the copies.

/// The names of all bugs.
pub const NAMES: &[&str] = include!(concat!(env!("OUT_DIR"), "/names.rs"));

macro_rules! broken {
    ($($on_loom:ident { $($name:ident)* })*) => {
        $($(
            #[doc = concat!("A protocol with the bug `", stringify!($name), "`.")]
            pub mod $name {
                #[allow(warnings, clippy::all, reason = "generated code that is broken on purpose")]
                mod source {
                    include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
                }
                $on_loom!(source);
            }
        )*)*
    };
}

broken! {
    on_loom {
        sleep_is_not_announced
        sleeps_over_a_task
        sleeps_over_an_internal_task
        sleeps_over_a_quit
        sleep_is_announced_after_the_lock
        new_queue_counts_as_awake
        has_work_stands_for_may_sleep
        may_sleep_stands_for_has_work
        has_work_overlooks_tasks
        push_wakes_nobody
        waiting_push_wakes_nobody
        internal_push_wakes_nobody
        quit_wakes_nobody
        push_looks_before_it_adds
        waiting_push_looks_before_it_adds
        internal_push_looks_before_it_adds
        end_sleep_is_two_steps
        awake_is_not_noted
        queue_has_room_for_one_more
        push_looks_for_room_before_the_lock
        waiting_push_ignores_capacity
        waiting_push_adds_after_the_lock
        waiting_push_waits_with_its_task_added
        take_lets_nobody_in
        take_lets_in_above_capacity_only
        take_lets_in_below_capacity_only
        take_lets_in_before_it_takes
        take_looks_who_waits_before_the_lock
        internal_tasks_need_room
        take_forgets_internal_tasks
        take_leaves_internal_tasks_to_the_next
        take_reads_quit_after_the_lock
        quit_is_cleared_after_the_lock
        quit_is_not_cleared
        close_refuses_nothing
        close_lets_nobody_go
        close_lets_go_before_it_closes
        close_hands_out_nothing
        close_hands_out_no_internal_tasks
        push_looks_for_close_before_the_lock
        waiting_push_ignores_close
        waiting_push_waits_at_a_closed_queue
        waiting_push_takes_closed_for_full
        internal_push_ignores_close
    }
    words_on_loom {
        move_has_no_fence
        mark_has_no_fence
        mark_is_looked_at_before_the_move
        mark_is_set_after_the_last_look
        move_is_relaxed
        mark_is_beyond_itself
        every_move_rings
        no_move_rings
    }
}
