//! The upgrade of an open connection: a filter is added.
//!
//! Output from before does not pass through the new filter. Later output is held behind a reserved
//! place of the queue until the handshake of the filter is done. Bytes that the handler has left in
//! its input came before the upgrade. They close the connection: an attacker could have inserted
//! them, and they would be taken for bytes that the filter has authenticated (CVE-2011-0411).

use std::io;

use super::Filtering;
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, Refused};
use crate::net::connection::fd_passing::FdPassing;
use crate::net::connection::read::ReadBlocks;
use crate::net::connection::{ConnectionCore, ConnectionState};
use crate::net::filter::{BoxedFilter, Filter};
use crate::net::result::CloseReason;
use crate::readiness::Readiness;

/// An upgrade in progress.
pub(super) struct Upgrade {
    /// The place in the queue that holds back later output.
    place: u64,
    /// The filter, until the output before the place is sent.
    filter: Option<BoxedFilter>,
}

impl ConnectionCore {
    /// Adds a filter at the handler's end.
    pub(in crate::net::connection) fn add_filter<F: Filter>(
        &self,
        event_loop: &EventLoop,
        filter: F,
    ) -> Result<(), Refused<F, io::Error>> {
        self.send_collected(event_loop);
        if let Err(error) = self.check_upgrade() {
            return Err(Refused::new(filter, error));
        }
        // The kernel delivers descriptors only with plain bytes.
        if matches!(self.passing.get(), FdPassing::Accepted(_)) {
            self.passing.set(FdPassing::Discarded);
        }
        let place = self.unsent.borrow_mut().get_or_insert_default().reserve();
        let filter: BoxedFilter = Contained::new(Box::new(filter));
        self.filtering
            .get_or_init(Filtering::empty)
            .upgrade
            .set(Some(Upgrade { place, filter: Some(filter) }));
        self.block_reading(ReadBlocks::UPGRADE);
        self.update_wanted(event_loop);
        // The callback that runs now may still leave input.
        event_loop.add_ready(self.id, Readiness::SELF_WAKE);
        Ok(())
    }

    fn check_upgrade(&self) -> io::Result<()> {
        let (kind, problem) = if self.state.get() != ConnectionState::Open {
            (io::ErrorKind::NotConnected, "a connection that is closing takes no filter")
        } else if self.was_ever_linked() {
            (io::ErrorKind::InvalidInput, "a linked connection takes no filter")
        } else if self.is_upgrading() || self.is_in_handshake() {
            (io::ErrorKind::WouldBlock, "a handshake is in progress")
        } else if self.unsent.borrow().as_ref().is_some_and(|queue| queue.places() > 0) {
            (io::ErrorKind::WouldBlock, "replies are reserved, and not sent yet")
        } else if self.unsent.borrow().as_ref().is_some_and(|queue| queue.descriptors() > 0) {
            (io::ErrorKind::WouldBlock, "descriptors are not sent yet")
        } else {
            return Ok(());
        };
        Err(io::Error::new(kind, problem))
    }

    fn is_upgrading(&self) -> bool {
        let Some(filtering) = self.filtering.get() else { return false };
        let upgrade = filtering.upgrade.take();
        let is_upgrading = upgrade.is_some();
        filtering.upgrade.set(upgrade);
        is_upgrading
    }

    /// Opens a filter that was added, if the output before it is sent.
    #[cold]
    pub(in crate::net) fn advance_upgrade(&self, event_loop: &EventLoop) {
        let Some(filtering) = self.filtering.get() else { return };
        let Some(mut upgrade) = filtering.upgrade.take() else { return };
        let is_sent = !self.unsent.borrow().as_ref().is_some_and(|queue| queue.is_sendable());
        let is_open = self.state.get() != ConnectionState::Closed;
        let filter = if is_sent && is_open { upgrade.filter.take() } else { None };
        filtering.upgrade.set(Some(upgrade));
        let Some(filter) = filter else { return };
        self.unblock_reading(ReadBlocks::UPGRADE);
        if self.unread_len() > 0 {
            let message = "input was received before the upgrade of the connection";
            return self
                .close(event_loop, CloseReason::Error(io::Error::new(io::ErrorKind::InvalidData, message)));
        }
        self.begin_handshake(event_loop);
        self.update_wanted(event_loop);
        self.run_filters(event_loop, |chain, event_loop, to_peer| {
            chain.add(self.id, [filter], event_loop, to_peer)
        });
    }

    /// The handshake is done: sends the output that was held. Returns whether there was an upgrade.
    pub(in crate::net) fn finish_upgrade(&self, event_loop: &EventLoop) -> bool {
        let upgrade = self.filtering.get().and_then(|filtering| filtering.upgrade.take());
        if let Some(Upgrade { place, .. }) = &upgrade {
            self.fill_reply(*place, Vec::new());
            self.send_released_replies(event_loop);
        }
        upgrade.is_some()
    }
}
