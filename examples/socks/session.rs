//! The connection of a client: the handshake, the lookup, and the connection to the destination,
//! with which it is linked.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use reveille::net::{CloseReason, ConnectError, ConnectionLimits, Lookup, Resolver};
use reveille::{Buffer, ConnectionHandle, ConnectionHandler, TcpClient, TcpConnection};

use super::protocol::{Code, Command, Handshake, Host, Request, Step, Version, admission, reply};
use super::settings::{Shared, Totals};
use super::udp::Association;

/// The time that a refused client has to receive the reply.
const REFUSAL: Duration = Duration::from_secs(5);

/// One client.
pub(crate) struct Session {
    shared: Arc<Shared>,
    resolver: Resolver,
    /// The limits of the connection to the destination.
    limits: ConnectionLimits,
    /// That of the request.
    version: Version,
    state: State,
}

enum State {
    Handshake(Handshake),
    /// The addresses of the destination are looked up. A drop cancels it.
    LookingUp {
        _lookup: Lookup,
    },
    /// A drop ends the attempts.
    Connecting(TcpClient),
    /// Linked with the connection to the destination.
    Relayed,
    /// A UDP relay, which ends with this connection.
    Associated {
        association: Rc<Association>,
        datagrams: u64,
    },
    Refused,
}

impl Session {
    pub(crate) fn new(shared: &Arc<Shared>, resolver: &Resolver, limits: &ConnectionLimits) -> Session {
        let needs_password = shared.settings().users.is_some();
        Session {
            shared: Arc::clone(shared),
            resolver: resolver.clone(),
            limits: *limits,
            version: Version::V5,
            state: State::Handshake(Handshake::new(needs_password)),
        }
    }

    fn take(&mut self, conn: &TcpConnection<'_>, step: Step) -> io::Result<()> {
        match step {
            Step::Send(bytes) => conn.send(bytes)?,
            Step::Credentials { name, password } => {
                let settings = self.shared.settings();
                if settings.users.as_ref().is_some_and(|users| users.admit(&name, &password)) {
                    conn.send(admission(true))?;
                } else {
                    self.end(conn, &admission(false), "the name or the password is wrong")?;
                }
            }
            Step::Request(request) => {
                self.version = request.version;
                conn.set_deadline(self.shared.timeout);
                match request.command {
                    Command::Connect => self.look_up(conn, request)?,
                    Command::UdpAssociate => self.associate(conn, &request)?,
                }
            }
        }
        Ok(())
    }

    fn look_up(&mut self, conn: &TcpConnection<'_>, request: Request) -> io::Result<()> {
        // What the client sends from now on is for the destination.
        conn.pause_reading();
        let name = match request.host {
            Host::Address(ip) => return self.connect(conn, vec![SocketAddr::new(ip, request.port)]),
            Host::Name(name) => name,
        };
        let session = conn.handle();
        let looked_up = self.resolver.lookup((name, request.port), move |event_loop, found| {
            // Closed meanwhile, if refused.
            let _ = session.with_local(event_loop, move |session: &mut Session, conn| match found {
                Ok(addresses) => session.connect(conn, addresses),
                Err(error) => session.refuse(conn, Code::of(&error), &error.to_string()),
            });
        });
        match looked_up {
            Ok(lookup) => self.state = State::LookingUp { _lookup: lookup },
            Err(refused) => self.refuse(conn, Code::Failed, &refused.reason().to_string())?,
        }
        Ok(())
    }

    /// Connects to the first of the addresses that the rules allow and that can be reached.
    fn connect(&mut self, conn: &TcpConnection<'_>, mut addresses: Vec<SocketAddr>) -> io::Result<()> {
        let settings = self.shared.settings();
        let first = addresses.first().copied();
        addresses.retain(|&address| settings.rules.allow(address));
        if addresses.is_empty() {
            let denied = first.map(|address| address.to_string()).unwrap_or_default();
            return self.refuse(conn, Code::NotAllowed, &denied);
        }
        let (session, failed) = (conn.handle(), conn.handle());
        let client = TcpClient::connect(conn.event_loop(), addresses)
            .timeout(self.shared.timeout)
            .limits(self.limits)
            .on_failure(move |event_loop, error: ConnectError| {
                let _ = failed.with_local(event_loop, move |session: &mut Session, conn| {
                    let code = Code::of(&error.kind().into());
                    session.refuse(conn, code, &error.to_string())
                });
            })
            .serve(move |_| Destination { session: session.clone() })?;
        self.state = State::Connecting(client);
        Ok(())
    }

    /// The connection to the destination is established, and will be linked with this one.
    fn connected(&mut self, conn: &TcpConnection<'_>, bound: Option<SocketAddr>) -> io::Result<()> {
        conn.set_deadline(None);
        conn.send(reply(self.version, Code::Succeeded, bound))?;
        if let State::Connecting(client) = std::mem::replace(&mut self.state, State::Relayed) {
            // Relayed bytes may still be in flight when this connection has ended.
            client.detach();
        }
        Totals::count(&self.shared.totals.connected);
        Ok(())
    }

    fn associate(&mut self, conn: &TcpConnection<'_>, request: &Request) -> io::Result<()> {
        let client = conn.peer_addr()?.ip();
        // A client may state the port that it will send from. Behind a translator of addresses, the
        // address that it states is not the one that is seen here, and the port need not be either.
        let port = match request.host {
            Host::Address(ip) if ip.to_canonical() == client.to_canonical() && request.port != 0 => {
                Some(request.port)
            }
            _ => None,
        };
        let local = conn.local_addr()?.ip();
        match Association::open(conn.event_loop(), &self.shared, &self.resolver, local, client, port) {
            Ok((association, address)) => {
                conn.set_deadline(None);
                conn.send(reply(self.version, Code::Succeeded, Some(address)))?;
                log::info!("{}: UDP relay on {address}", conn.peer_address());
                self.state = State::Associated { association, datagrams: 0 };
                Totals::count(&self.shared.totals.associations);
                Ok(())
            }
            Err(error) => self.refuse(conn, Code::Failed, &error.to_string()),
        }
    }

    fn refuse(&mut self, conn: &TcpConnection<'_>, code: Code, reason: &str) -> io::Result<()> {
        let reason = format!("{code}: {reason}");
        self.end(conn, &reply(self.version, code, None), &reason)
    }

    /// Sends a last reply, and closes.
    fn end(&mut self, conn: &TcpConnection<'_>, reply: &[u8], reason: &str) -> io::Result<()> {
        log::info!("{}: refused: {reason}", conn.peer_address());
        Totals::count(&self.shared.totals.refused);
        self.state = State::Refused;
        conn.set_deadline(None);
        conn.send(reply)?;
        conn.close_gracefully(REFUSAL);
        Ok(())
    }
}

impl ConnectionHandler for Session {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.set_deadline(self.shared.timeout);
        Ok(())
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        while let State::Handshake(handshake) = &mut self.state {
            match handshake.step(input.readable()) {
                Ok(Some((step, length))) => {
                    input.consume(length);
                    self.take(conn, step)?;
                }
                Ok(None) => return Ok(()),
                Err(refusal) => self.end(conn, &refusal.reply, refusal.reason)?,
            }
        }
        // The connection of a UDP relay carries no data.
        if matches!(self.state, State::Associated { .. }) {
            input.clear();
        }
        Ok(())
    }

    fn on_deadline(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        match self.state {
            State::LookingUp { .. } | State::Connecting(_) => {
                self.refuse(conn, Code::TtlExpired, "no connection in time")
            }
            _ => self.end(conn, &[], "the handshake was not finished in time"),
        }
    }

    fn on_idle(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        if let State::Associated { association, datagrams } = &mut self.state {
            // Datagrams do not pass through this connection, but keep it open.
            let before = std::mem::replace(datagrams, association.datagrams());
            if *datagrams != before {
                return Ok(());
            }
        }
        log::info!("{}: idle", conn.peer_address());
        conn.close();
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        log::debug!("{}: {reason}", conn.peer_address());
    }
}

/// The connection to the destination.
struct Destination {
    session: ConnectionHandle,
}

impl ConnectionHandler for Destination {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let (to, bound) = (conn.peer_address().clone(), conn.local_addr().ok());
        let connected = move |session: &mut Session, conn: &TcpConnection<'_>| {
            log::info!("{}: connected to {to}", conn.peer_address());
            session.connected(conn, bound)
        };
        self.session.with_local(conn.event_loop(), connected)?;
        conn.relay_to(&self.session)
    }

    fn on_message(&mut self, _: &TcpConnection<'_>, _: &mut Buffer) -> io::Result<()> {
        Ok(()) // relayed
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        log::debug!("{}: {reason}", conn.peer_address());
    }
}
