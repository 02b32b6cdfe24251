//! Model checks of the wake-up protocols: a loop and the threads that post to it, in all
//! interleavings of their steps.
//!
//! The code under test is the library's `task_queue.rs`. It is included from its place in the
//! library and built on loom's mutex and atomics, with the memory orderings that the library uses
//! ([`protocol`]). Its environment is a model: a descriptor that wakes a poll ([`epoll`]) and a
//! loop that makes turns ([`reactor`]). The claims are the functions of [`models`], and
//! `tests/holds.rs` checks that the protocol fulfils them.
//!
//! A check that cannot fail proves nothing. So `build.rs` writes copies of the protocol with one
//! bug each ([`broken`]), and `tests/rejects.rs` checks that a claim rejects each copy. The models
//! are generic over [`protocol::Protocol`], so both tests run the same claims.
//!
//! The event indices of a shared ring, `shared_ring/event_index.rs`, are checked in the same way.
//! [`shared_ring`] is a ring around them.
//!
//! The state of a spawned future, `tasks/future_state.rs`, likewise; [`futures`] is a future around
//! it.
//!
//! The limits of loom: it explores what C11 permits, except loads that read from later stores, and
//! it keeps only the last seven stores of an atomic. It has no clock, so a thread that waits for
//! capacity has no deadline. Its condition variables have no spurious wake-ups. Some models bound
//! the number of preemptions, to complete within seconds, and state the bound. The others are
//! exhaustive.
//!
//! Run with `cargo test --release -p reveille-loom`.

// These modules define `on_loom!`, `words_on_loom!` and `state_on_loom!`, which must precede their
// uses.
#[macro_use]
pub mod protocol;
#[macro_use]
pub mod shared_ring;
#[macro_use]
pub mod futures;
pub mod broken;
pub mod epoll;
pub mod models;
pub mod reactor;

#[path = "../../../src/shared_ring/event_index.rs"]
mod event_index;

#[path = "../../../src/event_loop/tasks/future_state.rs"]
mod future_state;

#[path = "../../../src/event_loop/tasks/task_queue.rs"]
#[allow(dead_code, reason = "the models use only the operations that can race")]
mod task_queue;

/// The protocol of the library.
pub mod correct {
    use crate::task_queue as source;
    on_loom!(source);
}

/// The event indices of the library.
pub mod correct_indices {
    use crate::event_index as source;
    words_on_loom!(source);
}

/// The state of a spawned future of the library.
pub mod correct_state {
    use crate::future_state as source;
    state_on_loom!(source);
}
