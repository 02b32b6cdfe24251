//! Connections: input, output, back-pressure and ends.

#[path = "../support/mod.rs"]
mod support;

mod adopted_connections;
mod automatic_pause;
mod backpressure;
mod close;
mod coalescing;
mod connection_ids;
mod connection_model;
mod connection_states;
mod connection_timers;
mod deadlines;
mod delayed_close;
mod echo;
mod failures;
mod graceful_close;
mod handler_access;
mod handler_access_ends;
mod handler_access_order;
mod handler_errors;
mod handles;
mod idle_timeouts;
mod limits;
mod ordered_replies;
mod output_failures;
mod output_failures_held;
mod outstanding_work;
mod paused_reading;
mod reply_ends;
mod reply_limits;
mod resets;
mod send_file;
mod shut_input;
mod socket_options;
mod urgent_data;
mod water_marks;
