//! The attempts of a client to connect to several addresses: when they start, and which connection
//! is used. The times are those of a virtual clock.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use crate::support::client::{
    FullBacklog, Refusing, Reported, Reporting, Reports, backoff, channels, echo_server, loopback,
};
use crate::support::clock::{HOUR, MINUTE, SECOND};
use crate::support::{LIMIT, net, turn, with_clock, with_watchdog};
use reveille::time::VirtualClock;
use reveille::{EventLoop, TcpClient};

/// The default of [`TcpClientBuilder::attempt_delay`](reveille::net::TcpClientBuilder).
const DELAY: Duration = Duration::from_millis(250);

fn failed(address: SocketAddr, kind: ErrorKind) -> Reported {
    Reported::Failed(Some(address), kind)
}

/// The duration until the next timer of the client.
fn next_timer(event_loop: &EventLoop) -> Option<Duration> {
    event_loop.next_deadline().map(|deadline| deadline.saturating_duration_since(event_loop.now()))
}

/// Turns the loop until the client connects to its first address, and then to `others` more, each
/// after the delay.
#[track_caller]
fn start_attempts(event_loop: &EventLoop, clock: &VirtualClock, others: usize) {
    turn(event_loop);
    for _ in 0..others {
        assert_eq!(next_timer(event_loop), Some(DELAY));
        clock.advance(DELAY);
        turn(event_loop);
    }
}

#[test]
fn addresses_are_tried_in_order_until_one_accepts() {
    with_clock(|event_loop, clock| {
        let (refusing, silent, server) =
            (Refusing::new(), FullBacklog::new(), echo_server(event_loop, loopback()));
        let untried = Refusing::new();
        let addresses =
            vec![refusing.address(), silent.address(), server.local_addr().unwrap(), untried.address()];
        let reports = Reports::new();
        let client = TcpClient::connect(event_loop, addresses)
            .timeout(MINUTE)
            .reporting(&reports)
            .serve_fn(|_, _| ())
            .unwrap();
        net::turn_until(event_loop, || reports.len() == 1 && next_timer(event_loop) == Some(DELAY));
        clock.advance(DELAY);
        net::turn_until(event_loop, || client.handle().is_some());
        assert_eq!(
            reports.take(),
            [
                failed(refusing.address(), ErrorKind::ConnectionRefused),
                Reported::Connected(server.local_addr().unwrap()),
            ]
        );
    });
}

#[test]
fn a_black_holed_first_address_costs_one_delay() {
    with_clock(|event_loop, clock| {
        let (silent, server) = (FullBacklog::new(), echo_server(event_loop, loopback()));
        let address = server.local_addr().unwrap();
        let before = channels(event_loop);
        let reports = Reports::new();
        let client = TcpClient::connect(event_loop, [silent.address(), address])
            .reporting(&reports)
            .serve_fn(|_, _| ())
            .unwrap();
        start_attempts(event_loop, clock, 0);
        assert_eq!(next_timer(event_loop), Some(DELAY));
        clock.advance(DELAY - Duration::from_nanos(1));
        (0..10).for_each(|_| turn(event_loop));
        assert_eq!((reports.len(), server.open_connections()), (0, 0), "too early");
        clock.advance(Duration::from_nanos(1));
        net::turn_until(event_loop, || client.handle().is_some() && server.open_connections() == 1);
        assert_eq!(reports.take(), [Reported::Connected(address)]);
        assert_eq!(event_loop.next_deadline(), None, "a timer of the client is left");
        assert_eq!(channels(event_loop), before + 2, "only the two ends of the session are open");
        clock.advance(HOUR);
        (0..10).for_each(|_| turn(event_loop));
        assert_eq!(reports.take(), [], "the abandoned attempt was reported");
        assert!(client.handle().is_some());
    });
}

#[test]
fn the_next_attempt_starts_at_once_when_one_fails() {
    with_clock(|event_loop, clock| {
        let (silent, refusing) = (FullBacklog::new(), Refusing::new());
        let server = echo_server(event_loop, loopback());
        let address = server.local_addr().unwrap();
        let reports = Reports::new();
        let client = TcpClient::connect(event_loop, [silent.address(), refusing.address(), address])
            .reporting(&reports)
            .serve_fn(|_, _| ())
            .unwrap();
        start_attempts(event_loop, clock, 1);
        // The clock stands still from here on.
        net::turn_until(event_loop, || client.handle().is_some());
        let refused = failed(refusing.address(), ErrorKind::ConnectionRefused);
        assert_eq!(reports.take(), [refused, Reported::Connected(address)]);
        assert_eq!(event_loop.next_deadline(), None, "the delay of the failed attempt is left");
    });
}

/// The kernel repeats the request to connect after a second.
#[test]
fn the_first_attempt_may_win_after_others_have_started() {
    with_clock(|event_loop, clock| {
        let (first, second) = (FullBacklog::new(), FullBacklog::new());
        let reports = Reports::new();
        let client = TcpClient::connect(event_loop, [first.address(), second.address()])
            .reporting(&reports)
            .serve_fn(|_, _| ())
            .unwrap();
        start_attempts(event_loop, clock, 1);
        let address = first.address();
        let _listener = first.into_accepting();
        net::turn_until(event_loop, || client.handle().is_some());
        assert_eq!(reports.take(), [Reported::Connected(address)]);
        assert_eq!(second.waiting(), 1);
        assert_eq!(event_loop.next_deadline(), None);
    });
}

#[test]
fn the_time_limit_covers_all_attempts_of_a_round() {
    with_clock(|event_loop, clock| {
        let silent = [FullBacklog::new(), FullBacklog::new()];
        let untried = Refusing::new();
        let [a, b] = [silent[0].address(), silent[1].address()];
        let reports = Reports::new();
        let _client = TcpClient::connect(event_loop, [a, b, untried.address()])
            .timeout(2 * DELAY - Duration::from_millis(1))
            .retry(backoff().max_retries(1))
            .reporting(&reports)
            .serve_fn(|_, _| ())
            .unwrap();
        for round in 1..=2 {
            net::turn_until(event_loop, || next_timer(event_loop) == Some(DELAY));
            start_attempts(event_loop, clock, 1);
            assert_eq!(reports.len(), 0);
            // Before the third attempt.
            assert_eq!(next_timer(event_loop), Some(DELAY - Duration::from_millis(1)));
            clock.advance(DELAY - Duration::from_millis(1));
            net::turn_until(event_loop, || reports.len() > round);
            let mut expected = vec![failed(a, ErrorKind::TimedOut), failed(b, ErrorKind::TimedOut)];
            if round == 2 {
                expected.push(Reported::RetriesExhausted(ErrorKind::TimedOut, 2, 2));
            }
            assert_eq!(reports.take(), expected);
            clock.advance(SECOND);
        }
        assert_eq!(event_loop.next_deadline(), None);
    });
}

#[test]
fn a_failure_after_the_time_limit_lists_all_attempts() {
    with_clock(|event_loop, clock| {
        let (silent, refusing) = (FullBacklog::new(), Refusing::new());
        let reports = Reports::new();
        let _client = TcpClient::connect(event_loop, [silent.address(), refusing.address()])
            .timeout(SECOND)
            .reporting(&reports)
            .serve_fn(|_, _| ())
            .unwrap();
        start_attempts(event_loop, clock, 1);
        net::turn_until(event_loop, || reports.len() == 1);
        turn(event_loop);
        assert_eq!(next_timer(event_loop), Some(SECOND - DELAY), "the first attempt goes on alone");
        clock.advance(SECOND - DELAY);
        net::turn_until(event_loop, || reports.len() == 3);
        assert_eq!(
            reports.take(),
            [
                failed(refusing.address(), ErrorKind::ConnectionRefused),
                failed(silent.address(), ErrorKind::TimedOut),
                Reported::RetriesExhausted(ErrorKind::ConnectionRefused, 1, 2),
            ]
        );
    });
}

#[test]
fn the_delay_is_within_the_limits_of_the_rfc() {
    with_clock(|event_loop, _| {
        let silent = FullBacklog::new();
        let ms = Duration::from_millis;
        for (delay, expected) in [
            (Duration::ZERO, ms(10)),
            (ms(10), ms(10)),
            (ms(80), ms(80)),
            (ms(2000), ms(2000)),
            (HOUR, ms(2000)),
        ] {
            let client = TcpClient::connect(event_loop, [silent.address(), silent.address()])
                .attempt_delay(delay)
                .serve_fn(|_, _| ())
                .unwrap();
            turn(event_loop);
            assert_eq!(next_timer(event_loop), Some(expected));
            drop(client);
        }
        let _client = TcpClient::connect(event_loop, silent.address()).serve_fn(|_, _| ()).unwrap();
        turn(event_loop);
        assert_eq!(next_timer(event_loop), Some(10 * SECOND), "one address needs no delay");
    });
}

#[test]
fn a_loop_dropped_during_a_race_reports_nothing() {
    with_watchdog(LIMIT, || {
        let clock = VirtualClock::new();
        let event_loop = EventLoop::builder().virtual_clock(clock.clone()).build().unwrap();
        let silent = [FullBacklog::new(), FullBacklog::new(), FullBacklog::new()];
        let reports = Reports::new();
        let client = TcpClient::connect(&event_loop, silent.each_ref().map(FullBacklog::address))
            .reporting(&reports)
            .serve_fn(|_, _| ())
            .unwrap();
        start_attempts(&event_loop, &clock, 1);
        let handle = event_loop.handle();
        drop(event_loop);
        assert_eq!(reports.take(), []);
        assert_eq!(handle.counters().panics, 0);
        drop(client);
    });
}
