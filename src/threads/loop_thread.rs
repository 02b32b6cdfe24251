//! A thread that runs a loop.

use std::io;
use std::mem;
use std::ptr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crate::event_loop::containment::{dispose, logger};
use crate::event_loop::{EventLoop, LoopHandle};

/// A thread that runs a loop, until this value is dropped or its loop quits by other means.
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
#[must_use = "dropping the thread makes its loop quit and waits for the thread"]
pub struct LoopThread {
    handle: LoopHandle,
    own: ThreadMark,
    /// `None` once joined.
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl LoopThread {
    /// Starts a thread named `name` with a loop in it. Returns when the loop exists.
    ///
    /// # Errors
    /// The error of starting the thread, or of creating the loop's descriptors.
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if `name` contains a NUL byte.
    pub fn spawn(name: impl Into<String>) -> io::Result<LoopThread> {
        let name = name.into();
        if name.contains('\0') {
            let message = "the name of a thread contains a NUL byte";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let (started, start) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name(name).spawn(move || {
            let event_loop = match EventLoop::new() {
                Ok(event_loop) => event_loop,
                Err(error) => {
                    // The caller waits for this message, so the receiver exists.
                    let _ = started.send(Err(error));
                    return Ok(());
                }
            };
            let _ = started.send(Ok((event_loop.handle(), ThreadMark::current())));
            event_loop.run()
        })?;
        let (handle, own) =
            start.recv().map_err(|_| io::Error::other("the thread ended before its loop existed"))??;
        Ok(LoopThread { handle, own, thread: Some(thread) })
    }

    /// Returns the handle of the thread's loop.
    pub fn handle(&self) -> &LoopHandle {
        &self.handle
    }

    /// Makes the loop quit, and waits for the thread to end.
    ///
    /// # Errors
    /// Returns the error of [`EventLoop::run`]. [`Unsupported`](io::ErrorKind::Unsupported) in a
    /// forked child of the process that has spawned the thread.
    ///
    /// # Panics
    /// Resumes the panic of the thread, if it panicked.
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
            // The thread belongs to the parent process. Here there is none to wait for, nor to
            // detach.
            mem::forget(thread);
            return Some(Ok(Err(error)));
        }
        self.handle.quit();
        // A thread cannot join itself. Its loop ends when the callback that dropped this value has
        // returned.
        if self.own == ThreadMark::current() { None } else { Some(thread.join()) }
    }
}

impl Drop for LoopThread {
    /// Makes the loop quit and waits for the thread to end. An error or a panic of the thread is
    /// logged; [`join`](LoopThread::join) returns it instead.
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

/// Identifies a thread among all running threads. In contrast to [`thread::ThreadId`], it is
/// available while thread-locals are destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ThreadMark(usize);

impl ThreadMark {
    fn current() -> ThreadMark {
        thread_local!(static HERE: u8 = const { 0 });
        ThreadMark(HERE.with(|here| ptr::from_ref(here).addr()))
    }
}
