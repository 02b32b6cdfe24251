//! Begins to listen: on one loop, or on each.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::Settings;
use crate::event_loop::EventLoop;
use crate::net::address::Address;
use crate::net::group::Group;
use crate::net::server::acceptor::Acceptor;
use crate::net::server::balancer::{Dealer, LoadBalancing};
use crate::net::server::listener::{Establish, EstablishThere, Listener};
use crate::threads::loop_pool::LoopPool;

/// Listens on the first of `addresses` that can be had, with as many sockets as there are to be listeners. All of them have
/// its port.
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
    let none = || io::Error::new(io::ErrorKind::InvalidInput, "the address stands for no socket address");
    Err(first_error.unwrap_or_else(none))
}

fn bind_all(
    mut address: Address,
    settings: &Settings,
    listeners: usize,
) -> io::Result<(Address, Vec<Acceptor>)> {
    if listeners > 1 && address.is_unix() {
        let message = "a Unix socket cannot be listened at by each loop for itself";
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    let shared;
    let options = if listeners > 1 {
        shared = settings.options.clone().reuse_port(true);
        &shared
    } else {
        &settings.options
    };
    let mut acceptors = Vec::with_capacity(listeners);
    for _ in 0..listeners {
        let acceptor = Acceptor::bind(&address, settings.backlog, options, settings.at_path)?;
        // The first has chosen the port, if there was one to be chosen.
        address = acceptor.local_address()?;
        acceptors.push(acceptor);
    }
    Ok((address, acceptors))
}

/// Accepts on the server's own loop, and deals out from there.
pub(super) fn listen_here(
    event_loop: &EventLoop,
    acceptor: Acceptor,
    budget: usize,
    group: &Arc<Group>,
    distribution: LoadBalancing,
    establish: Establish,
) -> io::Result<()> {
    Listener::start(event_loop, acceptor, budget, group, Dealer::new(distribution), establish, None)
}

/// Accepts on each loop of the pool, for itself. If one of them cannot, the end of the pool is the end of the others.
pub(super) fn listen_there(
    pool: &LoopPool,
    acceptors: Vec<Acceptor>,
    budget: usize,
    group: &Arc<Group>,
    establish: &Arc<EstablishThere>,
) -> io::Result<()> {
    for (shard, (handle, acceptor)) in pool.handles().zip(acceptors).enumerate() {
        let (group, establish) = (Arc::clone(group), Arc::clone(establish));
        let duplicate = Some(acceptor.as_fd().try_clone_to_owned()?);
        handle.call(move |event_loop| {
            let establish = Establish::There(establish);
            Listener::start(event_loop, acceptor, budget, &group, Dealer::One(shard), establish, duplicate)
        })??;
    }
    Ok(())
}
