//! Binds a server's sockets, and starts listeners on one loop or on each.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::Settings;
use crate::event_loop::EventLoop;
use crate::net::address::Address;
use crate::net::group::Group;
use crate::net::server::acceptor::Acceptor;
use crate::net::server::balancer::{Balancer, LoadBalancing};
use crate::net::server::listener::{Establish, EstablishOnAnyLoop, Listener};
use crate::threads::loop_pool::LoopPool;

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

/// Starts a listener on each loop of the pool. If one fails to start, the caller drops the pool,
/// and with it the other listeners.
pub(super) fn listen_on_each(
    pool: &LoopPool,
    acceptors: Vec<Acceptor>,
    accepts_per_turn: usize,
    group: &Arc<Group>,
    establish: &Arc<EstablishOnAnyLoop>,
) -> io::Result<()> {
    for (shard, (handle, acceptor)) in pool.handles().zip(acceptors).enumerate() {
        let (group, establish) = (Arc::clone(group), Arc::clone(establish));
        let duplicate = Some(acceptor.as_fd().try_clone_to_owned()?);
        handle.call(move |event_loop| {
            let (balancer, establish) = (Balancer::Own(shard), Establish::AnyLoop(establish));
            Listener::start(event_loop, acceptor, accepts_per_turn, &group, balancer, establish, duplicate)
        })??;
    }
    Ok(())
}
