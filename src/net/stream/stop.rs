//! Waiting for the stop of a server.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::ByteStream;
use crate::event_loop::tasks::wait_list::Place;
use crate::net::connection::demand::StreamState;

impl ByteStream {
    /// Returns a future that completes when the server of the connection begins to
    /// [stop](crate::TcpServer::stop). For other connections it never completes.
    ///
    /// A stream for which this was called before the stop continues to read and write after it,
    /// until its task ends or the time of the stop has passed; then the connection is reset. For
    /// any other stream a stop ends the input: reads return 0, a task that reads until then ends
    /// by itself, and its output is sent.
    ///
    /// The future does not borrow the stream, so it can be a branch of a select beside a read. Any
    /// number of them may wait. Dropping one changes nothing.
    pub fn stop_requested(&self) -> StopRequested {
        self.state.handles_stop.set(true);
        StopRequested { state: Rc::clone(&self.state), place: Place::default() }
    }
}

/// The future that [`ByteStream::stop_requested`] returns.
#[must_use = "a future does nothing until it is polled"]
pub struct StopRequested {
    state: Rc<StreamState>,
    place: Place,
}

impl Future for StopRequested {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.state.is_stopping.get() {
            return Poll::Ready(());
        }
        let StopRequested { state, place } = &mut *self;
        state.stop.wait(place, context);
        Poll::Pending
    }
}

impl Drop for StopRequested {
    fn drop(&mut self) {
        self.state.stop.leave(&mut self.place);
    }
}

impl fmt::Debug for StopRequested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopRequested").field("is_stopping", &self.state.is_stopping.get()).finish()
    }
}
