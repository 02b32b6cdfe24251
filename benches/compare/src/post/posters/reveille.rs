//! reveille: `queue_in_loop`.

use reveille::{EventLoop, LoopHandle};

use super::{Poster, tally};
use crate::Result;
use crate::post::tally::Words;

#[derive(Clone)]
pub(in crate::post) struct Reveille(LoopHandle);

impl Poster for Reveille {
    fn serve(hand_out: impl FnOnce(Self)) -> Result<()> {
        let event_loop = EventLoop::new()?;
        hand_out(Reveille(event_loop.handle()));
        event_loop.run()?;
        Ok(())
    }

    #[inline]
    fn post(&self, words: Words) -> bool {
        self.0.queue_in_loop(move |_| tally::run(&words)).is_ok()
    }

    fn stop(&self) {
        self.0.quit();
    }
}
