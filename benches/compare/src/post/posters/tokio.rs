//! tokio: a current-thread runtime that spawns a future per task, or reads boxed closures from a
//! channel.

use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Notify, mpsc};

use super::{Boxed, Poster, boxed, tally};
use crate::Result;
use crate::post::tally::Words;

fn runtime() -> Result<Runtime> {
    // With its epoll, as in a server; without, it would sleep on a condition variable.
    Ok(Builder::new_current_thread().enable_io().build()?)
}

/// One future per task.
#[derive(Clone)]
pub(in crate::post) struct TokioSpawn {
    handle: Handle,
    stop: Arc<Notify>,
}

impl Poster for TokioSpawn {
    fn serve(hand_out: impl FnOnce(Self)) -> Result<()> {
        let runtime = runtime()?;
        let stop = Arc::new(Notify::new());
        hand_out(TokioSpawn { handle: runtime.handle().clone(), stop: Arc::clone(&stop) });
        runtime.block_on(stop.notified());
        Ok(())
    }

    #[inline]
    fn post(&self, words: Words) -> bool {
        self.handle.spawn(async move { tally::run(&words) });
        true
    }

    fn stop(&self) {
        self.stop.notify_one();
    }
}

/// A channel of closures.
#[derive(Clone)]
pub(in crate::post) struct TokioMpsc {
    tasks: mpsc::UnboundedSender<Boxed>,
    stop: Arc<Notify>,
}

impl Poster for TokioMpsc {
    fn serve(hand_out: impl FnOnce(Self)) -> Result<()> {
        let runtime = runtime()?;
        let stop = Arc::new(Notify::new());
        let (tasks, mut posted) = mpsc::unbounded_channel::<Boxed>();
        hand_out(TokioMpsc { tasks, stop: Arc::clone(&stop) });
        runtime.spawn(async move {
            while let Some(task) = posted.recv().await {
                task();
            }
        });
        runtime.block_on(stop.notified());
        Ok(())
    }

    #[inline]
    fn post(&self, words: Words) -> bool {
        self.tasks.send(boxed(words)).is_ok()
    }

    fn stop(&self) {
        self.stop.notify_one();
    }
}
