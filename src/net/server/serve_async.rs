//! `serve_async`: a task for each connection of a server.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::{MultiLoop, SingleLoop, TcpServer, TcpServerBuilder};
use crate::event_loop::containment::Contained;
use crate::net::connection::TcpConnection;
use crate::net::connection::demand::StreamState;
use crate::net::stream::ByteStream;
use crate::net::stream::handler::{Serve, StreamHandler};

impl TcpServerBuilder<'_, SingleLoop> {
    /// Builds a server that serves each connection with a future. `serve` gets the connection as a
    /// [`ByteStream`](crate::net::ByteStream), after the handshakes of its filters. It is called in
    /// the first poll of a task that the loop [spawns](crate::EventLoop::spawn_local).
    ///
    /// The task is bound to its connection:
    ///
    /// - When it ends, its stream is dropped, which
    ///   [closes](crate::net::ByteStream#dropping) the connection. A task may move the stream to
    ///   another future first.
    /// - An error that it returns closes the connection as an error of a handler does: accepted
    ///   output is sent before. It is logged, at most once a second: as a warning, or at the level
    ///   of debugging if its kind says that the connection has ended (`BrokenPipe`,
    ///   `ConnectionReset`, `ConnectionAborted`, `TimedOut`, `UnexpectedEof`).
    /// - A panic resets the connection, and has no other effect.
    /// - If the connection ends by a limit, by the end of its server or of its loop, or at the
    ///   deadline of a stop, the task is aborted. If the peer ends it, the stream returns that.
    ///
    /// A [stop](TcpServer::stop) ends the input of all tasks that do not wait for it by
    /// [`stop_requested`](crate::net::ByteStream::stop_requested).
    ///
    /// ```
    /// use reveille::{Buffer, EventLoop, TcpServer};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let server = TcpServer::bind(&event_loop, "127.0.0.1:0")?;
    /// let _echo = server.serve_async(|mut stream| async move {
    ///     let mut input = Buffer::new();
    ///     while stream.read_buf(&mut input).await? > 0 {
    ///         stream.write_buf(&mut input).await?;
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Same as [`serve`](TcpServerBuilder::serve).
    pub fn serve_async<S, F>(self, serve: S) -> io::Result<TcpServer>
    where
        S: FnMut(ByteStream) -> F + 'static,
        F: Future<Output = io::Result<()>> + 'static,
    {
        let serve = Rc::new(RefCell::new(Contained::new(serve)));
        self.serve(move |conn: &TcpConnection<'_>| {
            let serve = Rc::clone(&serve);
            let start = Serve(move |stream| (serve.borrow_mut())(stream));
            StreamHandler::new(Rc::new(StreamState::new(conn.event_loop())), start)
        })
    }
}

impl TcpServerBuilder<'_, MultiLoop> {
    /// Same as on a single loop, with a closure that all loops share. The futures stay on their
    /// loops, and need not be `Send`.
    ///
    /// # Errors
    /// Same as [`serve`](TcpServerBuilder::serve).
    pub fn serve_async<S, F>(self, serve: S) -> io::Result<TcpServer>
    where
        S: Fn(ByteStream) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<()>> + 'static,
    {
        let serve = Arc::new(Contained::new(serve));
        self.serve(move |conn: &TcpConnection<'_>| {
            let serve = Arc::clone(&serve);
            let start = Serve(move |stream| serve(stream));
            StreamHandler::new(Rc::new(StreamState::new(conn.event_loop())), start)
        })
    }
}
