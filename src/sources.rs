//! Event sources other than sockets: descriptors of any kind, and what the kernel reports through one.

pub(crate) mod cgroup_memory;
pub(crate) mod channel;
pub(crate) mod child;
pub(crate) mod eventfd_source;
pub(crate) mod pressure;
pub(crate) mod signals;
pub(crate) mod watcher;

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::{EventLoop, WeakLoop};

/// What a user holds of a source on the loop. Dropping it removes the source from the loop.
///
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
