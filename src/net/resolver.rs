//! `Resolver`: looks up names on other threads, and calls back on the loop.

pub(in crate::net) mod builder;
mod cache;
pub(in crate::net) mod error;
mod futures;
mod pending;
mod question;
mod threads;

use std::any::type_name;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use self::builder::ResolverBuilder;
use self::cache::Cache;
use self::error::ResolverError;
use self::pending::{Pending, Slot, Then};
use self::question::{Found, Question};
use self::threads::Threads;
use super::address::{Address, AddressError};
use super::names::Service;
use super::target::{ConnectTarget, Endpoint, with_zone};
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, Refused, Registration, WeakLoop};
use crate::readiness::Interest;

/// Looks up the addresses of names, and the names of addresses, without blocking the loop.
///
/// The lookups are those of the system: getaddrinfo(3) and getnameinfo(3). So they follow
/// `/etc/nsswitch.conf`, `/etc/hosts` and `/etc/resolv.conf`. These functions block, so they run on
/// threads of the resolver. The results are delivered on the loop.
///
/// A resolver belongs to the thread of its loop. Clones share its threads, limit and cache. A
/// [client](crate::net::TcpClientBuilder::resolver) can use it.
///
/// ```
/// use reveille::EventLoop;
/// use reveille::net::Resolver;
/// use std::time::Duration;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let resolver = Resolver::builder().cache(Duration::from_secs(30), 1000).build(&event_loop)?;
/// let _lookup = resolver.lookup("localhost:80", |event_loop, found| {
///     match found {
///         Ok(addresses) => println!("{addresses:?}"), // such as [[::1]:80, 127.0.0.1:80]
///         Err(error) => eprintln!("localhost: {error}"),
///     }
///     event_loop.quit();
/// })?;
/// event_loop.run()
/// # }
/// ```
///
/// # Sharing
/// Equal lookups that are unfinished at the same time are one query. Names that differ only in case
/// are equal, and so are those that differ only in the number of the port.
///
/// # Limits
/// At most [`threads`](ResolverBuilder::threads) queries run at a time, 4 by default. Others wait
/// in FIFO order. A thread is started when a query needs it, and ends when none waits. At most
/// [`queue`](ResolverBuilder::queue) lookups are unfinished, 1024 by default. A lookup beyond that
/// is refused with [`ResolverError::Full`], and its callback is returned.
///
/// # Cache
/// By default no result is kept. A [cache](ResolverBuilder::cache) keeps successful results for a
/// fixed time. The system does not report the time to live of a DNS record.
///
/// # Cancelling
/// Dropping a [`Lookup`] cancels it: its callback is dropped and is not called. A query that still
/// waits is not made, unless another lookup shares it. A query that runs cannot be interrupted. It
/// occupies its thread until the system's resolver returns, with the time-outs of
/// `/etc/resolv.conf` often after 10 s or more. It does not count towards the limit of unfinished
/// lookups. A later equal lookup joins it.
///
/// Neither the drop of the resolver nor that of the loop waits for a query, and no query keeps the
/// process from exiting. The lookups of a dropped loop are cancelled.
///
/// # Fork
/// In a forked child a lookup is refused with [`ResolverError::LoopEnded`]. A drop has no effect on
/// the parent.
#[derive(Clone)]
pub struct Resolver {
    core: Rc<Core>,
}

/// What the clones of a resolver share.
struct Core {
    event_loop: WeakLoop,
    threads: Arc<Threads>,
    /// The maximum number of unfinished lookups.
    limit: usize,
    unfinished: Cell<usize>,
    cache: RefCell<Cache>,
}

impl Resolver {
    /// Creates a resolver with the default settings.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) in a forked child of the loop's process.
    pub fn new(event_loop: &EventLoop) -> io::Result<Resolver> {
        Resolver::builder().build(event_loop)
    }

    /// Returns a builder with the default settings.
    pub fn builder() -> ResolverBuilder {
        ResolverBuilder::new()
    }

    fn with_threads(event_loop: &EventLoop, threads: Arc<Threads>, limit: usize, cache: Cache) -> Resolver {
        let event_loop = event_loop.downgrade();
        let (unfinished, cache) = (Cell::new(0), RefCell::new(cache));
        Resolver { core: Rc::new(Core { event_loop, threads, limit, unfinished, cache }) }
    }

    /// The resolver of a client that has none of its own. All of them share threads, so equal
    /// lookups of several loops are one query.
    pub(in crate::net) fn of_process(event_loop: &EventLoop) -> Resolver {
        let cache = Cache::new(Duration::ZERO, 0);
        Resolver::with_threads(event_loop, Threads::of_process(), usize::MAX, cache)
    }

    /// Looks up the socket addresses of `target`, and calls `then` with them.
    ///
    /// The [target](ConnectTarget) is what a client connects to: `"example.org:80"`,
    /// `("example.org", 80)`, or `"example.org:https"` with the name of a TCP service. The
    /// addresses of a name are in the system's order of preference (RFC 6724), and each occurs
    /// once. There is at least one. Addresses that are given come back as they are.
    ///
    /// A numeric address with a numeric port, and a result in the cache, need no query and no
    /// thread. `then` is never called before this returns.
    ///
    /// `then` gets an error if the lookup fails:
    /// - [`NotFound`](io::ErrorKind::NotFound) if there is no such host or service, or the host has
    ///   no address.
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) if the target is not an address, or is a
    ///   Unix socket.
    /// - Otherwise the error of the resolver, or of starting a thread.
    ///
    /// # Errors
    /// Returns `then` if the resolver is full, or its loop has been dropped.
    pub fn lookup<D>(
        &self,
        target: impl TryInto<ConnectTarget, Error: Into<AddressError>>,
        then: D,
    ) -> Result<Lookup, Refused<D, ResolverError>>
    where
        D: FnOnce(&EventLoop, io::Result<Vec<SocketAddr>>) + 'static,
    {
        let (text, known) = match target.try_into().map_err(Into::into) {
            Ok(target) => {
                let known = match target.endpoint() {
                    Endpoint::Host(host, service) => return self.lookup_host(host, service, then),
                    Endpoint::Zoned(address, zone, port) => {
                        with_zone(*address, zone, *port).and_then(|address| inet(&[address]))
                    }
                    Endpoint::Addresses(addresses) => inet(addresses),
                };
                (target.text().to_owned(), known)
            }
            Err(error) => (error.text().to_owned(), Err(error.for_purpose("look up"))),
        };
        let convert = |then| into_then(then, Found::into_addresses);
        self.start(text, then, convert, |event_loop, pending| {
            pending.respond_later(event_loop, known.map(Found::Addresses));
        })
    }

    /// Same as [`lookup`](Resolver::lookup), for a host that is not numeric, or a service name.
    pub(in crate::net) fn lookup_host<D>(
        &self,
        host: &str,
        service: &Service,
        then: D,
    ) -> Result<Lookup, Refused<D, ResolverError>>
    where
        D: FnOnce(&EventLoop, io::Result<Vec<SocketAddr>>) + 'static,
    {
        let (question, service) = (Question::addresses(host, service), service.clone());
        let convert = move |found: Found| {
            found.into_addresses().into_iter().map(|address| service.complete(address)).collect()
        };
        self.ask(question, then, |then| into_then(then, convert))
    }

    /// Looks up the name of `address`, and calls `then` with it.
    ///
    /// The name is that of `/etc/hosts`, or that of a PTR record of DNS. The owner of the address
    /// sets the record to any text, so a name proves nothing about the peer.
    ///
    /// `then` gets an error if the lookup fails, [`NotFound`](io::ErrorKind::NotFound) if the
    /// address has no name.
    ///
    /// # Errors
    /// Returns `then` if the resolver is full, or its loop has been dropped.
    pub fn reverse<D>(&self, address: IpAddr, then: D) -> Result<Lookup, Refused<D, ResolverError>>
    where
        D: FnOnce(&EventLoop, io::Result<String>) + 'static,
    {
        self.ask(Question::Name(address), then, |then| into_then(then, Found::into_name))
    }

    /// The number of lookups that have not finished.
    pub fn unfinished(&self) -> usize {
        self.core.unfinished.get()
    }

    /// Starts a lookup whose response is in the cache or comes from a thread.
    fn ask<D>(
        &self,
        question: Question,
        then: D,
        convert: impl FnOnce(D) -> Then,
    ) -> Result<Lookup, Refused<D, ResolverError>> {
        let core = Rc::clone(&self.core);
        self.start(question.to_string(), then, convert, move |event_loop, pending| {
            let known = core.cache.borrow_mut().get(&question, event_loop.now());
            match known {
                Some(found) => pending.respond_later(event_loop, Ok(found)),
                None => pending.submit(event_loop, question),
            }
        })
    }

    /// Registers a lookup and starts it.
    fn start<D>(
        &self,
        target: String,
        then: D,
        convert: impl FnOnce(D) -> Then,
        begin: impl FnOnce(&EventLoop, &Rc<Pending>),
    ) -> Result<Lookup, Refused<D, ResolverError>> {
        let Some(slot) = Slot::take(&self.core) else {
            return Err(Refused::new(then, ResolverError::Full));
        };
        let started = self.core.event_loop.with(|event_loop| {
            let make = |id| Pending::new(id, slot, target, type_name::<D>());
            let pending = event_loop.register(Interest::EMPTY, make).ok()?;
            let lookup = Lookup { registration: Registration::new(event_loop, pending.id(), &pending) };
            begin(event_loop, &pending);
            Some((lookup, pending))
        });
        match started.flatten() {
            Some((lookup, pending)) => {
                // A response that exists already waits for phase 5.
                pending.set_callback(convert(then));
                Ok(lookup)
            }
            None => Err(Refused::new(then, ResolverError::LoopEnded)),
        }
    }
}

/// Converts a callback of the user. Nothing is borrowed while it runs.
fn into_then<T: 'static>(
    then: impl FnOnce(&EventLoop, io::Result<T>) + 'static,
    convert: impl FnOnce(Found) -> T + 'static,
) -> Then {
    let then = Contained::new(then);
    Box::new(move |event_loop, response| then.into_inner()(event_loop, response.map(convert)))
}

/// # Errors
/// [`InvalidInput`](io::ErrorKind::InvalidInput) if one of them is a Unix socket.
fn inet(addresses: &[Address]) -> io::Result<Vec<SocketAddr>> {
    let message = "a Unix socket has no socket address to look up";
    let inet = addresses.iter().map(Address::as_inet).collect::<Option<Vec<_>>>();
    inet.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, message))
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("threads", &self.core.threads.max())
            .field("unfinished", &self.unfinished())
            .field("cached", &self.core.cache.borrow().len())
            .finish_non_exhaustive()
    }
}

/// A lookup of a [`Resolver`]. Dropping it cancels the lookup.
///
/// It may be dropped at any time, also in the callback of the lookup itself. After the callback has
/// been called it has no effect.
#[must_use = "the lookup is cancelled when this is dropped"]
pub struct Lookup {
    registration: Registration<Pending>,
}

impl Lookup {
    /// Leaves the lookup to the loop: it is cancelled only if the loop is dropped.
    pub fn detach(self) {
        self.registration.detach();
    }

    /// Excludes the lookup from what [`run_until_idle`](EventLoop::run_until_idle) waits for. Its
    /// callback is called if the response comes while the loop runs. To be called before
    /// [`detach`](Lookup::detach).
    pub fn exclude_from_idle(&self) {
        self.registration.exclude_from_idle();
    }

    /// Ends the effect of [`exclude_from_idle`](Lookup::exclude_from_idle).
    pub fn include_in_idle(&self) {
        self.registration.include_in_idle();
    }

    /// Whether the callback has not been called yet.
    pub fn is_pending(&self) -> bool {
        self.registration.is_open()
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("is_pending", &self.is_pending()).finish()
    }
}

#[cfg(test)]
mod tests;
