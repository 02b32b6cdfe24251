//! Counts the replies in a connection's queue. Replies are the bytes that the handler sends in a
//! callback that delivers input; all other output is unsolicited.
//!
//! The queue holds bytes of both kinds, in the order in which they were sent. They are recorded as
//! a sequence of runs; a run is a number of replies followed by a number of unsolicited bytes. To
//! keep the runs few, replies that follow fewer than [`GRAIN`] unsolicited bytes are counted in the
//! current run, ahead of these bytes. The count may therefore fall up to [`GRAIN`] bytes early, and
//! it never exceeds the number of unsent replies.

use std::collections::VecDeque;

/// A run with this many unsolicited bytes is complete, and the next reply starts a new one. So
/// alternating small sends of both kinds do not take more memory here than in the queue.
const GRAIN: usize = 4096;

/// The replies in a queue of bytes.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// The runs before the last one, each with at least [`GRAIN`] unsolicited bytes.
    earlier: VecDeque<Run>,
    last: Run,
    unsent: usize,
}

#[derive(Debug, Default)]
struct Run {
    replies: usize,
    /// Queued after the replies.
    unsolicited: usize,
}

impl Replies {
    /// The number of unsent replies.
    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    /// Counts queued replies.
    pub(super) fn add(&mut self, bytes: usize) {
        if self.last.unsolicited >= GRAIN {
            self.earlier.push_back(std::mem::take(&mut self.last));
        }
        self.last.replies = self.last.replies.saturating_add(bytes);
        self.unsent = self.unsent.saturating_add(bytes);
    }

    /// Counts queued unsolicited bytes.
    pub(super) fn add_unsolicited(&mut self, bytes: usize) {
        self.last.unsolicited = self.last.unsolicited.saturating_add(bytes);
    }

    /// Removes bytes that were sent from the front of the queue.
    pub(super) fn take(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let run = self.earlier.front_mut().unwrap_or(&mut self.last);
            let replies = bytes.min(run.replies);
            run.replies -= replies;
            self.unsent = self.unsent.saturating_sub(replies);
            bytes -= replies;
            let unsolicited = bytes.min(run.unsolicited);
            run.unsolicited -= unsolicited;
            bytes -= unsolicited;
            if bytes > 0 && self.earlier.pop_front().is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{GRAIN, Replies};

    #[test]
    fn replies_leave_in_queue_order_among_unsolicited_bytes() {
        let mut replies = Replies::default();
        replies.add_unsolicited(2 * GRAIN);
        replies.add(1000);
        replies.add_unsolicited(3 * GRAIN);
        replies.add(500);
        assert_eq!(replies.unsent(), 1500);
        replies.take(2 * GRAIN);
        assert_eq!(replies.unsent(), 1500, "the unsolicited bytes before them counted as replies");
        replies.take(999);
        assert_eq!(replies.unsent(), 501);
        replies.take(1 + 3 * GRAIN);
        assert_eq!(replies.unsent(), 500);
        replies.take(500);
        assert_eq!(replies.unsent(), 0);
    }

    #[test]
    fn alternating_small_sends_share_one_run() {
        let mut replies = Replies::default();
        for _ in 0..GRAIN {
            replies.add_unsolicited(1);
            replies.add(2);
        }
        assert!(replies.earlier.len() <= 1, "{} runs", replies.earlier.len());
        let mut left = 3 * GRAIN;
        let mut before = replies.unsent();
        assert_eq!(before, 2 * GRAIN);
        while left > 0 {
            replies.take(1);
            left -= 1;
            assert!(replies.unsent() <= before.min(left));
            assert!(replies.unsent() + GRAIN >= left - left / 3, "{} of {left}", replies.unsent());
            before = replies.unsent();
        }
        assert_eq!(replies.unsent(), 0);
    }

    #[test]
    fn output_of_one_kind_is_a_single_run() {
        let mut replies = Replies::default();
        (0..10).for_each(|_| replies.add_unsolicited(10 * GRAIN));
        assert_eq!(replies.unsent(), 0);
        replies.take(100 * GRAIN);
        (0..10).for_each(|_| replies.add(10 * GRAIN));
        assert_eq!((replies.unsent(), replies.earlier.len()), (100 * GRAIN, 0));
    }
}
