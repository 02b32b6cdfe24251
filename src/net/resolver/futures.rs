//! Lookups as futures.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::Resolver;
use super::error::ResolverError;
use crate::event_loop::tasks::completion::{Completion, completion};
use crate::net::address::AddressError;
use crate::net::target::ConnectTarget;

impl Resolver {
    /// Same as [`lookup`](Resolver::lookup), as a future. The lookup starts in the first poll.
    ///
    /// Dropping the future [cancels](Resolver#cancelling) the lookup.
    ///
    /// ```
    /// use reveille::EventLoop;
    /// use reveille::net::Resolver;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let resolver = Resolver::new(&event_loop)?;
    /// event_loop.spawn_local(async move {
    ///     let found = resolver.lookup_async("127.0.0.1:80").await.expect("a numeric address");
    ///     assert_eq!(found, ["127.0.0.1:80".parse().unwrap()]);
    /// });
    /// event_loop.run_until_idle()
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those that the callback of [`lookup`](Resolver::lookup) gets, and the
    /// [reason](ResolverError) for which a lookup is refused.
    pub async fn lookup_async(
        &self,
        target: impl TryInto<ConnectTarget, Error: Into<AddressError>>,
    ) -> io::Result<Vec<SocketAddr>> {
        let (completer, found) = completion();
        let lookup = self.lookup(target, |_, found| completer.complete(found));
        let _cancels_on_drop = lookup.map_err(|refused| refused.reason())?;
        result(found).await
    }

    /// Same as [`reverse`](Resolver::reverse), as a future. Dropping it cancels the lookup.
    ///
    /// # Errors
    /// Same as [`lookup_async`](Resolver::lookup_async).
    pub async fn reverse_async(&self, address: IpAddr) -> io::Result<String> {
        let (completer, found) = completion();
        let lookup = self.reverse(address, |_, found| completer.complete(found));
        let _cancels_on_drop = lookup.map_err(|refused| refused.reason())?;
        result(found).await
    }
}

async fn result<T>(found: Completion<io::Result<T>>) -> io::Result<T> {
    found.await.unwrap_or_else(|| Err(ResolverError::LoopEnded.into()))
}
