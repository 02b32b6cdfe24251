//! How much other threads may leave with a loop.

/// How many tasks other threads may have waiting, and what becomes of one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MailboxLimit {
    /// As many as there is memory for.
    #[default]
    Unbounded,
    /// So many. One more is refused, and given back.
    Reject(usize),
    /// So many. Who has one more waits until the loop has taken a batch.
    ///
    /// A loop that is not run takes none, and whoever waits for it waits until it is run or dropped. The loop's own thread never
    /// waits, as it would wait for itself: one more from there is refused. Two loops that post to each other's full mailboxes
    /// wait for each other, and so does a loop that joins the thread of one that waits for it, as the drop of a
    /// [server with threads](crate::TcpServerBuilder::threads) does.
    Block(usize),
}

impl MailboxLimit {
    pub(in crate::event_loop) fn capacity(self) -> usize {
        match self {
            MailboxLimit::Unbounded => usize::MAX,
            // Room for none would make every post wait for ever.
            MailboxLimit::Reject(tasks) | MailboxLimit::Block(tasks) => tasks.max(1),
        }
    }
}
