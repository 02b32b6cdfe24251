//! Event sources other than sockets: user descriptors, eventfds, signals, child processes, file
//! changes, and pressure and memory notifications.

pub(crate) mod cgroup_memory;
pub(crate) mod channel;
pub(crate) mod child;
pub(crate) mod eventfd_source;
pub(crate) mod pressure;
pub(crate) mod signals;
pub(crate) mod watcher;

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::{EventLoop, WeakLoop};

/// The user's handle of a source that the loop owns. Dropping it removes the source from the loop.
///
/// Weak: the loop may already have removed the source, or have been dropped.
pub(crate) struct Registration {
    event_loop: WeakLoop,
    /// `None` after `detach`.
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

    /// Leaves the source to the loop: dropping the handle no longer removes it.
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
