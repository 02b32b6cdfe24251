//! `DetachedServer`: what the loop of a server owns once the server is detached or stopped.

use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::abort;
use super::listener::Listener;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::{EventLoop, Source};
use crate::net::group::Group;
use crate::readiness::{Interest, Readiness};
use crate::threads::loop_pool::LoopPool;

/// A source without a descriptor. It owns the server's threads, and ends the server with the loop.
/// The group removes it when the server has stopped.
pub(super) struct DetachedServer {
    id: ChannelId,
    group: Arc<Group>,
    pool: Cell<Option<LoopPool>>,
}

impl DetachedServer {
    /// Leaves a server to its loop, and takes its threads. A server that serves on this loop alone
    /// needs nothing: its listener and its connections are sources of the loop.
    ///
    /// # Errors
    /// If the loop is being dropped. The threads are left where they are.
    pub(super) fn leave(
        event_loop: &EventLoop,
        group: &Arc<Group>,
        pool: &mut Option<LoopPool>,
    ) -> io::Result<()> {
        if (0..group.shards()).all(|shard| group.event_loop(shard).is_in_loop_thread()) {
            return Ok(());
        }
        let source = event_loop.register(Interest::EMPTY, |id| {
            Rc::new(DetachedServer { id, group: Arc::clone(group), pool: Cell::new(None) })
        })?;
        source.pool.set(pool.take());
        group.attach(event_loop, source.id);
        Ok(())
    }
}

impl Source for DetachedServer {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn on_ready(&self, _event_loop: &EventLoop, _ready: Readiness) {}

    /// Threads of the server end when this is dropped, and close their connections. The loops of
    /// another pool do not end, so the connections there are closed here. In both cases the
    /// listeners are closed first, so that no loop hands its backlog over to another one.
    fn on_loop_end(&self, _event_loop: &EventLoop) {
        let pool = self.pool.take();
        if pool.is_some() {
            Listener::close_all(&self.group);
        } else {
            abort(&self.group);
        }
        self.pool.set(pool);
    }
}
