//! Futures that are bound to a connection.

use std::io;
use std::thread;

use super::TcpConnection;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::tasks::join_handle::{AbortHandle, JoinHandle};
use crate::event_loop::{EventLoop, WeakLoop};
use crate::net::connection::{ConnectionCore, ConnectionState};
use crate::net::result::{CloseReason, IntoHandlerResult};

impl TcpConnection<'_> {
    /// Spawns a future on the connection's loop, as
    /// [`EventLoop::spawn_local`](crate::EventLoop::spawn_local) does, and binds it to the
    /// connection:
    ///
    /// - It is aborted when the connection closes.
    /// - It counts as [outstanding work](TcpConnection::keep_open), so a half-close of the peer and
    ///   the stop of a server wait for it.
    /// - An error that it returns ends the connection, as an error of the handler does.
    /// - A panic closes the connection, as a panic of the handler does.
    ///
    /// It replies in order through a place from
    /// [`reserve_reply`](TcpConnection::reserve_reply). The drop of a place that is not filled
    /// resets the connection, so a future with one is not [aborted](JoinHandle::abort) alone.
    ///
    /// ```
    /// use reveille::codec::FrameHandler;
    /// use reveille::codec::LineCodec;
    /// use reveille::net::SendError;
    /// use reveille::{TcpConnection, time};
    /// use std::io;
    /// use std::time::Duration;
    ///
    /// /// Replies to each line after a second.
    /// struct Slow;
    ///
    /// impl FrameHandler<LineCodec> for Slow {
    ///     fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
    ///         let (line, slot) = (line.to_vec(), conn.reserve_reply()?);
    ///         conn.spawn(async move {
    ///             time::sleep(Duration::from_secs(1)).await;
    ///             slot.fill(line)?;
    ///             Ok::<(), io::Error>(())
    ///         });
    ///         Ok(())
    ///     }
    /// }
    /// ```
    pub fn spawn<F>(&self, future: F) -> JoinHandle<()>
    where
        F: Future<Output: IntoHandlerResult> + 'static,
    {
        let (connection, work) = (Bound::to(self), self.keep_open());
        self.spawn_bound(async move {
            let connection = connection;
            if let Err(error) = future.await.into_result() {
                connection.report(TaskEnd::Failed(Some(error)));
            }
            drop(work);
        })
    }

    /// Same as [`spawn`](TcpConnection::spawn), and calls `then` with the handler of this
    /// connection and the output of the future. An error that `then` returns ends the connection.
    /// `then` is not called after the handler has returned an error.
    ///
    /// The type of the first parameter of `then` selects the handler, see
    /// [`ConnectionHandle::with`](crate::ConnectionHandle::with).
    ///
    /// ```
    /// use reveille::codec::{FrameHandler, LineCodec};
    /// use reveille::net::Resolver;
    /// use reveille::TcpConnection;
    /// use std::io;
    ///
    /// /// Replies to each name with its addresses.
    /// struct Lookups {
    ///     resolver: Resolver,
    ///     done: u64,
    /// }
    ///
    /// impl FrameHandler<LineCodec> for Lookups {
    ///     fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
    ///         let name = String::from_utf8_lossy(line).into_owned();
    ///         let resolver = self.resolver.clone();
    ///         let slot = conn.reserve_reply()?;
    ///         let lookup = async move {
    ///             let found = resolver.lookup_async(name.as_str()).await;
    ///             slot.fill(format!("{name}: {found:?}\n"))
    ///         };
    ///         conn.spawn_then(lookup, |this: &mut Self, _, filled| {
    ///             this.done += 1;
    ///             filled
    ///         });
    ///         Ok(())
    ///     }
    /// }
    /// ```
    ///
    /// # Panics
    /// If `H` is not the type of the connection's handler.
    #[track_caller]
    pub fn spawn_then<F, H, R>(
        &self,
        future: F,
        then: impl FnOnce(&mut H, &TcpConnection<'_>, F::Output) -> R + 'static,
    ) -> JoinHandle<()>
    where
        F: Future + 'static,
        H: 'static,
        R: IntoHandlerResult,
    {
        self.expect_handler::<H>();
        let (connection, work, handle) = (Bound::to(self), self.keep_open(), self.handle());
        self.spawn_bound(async move {
            let connection = connection;
            let output = future.await;
            let call = move |handler: &mut H, conn: &TcpConnection<'_>| match conn.core.has_handler_failed() {
                true => Ok(()),
                false => then(handler, conn, output).into_result(),
            };
            // It is refused, and dropped, if the connection is closed.
            drop(connection.event_loop.with(|event_loop| handle.with_local(event_loop, call)));
            drop(work);
        })
    }

    fn spawn_bound(&self, future: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
        let spawned = self.event_loop.spawn_local(future);
        self.core.keep_task(spawned.abort_handle());
        spawned
    }
}

/// What a future does to its connection. A control message to that connection.
pub(in crate::net::connection) enum TaskEnd {
    Failed(Option<io::Error>),
    Panicked,
}

/// The connection of a future, which is closed if this is dropped by a panic.
struct Bound {
    event_loop: WeakLoop,
    id: ChannelId,
}

impl Bound {
    fn to(conn: &TcpConnection<'_>) -> Bound {
        Bound { event_loop: conn.event_loop.downgrade(), id: conn.core.id() }
    }

    fn report(&self, mut end: TaskEnd) {
        self.event_loop.with(|event_loop| event_loop.send_control(self.id, &mut end));
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if thread::panicking() {
            self.report(TaskEnd::Panicked);
        }
    }
}

impl ConnectionCore {
    pub(in crate::net::connection) fn on_task_end(&self, event_loop: &EventLoop, end: &mut TaskEnd) {
        match end {
            TaskEnd::Failed(error) => {
                error.take().into_iter().for_each(|error| self.end_with_error(event_loop, error));
            }
            TaskEnd::Panicked => self.close(event_loop, CloseReason::Panicked),
        }
    }

    /// Aborts the future when the connection closes; at once if it has.
    fn keep_task(&self, task: AbortHandle) {
        if self.state() == ConnectionState::Closed {
            return task.abort();
        }
        self.change_timers(|timers| {
            let tasks = &mut timers.tasks;
            // Futures that have ended are removed when the list would grow.
            if tasks.len() == tasks.capacity() {
                tasks.retain(|task| !task.is_finished());
            }
            tasks.push(task);
        });
    }
}
