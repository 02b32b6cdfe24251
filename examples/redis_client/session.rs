//! A Redis client: requests with callbacks, on a connection that is re-established when it is lost.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use reveille::codec::{FrameHandler, Framed};
use reveille::net::{Backoff, CloseReason, ConnectError, ConnectionLimits};
use reveille::{EventLoop, TcpClient, TcpConnection};

use super::replies::{MAX_REPLY, Replies, Reply, encode};
use super::resp::ProtocolError;

type Callback = Box<dyn FnOnce(Result<Reply<'_>, &str>)>;

/// The callback of a request. It is called exactly once: with the reply, or with an error when this
/// is dropped, wherever that happens. A request may already have been executed then, so the client
/// does not repeat it.
struct Request(Option<Callback>);

impl Request {
    fn complete(mut self, result: Result<Reply<'_>, &str>) {
        if let Some(callback) = self.0.take() {
            callback(result);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(Err("the request was not sent"));
        }
    }
}

/// The client. Dropping it ends the connection and fails all requests.
pub(crate) struct Redis {
    client: TcpClient,
}

impl Redis {
    /// Connects in the background. `on_failure` is called when an attempt and then `retries` more
    /// have failed. A connection is closed when a request waits `timeout` for its reply.
    pub(crate) fn connect(
        event_loop: &EventLoop,
        target: &str,
        retries: u32,
        timeout: Duration,
        on_failure: impl FnOnce(&EventLoop, ConnectError) + 'static,
    ) -> io::Result<Redis> {
        let backoff = Backoff::new().start(Duration::from_millis(50)).cap(Duration::from_secs(2));
        let client = TcpClient::connect(event_loop, target)
            .retry(backoff.max_retries(retries))
            .reconnect()
            .limits(ConnectionLimits::new().max_unread(2 * MAX_REPLY))
            .on_failure(on_failure)
            .serve(move |_| {
                Framed::new(Replies::default(), Session { in_flight: VecDeque::new(), timeout })
            })?;
        Ok(Redis { client })
    }

    /// Sends a command, now or when there is a connection. Commands that are sent without waiting
    /// for replies are pipelined.
    pub(crate) fn request<A: AsRef<[u8]>>(
        &self,
        arguments: &[A],
        callback: impl FnOnce(Result<Reply<'_>, &str>) + 'static,
    ) {
        let (bytes, request) = (encode(arguments), Request(Some(Box::new(callback))));
        let called =
            self.client.with(move |session: &mut Session, conn| session.request(conn, &bytes, request));
        if let Err(refused) = called {
            // Dropping the refused call, and the request in it, reports the error.
            log::warn!("a request was refused: {}", refused.reason());
        }
    }
}

/// One connection.
struct Session {
    /// The requests that have no reply yet, in order.
    in_flight: VecDeque<Request>,
    timeout: Duration,
}

impl Session {
    fn request(&mut self, conn: &TcpConnection, bytes: &[u8], request: Request) {
        match conn.send(bytes) {
            Ok(()) => {
                self.in_flight.push_back(request);
                if self.in_flight.len() == 1 {
                    conn.set_deadline(self.timeout);
                }
            }
            Err(error) => request.complete(Err(&error.to_string())),
        }
    }
}

impl FrameHandler<Replies> for Session {
    fn on_frame(&mut self, conn: &TcpConnection, reply: Reply<'_>) -> io::Result<()> {
        let request = self.in_flight.pop_front().ok_or(ProtocolError("a reply without a request"))?;
        conn.set_deadline((!self.in_flight.is_empty()).then_some(self.timeout));
        request.complete(Ok(reply));
        Ok(())
    }

    fn on_close(&mut self, _conn: &TcpConnection, reason: &CloseReason) {
        let reason = reason.to_string();
        self.in_flight.drain(..).for_each(|request| request.complete(Err(&reason)));
    }
}
