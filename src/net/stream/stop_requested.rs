//! [`StopRequested`]: the future of a stop.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::net::connection::demand::StreamState;

/// Completes when the server of a connection begins to stop, see
/// [`ByteStream::stop_requested`](crate::net::ByteStream::stop_requested). Bound to the loop.
#[must_use = "futures do nothing unless they are polled"]
pub struct StopRequested {
    state: Rc<StreamState>,
    /// Where the stream finds the waker, once this has waited.
    place: Option<usize>,
}

impl StopRequested {
    pub(super) fn new(state: &Rc<StreamState>) -> StopRequested {
        state.stop.expect();
        StopRequested { state: Rc::clone(state), place: None }
    }
}

impl Future for StopRequested {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let StopRequested { state, place } = &mut *self;
        if state.stop.is_made() {
            return Poll::Ready(());
        }
        state.stop.listen(place, context);
        Poll::Pending
    }
}

impl Drop for StopRequested {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.state.stop.leave(place);
        }
    }
}

impl fmt::Debug for StopRequested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopRequested").field("is_made", &self.state.stop.is_made()).finish_non_exhaustive()
    }
}
