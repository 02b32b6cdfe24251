//! Clients and lookups that are excluded from what `run_until_idle` waits for, in each phase.

use std::cell::RefCell;
use std::fs;
use std::net::TcpListener;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use crate::support::alone::alone_after;
use crate::support::client::{FullBacklog, Refusing};
use crate::support::clock::HOUR;
use crate::support::idle::{assert_excluded, assert_waits};
use crate::support::net::turn_until;
use crate::support::{Count, with_clock, with_loop};
use reveille::net::{Backoff, ConnectTarget, Resolver};
use reveille::{EventLoop, TcpClient};

/// The file of hosts is a FIFO. A lookup in it blocks until [`release_lookups`] is called.
const BLOCKING_NAMES: &str = r#"
    exec unshare -rm sh -ec '
        mount -t tmpfs names /mnt
        echo "hosts: files" > /mnt/nsswitch.conf
        mkfifo /mnt/hosts
        for file in nsswitch.conf hosts; do mount --bind /mnt/$file /etc/$file; done
        exec "$@"' sh "$@""#;

/// Lets all lookups of this process fail from now on.
fn release_lookups() {
    thread::spawn(|| {
        loop {
            // It is opened once a lookup has opened it. The lookup may have closed it already.
            let _ = fs::write("/etc/hosts", "");
        }
    });
}

fn phase(client: &TcpClient) -> String {
    let shown = format!("{client:?}");
    let (_, phase) = shown.split_once("phase: \"").expect("a phase");
    phase.split('"').next().expect("its name").to_owned()
}

fn client(event_loop: &EventLoop, target: impl Into<ConnectTarget>) -> TcpClient {
    let builder = TcpClient::connect(event_loop, target.into()).timeout(HOUR);
    let builder =
        builder.attempt_delay(Duration::from_secs(2)).retry(Backoff::new().start(2 * HOUR).cap(2 * HOUR));
    builder.reconnect().serve_fn(|_, _| ()).unwrap()
}

/// A client is excluded before it starts, or once it is in the phase.
#[track_caller]
fn assert_excluded_in(event_loop: &EventLoop, target: &ConnectTarget, expected: &str) {
    for excluded_first in [true, false] {
        let client = client(event_loop, target.clone());
        if excluded_first {
            client.exclude_from_idle();
        }
        turn_until(event_loop, || phase(&client) == expected);
        // The first attempt may still be due.
        event_loop.run_ready().unwrap();
        if !excluded_first {
            client.exclude_from_idle();
        }
        let client = Rc::new(RefCell::new(Some(client)));
        let ended = Rc::clone(&client);
        let include = || client.borrow().as_ref().unwrap().include_in_idle();
        assert_excluded(event_loop, include, move || drop(ended.take()));
        assert!(client.take().is_none());
    }
}

#[test]
fn an_excluded_client_does_not_count_while_it_backs_off() {
    with_loop(|event_loop| {
        let refusing = Refusing::new();
        assert_excluded_in(event_loop, &refusing.address().into(), "waiting");
    });
}

#[test]
fn an_excluded_client_does_not_count_during_attempts() {
    with_clock(|event_loop, clock| {
        let silent = [FullBacklog::new(), FullBacklog::new()];
        let target = ConnectTarget::try_from(silent.each_ref().map(FullBacklog::address)).unwrap();
        let start = clock.now();
        assert_excluded_in(event_loop, &target, "connecting");
        // Twice the time of `assert_excluded`: the second attempt has not been waited for.
        assert_eq!(clock.now() - start, Duration::from_millis(2));
    });
}

#[test]
fn an_excluded_client_does_not_count_during_a_lookup() {
    alone_after(BLOCKING_NAMES, || {
        let event_loop = EventLoop::builder().propagate_panics().build().unwrap();
        assert_excluded_in(&event_loop, &"one.example:80".parse().unwrap(), "looking up");
    });
}

#[test]
fn sessions_of_an_excluded_client_do_not_count() {
    with_loop(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap().into();
        assert_excluded_in(event_loop, &target, "open");
        // The delay before the next session does not count either.
        let (first, second) = (listener.accept().unwrap(), listener.accept().unwrap());
        drop((first, second));
        let client = client(event_loop, target);
        client.exclude_from_idle();
        turn_until(event_loop, || phase(&client) == "open");
        drop(listener.accept().unwrap());
        turn_until(event_loop, || phase(&client) == "waiting");
        event_loop.run_until_idle().unwrap();
        client.include_in_idle();
        assert_waits(event_loop, move || drop(client));
    });
}

#[test]
fn an_excluded_lookup_is_delivered_only_while_the_loop_runs() {
    alone_after(BLOCKING_NAMES, || {
        let event_loop = EventLoop::builder().propagate_panics().build().unwrap();
        let resolver = Resolver::new(&event_loop).unwrap();
        let called = Count::default();
        let counting = called.clone();
        let lookup = resolver.lookup("one.example:80", move |_, _| counting.add()).unwrap();
        lookup.exclude_from_idle();
        event_loop.run_until_idle().unwrap();
        assert_eq!(called.get(), 0);
        lookup.include_in_idle();
        assert_waits(&event_loop, release_lookups);
        assert_eq!(called.get(), 1);
    });
}
