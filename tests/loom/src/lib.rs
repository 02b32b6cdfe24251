//! Model checks of the wake protocol: a loop and the threads that post to it, in every order of
//! their steps.
//!
//! The lines under test are those of the library: `task_queue.rs`, included from where it is and
//! built on loom's lock and flag, with the orderings that the library uses ([`protocol`]). Around
//! it stands a model of what the protocol is for: a descriptor that wakes a poll ([`epoll`]) and a
//! loop that takes its turns ([`reactor`]). The claims are the functions of [`models`];
//! `tests/holds.rs` checks that the protocol keeps them.
//!
//! A check that cannot fail proves nothing, so `build.rs` writes copies of the protocol with one
//! bug each ([`broken`]), and `tests/rejects.rs` demands that a claim refutes every one of them.
//! The models are generic over [`protocol::Protocol`], so that the refuted claim is the very same
//! code as the one that holds.
//!
//! The same is done to the event indices of a shared ring, `shared_ring/event_index.rs`:
//! [`doorbell`] is a ring around them.
//!
//! What this does not cover: loom explores what C11 allows except loads that read from stores yet
//! to come, and knows the last seven stores of an atomic only. It knows no time, so a thread that
//! waits for room has no deadline, and its conditions wake nobody for nothing. A model that bounds
//! the pre-emptions of threads, to end in seconds, says so; the others are exhaustive.
//!
//! Run with `cargo test --release -p reveille-loom`.

// `on_loom!` and `words_on_loom!`, textually before their users.
#[macro_use]
pub mod protocol;
#[macro_use]
pub mod doorbell;
pub mod broken;
pub mod epoll;
pub mod models;
pub mod reactor;

#[path = "../../../src/shared_ring/event_index.rs"]
mod event_index;

#[path = "../../../src/event_loop/tasks/task_queue.rs"]
#[allow(dead_code, reason = "the models need no more than what threads can race for")]
mod task_queue;

/// The protocol as it is.
pub mod correct {
    use crate::task_queue as source;
    on_loom!(source);
}

/// The event indices as they are.
pub mod correct_indices {
    use crate::event_index as source;
    words_on_loom!(source);
}
