//! A reactor for Linux.
mod buffer;
mod channel_table;
mod event_loop;
mod eventfd;
mod poller;
mod readiness;
mod sync;
mod task_queue;
mod timer_queue;

pub use buffer::Buffer;
pub use event_loop::{Builder, Counters, EventLoop, LoopHandle, PostError, TimerId};
pub use eventfd::{EventFd, EventFdBuilder};
pub use readiness::{Interest, Readiness};
mod channel;
mod loop_pool;
mod loop_thread;
pub use channel::{Channel, ChannelEvent};
pub use loop_pool::LoopPool;
pub use loop_thread::LoopThread;
mod net;
pub use net::*;
