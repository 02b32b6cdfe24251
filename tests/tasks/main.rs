//! Tasks and calls from other threads, bounded mailboxes, and jobs on other threads.

#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod call_timeouts;
mod calls;
mod cross_thread;
mod mailbox;
mod mailbox_waits;
mod outcomes;
mod posting_wakes;
mod refused_jobs;
mod workers;
