//! For the tests of bounded mailboxes: a loop with one, and a post that says how it went.

use reveille::task::{MailboxLimit, PostErrorReason};
use reveille::{EventLoop, LoopHandle};

use super::{LIMIT, with_watchdog};

/// As [`with_loop`](super::with_loop), with a loop that has this mailbox.
pub(crate) fn with_mailbox<R: Send + 'static>(
    mailbox: MailboxLimit,
    test: impl FnOnce(&EventLoop) -> R + Send + 'static,
) -> R {
    with_watchdog(LIMIT, move || {
        test(&EventLoop::builder().propagate_panics().mailbox(mailbox).build().unwrap())
    })
}

/// Posts a task that does nothing. Answers why it was refused, if it was.
pub(crate) fn post(handle: &LoopHandle) -> Result<(), PostErrorReason> {
    handle.queue_in_loop(|_| ()).map_err(|error| error.reason())
}
