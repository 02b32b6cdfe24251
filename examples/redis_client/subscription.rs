//! A subscription to a channel of a Redis server, which is renewed when the connection is lost.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use reveille::codec::{FrameHandler, Framed};
use reveille::net::{Backoff, CloseReason, ConnectError, ConnectionLimits};
use reveille::{EventLoop, TcpClient, TcpConnection};

use super::replies::{MAX_REPLY, Replies, Reply, encode};
use super::resp::ProtocolError;

/// What happens to a subscription.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// Messages that are published from now on are received.
    Subscribed,
    Message(&'a [u8]),
    /// The connection was lost. Messages that are published before the next `Subscribed` are
    /// missed.
    Lost,
    /// The server has replied with this error, for example because a password is missing. Unless
    /// the subscription is dropped, it is tried again.
    Refused(&'a str),
}

/// Dropping it ends the connection.
#[must_use]
pub(crate) struct Subscription {
    _client: TcpClient,
}

impl Subscription {
    /// Connects in the background, and again after a loss. `on_failure` is called when an attempt
    /// and then `retries` more have failed. A connection without a message for the time `timeout`
    /// is checked by a ping, and closed when the pong does not arrive for the same time.
    pub(crate) fn new(
        event_loop: &EventLoop,
        target: &str,
        channel: &str,
        retries: u32,
        timeout: Duration,
        on_event: impl FnMut(&EventLoop, Event<'_>) + 'static,
        on_failure: impl FnOnce(&EventLoop, ConnectError) + 'static,
    ) -> io::Result<Subscription> {
        let backoff = Backoff::new().start(Duration::from_millis(50)).cap(Duration::from_secs(2));
        let (channel, on_event) = (channel.to_owned(), Rc::new(RefCell::new(on_event)));
        let client = TcpClient::connect(event_loop, target)
            .retry(backoff.max_retries(retries))
            .reconnect()
            .limits(ConnectionLimits::new().max_unread(2 * MAX_REPLY).idle_timeout(timeout))
            .on_failure(on_failure)
            .serve(move |_| {
                let (channel, on_event) = (channel.clone(), Rc::clone(&on_event));
                Framed::new(
                    Replies::default(),
                    Session { channel, timeout, is_subscribed: false, is_refused: false, on_event },
                )
            })?;
        Ok(Subscription { _client: client })
    }
}

/// One connection.
struct Session<F> {
    channel: String,
    timeout: Duration,
    is_subscribed: bool,
    is_refused: bool,
    /// Callbacks do not nest, so it is never borrowed twice.
    on_event: Rc<RefCell<F>>,
}

impl<F: FnMut(&EventLoop, Event<'_>) + 'static> FrameHandler<Replies> for Session<F> {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.set_deadline(self.timeout);
        conn.send(encode(&["SUBSCRIBE", &self.channel]))?;
        Ok(())
    }

    fn on_frame(&mut self, conn: &TcpConnection, reply: Reply<'_>) -> io::Result<()> {
        conn.set_deadline(None);
        let mut strings = reply.strings();
        let event = match (strings.next(), strings.next(), strings.next()) {
            (Some(b"message"), Some(_), Some(message)) => Event::Message(message),
            (Some(b"subscribe"), Some(_), None) => {
                self.is_subscribed = true;
                Event::Subscribed
            }
            (Some(b"pong"), Some(_), None) => return Ok(()),
            _ if reply.is_error() => {
                self.is_refused = true;
                let error = reply.to_string();
                (self.on_event.borrow_mut())(conn.event_loop(), Event::Refused(&error));
                return Err(io::Error::other(error));
            }
            _ => return Err(ProtocolError("an unexpected reply").into()),
        };
        (self.on_event.borrow_mut())(conn.event_loop(), event);
        Ok(())
    }

    fn on_idle(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.set_deadline(self.timeout);
        conn.send(encode(&["PING"]))?;
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection, reason: &CloseReason) {
        if let CloseReason::Stopped | CloseReason::LoopEnded = reason {
            return;
        }
        if !self.is_refused {
            log::warn!("the connection to {} has ended: {reason}", conn.peer_address());
        }
        if self.is_subscribed {
            (self.on_event.borrow_mut())(conn.event_loop(), Event::Lost);
        }
    }
}
