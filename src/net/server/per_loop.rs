//! `serve_per_loop`: a value for each loop of a server, which is lent to the factory there.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;

use super::bind::{no_loop_left, on_loop};
use super::{MultiLoop, TcpServer, TcpServerBuilder};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, Source};
use crate::net::connection::driver::establish;
use crate::net::connection::handler::ConnectionHandler;
use crate::net::connection::{PendingConnection, TcpConnection};
use crate::net::group::Group;
use crate::net::sys::fd_passing::close_unopened;
use crate::readiness::{Interest, Readiness};

impl TcpServerBuilder<'_, MultiLoop> {
    /// Same as [`serve`](TcpServerBuilder::serve), with a value for each loop. The value need not
    /// be `Send`: the handlers of one loop can share it without locks.
    ///
    /// This calls `init` once on each loop that serves connections, one loop after the other, and
    /// returns when `init` has returned everywhere. The loop keeps the value and lends it to
    /// `factory` for each connection that it serves.
    ///
    /// The value is dropped on its loop, after the server and all its connections have ended; at
    /// the latest when the loop is dropped, after its connections. The drop of a server on a
    /// [`pool`](TcpServerBuilder::pool) does not wait for that.
    ///
    /// ```
    /// use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection, TcpServer};
    /// use std::cell::RefCell;
    /// use std::collections::HashMap;
    /// use std::io;
    /// use std::rc::Rc;
    ///
    /// type Cache = Rc<RefCell<HashMap<Vec<u8>, Vec<u8>>>>;
    ///
    /// struct Lookup(Cache);
    ///
    /// impl ConnectionHandler for Lookup {
    ///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
    ///         let key = input.take_all().to_vec();
    ///         let mut cache = self.0.borrow_mut();
    ///         let value = cache.entry(key).or_insert_with_key(|key| key.to_ascii_uppercase());
    ///         conn.send(&value[..])?;
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn main() -> io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let _server = TcpServer::bind(&event_loop, "127.0.0.1:0")?
    ///     .threads(4)
    ///     .serve_per_loop(|_| Ok(Cache::default()), |cache, _| Lookup(Rc::clone(cache)))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics in closures
    /// A panic of `factory` closes the connection; the value is kept as the panic has left it, and
    /// lent to the next call.
    ///
    /// # Errors
    /// The errors of [`serve`](TcpServerBuilder::serve), and the first error of `init`. If `init`
    /// panics, the kind of the error is [`Other`](io::ErrorKind::Other). On an error the values
    /// that were created before have been dropped when this returns, and nothing listens.
    ///
    /// A loop of a [`pool`](TcpServerBuilder::pool) that ends during this call is left out. Since
    /// the call waits for each loop, two loops of one pool that make such calls at the same time
    /// deadlock.
    pub fn serve_per_loop<I, T, F, H>(self, init: I, factory: F) -> io::Result<TcpServer>
    where
        I: Fn(&EventLoop) -> io::Result<T> + Send + Sync + 'static,
        T: 'static,
        F: Fn(&mut T, &TcpConnection<'_>) -> H + Send + Sync + 'static,
        H: ConnectionHandler,
    {
        let (init, factory) = (Arc::new(Contained::new(init)), Arc::new(Contained::new(factory)));
        self.build_on_loops(move |group| {
            let values = start_on_each(group, &init)?;
            Ok(move |event_loop: &EventLoop, pending: PendingConnection| {
                let id = values[pending.membership.shard()];
                match id.and_then(|id| LoopValue::<T>::find(event_loop, id)) {
                    Some(value) => {
                        let factory = Arc::clone(&factory);
                        let make = move |conn: &TcpConnection<'_>| factory(&mut value.borrow_mut(), conn);
                        establish(event_loop, pending, &make);
                    }
                    // The server has ended.
                    None => close_unopened(pending.fd, &pending.peer),
                }
            })
        })
    }
}

/// Creates the value of each loop. Returns the ids of their sources, in the order of the loops;
/// `None` for a loop that has ended.
fn start_on_each<I, T>(group: &Arc<Group>, init: &Arc<Contained<I>>) -> io::Result<Vec<Option<ChannelId>>>
where
    I: Fn(&EventLoop) -> io::Result<T> + Send + Sync + 'static,
    T: 'static,
{
    let start = |shard| {
        let init = Arc::clone(init);
        on_loop(group, shard, move |event_loop, group| {
            let value = Contained::new(init(event_loop)?);
            let value = Rc::new(RefCell::new(value));
            let source = event_loop.register(Interest::EMPTY, |id| Rc::new(LoopValue { id, value }))?;
            group.attach(event_loop, source.id);
            Ok(source.id)
        })
    };
    let values: Vec<_> = (0..group.shards()).map(start).collect::<io::Result<_>>()?;
    if values.iter().all(Option::is_none) { Err(no_loop_left()) } else { Ok(values) }
}

/// A source without a descriptor. It owns the value of one loop until the server has ended.
struct LoopValue<T> {
    id: ChannelId,
    value: Rc<RefCell<Contained<T>>>,
}

/// Control message that requests the value.
struct Find<T>(Option<Rc<RefCell<Contained<T>>>>);

impl<T: 'static> LoopValue<T> {
    fn find(event_loop: &EventLoop, id: ChannelId) -> Option<Rc<RefCell<Contained<T>>>> {
        let mut found = Find(None);
        event_loop.send_control(id, &mut found);
        found.0
    }
}

impl<T: 'static> Source for LoopValue<T> {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn on_ready(&self, _event_loop: &EventLoop, _ready: Readiness) {}

    fn on_control(&self, _event_loop: &EventLoop, message: &mut dyn Any) {
        if let Some(Find(found)) = message.downcast_mut() {
            *found = Some(Rc::clone(&self.value));
        }
    }

    /// The local tasks of a loop that is being dropped are dropped after its connections.
    fn on_loop_end(&self, event_loop: &EventLoop) {
        let value = Rc::clone(&self.value);
        event_loop.queue_internal(move |_| drop(value));
    }
}
