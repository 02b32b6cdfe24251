//! Binds a server's sockets, and starts listeners on one loop or on each.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use super::listen_on::{AdoptedListener, Listening};
use super::{Settings, abort};
use crate::event_loop::{CallError, EventLoop};
use crate::net::address::Address;
use crate::net::group::Group;
use crate::net::server::acceptor::Acceptor;
use crate::net::server::balancer::{Balancer, LoadBalancing};
use crate::net::server::listener::{Establish, EstablishOnAnyLoop, Listener};

/// The sockets of a server.
pub(super) struct Bound {
    /// One for each listener.
    pub(super) addresses: Arc<[Address]>,
    /// For each loop that accepts, one for each listener.
    pub(super) acceptors: Vec<Vec<Acceptor>>,
}

impl Bound {
    /// Binds each listener `copies` times, and listens. An adopted socket exists once.
    pub(super) fn bind(listeners: Vec<Listening>, settings: &Settings, copies: usize) -> io::Result<Bound> {
        let mut addresses = Vec::with_capacity(listeners.len());
        let mut acceptors: Vec<Vec<Acceptor>> = (0..copies).map(|_| Vec::new()).collect();
        let mut adopted = Vec::new();
        for listener in listeners {
            let (address, copies) = match listener {
                Listening::Addresses(addresses) => bind(&addresses, settings, copies)?,
                Listening::Adopted(AdoptedListener { socket, address }) => {
                    check_copies(copies, "an adopted socket")?;
                    adopted.push(socket);
                    (address, Vec::new())
                }
            };
            addresses.push(address);
            acceptors.iter_mut().zip(copies).for_each(|(acceptors, copy)| acceptors.push(copy));
        }
        // Last, so that a failed bind leaves the flags of the adopted sockets unchanged.
        for socket in adopted {
            acceptors[0].push(Acceptor::adopt(socket)?);
        }
        Ok(Bound { addresses: addresses.into(), acceptors })
    }
}

/// Checks that the socket may have one copy for each loop.
fn check_copies(copies: usize, what: &str) -> io::Result<()> {
    if copies == 1 {
        return Ok(());
    }
    let message = format!("{what} cannot have a listener per loop");
    Err(io::Error::new(io::ErrorKind::Unsupported, message))
}

/// Binds one socket per copy to the first of `addresses` that can be bound, and listens on them.
/// All sockets have the same port.
fn bind(addresses: &[Address], settings: &Settings, copies: usize) -> io::Result<(Address, Vec<Acceptor>)> {
    let mut first_error = None;
    for address in addresses {
        match bind_all(address.clone(), settings, copies) {
            Ok(bound) => return Ok(bound),
            Err(error) => {
                let error = io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.expect("a list of addresses is not empty"))
}

fn bind_all(
    mut address: Address,
    settings: &Settings,
    copies: usize,
) -> io::Result<(Address, Vec<Acceptor>)> {
    if address.is_unix() {
        check_copies(copies, "a Unix socket")?;
    }
    let shared;
    let options = if copies > 1 {
        shared = settings.options.clone().reuse_port();
        &shared
    } else {
        &settings.options
    };
    let mut acceptors = Vec::with_capacity(copies);
    for _ in 0..copies {
        let acceptor = Acceptor::bind(&address, settings.backlog, options, settings.path_options)?;
        // With port 0 the kernel selects a port for the first socket. The others bind to that port.
        address = acceptor.local_address()?;
        acceptors.push(acceptor);
    }
    Ok((address, acceptors))
}

/// Starts all listeners on the server's own loop, which distributes the connections.
pub(super) fn listen_on(
    event_loop: &EventLoop,
    acceptors: Vec<Acceptor>,
    accepts_per_turn: usize,
    group: &Arc<Group>,
    load_balancing: LoadBalancing,
    establish: &Establish,
) -> io::Result<()> {
    // The policy applies to the connections of all listeners together.
    let balancer = Rc::new(Balancer::new(load_balancing));
    for acceptor in acceptors {
        let (balancer, establish) = (Rc::clone(&balancer), establish.clone());
        Listener::start(event_loop, acceptor, accepts_per_turn, group, balancer, establish, None)?;
    }
    Ok(())
}

/// Starts all listeners on each loop of the group that has not ended.
pub(super) fn listen_on_each(
    acceptors: Vec<Vec<Acceptor>>,
    accepts_per_turn: usize,
    group: &Arc<Group>,
    establish: &Arc<EstablishOnAnyLoop>,
) -> io::Result<()> {
    let mut listening = false;
    for (shard, acceptors) in acceptors.into_iter().enumerate() {
        let duplicates = acceptors.iter().map(|acceptor| acceptor.as_fd().try_clone_to_owned());
        let duplicates: Vec<OwnedFd> = duplicates.collect::<io::Result<_>>()?;
        let establish = Arc::clone(establish);
        let started = on_loop(group, shard, move |event_loop, group| {
            let balancer = Rc::new(Balancer::Own(shard));
            for (acceptor, duplicate) in acceptors.into_iter().zip(duplicates) {
                let (balancer, establish) =
                    (Rc::clone(&balancer), Establish::AnyLoop(Arc::clone(&establish)));
                let duplicate = Some(duplicate);
                Listener::start(
                    event_loop,
                    acceptor,
                    accepts_per_turn,
                    group,
                    balancer,
                    establish,
                    duplicate,
                )?;
            }
            Ok(())
        })?;
        listening |= started.is_some();
    }
    if listening { Ok(()) } else { Err(no_loop_left()) }
}

/// Calls `task` on one of the group's loops and waits for its result. `None` if the loop has ended.
pub(super) fn on_loop<R: Send + 'static>(
    group: &Arc<Group>,
    shard: usize,
    task: impl FnOnce(&EventLoop, &Arc<Group>) -> io::Result<R> + Send + 'static,
) -> io::Result<Option<R>> {
    let shared = Arc::clone(group);
    match group.event_loop(shard).call(move |event_loop| task(event_loop, &shared)) {
        Ok(result) => result.map(Some),
        Err(CallError::LoopEnded) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Undoes the beginning of a server: closes its listeners, and removes what it has attached to its
/// loops. Waits for the latter.
pub(super) fn undo(group: &Arc<Group>) {
    let attached = group.take_attached();
    abort(group);
    for (event_loop, id) in attached {
        // An error means that the loop has ended, and the source with it.
        let _ = event_loop.call(move |event_loop| event_loop.remove(id));
    }
}

pub(super) fn no_loop_left() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "all loops of the pool have ended")
}
