//! mill-io: `post`, to a loop that dispatches on its own thread.

use std::sync::Arc;

use mill_io::EventLoop;
use mill_io::reactor::{DEFAULT_EVENTS_CAPACITY, DEFAULT_POLL_TIMEOUT_MS};

use super::{Poster, tally};
use crate::Result;
use crate::post::tally::Words;

#[derive(Clone)]
pub(in crate::post) struct MillIo(Arc<EventLoop>);

impl Poster for MillIo {
    fn serve(hand_out: impl FnOnce(Self)) -> Result<()> {
        let event_loop = EventLoop::new_low_latency(DEFAULT_EVENTS_CAPACITY, DEFAULT_POLL_TIMEOUT_MS)?;
        let event_loop = Arc::new(event_loop);
        hand_out(MillIo(Arc::clone(&event_loop)));
        event_loop.run()?;
        Ok(())
    }

    #[inline]
    fn post(&self, words: Words) -> bool {
        self.0.post(move || tally::run(&words)).is_ok()
    }

    fn stop(&self) {
        self.0.stop();
    }
}
