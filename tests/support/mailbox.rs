//! For the tests of bounded mailboxes: a loop with a mailbox limit, and posts of empty tasks.

use reveille::task::{MailboxLimit, PostError};
use reveille::{EventLoop, LoopHandle};

use super::{LIMIT, with_watchdog};

/// Same as [`with_loop`](super::with_loop), with a limit on the loop's mailbox.
pub(crate) fn with_mailbox<R: Send + 'static>(
    mailbox: MailboxLimit,
    test: impl FnOnce(&EventLoop) -> R + Send + 'static,
) -> R {
    with_watchdog(LIMIT, move || {
        test(&EventLoop::builder().propagate_panics().mailbox(mailbox).build().unwrap())
    })
}

/// Posts a task that does nothing. Returns the reason if it is rejected.
pub(crate) fn post(handle: &LoopHandle) -> Result<(), PostError> {
    handle.queue_in_loop(|_| ()).map_err(|error| error.reason())
}
