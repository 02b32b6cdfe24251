//! A response that is sent later.

use super::http::{Manner, Status, plain, response};
use crate::net::ReplySlot;

pub(super) const JSON: &str = "application/json";

/// The place of a response among those of its connection. From any thread.
pub(super) struct Reply {
    slot: ReplySlot,
    manner: Manner,
}

impl Reply {
    pub(super) fn new(slot: ReplySlot, manner: Manner) -> Reply {
        Reply { slot, manner }
    }

    pub(super) fn json(self, body: &str) {
        let bytes = response(Status::OK, JSON, body, self.manner);
        self.fill(bytes);
    }

    pub(super) fn plain(self, status: Status, reason: &str) {
        let bytes = plain(status, reason, self.manner);
        self.fill(bytes);
    }

    fn fill(self, bytes: Vec<u8>) {
        // The client has disconnected, or does not read: then the drop of the slot resets the
        // connection.
        drop(self.slot.fill(bytes));
    }
}
