//! STARTTLS: open connections that are upgraded.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use reveille::testing::Peer;
use reveille::tls::{ClientTls, ServerTls};
use reveille::{Buffer, ConnectionHandler, TcpConnection};

use crate::authority::{NAME, client_config, server_config};
use crate::support::with_loop;
use crate::tls_peer::{TlsPeer, client_session};

/// A server that is upgraded by a line, and then echoes.
struct Mail {
    tls: ServerTls,
    is_secure: Rc<Cell<bool>>,
}

impl ConnectionHandler for Mail {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        if self.is_secure.get() {
            conn.send(input.take_all())?;
        } else if input.readable().starts_with(b"STARTTLS\n") {
            assert!(conn.tls().is_none());
            input.consume(9);
            conn.send("go ahead\n")?;
            conn.start_tls(&self.tls)?;
            conn.send("sent after the upgrade\n")?;
        }
        Ok(())
    }

    fn on_upgrade(&mut self, conn: &TcpConnection) -> io::Result<()> {
        assert!(conn.tls().is_some());
        self.is_secure.set(true);
        Ok(())
    }
}

fn mail(is_secure: &Rc<Cell<bool>>) -> Mail {
    Mail { tls: ServerTls::new(server_config()), is_secure: Rc::clone(is_secure) }
}

#[test]
fn a_server_is_upgraded_by_starttls() {
    with_loop(|event_loop| {
        let is_secure = Rc::default();
        let handler = mail(&is_secure);
        let end = Peer::connect(event_loop, |_| handler).unwrap();
        end.send("STARTTLS\n").unwrap();
        assert_eq!(end.received().unwrap(), b"go ahead\n");
        assert!(!is_secure.get());
        let mut peer = TlsPeer::over(end, client_session(client_config(), NAME));
        assert_eq!(peer.received(), b"sent after the upgrade\n");
        assert!(is_secure.get());
        peer.assert_echoes(b"encrypted");
        peer.send_close_notify();
    });
}

#[test]
fn a_server_rejects_input_from_before_the_upgrade() {
    with_loop(|event_loop| {
        let is_secure = Rc::default();
        let handler = mail(&is_secure);
        let end = Peer::connect(event_loop, |_| handler).unwrap();
        end.send("STARTTLS\nRCPT TO: injected\n").unwrap();
        assert!(end.is_closed().unwrap() && !is_secure.get());
    });
}

#[test]
fn both_ends_of_a_pair_are_upgraded() {
    /// Requests the upgrade, and sends a line over it.
    struct Ask {
        tls: ClientTls,
        received: Rc<Cell<usize>>,
        is_secure: bool,
    }

    impl ConnectionHandler for Ask {
        fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
            Ok(conn.send("STARTTLS\n")?)
        }

        fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
            if self.is_secure {
                self.received.set(self.received.get() + input.take_all().len());
            } else if input.take_all() == b"go ahead\n" {
                conn.start_tls(&self.tls)?;
            }
            Ok(())
        }

        fn on_upgrade(&mut self, conn: &TcpConnection) -> io::Result<()> {
            self.is_secure = true;
            assert_eq!(conn.tls().unwrap().server_name(), Some(NAME));
            Ok(conn.send(vec![b'x'; 100_000])?)
        }
    }

    with_loop(|event_loop| {
        let (is_secure, received) = (Rc::default(), Rc::new(Cell::new(0)));
        let tls = ClientTls::new(client_config()).server_name(NAME);
        let ask = Ask { tls, received: Rc::clone(&received), is_secure: false };
        let mail = mail(&is_secure);
        TcpConnection::pair(event_loop, |_| ask, |_| mail).unwrap();
        event_loop.run_ready().unwrap();
        assert_eq!(received.get(), 100_000 + "sent after the upgrade\n".len());
    });
}

#[test]
fn an_upgrade_without_a_name_is_refused() {
    struct Upgrades;

    impl ConnectionHandler for Upgrades {
        fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
            input.clear();
            let error = conn.start_tls(&ClientTls::new(client_config())).expect_err("no name");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            Ok(conn.send("still plain")?)
        }
    }

    with_loop(|event_loop| {
        let peer = Peer::connect(event_loop, |_| Upgrades).unwrap();
        peer.send("x").unwrap();
        assert_eq!(peer.received().unwrap(), b"still plain");
    });
}
