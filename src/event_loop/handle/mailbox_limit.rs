//! The limit on tasks that other threads have queued for a loop.

/// How many tasks of other threads may be pending, and what happens to a post beyond that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MailboxLimit {
    /// No limit other than memory.
    #[default]
    Unbounded,
    /// At most this many; 0 counts as 1. A post to a full queue is refused and returns the task.
    Refuse(usize),
    /// At most this many; 0 counts as 1. A post to a full queue blocks until the loop takes a
    /// batch.
    ///
    /// A loop that is not run takes no batch, so the caller blocks until the loop is run or
    /// dropped. The loop's own thread never blocks, as it would deadlock: its post to a full queue
    /// is refused. Two loops that post to each other's full queues deadlock. A loop that joins the
    /// thread of another loop deadlocks if that loop is blocked in a post to it. The drop of a
    /// [server with threads](crate::net::TcpServerBuilder::threads) joins its threads.
    Block(usize),
}

impl MailboxLimit {
    pub(in crate::event_loop) fn capacity(self) -> usize {
        match self {
            MailboxLimit::Unbounded => usize::MAX,
            // A capacity of zero would block every post for ever.
            MailboxLimit::Refuse(tasks) | MailboxLimit::Block(tasks) => tasks.max(1),
        }
    }
}
