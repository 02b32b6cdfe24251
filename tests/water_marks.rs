//! What a handler is told of its unsent bytes, and a consumer on another thread that has enough.

mod support;

use std::io::{self, Write};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use reveille::{Buffer, ConnectionHandler, FrameHandler, Framed, LineCodec, TcpConnection, TcpServer};
use support::net::{self, Host, Told, message};
use support::{KIB, LIMIT, with_watchdog};

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
        TcpServer::bind(event_loop, "127.0.0.1:0")?
            .water_marks(HIGH, LOW)
            .serve(move |_| make(Witness(tell.clone())))
    });
    let mut client = net::connect_with_small_packets(host.address());
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
