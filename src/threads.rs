//! Loops on threads of their own.

pub(crate) mod loop_pool;
pub(crate) mod loop_thread;
