//! Loops on threads of their own, and threads that work for loops.

pub(crate) mod loop_pool;
pub(crate) mod loop_thread;
pub(crate) mod watchdog;
pub(crate) mod workers;
