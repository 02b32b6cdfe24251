//! A connection: its requests, and the time that they may take.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use reveille::TcpConnection;
use reveille::codec::{FrameError, FrameHandler};
use reveille::net::SendError;

use crate::protocol::{Body, Event, Method, Request, Requests, Status};
use crate::reply::{Head, Persistence};
use crate::site::Site;
use crate::totals::Count;
use crate::upload::{Upload, Uploads};

/// The time for a MiB of a body.
const BODY_TIME: Duration = Duration::from_secs(20);
const BODY_STEP: u64 = 1 << 20;

/// A client must read this many bytes in this time while output waits for it, or the rest.
const OUTPUT_TIME: Duration = Duration::from_secs(10);
const OUTPUT_STEP: u64 = 160 << 10;

/// The time for the client to receive the last response, and to close.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// A body without a use is received up to this size, so that the connection can continue.
const MAX_DISCARDED: u64 = 64 << 10;

/// One connection.
pub(crate) struct Session {
    pub(crate) site: Rc<Site>,
    pub(crate) uploads: Option<Rc<Uploads>>,
    pub(crate) count: Count,
    pub(crate) receiving: Receiving,
    /// The bytes of all responses.
    pub(crate) accepted: u64,
    /// How many of them had been sent when the output was last checked; `None` if no output waits.
    pub(crate) checked: Option<u64>,
}

/// What becomes of the body of a request.
#[derive(Default)]
pub(crate) enum Receiving {
    #[default]
    Nothing,
    /// The number of bytes received.
    Discarded(u64),
    Upload(Box<Upload>),
}

impl FrameHandler<Requests> for Session {
    fn on_frame(&mut self, conn: &TcpConnection, event: Event<'_>) -> io::Result<()> {
        match event {
            Event::Request(request) => self.on_request(conn, &request)?,
            Event::Body { bytes, is_last } => self.on_body(conn, bytes, is_last)?,
        }
        Ok(())
    }

    fn on_batch_end(&mut self, conn: &TcpConnection) -> io::Result<()> {
        if matches!(self.receiving, Receiving::Nothing) {
            self.watch_output(conn);
        }
        Ok(())
    }

    fn on_drained(&mut self, conn: &TcpConnection) -> io::Result<()> {
        if self.checked.take().is_some() {
            conn.set_deadline(None);
        }
        Ok(())
    }

    fn on_frame_error(&mut self, conn: &TcpConnection, error: FrameError<Status>) -> io::Result<()> {
        let status = match error {
            FrameError::Malformed(status) => status,
            FrameError::TimedOut { .. } => Status(408),
            _ => Status::BAD_REQUEST,
        };
        self.refuse_and_close(conn, status);
        Ok(())
    }

    /// A body is late, or output waits.
    fn on_deadline(&mut self, conn: &TcpConnection) -> io::Result<()> {
        match self.checked.take() {
            Some(sent) if self.sent(conn) < sent + OUTPUT_STEP => {
                log::info!("{}: reads too slowly", conn.peer_address());
                conn.close();
            }
            Some(_) => self.check_output_later(conn),
            None => self.refuse_and_close(conn, Status(408)),
        }
        Ok(())
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection) -> io::Result<()> {
        if self.is_receiving() {
            self.refuse_and_close(conn, Status::BAD_REQUEST);
        }
        conn.shutdown_after_work();
        Ok(())
    }

    fn on_stop(&mut self, conn: &TcpConnection) -> io::Result<()> {
        if self.is_receiving() {
            self.refuse_and_close(conn, Status(503));
        }
        Ok(())
    }
}

impl Session {
    fn on_request(&mut self, conn: &TcpConnection, request: &Request<'_>) -> Result<(), SendError> {
        self.count.requests += 1;
        let has_body = !matches!(request.body, Body::None | Body::Length(0));
        // A client that waits for `100 Continue` may send the body or not after another response.
        let is_long = matches!(request.body, Body::Length(length) if length > MAX_DISCARDED);
        let may_continue = !(has_body && (is_long || request.expects_continue));
        let persistence = Persistence::new(request, may_continue);
        let exchange = self.site.exchange(conn, request, persistence);
        let sent = match (&self.uploads, request.method) {
            (Some(uploads), Method::Put) => {
                let may_keep_alive = Persistence::new(request, true);
                match uploads.begin(request, may_keep_alive, exchange.time) {
                    Ok(upload) => return self.begin_upload(conn, request, upload),
                    Err(status) => exchange.refuse(status)?,
                }
            }
            _ => self.site.respond(&exchange)?,
        };
        log::info!("{}: {} {} {}", conn.peer_address(), request.method, request.target, sent.status.0);
        self.accepted += sent.bytes;
        if persistence == Persistence::Close {
            conn.close_gracefully(LINGER);
        } else if has_body {
            self.expect_body(conn, Receiving::Discarded(0));
        }
        Ok(())
    }

    /// Waits for the body of a request. The time that it may take includes that of earlier output.
    pub(crate) fn expect_body(&mut self, conn: &TcpConnection, receiving: Receiving) {
        self.receiving = receiving;
        self.checked = None;
        conn.set_deadline(BODY_TIME);
    }

    pub(crate) fn on_body(&mut self, conn: &TcpConnection, bytes: &[u8], is_last: bool) -> io::Result<()> {
        let length = bytes.len() as u64;
        let received = match &mut self.receiving {
            Receiving::Nothing => return Ok(()),
            Receiving::Discarded(received) => {
                *received += length;
                if *received > MAX_DISCARDED {
                    conn.close_gracefully(LINGER);
                }
                *received
            }
            Receiving::Upload(upload) => {
                upload.received += length;
                if upload.received > upload.uploads.limit {
                    self.refuse_and_close(conn, Status(413));
                    return Ok(());
                }
                upload.buffer.extend_from_slice(bytes);
                upload.received
            }
        };
        if is_last {
            conn.set_deadline(None);
        } else if received / BODY_STEP != (received - length) / BODY_STEP {
            conn.set_deadline(BODY_TIME);
        }
        match &self.receiving {
            Receiving::Upload(_) => self.continue_upload(conn, is_last),
            _ if is_last => self.receiving = Receiving::Nothing,
            _ => {}
        }
        Ok(())
    }

    /// Refuses a request whose end is unknown, so no other can follow.
    pub(crate) fn refuse_and_close(&mut self, conn: &TcpConnection, status: Status) {
        if let Receiving::Discarded(_) = std::mem::take(&mut self.receiving) {
            // The request has a response.
            conn.close_gracefully(LINGER);
            return;
        }
        log::info!("{}: {} {}", conn.peer_address(), status.0, status.phrase());
        // No content: the method may be HEAD.
        let head =
            Head::new(status, self.site.now(conn).0).field("Content-Length", 0).end(Persistence::Close);
        // If it cannot be sent, the connection is closing.
        let _ = conn.send(head);
        conn.close_gracefully(LINGER);
    }

    /// Whether a body is incomplete.
    fn is_receiving(&self) -> bool {
        match &self.receiving {
            Receiving::Nothing => false,
            Receiving::Discarded(_) => true,
            Receiving::Upload(upload) => !upload.is_complete,
        }
    }

    fn sent(&self, conn: &TcpConnection) -> u64 {
        self.accepted.saturating_sub(conn.unsent() as u64)
    }

    /// Limits the time that output may wait for the client.
    pub(crate) fn watch_output(&mut self, conn: &TcpConnection) {
        // It would leave after the callback anyway; now the connection knows what waits. A failure
        // closes the connection.
        let _ = conn.flush();
        if conn.unsent() > 0 && self.checked.is_none() {
            self.check_output_later(conn);
        }
    }

    fn check_output_later(&mut self, conn: &TcpConnection) {
        self.checked = Some(self.sent(conn));
        conn.set_deadline(OUTPUT_TIME);
    }
}
