//! The callbacks at the water marks of unsent bytes. Handles that pause and resume reading from
//! another thread.

use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use crate::support::net::{self, HandlerCall, Host, message};
use crate::support::{KIB, LIMIT, MIB, Recorder, with_loop, with_watchdog};
use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::net::{CloseReason, ConnectionLimits};
use reveille::{Buffer, ConnectionHandler, TcpConnection, TcpServer};

const HIGH: usize = 256 * KIB;
const LOW: usize = 64 * KIB;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    High(usize),
    Low(usize),
    Drained,
}

/// Fills the queue to slightly above the high-water mark at each message, and reports its
/// callbacks.
struct Filler(Sender<Event>);

impl Filler {
    fn fill(conn: &TcpConnection) -> io::Result<()> {
        while conn.unsent() <= HIGH {
            conn.send([0; 10 * KIB])?;
        }
        conn.send([0; 10 * KIB])?;
        Ok(())
    }

    fn report(&self, event: Event) -> io::Result<()> {
        self.0.send(event).map_err(io::Error::other)
    }
}

impl ConnectionHandler for Filler {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        Filler::fill(conn)
    }

    fn on_high_water(&mut self, conn: &TcpConnection, unsent: usize) -> io::Result<()> {
        assert_eq!(conn.unsent(), unsent);
        self.report(Event::High(unsent))
    }

    fn on_low_water(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.report(Event::Low(conn.unsent()))
    }

    fn on_drained(&mut self, _: &TcpConnection) -> io::Result<()> {
        self.report(Event::Drained)
    }
}

impl FrameHandler<LineCodec> for Filler {
    fn on_frame(&mut self, conn: &TcpConnection, _: &[u8]) -> io::Result<()> {
        Filler::fill(conn)
    }

    fn on_high_water(&mut self, conn: &TcpConnection, unsent: usize) -> io::Result<()> {
        ConnectionHandler::on_high_water(self, conn, unsent)
    }

    fn on_low_water(&mut self, conn: &TcpConnection) -> io::Result<()> {
        ConnectionHandler::on_low_water(self, conn)
    }

    fn on_drained(&mut self, conn: &TcpConnection) -> io::Result<()> {
        ConnectionHandler::on_drained(self, conn)
    }
}

fn assert_marks_are_reported<H: ConnectionHandler>(make: impl Fn(Filler) -> H + Send + 'static) {
    let (sender, reports) = mpsc::channel();
    let host = Host::new(move |event_loop| {
        net::with_small_send_buffer(TcpServer::bind(event_loop, "127.0.0.1:0")?)
            .limits(ConnectionLimits::new().water_marks(HIGH, LOW))
            .serve(move |_| make(Filler(sender.clone())))
    });
    let mut client = net::connect_with_small_receive_buffer(host.address());
    for _ in 0..3 {
        client.write_all(b"more\n").unwrap();
        let event = reports.recv_timeout(net::LIMIT).unwrap();
        assert!(matches!(event, Event::High(unsent) if unsent > HIGH + 9 * KIB), "{event:?}");
        // Once; no further callback until the peer reads.
        for _ in 0..20 {
            host.request(|_, _| ());
        }
        assert_eq!(reports.try_recv().ok(), None);
        host.assert_idle();
        client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let mut events = Vec::new();
        while events.last() != Some(&Event::Drained) {
            // Reads the available bytes, or none after the timeout.
            let _ = io::Read::read(&mut client, &mut [0; 4 * KIB]);
            events.extend(reports.try_iter());
        }
        assert!(matches!(events[..], [Event::Low(unsent), Event::Drained] if unsent <= LOW), "{events:?}");
    }
    assert_eq!(host.handle().counters().panics, 0);
}

#[test]
fn each_water_mark_is_reported_once() {
    with_watchdog(LIMIT, || assert_marks_are_reported(|filler| filler));
}

#[test]
fn water_marks_are_reported_to_a_frame_handler() {
    with_watchdog(LIMIT, || assert_marks_are_reported(|filler| Framed::new(LineCodec::new(100), filler)));
}

#[test]
fn a_handle_pauses_reading_and_resumes_it() {
    with_watchdog(LIMIT, || {
        let (host, journal, handles) = net::scripted_with_handles();
        let mut client = host.connect();
        let handle = handles.recv_timeout(net::LIMIT).unwrap();
        for n in 0..10 {
            handle.pause_reading();
            host.request(|_, _| ());
            let text = format!("message {n}");
            client.write_all(text.as_bytes()).unwrap();
            for _ in 0..5 {
                host.request(|_, _| ());
            }
            assert!(!journal.of(0).contains(&message(&text)), "input was delivered during the pause");
            handle.resume_reading();
            assert_eq!(net::read_exact(&mut client, text.len()), text.as_bytes());
        }
        handle.close();
        assert_eq!(journal.calls_until_close(0).first(), Some(&HandlerCall::Open));
        handle.pause_reading();
        handle.resume_reading();
        assert_eq!(host.handle().counters().panics, 0);
    });
}

/// Sends far more than the high-water mark, records its callbacks, and closes in the callback named
/// by `closes_at`.
struct Closer {
    closes_at: &'static str,
    events: Recorder<(&'static str, usize)>,
}

impl Closer {
    fn record(&self, conn: &TcpConnection, event: &'static str) -> io::Result<()> {
        self.events.record((event, conn.unsent()));
        if event == self.closes_at {
            conn.close();
        }
        Ok(())
    }
}

impl ConnectionHandler for Closer {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        conn.send_owned(vec![0; MIB])?;
        Ok(())
    }

    fn on_high_water(&mut self, conn: &TcpConnection, _: usize) -> io::Result<()> {
        self.record(conn, "high")
    }

    fn on_low_water(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.record(conn, "low")
    }

    fn on_drained(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.record(conn, "drained")
    }

    fn on_close(&mut self, conn: &TcpConnection, _: &CloseReason) {
        self.events.record(("close", conn.unsent()));
    }
}

/// Returns the events of a connection that closes in the callback named by `closes_at`. Its peer
/// reads all available bytes.
fn events_until_close(closes_at: &'static str) -> Vec<(&'static str, usize)> {
    with_loop(move |event_loop| {
        let events = Recorder::new();
        let recorder = events.clone();
        let builder = net::with_small_send_buffer(TcpServer::bind(event_loop, "127.0.0.1:0").unwrap());
        let server = builder.limits(ConnectionLimits::new().water_marks(HIGH, LOW));
        let server = server.serve(move |_| Closer { closes_at, events: recorder.clone() }).unwrap();
        let mut client = net::connect_with_small_receive_buffer(server.local_addr().unwrap());
        client.write_all(b"x").unwrap();
        client.set_nonblocking(true).unwrap();
        let mut all = Vec::new();
        net::turn_until(event_loop, || {
            // Reads until no bytes are available, so that one turn has both the writability of the
            // socket and the notification of the mark.
            let _ = client.read_to_end(&mut all);
            server.counters().accepted == 1 && server.open_connections() == 0
        });
        events.take()
    })
}

#[test]
fn a_close_in_on_high_water_stops_output_and_events() {
    let events = events_until_close("high");
    assert!(matches!(events[..], [("high", before), ("close", after)] if before == after), "{events:?}");
}

#[test]
fn a_close_in_on_low_water_prevents_on_drained() {
    let events = events_until_close("low");
    assert!(matches!(events[..], [("high", _), ("low", _), ("close", _)]), "{events:?}");
}
