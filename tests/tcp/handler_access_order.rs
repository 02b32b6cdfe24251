//! The order of calls of a handler and other requests of handles.

use std::io;

use crate::support::actor::{Actor, actors_that, record};
use crate::support::{LIMIT, on_another_thread, with_watchdog};
use reveille::TcpConnection;
use reveille::net::ConnectionState;

#[test]
fn a_call_follows_earlier_requests_of_handles() {
    with_watchdog(LIMIT, || {
        let (bench, _) = actors_that(|_, _| ());
        let mut client = bench.connect();
        let handle = bench.handle(0);
        on_another_thread(|| {
            handle.send("1").unwrap();
            handle.with(|_: &mut Actor, conn| conn.send("2")).unwrap();
        });
        bench.settle();
        handle.send("3").unwrap();
        handle.with(|_: &mut Actor, conn| conn.send("4")).unwrap();
        handle.send("5").unwrap();
        assert_eq!(bench.read_exact(&mut client, 5), b"12345");
    });
}

#[test]
fn later_requests_of_a_handle_follow_its_call() {
    with_watchdog(LIMIT, || {
        let (bench, _) = actors_that(|_, _| ());
        let mut client = bench.connect();
        let handle = bench.handle(0);
        on_another_thread(|| {
            handle.with(|_: &mut Actor, conn| conn.send("1")).unwrap();
            handle.send("2").unwrap();
            handle.with(|_: &mut Actor, conn| conn.send("3")).unwrap();
            handle.send("4").unwrap();
            handle.shutdown();
        });
        assert_eq!(bench.read_to_fin(&mut client), b"1234");
    });
}

#[test]
fn requests_behind_a_call_wait_for_the_running_callback() {
    with_watchdog(LIMIT, || {
        let (bench, _) = actors_that(|name, conn| {
            if name == "message" {
                let handle = conn.handle();
                on_another_thread(move || {
                    handle.send("1").unwrap();
                    handle.with(|_: &mut Actor, conn| conn.send("3")).unwrap();
                    handle.send("4").unwrap();
                });
                conn.send("2").unwrap();
                conn.handle().with(|_: &mut Actor, conn| conn.send("5")).unwrap();
                conn.handle().shutdown();
            }
        });
        let mut client = bench.connect();
        bench.send(&mut client, "x");
        assert_eq!(bench.read_to_fin(&mut client), b"12345");
    });
}

#[test]
fn bytes_accepted_behind_a_call_are_sent_before_a_shutdown() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_that(|name, conn| {
            if name == "message" {
                let handle = conn.handle();
                on_another_thread(move || {
                    record(&handle, "call").unwrap();
                    handle.send("2").unwrap();
                });
                conn.send("1").unwrap();
                conn.shutdown();
                assert_eq!(conn.state(), ConnectionState::Closing);
            }
        });
        let mut client = bench.connect();
        bench.send(&mut client, "x");
        assert_eq!(bench.read_to_fin(&mut client), b"12");
        assert_eq!(actors.calls.take(), ["open", "message", "call"]);
        assert_eq!(actors.end(), None);
    });
}

#[test]
fn requests_made_by_a_queued_call_run_after_it() {
    with_watchdog(LIMIT, || {
        let (bench, _) = actors_that(|_, _| ());
        let mut client = bench.connect();
        let handle = bench.handle(0);
        on_another_thread(|| {
            let call = |_: &mut Actor, conn: &TcpConnection<'_>| {
                conn.handle().send("3")?;
                conn.send("1").map_err(io::Error::from)
            };
            handle.with(call).unwrap();
            handle.send("2").unwrap();
        });
        assert_eq!(bench.read_exact(&mut client, 3), b"123");
    });
}

#[test]
fn local_and_remote_calls_left_at_a_close_run_in_order() {
    with_watchdog(LIMIT, || {
        let (bench, actors) = actors_that(|name, conn| {
            if name == "message" {
                let handle = conn.handle();
                let remote = |name| on_another_thread(|| record(&handle, name).unwrap());
                record(&handle, "local 1").unwrap();
                remote("remote 1");
                remote("remote 2");
                record(&handle, "local 2").unwrap();
                record(&handle, "local 3").unwrap();
                remote("remote 3");
                conn.close();
            }
        });
        let mut client = bench.connect();
        bench.send(&mut client, "x");
        let calls = actors.calls.take();
        assert_eq!(
            calls[2..],
            ["local 1", "remote 1", "remote 2", "local 2", "local 3", "remote 3", "close"]
        );
    });
}
