//! The idle timeout of connections, over hours of virtual time.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::support::clock::{MINUTE, SECOND};
use crate::support::net::{self, connect, read_to_end, turn_until, with_small_send_buffer};
use crate::support::{LIMIT, panic_of, with_watchdog};
use reveille::net::{CloseReason, ConnectionLimits, TcpServerBuilder};
use reveille::time::VirtualClock;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpClient, TcpConnection, TcpServer};

/// The events of all connections of a test, each with its time in seconds since the start.
#[derive(Clone)]
struct EventLog {
    start: Instant,
    entries: Rc<RefCell<Vec<(&'static str, u64)>>>,
}

impl EventLog {
    fn record(&self, event_loop: &EventLoop, event: &'static str) {
        self.entries.borrow_mut().push((event, (event_loop.now() - self.start).as_secs()));
    }

    fn has(&self, event: &str) -> bool {
        self.entries.borrow().iter().any(|entry| entry.0 == event)
    }

    fn take(&self) -> Vec<(&'static str, u64)> {
        self.entries.take()
    }
}

/// Consumes its input and records its events. Its `on_idle` calls the function in the field
/// `on_idle`.
struct Recording {
    log: EventLog,
    on_idle: fn(&TcpConnection<'_>) -> io::Result<()>,
}

impl ConnectionHandler for Recording {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.log.record(conn.event_loop(), "open");
        Ok(())
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        self.log.record(conn.event_loop(), "message");
        if input.take_all() == b"no limit" {
            conn.set_idle_timeout(None);
        }
        Ok(())
    }

    fn on_idle(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.log.record(conn.event_loop(), "idle");
        (self.on_idle)(conn)
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        let event = match reason {
            CloseReason::Idle => "closed for being idle",
            CloseReason::Closed => "closed",
            CloseReason::Stopped => "stopped",
            _ => "closed for another reason",
        };
        self.log.record(conn.event_loop(), event);
    }
}

/// Uses the default `on_idle` of the trait.
struct Plain(EventLog);

impl ConnectionHandler for Plain {
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        self.0.record(conn.event_loop(), "message");
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        assert!(matches!(reason, CloseReason::Idle), "{reason}");
        self.0.record(conn.event_loop(), "closed for being idle");
    }
}

struct Fixture<'a> {
    event_loop: &'a EventLoop,
    log: EventLog,
}

impl Fixture<'_> {
    fn server(
        &self,
        settings: impl FnOnce(TcpServerBuilder<'_>) -> TcpServerBuilder<'_>,
        on_idle: fn(&TcpConnection<'_>) -> io::Result<()>,
    ) -> TcpServer {
        let log = self.log.clone();
        settings(TcpServer::bind(self.event_loop, "127.0.0.1:0").unwrap())
            .serve(move |_| Recording { log: log.clone(), on_idle })
            .unwrap()
    }

    /// A client whose connection is open at the server.
    fn connect(&self, server: &TcpServer) -> TcpStream {
        let before = server.open_connections();
        let client = connect(server.local_addr().unwrap());
        turn_until(self.event_loop, || server.open_connections() > before);
        client
    }

    /// Sends a message, and waits until the server has received it. The clock does not advance.
    fn send(&self, client: &mut TcpStream, message: &str) {
        let messages =
            |log: &EventLog| log.entries.borrow().iter().filter(|entry| entry.0 == "message").count();
        let before = messages(&self.log);
        client.write_all(message.as_bytes()).unwrap();
        turn_until(self.event_loop, || messages(&self.log) > before);
    }

    fn run_for(&self, duration: Duration) {
        self.event_loop.run_for(duration).unwrap();
    }
}

fn with_fixture(test: impl FnOnce(&Fixture<'_>) + Send + 'static) {
    with_watchdog(LIMIT, || {
        let clock = VirtualClock::new();
        let builder = EventLoop::builder().propagate_panics().virtual_clock(clock.clone());
        let event_loop = builder.build().expect("a loop");
        test(&Fixture {
            event_loop: &event_loop,
            log: EventLog { start: clock.now(), entries: Rc::default() },
        });
    });
}

fn close(conn: &TcpConnection<'_>) -> io::Result<()> {
    conn.close();
    Ok(())
}

fn keep(_: &TcpConnection<'_>) -> io::Result<()> {
    Ok(())
}

#[test]
fn an_idle_connection_is_closed() {
    with_fixture(|fixture| {
        let log = fixture.log.clone();
        let server = TcpServer::bind(fixture.event_loop, "127.0.0.1:0")
            .unwrap()
            .limits(ConnectionLimits::new().idle_timeout(MINUTE));
        let server = server.serve(move |_| Plain(log.clone())).unwrap();
        let mut client = fixture.connect(&server);
        fixture.run_for(MINUTE - SECOND);
        assert_eq!(fixture.log.take(), []);
        fixture.run_for(SECOND);
        assert_eq!(fixture.log.take(), [("closed for being idle", 60)]);
        assert_eq!(read_to_end(&mut client), b"");
        assert_eq!(server.open_connections(), 0);
        assert_eq!(fixture.event_loop.next_deadline(), None, "a timer is left");
    });
}

#[test]
fn every_message_extends_the_deadline() {
    with_fixture(|fixture| {
        let server =
            fixture.server(|server| server.limits(ConnectionLimits::new().idle_timeout(MINUTE)), close);
        let mut client = fixture.connect(&server);
        for _ in 0..20 {
            fixture.run_for(MINUTE - SECOND);
            fixture.send(&mut client, "still here");
        }
        let last = 20 * 59;
        assert_eq!(fixture.log.take().len(), 21, "expected one open and 20 messages");
        fixture.run_for(10 * MINUTE);
        assert_eq!(fixture.log.take(), [("idle", last + 60), ("closed", last + 60)]);
    });
}

#[test]
fn sent_bytes_extend_the_deadline() {
    with_fixture(|fixture| {
        let server =
            fixture.server(|server| server.limits(ConnectionLimits::new().idle_timeout(MINUTE)), close);
        let log = fixture.log.clone();
        let handle = Rc::new(RefCell::new(None));
        let handle_slot = Rc::clone(&handle);
        let sending = TcpServer::bind(fixture.event_loop, "127.0.0.1:0")
            .unwrap()
            .limits(ConnectionLimits::new().idle_timeout(MINUTE));
        let sending = sending
            .serve(move |conn| {
                *handle_slot.borrow_mut() = Some(conn.handle());
                Recording { log: log.clone(), on_idle: close }
            })
            .unwrap();
        drop(server);
        let _client = fixture.connect(&sending);
        for _ in 0..5 {
            fixture.run_for(40 * SECOND);
            handle.borrow().as_ref().unwrap().send("news").unwrap();
        }
        fixture.run_for(MINUTE - SECOND);
        assert_eq!(fixture.log.take(), [("open", 0)]);
        fixture.run_for(SECOND);
        assert_eq!(fixture.log.take(), [("idle", 260), ("closed", 260)]);
    });
}

#[test]
fn bytes_leaving_the_output_queue_extend_the_deadline() {
    with_fixture(|fixture| {
        let log = fixture.log.clone();
        let handle = Rc::new(RefCell::new(None));
        let handle_slot = Rc::clone(&handle);
        let bind = TcpServer::bind(fixture.event_loop, "127.0.0.1:0").unwrap();
        let server = with_small_send_buffer(bind)
            .limits(ConnectionLimits::new().idle_timeout(MINUTE))
            .serve(move |conn| {
                *handle_slot.borrow_mut() = Some(conn.handle());
                Recording { log: log.clone(), on_idle: close }
            })
            .unwrap();
        let mut client = net::connect_with_small_receive_buffer(server.local_addr().unwrap());
        client.set_nonblocking(true).unwrap();
        turn_until(fixture.event_loop, || server.open_connections() == 1);
        let handle = handle.take().unwrap();
        handle.send(vec![0; 1 << 20]).unwrap();
        let mut read_until_unsent = |max: usize| {
            turn_until(fixture.event_loop, || {
                let _ = client.read(&mut [0; 4096]);
                handle.unsent() <= max
            });
        };
        for _ in 0..3 {
            fixture.run_for(40 * SECOND);
            let before = handle.unsent();
            assert!(before > 0, "the kernel accepted all bytes");
            read_until_unsent(before - 1);
        }
        read_until_unsent(0);
        fixture.run_for(10 * MINUTE);
        assert_eq!(fixture.log.take(), [("open", 0), ("idle", 180), ("closed", 180)]);
    });
}

#[test]
fn on_idle_is_called_again_for_a_kept_connection() {
    with_fixture(|fixture| {
        let server =
            fixture.server(|server| server.limits(ConnectionLimits::new().idle_timeout(MINUTE)), keep);
        let mut client = fixture.connect(&server);
        fixture.run_for(3 * MINUTE + 30 * SECOND);
        assert_eq!(fixture.log.take(), [("open", 0), ("idle", 60), ("idle", 120), ("idle", 180)]);
        fixture.send(&mut client, "awake");
        fixture.run_for(MINUTE);
        assert_eq!(fixture.log.take(), [("message", 210), ("idle", 270)]);
    });
}

#[test]
fn a_probe_sent_to_an_idle_peer_counts_as_activity() {
    with_fixture(|fixture| {
        let probe = |conn: &TcpConnection<'_>| conn.send("are you there?").map_err(Into::into);
        let server =
            fixture.server(|server| server.limits(ConnectionLimits::new().idle_timeout(MINUTE)), probe);
        let mut client = fixture.connect(&server);
        fixture.run_for(MINUTE);
        assert_eq!(net::read_exact(&mut client, 14), b"are you there?");
        fixture.run_for(MINUTE - SECOND);
        fixture.send(&mut client, "yes");
        fixture.run_for(MINUTE - SECOND);
        assert_eq!(fixture.log.take(), [("open", 0), ("idle", 60), ("message", 119)]);
    });
}

#[test]
fn an_idle_timeout_can_be_changed_or_disabled() {
    with_fixture(|fixture| {
        let server =
            fixture.server(|server| server.limits(ConnectionLimits::new().idle_timeout(MINUTE)), close);
        let mut endless = fixture.connect(&server);
        fixture.send(&mut endless, "no limit");
        fixture.run_for(100 * MINUTE);
        assert_eq!(fixture.log.take(), [("open", 0), ("message", 0)]);

        let limited = fixture.server(
            |server| server,
            |conn| {
                conn.set_idle_timeout(Some(10 * SECOND));
                Ok(())
            },
        );
        let _unlimited = fixture.connect(&limited);
        fixture.run_for(100 * MINUTE);
        assert_eq!(fixture.log.take(), [("open", 6000)], "the connection closed without a timeout");

        let log = fixture.log.clone();
        let own = TcpServer::bind(fixture.event_loop, "127.0.0.1:0").unwrap();
        let own = own
            .serve(move |conn| {
                conn.set_idle_timeout(Some(2 * MINUTE));
                conn.set_idle_timeout(Some(10 * SECOND));
                Recording { log: log.clone(), on_idle: close }
            })
            .unwrap();
        let _client = fixture.connect(&own);
        fixture.run_for(MINUTE);
        assert_eq!(fixture.log.take(), [("open", 12000), ("idle", 12010), ("closed", 12010)]);
        assert_eq!(fixture.event_loop.next_deadline(), None, "a timer is left");
    });
}

#[test]
fn an_error_or_panic_in_on_idle_closes_that_connection() {
    with_watchdog(LIMIT, || {
        let clock = VirtualClock::new();
        let event_loop = EventLoop::builder().virtual_clock(clock.clone()).build().unwrap();
        let log = EventLog { start: clock.now(), entries: Rc::default() };
        let fixture = Fixture { event_loop: &event_loop, log };
        let fails = |_: &TcpConnection<'_>| Err(io::Error::other("intended by the test"));
        let panics = |_: &TcpConnection<'_>| panic!("intended by the test");
        for on_idle in [fails as fn(&TcpConnection<'_>) -> io::Result<()>, panics] {
            let server =
                fixture.server(|server| server.limits(ConnectionLimits::new().idle_timeout(MINUTE)), on_idle);
            let _client = fixture.connect(&server);
            fixture.run_for(MINUTE);
            let events: Vec<_> = fixture.log.take().into_iter().map(|entry| entry.0).collect();
            assert_eq!(events, ["open", "idle", "closed for another reason"]);
            assert_eq!(server.open_connections(), 0);
        }
        assert_eq!(event_loop.handle().counters().panics, 1);
    });
}

#[test]
fn the_timer_of_a_connection_ends_with_it() {
    with_fixture(|fixture| {
        let server =
            fixture.server(|server| server.limits(ConnectionLimits::new().idle_timeout(MINUTE)), close);
        let client = fixture.connect(&server);
        assert!(fixture.event_loop.next_deadline().is_some());
        drop(client);
        turn_until(fixture.event_loop, || server.open_connections() == 0);
        assert_eq!(fixture.event_loop.next_deadline(), None);
        assert!(!fixture.log.has("idle"));
    });
}

#[test]
fn a_connection_drained_by_a_stop_gets_no_on_idle() {
    with_fixture(|fixture| {
        let server =
            fixture.server(|server| server.limits(ConnectionLimits::new().idle_timeout(MINUTE)), close);
        let _client = fixture.connect(&server);
        let report = Rc::new(Cell::new(None));
        let (sender, reports) = std::sync::mpsc::channel();
        server.stop(10 * MINUTE, move |_, report| sender.send(report).unwrap());
        fixture.run_for(5 * MINUTE);
        assert_eq!(fixture.log.take(), [("open", 0)]);
        fixture.run_for(5 * MINUTE);
        assert_eq!(fixture.log.take(), [("stopped", 600)]);
        report.set(reports.try_recv().ok());
        assert_eq!(report.get().map(|report| (report.ended_in_time, report.aborted)), Some((0, 1)));
    });
}

#[test]
fn a_client_connection_may_have_an_idle_timeout() {
    with_fixture(|fixture| {
        let server = fixture.server(|server| server, keep);
        let log = fixture.log.clone();
        let _client = TcpClient::connect(fixture.event_loop, server.local_addr().unwrap())
            .limits(ConnectionLimits::new().idle_timeout(MINUTE))
            .serve(move |_| Plain(log.clone()))
            .unwrap();
        turn_until(fixture.event_loop, || server.open_connections() == 1 && fixture.log.has("open"));
        fixture.run_for(MINUTE);
        assert!(fixture.log.has("closed for being idle"));
    });
}

#[test]
fn an_idle_timeout_of_zero_panics() {
    with_fixture(|fixture| {
        let bind = || TcpServer::bind(fixture.event_loop, "127.0.0.1:0").unwrap();
        let message = "an idle timeout must be more than zero";
        assert_eq!(panic_of(|| bind().limits(ConnectionLimits::new().idle_timeout(Duration::ZERO))), message);
        let refused = Rc::new(Cell::new(false));
        let seen = Rc::clone(&refused);
        let log = fixture.log.clone();
        let server = bind()
            .serve(move |conn| {
                seen.set(panic_of(|| conn.set_idle_timeout(Some(Duration::ZERO))) == message);
                Plain(log.clone())
            })
            .unwrap();
        let _client = fixture.connect(&server);
        assert!(refused.get());
    });
}
