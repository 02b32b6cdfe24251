//! What a handler is told of its unsent bytes, and a consumer on another thread that has enough.

mod support;

use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::net::CloseReason;
use reveille::{Buffer, ConnectionHandler, TcpConnection, TcpServer};
use support::net::{self, Host, Told, message};
use support::{KIB, LIMIT, MIB, Recorder, with_loop, with_watchdog};

const HIGH: usize = 256 * KIB;
const LOW: usize = 64 * KIB;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    High(usize),
    Low(usize),
    Drained,
}

/// At each message sends until it is above the mark and a little further, and tells what it hears.
struct Witness(Sender<Heard>);

impl Witness {
    fn fill(conn: &TcpConnection) -> io::Result<()> {
        while conn.unsent() <= HIGH {
            conn.send([0; 10 * KIB])?;
        }
        conn.send([0; 10 * KIB])?;
        Ok(())
    }

    fn tell(&self, heard: Heard) -> io::Result<()> {
        self.0.send(heard).map_err(io::Error::other)
    }
}

impl ConnectionHandler for Witness {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        Witness::fill(conn)
    }

    fn on_high_water(&mut self, conn: &TcpConnection, unsent: usize) -> io::Result<()> {
        assert_eq!(conn.unsent(), unsent);
        self.tell(Heard::High(unsent))
    }

    fn on_low_water(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.tell(Heard::Low(conn.unsent()))
    }

    fn on_drained(&mut self, _: &TcpConnection) -> io::Result<()> {
        self.tell(Heard::Drained)
    }
}

impl FrameHandler<LineCodec> for Witness {
    fn on_frame(&mut self, conn: &TcpConnection, _: &[u8]) -> io::Result<()> {
        Witness::fill(conn)
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

fn assert_hears_of_its_marks<H: ConnectionHandler>(make: impl Fn(Witness) -> H + Send + 'static) {
    let (tell, told) = mpsc::channel();
    let host = Host::new(move |event_loop| {
        net::with_little_room(TcpServer::bind(event_loop, "127.0.0.1:0")?)
            .water_marks(HIGH, LOW)
            .serve(move |_| make(Witness(tell.clone())))
    });
    let mut client = net::connect_with_little_room(host.address());
    for _ in 0..3 {
        client.write_all(b"more\n").unwrap();
        let heard = told.recv_timeout(net::LIMIT).unwrap();
        assert!(matches!(heard, Heard::High(unsent) if unsent > HIGH + 9 * KIB), "{heard:?}");
        // Once, and not until the peer reads.
        for _ in 0..20 {
            host.ask(|_, _| ());
        }
        assert_eq!(told.try_recv().ok(), None);
        host.assert_rests();
        client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let mut heard = Vec::new();
        while heard.last() != Some(&Heard::Drained) {
            // What there is; or nothing, after a moment.
            let _ = io::Read::read(&mut client, &mut [0; 4 * KIB]);
            heard.extend(told.try_iter());
        }
        assert!(matches!(heard[..], [Heard::Low(unsent), Heard::Drained] if unsent <= LOW), "{heard:?}");
    }
    assert_eq!(host.handle().counters().panics, 0);
}

#[test]
fn a_handler_hears_once_that_it_is_above_the_mark_and_once_that_it_is_low_again() {
    with_watchdog(LIMIT, || assert_hears_of_its_marks(|witness| witness));
}

#[test]
fn a_handler_of_frames_hears_of_its_marks_too() {
    with_watchdog(LIMIT, || assert_hears_of_its_marks(|witness| Framed::new(LineCodec::new(100), witness)));
}

#[test]
fn a_handle_pauses_reading_and_resumes_it() {
    with_watchdog(LIMIT, || {
        let (host, journal, given) = net::giving_handles();
        let mut client = host.connect();
        let handle = given.recv_timeout(net::LIMIT).unwrap();
        for n in 0..10 {
            handle.pause_reading();
            host.ask(|_, _| ());
            let text = format!("message {n}");
            client.write_all(text.as_bytes()).unwrap();
            for _ in 0..5 {
                host.ask(|_, _| ());
            }
            assert!(!journal.of(0).contains(&message(&text)), "read while it was paused");
            handle.resume_reading();
            assert_eq!(net::read_exact(&mut client, text.len()), text.as_bytes());
        }
        handle.close();
        assert_eq!(journal.life_of(0).first(), Some(&Told::Open));
        handle.pause_reading();
        handle.resume_reading();
        assert_eq!(host.handle().counters().panics, 0);
    });
}

/// Sends much more than the high-water mark, notes what it hears, and closes when it hears what it
/// is told to close at.
struct Leaver {
    closes_at: &'static str,
    heard: Recorder<(&'static str, usize)>,
}

impl Leaver {
    fn hear(&self, conn: &TcpConnection, what: &'static str) -> io::Result<()> {
        self.heard.record((what, conn.unsent()));
        if what == self.closes_at {
            conn.close();
        }
        Ok(())
    }
}

impl ConnectionHandler for Leaver {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        conn.send_owned(vec![0; MIB])?;
        Ok(())
    }

    fn on_high_water(&mut self, conn: &TcpConnection, _: usize) -> io::Result<()> {
        self.hear(conn, "high")
    }

    fn on_low_water(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.hear(conn, "low")
    }

    fn on_drained(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.hear(conn, "drained")
    }

    fn on_close(&mut self, conn: &TcpConnection, _: &CloseReason) {
        self.heard.record(("close", conn.unsent()));
    }
}

/// What is heard on a connection that is closed at one of its marks while its peer reads all that
/// there is.
fn heard_by_a_leaver(closes_at: &'static str) -> Vec<(&'static str, usize)> {
    with_loop(move |event_loop| {
        let heard = Recorder::new();
        let recorder = heard.clone();
        let builder = net::with_little_room(TcpServer::bind(event_loop, "127.0.0.1:0").unwrap());
        let server = builder.water_marks(HIGH, LOW);
        let server = server.serve(move |_| Leaver { closes_at, heard: recorder.clone() }).unwrap();
        let mut client = net::connect_with_little_room(server.local_addr());
        client.write_all(b"x").unwrap();
        client.set_nonblocking(true).unwrap();
        let mut all = Vec::new();
        net::turn_until(event_loop, || {
            // Until nothing is there, so that there is room and word of the mark in one turn.
            let _ = client.read_to_end(&mut all);
            server.counters().accepted == 1 && server.open_connections() == 0
        });
        heard.take()
    })
}

#[test]
fn a_connection_that_is_closed_above_its_mark_sends_nothing_more_and_hears_no_other() {
    let heard = heard_by_a_leaver("high");
    assert!(matches!(heard[..], [("high", unsent), ("close", lost)] if unsent == lost), "{heard:?}");
}

#[test]
fn a_connection_that_is_closed_at_its_low_mark_hears_no_other() {
    let heard = heard_by_a_leaver("low");
    assert!(matches!(heard[..], [("high", _), ("low", _), ("close", _)]), "{heard:?}");
}
