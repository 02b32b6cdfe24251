//! calloop: its channel, with boxed closures as messages.

use calloop::channel::{self, Event, Sender};
use calloop::{EventLoop, LoopSignal};

use super::{Boxed, Poster, boxed};
use crate::Result;
use crate::post::tally::Words;

#[derive(Clone)]
pub(in crate::post) struct Calloop {
    tasks: Sender<Boxed>,
    signal: LoopSignal,
}

impl Poster for Calloop {
    fn serve(hand_out: impl FnOnce(Self)) -> Result<()> {
        let mut event_loop: EventLoop<()> = EventLoop::try_new()?;
        let (tasks, posted) = channel::channel::<Boxed>();
        event_loop.handle().insert_source(posted, |event, (), ()| {
            if let Event::Msg(task) = event {
                task();
            }
        })?;
        hand_out(Calloop { tasks, signal: event_loop.get_signal() });
        event_loop.run(None, &mut (), |()| {})?;
        Ok(())
    }

    #[inline]
    fn post(&self, words: Words) -> bool {
        self.tasks.send(boxed(words)).is_ok()
    }

    fn stop(&self) {
        self.signal.stop();
        self.signal.wakeup();
    }
}
