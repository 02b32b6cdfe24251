//! Tasks and calls from other threads, and bounded mailboxes.

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
