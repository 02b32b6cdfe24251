//! The services over TCP: one handler for each kind.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use reveille::net::ConnectionLimits;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection, TcpServer};

use super::pattern;
use super::replies;
use super::service::Service;
use super::totals::{Totals, add};

/// The time without a byte in either direction after which a connection is closed.
const IDLE: Duration = Duration::from_secs(300);

/// The time that a peer has to read a reply and to close its end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum number of connections of each service, and of each with one address.
const MAX_CONNECTIONS: usize = 10_000;
const MAX_PER_ADDRESS: usize = 2_000;

/// One send of chargen: a multiple of the length after which its text repeats.
const CHARGEN_SEND: usize = 9 * pattern::PERIOD;

/// Serves one service on `address`.
pub(crate) fn serve(
    event_loop: &EventLoop,
    service: Service,
    address: std::net::SocketAddr,
    totals: &Rc<Totals>,
) -> io::Result<TcpServer> {
    let limits = ConnectionLimits::new().idle_timeout(IDLE);
    let server = TcpServer::bind(event_loop, address)?
        .limits(limits)
        .max_connections(MAX_CONNECTIONS)
        .max_per_address(MAX_PER_ADDRESS);
    let totals = Rc::clone(totals);
    let counted = move || {
        add(&totals.connections, 1);
        Rc::clone(&totals)
    };
    match service {
        Service::Echo => server.serve(move |_| Echo(counted())),
        Service::Discard => server.serve(move |_| Discard(counted())),
        Service::Chargen => {
            // All connections share it.
            let page: Arc<[u8]> = pattern::text(0, CHARGEN_SEND).into();
            server.serve(move |_| Chargen { page: Arc::clone(&page), totals: counted() })
        }
        Service::Daytime => server.serve(move |_| Once { reply: replies::daytime, totals: counted() }),
        Service::Qotd => server.serve(move |_| Once { reply: replies::quote, totals: counted() }),
        Service::Time => server.serve(move |_| Once { reply: replies::time, totals: counted() }),
    }
}

/// Returns what it receives. A peer that does not read its echo is not read either.
struct Echo(Rc<Totals>);

impl ConnectionHandler for Echo {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        add(&self.0.bytes, input.len());
        conn.send(input.take_all())?;
        Ok(())
    }
}

struct Discard(Rc<Totals>);

impl ConnectionHandler for Discard {
    fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        add(&self.0.bytes, input.len());
        add(&self.0.discarded, input.len());
        input.clear();
        Ok(())
    }
}

/// Sends one reply as soon as the connection is open, then closes it. A peer that does not read the
/// reply, or does not close its end, is reset after a time.
struct Once {
    reply: fn() -> Vec<u8>,
    totals: Rc<Totals>,
}

impl ConnectionHandler for Once {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.send((self.reply)())?;
        conn.close_gracefully(CLOSE_TIMEOUT);
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        add(&self.totals.bytes, input.len());
        input.clear();
        Ok(())
    }
}

/// Sends its text as long as the peer reads. The input is discarded.
struct Chargen {
    page: Arc<[u8]>,
    totals: Rc<Totals>,
}

impl Chargen {
    /// The next send is made when the peer has read enough, and in a later turn. A producer that
    /// continued at once would starve other connections if its peer reads fast enough.
    fn produce(&self, conn: &TcpConnection) -> io::Result<()> {
        conn.send_shared(&self.page)?;
        conn.notify_drained();
        Ok(())
    }
}

impl ConnectionHandler for Chargen {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.produce(conn)
    }

    fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        add(&self.totals.bytes, input.len());
        input.clear();
        Ok(())
    }

    fn on_drained(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.produce(conn)
    }

    /// The output has no end, so there is nothing to finish.
    fn on_peer_shutdown(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.close();
        Ok(())
    }

    fn on_stop(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.close();
        Ok(())
    }
}
