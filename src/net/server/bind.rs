//! Binds a server's sockets, and starts listeners on one loop or on each.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Settings, abort};
use crate::event_loop::{CallError, EventLoop};
use crate::net::address::Address;
use crate::net::group::Group;
use crate::net::server::acceptor::Acceptor;
use crate::net::server::balancer::{Balancer, LoadBalancing};
use crate::net::server::listener::{Establish, EstablishOnAnyLoop, Listener};

/// Binds one socket per listener to the first of `addresses` that can be bound, and listens on
/// them. All sockets have the same port.
pub(super) fn bind(
    addresses: &[Address],
    settings: &Settings,
    listeners: usize,
) -> io::Result<(Address, Vec<Acceptor>)> {
    let mut first_error = None;
    for address in addresses {
        match bind_all(address.clone(), settings, listeners) {
            Ok(bound) => return Ok(bound),
            Err(error) => {
                let error = io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
                first_error.get_or_insert(error);
            }
        }
    }
    let none = || io::Error::new(io::ErrorKind::InvalidInput, "no socket address to listen on");
    Err(first_error.unwrap_or_else(none))
}

fn bind_all(
    mut address: Address,
    settings: &Settings,
    listeners: usize,
) -> io::Result<(Address, Vec<Acceptor>)> {
    if listeners > 1 && address.is_unix() {
        let message = "a Unix socket cannot have a listener per loop";
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    let shared;
    let options = if listeners > 1 {
        shared = settings.options.clone().reuse_port();
        &shared
    } else {
        &settings.options
    };
    let mut acceptors = Vec::with_capacity(listeners);
    for _ in 0..listeners {
        let acceptor = Acceptor::bind(&address, settings.backlog, options, settings.path_options)?;
        // With port 0 the kernel selects a port for the first socket. The others bind to that port.
        address = acceptor.local_address()?;
        acceptors.push(acceptor);
    }
    Ok((address, acceptors))
}

/// Starts one listener on the server's own loop, which distributes the connections.
pub(super) fn listen_on(
    event_loop: &EventLoop,
    acceptor: Acceptor,
    accepts_per_turn: usize,
    group: &Arc<Group>,
    load_balancing: LoadBalancing,
    establish: Establish,
) -> io::Result<()> {
    let balancer = Balancer::new(load_balancing);
    Listener::start(event_loop, acceptor, accepts_per_turn, group, balancer, establish, None)
}

/// Starts a listener on each loop of the group that has not ended.
pub(super) fn listen_on_each(
    acceptors: Vec<Acceptor>,
    accepts_per_turn: usize,
    group: &Arc<Group>,
    establish: &Arc<EstablishOnAnyLoop>,
) -> io::Result<()> {
    let mut listening = false;
    for (shard, acceptor) in acceptors.into_iter().enumerate() {
        let duplicate = Some(acceptor.as_fd().try_clone_to_owned()?);
        let establish = Arc::clone(establish);
        let started = on_loop(group, shard, move |event_loop, group| {
            let (balancer, establish) = (Balancer::Own(shard), Establish::AnyLoop(establish));
            Listener::start(event_loop, acceptor, accepts_per_turn, group, balancer, establish, duplicate)
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
