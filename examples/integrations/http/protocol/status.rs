//! Status codes (RFC 9110, section 15).

use std::io;

/// A status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u16);

impl Status {
    pub(crate) const BAD_REQUEST: Status = Status(400);

    /// The phrase that follows the code. It has no meaning to a program.
    pub(crate) fn phrase(self) -> &'static str {
        match self.0 {
            200 => "OK",
            201 => "Created",
            204 => "No Content",
            206 => "Partial Content",
            301 => "Moved Permanently",
            304 => "Not Modified",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            409 => "Conflict",
            411 => "Length Required",
            412 => "Precondition Failed",
            413 => "Content Too Large",
            414 => "URI Too Long",
            415 => "Unsupported Media Type",
            416 => "Range Not Satisfiable",
            417 => "Expectation Failed",
            431 => "Request Header Fields Too Large",
            500 => "Internal Server Error",
            501 => "Not Implemented",
            503 => "Service Unavailable",
            505 => "HTTP Version Not Supported",
            507 => "Insufficient Storage",
            _ => "Unknown",
        }
    }

    /// Whether a response with this status has no content, whatever its method.
    pub(crate) fn has_no_content(self) -> bool {
        matches!(self.0, 204 | 304)
    }
}

impl From<Status> for io::Error {
    fn from(status: Status) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} {}", status.0, status.phrase()))
    }
}
