//! A thread that runs a loop.

use std::io;
use std::mem;
use std::ptr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crate::event_loop::containment::{dispose, logger};
use crate::event_loop::{EventLoop, LoopHandle};

/// A thread of its own with a loop in it, from its start until it is dropped, or until somebody else asks its loop to quit.
///
/// ```
/// use reveille::LoopThread;
///
/// # fn main() -> std::io::Result<()> {
/// let thread = LoopThread::spawn("worker")?;
/// thread.handle().queue_in_loop(|event_loop| println!("turn {}", event_loop.iteration()))?;
/// // Dropped here: what was posted before runs first.
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LoopThread {
    handle: LoopHandle,
    own: ThreadMark,
    /// `None` once joined.
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl LoopThread {
    /// Starts a thread called `name` with a loop in it, and returns when the loop is there.
    ///
    /// # Errors
    /// What the kernel says if it cannot give the thread, or the loop its descriptors.
    ///
    /// # Panics
    /// If `name` has a zero byte in it.
    pub fn spawn(name: impl Into<String>) -> io::Result<LoopThread> {
        let (started, start) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            let event_loop = match EventLoop::new() {
                Ok(event_loop) => event_loop,
                Err(error) => {
                    // The caller waits for this, so it is there to receive it.
                    let _ = started.send(Err(error));
                    return Ok(());
                }
            };
            let _ = started.send(Ok((event_loop.handle(), ThreadMark::current())));
            event_loop.run()
        })?;
        let (handle, own) =
            start.recv().map_err(|_| io::Error::other("the loop's thread ended before its loop began"))??;
        Ok(LoopThread { handle, own, thread: Some(thread) })
    }

    /// The face of the thread's loop that any thread may use.
    pub fn handle(&self) -> &LoopHandle {
        &self.handle
    }

    /// Asks the loop to quit, and waits for the thread to end.
    ///
    /// # Errors
    /// What [`EventLoop::run`] returned. [`Unsupported`](io::ErrorKind::Unsupported) in a forked child of the process that has spawned
    /// the thread.
    ///
    /// # Panics
    /// If the thread panicked, with its panic.
    pub fn join(mut self) -> io::Result<()> {
        match self.stop() {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }

    fn stop(&mut self) -> Option<thread::Result<io::Result<()>>> {
        let thread = self.thread.take()?;
        if let Err(error) = self.handle.check_process() {
            // The thread is the parent's; here there is none to wait for, nor one to be given up.
            mem::forget(thread);
            return Some(Ok(Err(error)));
        }
        self.handle.quit();
        // A thread cannot wait for itself; its loop will end when the callback that dropped us has returned.
        if self.own == ThreadMark::current() { None } else { Some(thread.join()) }
    }
}

impl Drop for LoopThread {
    /// Asks the loop to quit and waits for the thread to end. What went wrong in it is logged; [`join`](LoopThread::join)
    /// returns it.
    fn drop(&mut self) {
        match self.stop() {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(_))) if self.handle.is_inherited() => {}
            Some(Ok(Err(error))) => {
                logger::call(|| log::error!("a loop's thread ended with an error: {error}"));
            }
            Some(Err(payload)) => {
                dispose(payload);
                logger::call(|| log::error!("a loop's thread panicked"));
            }
        }
    }
}

/// A thread, told from all others that live. In contrast to the name that the standard library has for a thread, it can be had while
/// thread-locals are destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ThreadMark(usize);

impl ThreadMark {
    fn current() -> ThreadMark {
        thread_local!(static HERE: u8 = const { 0 });
        ThreadMark(HERE.with(|here| ptr::from_ref(here).addr()))
    }
}
