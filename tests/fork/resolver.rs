//! Resolvers in forked children. Each test runs in its own process.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::support::Recorder;
use crate::support::alone::alone_with_loop;
use crate::support::forked::in_child;
use crate::support::net::turn_until;
use reveille::EventLoop;
use reveille::net::{Resolver, ResolverError};

#[test]
fn a_child_does_not_affect_the_lookups_of_its_parent() {
    alone_with_loop(|event_loop| {
        let resolver = Resolver::new(event_loop).unwrap();
        let found = Recorder::new();
        let look_up = |name: &str| {
            let recording = found.clone();
            let then = move |_: &EventLoop, found: io::Result<Vec<SocketAddr>>| {
                recording.record(found.unwrap()[0].ip().is_loopback());
            };
            resolver.lookup(format!("{name}:80"), then).unwrap()
        };
        // One that needs no thread as well. The child is forked before any of them is delivered.
        let lookups = ["localhost", "LocalHost", "127.0.0.1"].map(look_up);
        let mut copies = Some((lookups, resolver.clone()));
        in_child(|| {
            let (lookups, resolver) = copies.take().unwrap();
            let refused = resolver.reverse(IpAddr::from([127, 0, 0, 1]), |_, _| ()).unwrap_err();
            assert_eq!(refused.reason(), ResolverError::LoopEnded);
            let built = Resolver::new(event_loop);
            assert_eq!(built.unwrap_err().kind(), io::ErrorKind::Unsupported);
            drop((lookups, resolver));
        });
        turn_until(event_loop, || found.len() == 3);
        assert_eq!(found.take(), [true; 3]);
        assert!(copies.is_some(), "the child has taken its copies only");
    });
}
