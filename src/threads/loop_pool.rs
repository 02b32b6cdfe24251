//! A pool of threads, each of which runs a loop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, EventLoopBuilder, LoopHandle};
use crate::threads::loop_thread::LoopThread;

/// A fixed number of threads, each of which runs a loop until the pool is dropped.
///
/// ```
/// use reveille::LoopPool;
///
/// # fn main() -> std::io::Result<()> {
/// let pool = LoopPool::new(2, "worker")?; // "worker-0" and "worker-1"
/// for _ in 0..4 {
///     pool.next().queue_in_loop(|_| println!("{:?}", std::thread::current().name()))?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping the pool makes its loops quit and waits for their threads"]
pub struct LoopPool {
    threads: Vec<LoopThread>,
    next: AtomicUsize,
}

impl LoopPool {
    /// Starts `size` threads, named `name` followed by a number.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if `size` is 0, and the errors of
    /// [`LoopThread::spawn`]. The threads that were started before the error are stopped.
    pub fn new(size: usize, name: &str) -> io::Result<LoopPool> {
        LoopPool::new_with(size, name, |_, _| Ok(()))
    }

    /// Same as [`new`](LoopPool::new), with objects on each loop: calls `init` on each thread with
    /// its loop and its number, before the loop runs. The threads start one after the other.
    ///
    /// Each thread keeps its value of `init` and drops it, as with [`LoopThread::spawn_with`].
    ///
    /// ```
    /// use reveille::{LoopPool, UdpSocket};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let pool = LoopPool::new_with(2, "worker", |event_loop, number| {
    ///     UdpSocket::bind(event_loop, "127.0.0.1:0")?.serve_fn(move |_, datagram, from| {
    ///         println!("loop {number}: {} bytes from {from}", datagram.len());
    ///     })
    /// })?;
    /// # drop(pool);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if `size` is 0, and the errors of
    /// [`LoopThread::spawn_with`]. The threads that were started before the error are stopped, and
    /// no other is started.
    pub fn new_with<T: 'static>(
        size: usize,
        name: &str,
        init: impl Fn(&EventLoop, usize) -> io::Result<T> + Send + Sync + 'static,
    ) -> io::Result<LoopPool> {
        LoopPool::start(EventLoop::builder(), size, name, init)
    }

    /// Creates the loops of a server: like the loop it is bound to, where that matters for
    /// connections.
    pub(crate) fn like(event_loop: &EventLoop, size: usize, name: &str) -> io::Result<LoopPool> {
        let builder = EventLoop::builder().input_buffer(event_loop.input_size());
        LoopPool::start(builder, size, name, |_, _| Ok(()))
    }

    fn start<T: 'static>(
        builder: EventLoopBuilder,
        size: usize,
        name: &str,
        init: impl Fn(&EventLoop, usize) -> io::Result<T> + Send + Sync + 'static,
    ) -> io::Result<LoopPool> {
        let init = Arc::new(Contained::new(init));
        if size == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a pool of loops needs a thread"));
        }
        let mut pool = LoopPool { threads: Vec::new(), next: AtomicUsize::new(0) };
        for number in 0..size {
            let init = Arc::clone(&init);
            let init = move |event_loop: &EventLoop| init(event_loop, number);
            let name = format!("{name}-{number}");
            pool.threads.push(LoopThread::spawn_from(builder.clone(), name, init)?);
        }
        Ok(pool)
    }

    /// Returns the loops round robin, skipping those that have
    /// [ended](LoopHandle::has_ended). If all loops have ended, returns one of them.
    /// Can be called from any thread.
    pub fn next(&self) -> &LoopHandle {
        let turn = || self.next.fetch_add(1, Relaxed) % self.threads.len();
        let first = self.threads[turn()].handle();
        if !first.has_ended() {
            return first;
        }
        let others = (1..self.threads.len()).map(|_| self.threads[turn()].handle());
        others.into_iter().find(|handle| !handle.has_ended()).unwrap_or(first)
    }

    /// Returns all loops in the order of their numbers, including those that have
    /// [ended](LoopHandle::has_ended).
    pub fn handles(&self) -> impl ExactSizeIterator<Item = &LoopHandle> {
        self.threads.iter().map(LoopThread::handle)
    }
}

impl Drop for LoopPool {
    /// Makes all loops quit, then joins their threads, so that they shut down in parallel.
    fn drop(&mut self) {
        for thread in &self.threads {
            thread.handle().quit();
        }
    }
}
