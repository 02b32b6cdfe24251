//! The head of a response.

use std::fmt::Display;
use std::io::Write;

use crate::clock::DATE_LENGTH;
use crate::protocol::{Request, Status};

/// Where the date is in the head of a response with status 200.
pub(crate) const DATE_AT: usize = "HTTP/1.1 200 OK\r\nDate: ".len();

/// Whether further requests may follow on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// The default of HTTP/1.1.
    KeepAlive,
    /// The client of HTTP/1.0 has to be informed.
    KeepAliveOldClient,
    Close,
}

impl Persistence {
    pub(crate) fn new(request: &Request<'_>, may_continue: bool) -> Persistence {
        match request.is_http_1_0 {
            _ if !may_continue || !request.keeps_alive => Persistence::Close,
            true => Persistence::KeepAliveOldClient,
            false => Persistence::KeepAlive,
        }
    }
}

/// Writes a head.
pub(crate) struct Head(Vec<u8>);

impl Head {
    /// Begins a head with the status line and the date.
    pub(crate) fn new(status: Status, date: [u8; DATE_LENGTH]) -> Head {
        let mut bytes = Vec::with_capacity(512);
        // Writing to a vector does not fail.
        let _ = write!(bytes, "HTTP/1.1 {} {}\r\nDate: ", status.0, status.phrase());
        bytes.extend_from_slice(&date);
        bytes.extend_from_slice(b"\r\n");
        Head(bytes)
    }

    /// Adds a field. The value contains no line end.
    pub(crate) fn field(mut self, name: &str, value: impl Display) -> Head {
        let _ = write!(self.0, "{name}: {value}\r\n");
        self
    }

    pub(crate) fn end(self, persistence: Persistence) -> Vec<u8> {
        let mut ended = match persistence {
            Persistence::KeepAlive => self,
            Persistence::KeepAliveOldClient => self.field("Connection", "keep-alive"),
            Persistence::Close => self.field("Connection", "close"),
        };
        ended.0.extend_from_slice(b"\r\n");
        ended.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_where_it_is_replaced() {
        let head = Head::new(Status(200), [b'x'; DATE_LENGTH]).end(Persistence::KeepAlive);
        assert!(head[..DATE_AT].ends_with(b": ") && head[DATE_AT..].starts_with(&[b'x'; DATE_LENGTH]));
    }
}
