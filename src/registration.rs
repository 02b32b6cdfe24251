//! What a user holds of a source on the loop: its place there, which is given up when this is dropped.

use crate::channel_table::ChannelId;
use crate::event_loop::{EventLoop, WeakLoop};

/// Weak: the source belongs to the loop, and may be gone already.
pub(crate) struct Registration {
    event_loop: WeakLoop,
    /// None once it has been left to the loop.
    id: Option<ChannelId>,
}

impl Registration {
    pub(crate) fn new(event_loop: &EventLoop, id: ChannelId) -> Registration {
        Registration { event_loop: event_loop.downgrade(), id: Some(id) }
    }

    pub(crate) fn is_open(&self) -> bool {
        let is_registered = |id| self.event_loop.with(|event_loop| event_loop.is_registered(id));
        self.id.and_then(is_registered).unwrap_or(false)
    }

    /// Leaves the source to the loop.
    pub(crate) fn detach(mut self) {
        self.id = None;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.event_loop.with(|event_loop| event_loop.remove(id));
        }
    }
}
