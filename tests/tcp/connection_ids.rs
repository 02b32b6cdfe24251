//! The ids of connections, and handles as keys.

use std::collections::{BTreeSet, HashSet};
use std::sync::mpsc;

use crate::support::actor::actors_that;
use crate::support::net;
use crate::support::{LIMIT, with_watchdog};
use reveille::ConnectionHandle;

#[test]
#[allow(clippy::mutable_key_type, reason = "the id of a connection never changes")]
fn connection_ids_grow_and_handles_compare_by_connection() {
    with_watchdog(LIMIT, || {
        let (bench, _) = actors_that(|_, _| ());
        let mut handles = Vec::new();
        for number in 0..20 {
            let _client = bench.connect();
            handles.push(bench.handle(number));
            // The next connection takes the slot of this one.
            if number % 2 == 0 {
                handles[number].close();
                bench.settle();
            }
        }
        assert!(handles.is_sorted_by(|a, b| a.id() < b.id()));
        let set: HashSet<ConnectionHandle> = handles.iter().chain(&handles).cloned().collect();
        assert_eq!(set.len(), 20);
        let texts: HashSet<String> = handles.iter().map(|handle| handle.id().to_string()).collect();
        assert_eq!(texts.len(), 20);
        for (number, handle) in handles.iter().enumerate() {
            assert_eq!(handles.iter().position(|other| other == handle), Some(number));
            assert!(set.contains(handle));
        }
    });
}

#[test]
fn ids_are_unique_over_all_loops() {
    with_watchdog(LIMIT, || {
        let (sender, ids) = mpsc::channel();
        let (host, _) = net::scripted_with_threads(3, move |script| {
            let sender = sender.clone();
            script.on_open(move |conn| sender.send((conn.id(), conn.handle().id())).unwrap())
        });
        let clients: Vec<_> = (0..12).map(|_| host.connect()).collect();
        let ids: Vec<_> = clients.iter().map(|_| ids.recv_timeout(net::LIMIT).unwrap()).collect();
        assert!(ids.iter().all(|(id, of_handle)| id == of_handle));
        let distinct: BTreeSet<_> = ids.iter().map(|(id, _)| *id).collect();
        assert_eq!(distinct.len(), 12);
    });
}
