//! Filters that are added to an open connection.

use std::io;
use std::time::Duration;

use super::samples::{Cipher, Greets, cipher};
use crate::support::bench::{Bench, defaults, with_virtual_time};
use crate::support::net::{self, End, Journal};
use crate::support::{LIMIT, MIB, with_watchdog};
use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::net::CloseReason;
use reveille::testing::Peer;
use reveille::{EventLoop, TcpConnection};

/// A line protocol: `UP` adds a filter, `DOUBLE` tries to add two. Each other line is echoed, in
/// capital letters after the upgrade.
struct Mail {
    journal: Journal,
    is_upgraded: bool,
    end: std::sync::Arc<std::sync::Mutex<Option<End>>>,
}

impl FrameHandler<LineCodec> for Mail {
    fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
        match line {
            b"UP" => {
                conn.send("go\n")?;
                conn.add_filter(Greets::default())?;
                conn.send("held ")?;
            }
            b"DOUBLE" => {
                conn.add_filter(Greets::default())?;
                let (_, error) = conn.add_filter(Greets::default()).expect_err("one at a time").into_parts();
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            }
            b"RESERVED" => {
                let slot = conn.reserve_reply()?;
                let (_, error) =
                    conn.add_filter(Greets::default()).expect_err("a reply is missing").into_parts();
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                slot.fill("refused\n").expect("an open connection");
            }
            b"LARGE" => {
                conn.send(vec![b'x'; MIB])?;
                conn.add_filter(Greets::default())?;
            }
            b"SHUT" => {
                conn.shutdown();
                let (_, error) = conn.add_filter(Greets::default()).expect_err("a shutdown").into_parts();
                assert_eq!(error.kind(), io::ErrorKind::NotConnected);
            }
            b"CIPHER" => conn.add_filter(Cipher::default())?,
            line if self.is_upgraded => conn.send(line.to_ascii_uppercase())?,
            line => conn.send(line)?,
        }
        Ok(())
    }

    fn on_upgrade(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.is_upgraded = true;
        self.journal.script();
        conn.filter(|_: &mut Cipher| ()).or_else(|| conn.filter(|_: &mut Greets| ())).expect("a filter");
        Ok(conn.send("upgraded ")?)
    }

    fn on_close(&mut self, _: &TcpConnection, reason: &CloseReason) {
        *self.end.lock().unwrap() = Some(End::from(reason));
    }
}

struct Session {
    upgrades: Journal,
    end: std::sync::Arc<std::sync::Mutex<Option<End>>>,
}

impl Session {
    fn new() -> Session {
        Session { upgrades: Journal::new(), end: Default::default() }
    }

    fn handler(&self) -> Framed<LineCodec, Mail> {
        let (journal, end) = (self.upgrades.clone(), self.end.clone());
        Framed::new(LineCodec::new(100), Mail { journal, is_upgraded: false, end })
    }

    fn upgrades(&self) -> usize {
        self.upgrades.handlers()
    }

    fn end(&self) -> Option<End> {
        self.end.lock().unwrap().clone()
    }
}

fn with_mail(test: impl FnOnce(&Peer<'_>, &Session) + Send + 'static) {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let session = Session::new();
        let handler = session.handler();
        test(&Peer::connect(&event_loop, move |_| handler).unwrap(), &session);
    });
}

#[test]
fn output_before_an_upgrade_is_plain_and_later_output_waits() {
    with_mail(|peer, session| {
        peer.send("plain\nUP\n").unwrap();
        assert_eq!(peer.received().unwrap(), b"plaingo\n!");
        assert_eq!(session.upgrades(), 0);
        peer.send("!secret\n").unwrap();
        assert_eq!(peer.received().unwrap(), b"held upgraded SECRET");
        assert_eq!(session.upgrades(), 1);
    });
}

#[test]
fn input_from_before_an_upgrade_closes_the_connection() {
    with_mail(|peer, session| {
        peer.send("UP\ninjected\n").unwrap();
        assert!(peer.is_closed().unwrap());
        match session.end() {
            Some(End::Error(io::ErrorKind::InvalidData, text)) => assert!(text.contains("upgrade"), "{text}"),
            other => panic!("closed with {other:?}"),
        }
        assert_eq!(session.upgrades(), 0);
    });
}

#[test]
fn a_second_upgrade_during_the_first_is_refused() {
    with_mail(|peer, session| {
        peer.send("DOUBLE\n").unwrap();
        peer.send("!").unwrap();
        assert_eq!(peer.received().unwrap(), b"!upgraded ");
        assert_eq!(session.upgrades(), 1);
    });
}

#[test]
fn an_upgrade_is_refused_while_a_reply_is_reserved() {
    with_mail(|peer, _| {
        peer.send("RESERVED\n").unwrap();
        assert_eq!(peer.received().unwrap(), b"refused\n");
    });
}

#[test]
fn a_connection_that_is_shut_down_takes_no_filter() {
    with_mail(|peer, _| {
        peer.send("SHUT\n").unwrap();
        assert!(peer.is_ended().unwrap());
    });
}

#[test]
fn filters_are_stacked_by_later_upgrades() {
    with_mail(|peer, session| {
        peer.send("UP\n").unwrap();
        peer.send("!CIPHER\n").unwrap();
        let mut received = peer.received().unwrap();
        let plain = b"go\n!held upgraded ".len();
        let mut line = b"line\n".to_vec();
        cipher(&mut line, &mut 0);
        peer.send(line).unwrap();
        received.append(&mut peer.received().unwrap());
        cipher(&mut received[plain..], &mut 0);
        assert_eq!(received, b"go\n!held upgraded upgraded LINE");
        assert_eq!(session.upgrades(), 2);
    });
}

#[test]
fn an_upgrade_waits_until_earlier_output_is_sent() {
    with_watchdog(LIMIT, || {
        let session = Session::new();
        let handlers = session.upgrades.clone();
        let end = session.end.clone();
        let make = move |_: &TcpConnection<'_>| {
            let mail = Mail { journal: handlers.clone(), is_upgraded: false, end: end.clone() };
            Framed::new(LineCodec::new(100), mail)
        };
        let builder = EventLoop::builder().propagate_panics();
        let bench = Bench::new(builder, net::with_small_send_buffer, make);
        let mut client = bench.connect_slow_reader();
        io::Write::write_all(&mut client, b"LARGE\n").unwrap();
        let plain = bench.read_exact(&mut client, MIB);
        assert!(plain.iter().all(|byte| *byte == b'x'));
        assert_eq!(bench.read_exact(&mut client, 1), b"!");
        io::Write::write_all(&mut client, b"!hello\n").unwrap();
        assert_eq!(bench.read_exact(&mut client, 14), b"upgraded HELLO");
        assert_eq!(session.upgrades(), 1);
    });
}

#[test]
fn a_shutdown_during_an_upgrade_follows_the_held_output() {
    with_mail(|peer, _| {
        peer.send("UP\n").unwrap();
        peer.connection().shutdown();
        assert_eq!(peer.received().unwrap(), b"go\n!");
        assert!(!peer.is_ended().unwrap());
        peer.send("!").unwrap();
        assert_eq!(peer.received().unwrap(), b"held .");
        assert!(peer.is_ended().unwrap());
    });
}

#[test]
fn an_unfinished_upgrade_ends_at_the_handshake_timeout() {
    with_virtual_time(|builder, clock| {
        let session = Session::new();
        let handler = session.handler();
        let event_loop = builder.build().unwrap();
        let peer = Peer::connect(&event_loop, move |_| handler).unwrap();
        peer.send("UP\n").unwrap();
        clock.advance(Duration::from_secs(10));
        assert!(peer.is_closed().unwrap());
        match session.end() {
            Some(End::Error(io::ErrorKind::TimedOut, _)) => {}
            other => panic!("closed with {other:?}"),
        }
    });
}

#[test]
fn a_linked_connection_takes_no_filter() {
    with_watchdog(LIMIT, || {
        let (bench, _) = Bench::scripted_on(EventLoop::builder().propagate_panics(), defaults, |script| {
            script.on_message(|conn, input| {
                input.clear();
                let event_loop = conn.event_loop();
                let (one, _) = TcpConnection::pair(
                    event_loop,
                    |_| Journal::new().script(),
                    |_| Journal::new().script(),
                )?;
                conn.relay_to(&one).map_err(|_| io::Error::other("not linked"))?;
                let (_, error) = conn.add_filter(Greets::default()).expect_err("a link").into_parts();
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                conn.close();
                Ok::<_, io::Error>(())
            })
        });
        let mut client = bench.connect();
        io::Write::write_all(&mut client, b"?").unwrap();
        bench.until(|| bench.server.handle().open_connections() == 0);
    });
}
