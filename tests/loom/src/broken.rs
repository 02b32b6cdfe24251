//! The protocol with one bug each, as `build.rs` wrote it. The bugs themselves are the table there.

/// Every mutation that `build.rs` knows.
pub const NAMES: &[&str] = include!(concat!(env!("OUT_DIR"), "/names.rs"));

macro_rules! broken {
    ($($name:ident)*) => {
        $(
            #[doc = concat!("The protocol, but: ", stringify!($name), ".")]
            pub mod $name {
                #[allow(warnings, clippy::all, reason = "broken on purpose, and not by hand")]
                mod source {
                    include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
                }
                on_loom!(source);
            }
        )*
    };
}

broken! {
    sleep_is_not_announced
    sleeps_over_a_task
    sleeps_over_a_quit
    sleep_is_announced_after_the_lock
    new_queue_counts_as_awake
    push_wakes_nobody
    quit_wakes_nobody
    push_looks_before_it_adds
    end_sleep_is_two_steps
    awake_is_not_noted
    take_reads_quit_after_the_lock
    quit_is_not_cleared
    quit_is_cleared_after_the_lock
    close_refuses_nothing
    close_hands_out_nothing
    push_looks_for_close_before_the_lock
}
