//! How much of a connection's queue are replies: bytes that the handler sent while it was given input.
//!
//! The queue also holds unsolicited output. Both kinds leave in the order in which they came, so the count follows the queue
//! in runs. A run is replies and then unsolicited bytes. Replies that come behind few unsolicited bytes join the run before
//! these: the count may then fall up to [`GRAIN`] bytes early, and is never more than the replies that are unsent.

use std::collections::VecDeque;

/// How many unsolicited bytes separate one run from the next, so that small sends of both kinds by turns do not take more
/// memory here than in the queue.
const GRAIN: usize = 4096;

/// Counts the replies in a queue of bytes.
#[derive(Debug, Default)]
pub(super) struct Replies {
    /// The runs before the last one, none of them short.
    earlier: VecDeque<Run>,
    last: Run,
    unsent: usize,
}

#[derive(Debug, Default)]
struct Run {
    replies: usize,
    /// Behind the replies.
    unsolicited: usize,
}

impl Replies {
    /// How many replies are unsent.
    pub(super) fn unsent(&self) -> usize {
        self.unsent
    }

    /// Replies have been queued.
    pub(super) fn add(&mut self, bytes: usize) {
        if self.last.unsolicited >= GRAIN {
            self.earlier.push_back(std::mem::take(&mut self.last));
        }
        self.last.replies = self.last.replies.saturating_add(bytes);
        self.unsent = self.unsent.saturating_add(bytes);
    }

    /// Unsolicited bytes have been queued.
    pub(super) fn add_unsolicited(&mut self, bytes: usize) {
        self.last.unsolicited = self.last.unsolicited.saturating_add(bytes);
    }

    /// Bytes at the front of the queue have been sent.
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
    fn replies_leave_in_their_place_among_unsolicited_bytes() {
        let mut replies = Replies::default();
        replies.add_unsolicited(2 * GRAIN);
        replies.add(1000);
        replies.add_unsolicited(3 * GRAIN);
        replies.add(500);
        assert_eq!(replies.unsent(), 1500);
        replies.take(2 * GRAIN);
        assert_eq!(replies.unsent(), 1500, "unsolicited bytes were before them");
        replies.take(999);
        assert_eq!(replies.unsent(), 501);
        replies.take(1 + 3 * GRAIN);
        assert_eq!(replies.unsent(), 500);
        replies.take(500);
        assert_eq!(replies.unsent(), 0);
    }

    #[test]
    fn small_sends_by_turns_share_one_run() {
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
    fn a_queue_of_one_kind_of_output_is_one_run() {
        let mut replies = Replies::default();
        (0..10).for_each(|_| replies.add_unsolicited(10 * GRAIN));
        assert_eq!(replies.unsent(), 0);
        replies.take(100 * GRAIN);
        (0..10).for_each(|_| replies.add(10 * GRAIN));
        assert_eq!((replies.unsent(), replies.earlier.len()), (100 * GRAIN, 0));
    }
}
