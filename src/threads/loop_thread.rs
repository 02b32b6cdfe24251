//! A thread that runs a loop.

use std::io;
use std::mem;
use std::ptr;
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};

use crate::event_loop::containment::{Contained, dispose, logger};
use crate::event_loop::{EventLoop, EventLoopBuilder, LoopHandle};

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
    /// The error of starting the thread, or of creating the descriptors of the loop. The message
    /// names the thread.
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if `name` contains a NUL byte.
    pub fn spawn(name: impl Into<String>) -> io::Result<LoopThread> {
        LoopThread::spawn_with(name, |_| Ok(()))
    }

    /// Same as [`spawn`](LoopThread::spawn), with objects on the loop: calls `init` on the thread,
    /// before the loop runs, and returns when `init` has returned.
    ///
    /// The thread keeps the value of `init`, which need not be `Send`. The value is dropped on the
    /// thread when the loop has stopped running, and before the loop itself is dropped. So it may
    /// contain objects of the loop, such as a server or a channel. Tasks that its destructor queues
    /// do not run.
    ///
    /// ```
    /// use reveille::{LoopThread, TcpServer};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let thread = LoopThread::spawn_with("echo", |event_loop| {
    ///     TcpServer::bind(event_loop, "127.0.0.1:0")?
    ///         .serve_fn(|conn, input| conn.send(input.take_all()))
    /// })?;
    /// // The server listens now, and ends with the thread.
    /// # drop(thread);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The errors of [`spawn`](LoopThread::spawn) and the error of `init`. If `init` panics, the
    /// panic is logged, and the kind of the error is [`Other`](io::ErrorKind::Other). After an
    /// error the thread and its loop have ended.
    pub fn spawn_with<T: 'static>(
        name: impl Into<String>,
        init: impl FnOnce(&EventLoop) -> io::Result<T> + Send + 'static,
    ) -> io::Result<LoopThread> {
        LoopThread::spawn_from(EventLoop::builder(), name.into(), init)
    }

    /// Same as [`spawn_with`](LoopThread::spawn_with), for a loop with the settings of `builder`.
    pub(super) fn spawn_from<T: 'static>(
        builder: EventLoopBuilder,
        name: String,
        init: impl FnOnce(&EventLoop) -> io::Result<T> + Send + 'static,
    ) -> io::Result<LoopThread> {
        let init = Contained::new(init);
        if name.contains('\0') {
            let message = "the name of a thread contains a NUL byte";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let (started, start) = mpsc::sync_channel(1);
        let builder = builder.name(name.clone());
        let thread = super::start(&name, move || run(builder, init, started))?;
        match start.recv() {
            Ok(Ok((handle, own))) => Ok(LoopThread { handle, own, thread: Some(thread) }),
            failed => {
                let ended = thread.join();
                let error = failed.ok().and_then(Result::err);
                if let Err(payload) = ended {
                    dispose(payload);
                }
                Err(error.unwrap_or_else(|| io::Error::other("the thread ended before its loop existed")))
            }
        }
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

/// What a new thread reports to its creator: its loop, or why there is none.
type Started = io::Result<(LoopHandle, ThreadMark)>;

/// The thread: creates the loop, initializes it and runs it.
fn run<T, I>(builder: EventLoopBuilder, init: Contained<I>, started: SyncSender<Started>) -> io::Result<()>
where
    I: FnOnce(&EventLoop) -> io::Result<T>,
{
    let event_loop = match builder.build() {
        Ok(event_loop) => event_loop,
        Err(error) => {
            let name = thread::current().name().unwrap_or_default().to_owned();
            let message = format!("cannot create the loop of the thread {name}: {error}");
            // The creator waits for this message, so the receiver exists.
            let _ = started.send(Err(io::Error::new(error.kind(), message)));
            return Ok(());
        }
    };
    let init = init.into_inner();
    let returned = event_loop.catch("the initialization of a loop's thread", || init(&event_loop));
    let returned = returned.map(|result| result.map(Contained::new));
    if let Err(error) = event_loop.check_process() {
        // `init` has forked, and this is the child. The creator exists only in the parent, and may
        // have been using the channel.
        mem::forget(started);
        return Err(error);
    }
    let _kept = match returned {
        Some(Ok(value)) => value,
        Some(Err(error)) => {
            let _ = started.send(Err(error));
            return Ok(());
        }
        None => {
            let _ = started.send(Err(io::Error::other("the initialization of the loop panicked")));
            return Ok(());
        }
    };
    let _ = started.send(Ok((event_loop.handle(), ThreadMark::current())));
    event_loop.run()
}

/// Identifies a thread among all running threads. In contrast to [`thread::ThreadId`], it is
/// available while thread-locals are destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadMark(usize);

impl ThreadMark {
    pub(super) fn current() -> ThreadMark {
        thread_local!(static HERE: u8 = const { 0 });
        ThreadMark(HERE.with(|here| ptr::from_ref(here).addr()))
    }
}
