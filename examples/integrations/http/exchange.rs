//! A request and the connection that its response is sent on.

use std::io::IoSlice;
use std::time::SystemTime;

use reveille::TcpConnection;
use reveille::net::SendError;

use crate::clock::DATE_LENGTH;
use crate::protocol::{Method, Request, Status};
use crate::reply::{Head, Persistence};

/// A response that a connection has accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) status: Status,
    pub(crate) bytes: u64,
}

pub(crate) struct Exchange<'a> {
    pub(crate) conn: &'a TcpConnection<'a>,
    pub(crate) request: &'a Request<'a>,
    pub(crate) persistence: Persistence,
    pub(crate) date: [u8; DATE_LENGTH],
    pub(crate) time: SystemTime,
    /// The methods of the site: the value of the field Allow.
    pub(crate) allowed: &'static str,
}

impl Exchange<'_> {
    pub(crate) fn is_head(&self) -> bool {
        self.request.method == Method::Head
    }

    pub(crate) fn head(&self, status: Status) -> Head {
        Head::new(status, self.date)
    }

    /// Sends a response. `head` lacks the length of the content.
    pub(crate) fn send(&self, status: Status, head: Head, content: &[u8]) -> Result<Sent, SendError> {
        let head = if status.has_no_content() { head } else { head.field("Content-Length", content.len()) };
        let head = head.end(self.persistence);
        let content = if self.is_head() { b"" } else { content };
        self.conn.send_vectored(&[IoSlice::new(&head), IoSlice::new(content)])?;
        Ok(Sent { status, bytes: (head.len() + content.len()) as u64 })
    }

    /// Sends a response whose content is its status.
    pub(crate) fn send_status(&self, status: Status, head: Head) -> Result<Sent, SendError> {
        let text = format!("{} {}\n", status.0, status.phrase());
        self.send(status, head.field("Content-Type", "text/plain"), text.as_bytes())
    }

    /// Responds with an error.
    pub(crate) fn refuse(&self, status: Status) -> Result<Sent, SendError> {
        let head = self.head(status);
        self.send_status(status, if status == Status(405) { head.field("Allow", self.allowed) } else { head })
    }
}
