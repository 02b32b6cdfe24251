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
        may_sleep_ignores_tasks
        may_sleep_ignores_internal_tasks
        may_sleep_ignores_quit
        sleep_is_announced_after_the_lock
        new_queue_counts_as_awake
        has_work_replaces_may_sleep
        may_sleep_replaces_has_work
        has_work_ignores_tasks
        push_omits_the_wake_up
        waiting_push_omits_the_wake_up
        internal_push_omits_the_wake_up
        quit_omits_the_wake_up
        push_ends_sleep_before_it_adds
        waiting_push_ends_sleep_before_it_adds
        internal_push_ends_sleep_before_it_adds
        end_sleep_is_not_atomic
        awake_does_not_clear_the_sleep
        capacity_is_exceeded_by_one
        push_checks_capacity_before_the_lock
        waiting_push_ignores_capacity
        waiting_push_adds_after_the_lock
        waiting_push_adds_before_it_waits
        take_does_not_notify
        take_notifies_only_above_capacity
        take_notifies_only_below_capacity
        take_notifies_before_it_takes
        take_checks_capacity_before_the_lock
        internal_push_checks_capacity
        take_drops_internal_tasks
        take_defers_internal_tasks
        take_reads_quit_after_the_lock
        quit_is_cleared_after_the_lock
        quit_is_not_cleared
        close_leaves_the_queue_open
        close_does_not_notify
        close_notifies_before_it_closes
        close_returns_nothing
        close_returns_no_internal_tasks
        push_checks_closed_before_the_lock
        waiting_push_ignores_close
        waiting_push_waits_on_a_closed_queue
        waiting_push_reports_closed_as_full
        internal_push_ignores_close
    }
    words_on_loom {
        move_on_has_no_fence
        set_mark_has_no_fence
        mark_is_read_before_the_move
        mark_is_set_after_the_recheck
        move_is_relaxed
        passes_is_off_by_one
        every_move_rings
        no_move_rings
    }
    state_on_loom {
        wake_loads_before_it_sets
        wake_ignores_pending_ones
        wake_ignores_the_completion
        wake_does_not_notify
        deliver_does_nothing
        abort_does_not_notify
        abort_is_not_stored
        arrival_is_not_pending
        complete_loads_before_it_sets
        complete_keeps_every_result
        complete_forgets_the_joiner
        publish_ignores_the_completion
        withdraw_only_loads
        withdraw_ignores_a_late_completion
        release_keeps_the_waker_published
        release_ignores_the_completion
    }
}
