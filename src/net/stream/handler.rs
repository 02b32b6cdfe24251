//! [`StreamHandler`]: the handler of a connection that is a byte stream.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use super::ByteStream;
use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::tasks::join_handle::JoinHandle;
use crate::net::address::Address;
use crate::net::connection::TcpConnection;
use crate::net::connection::demand::{StreamState, copy};
use crate::net::connection::driver::{Dialer, Waiting};
use crate::net::connection::handler::ConnectionHandler;
use crate::net::result::CloseReason;

/// Passes the events of a connection to the futures that wait for them. `S` is what starts when the
/// connection opens.
pub(in crate::net) struct StreamHandler<S> {
    state: Rc<StreamState>,
    start: Option<S>,
    /// The task that the connection belongs to.
    task: Option<JoinHandle<()>>,
}

/// Starts when the connection opens. Returns the task that the connection belongs to.
pub(in crate::net) trait Start: 'static {
    fn start(self, event_loop: &EventLoop, state: Rc<StreamState>) -> Option<JoinHandle<()>>;
}

/// The stream exists already.
impl Start for () {
    fn start(self, _event_loop: &EventLoop, _state: Rc<StreamState>) -> Option<JoinHandle<()>> {
        None
    }
}

impl<S: Start> StreamHandler<S> {
    pub(in crate::net) fn new(state: Rc<StreamState>, start: S) -> StreamHandler<S> {
        StreamHandler { state, start: Some(start), task: None }
    }
}

impl<S: Start> ConnectionHandler for StreamHandler<S> {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.core().attach(conn.event_loop(), &self.state);
        let start = self.start.take();
        self.task = start.and_then(|start| start.start(conn.event_loop(), Rc::clone(&self.state)));
        Ok(())
    }

    /// Decoded input stays with the connection until the stream takes it. The reader is woken when
    /// the connection has it again.
    fn on_message(&mut self, conn: &TcpConnection<'_>, _input: &mut Buffer) -> io::Result<()> {
        conn.core().hold_decoded(conn.event_loop());
        Ok(())
    }

    fn on_drained(&mut self, _conn: &TcpConnection<'_>) -> io::Result<()> {
        self.state.writer.notify();
        Ok(())
    }

    fn on_low_water(&mut self, _conn: &TcpConnection<'_>) -> io::Result<()> {
        self.state.writer.notify();
        Ok(())
    }

    fn on_peer_shutdown(&mut self, _conn: &TcpConnection<'_>) -> io::Result<()> {
        self.state.input_ended.set(true);
        self.state.reader.notify();
        Ok(())
    }

    /// The task decides when the connection ends, within the time of the stop.
    fn on_stop(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.state.is_stopping.set(true);
        if !self.state.handles_stop.get() {
            conn.shutdown_read();
            self.state.reader.notify();
        }
        self.state.stop.wake_all();
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        if let CloseReason::Finished | CloseReason::Error(_) = reason {
            *self.state.left.borrow_mut() = conn.core().take_unread();
        }
        self.end(result(reason));
        // A task learns of the end of its connection by the stream. It is not left to run after a
        // limit, or longer than its server or loop.
        if !matches!(
            reason,
            CloseReason::Finished | CloseReason::Error(_) | CloseReason::Closed | CloseReason::Reset
        ) {
            self.task.iter().for_each(JoinHandle::abort);
        }
    }
}

impl<S> StreamHandler<S> {
    fn end(&self, result: io::Result<()>) {
        end(&self.state, result);
    }

    /// Ends the stream with the reason for which a handshake has failed.
    pub(in crate::net) fn dialer(&self) -> Rc<dyn Dialer> {
        Rc::new(Handshake(Rc::clone(&self.state)))
    }
}

fn end(state: &StreamState, result: io::Result<()>) {
    if state.end.borrow().is_none() {
        *state.end.borrow_mut() = Some(result);
        state.notify_all();
    }
}

/// The end of an adopted connection that has no handler yet. Afterwards the handler is notified.
struct Handshake(Rc<StreamState>);

impl Dialer for Handshake {
    fn on_connected(&self, _conn: &TcpConnection<'_>, _id: ChannelId) {}

    fn reports_failures(&self) -> bool {
        true
    }

    fn on_opened(&self) -> VecDeque<Waiting> {
        VecDeque::new()
    }

    fn on_end(self: Rc<Self>, _event_loop: &EventLoop, _id: ChannelId, reason: Contained<CloseReason>) {
        end(&self.0, result(&reason));
    }
}

impl<S> Drop for StreamHandler<S> {
    /// The connection has ended before it was open, with its loop or client.
    fn drop(&mut self) {
        self.end(Err(io::Error::new(io::ErrorKind::NotConnected, "the connection did not open")));
    }
}

fn result(reason: &CloseReason) -> io::Result<()> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, Other, OutOfMemory, TimedOut};
    let kind = match reason {
        CloseReason::Finished => return Ok(()),
        CloseReason::Error(error) => return Err(copy(error)),
        CloseReason::Reset | CloseReason::RelayEnded | CloseReason::ReplyDropped => ConnectionReset,
        CloseReason::DeadlinePassed | CloseReason::Idle | CloseReason::TimedOut => TimedOut,
        CloseReason::Closed | CloseReason::Stopped | CloseReason::LoopEnded => BrokenPipe,
        CloseReason::MemoryLimit => OutOfMemory,
        CloseReason::Panicked => Other,
    };
    Err(io::Error::new(kind, reason.to_string()))
}

/// A task that serves a connection: `make` gets the stream, and returns the future.
pub(in crate::net) struct Serve<M>(pub(in crate::net) M);

impl<M, F> Start for Serve<M>
where
    M: FnOnce(ByteStream) -> F + 'static,
    F: Future<Output = io::Result<()>> + 'static,
{
    fn start(self, event_loop: &EventLoop, state: Rc<StreamState>) -> Option<JoinHandle<()>> {
        let Serve(make) = self;
        let stream = ByteStream::new(Rc::clone(&state));
        let serving = Serving(state);
        Some(event_loop.spawn_local(async move {
            let returned = make(stream).await;
            serving.finish(returned);
        }))
    }
}

/// Held by a task that serves a connection.
struct Serving(Rc<StreamState>);

impl Serving {
    fn finish(self, returned: io::Result<()>) {
        let Err(error) = returned else { return };
        let peer = self.0.with(|_, core, _| core.known_peer().cloned()).flatten();
        log_error(peer.as_ref(), &error);
        // The logger is user code, which may have forked.
        self.0.with(|event_loop, core, _| core.end_stream_with(event_loop, error));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.with(|event_loop, core, _| core.reset_after_panic(event_loop));
        }
    }
}

/// No callback gets the error of a task, so it is logged. That a peer has gone is expected.
fn log_error(peer: Option<&Address>, error: &io::Error) {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    let peer = peer.map_or_else(|| "a peer that is gone".to_owned(), Address::to_string);
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | UnexpectedEof => {
            logger::recurring("a task that its peer has ended", |left_out| {
                log::debug!("the task of the connection from {peer} has ended: {error}{left_out}");
            });
        }
        _ => logger::recurring("a task that has failed", |left_out| {
            log::warn!("the task of the connection from {peer} has failed: {error}{left_out}");
        }),
    }
}
