//! HTTP/1.1 (RFC 9110 and RFC 9112) without I/O: requests from bytes, and what they select.
//!
//! Each request has one interpretation, or is refused: another reader of the same bytes, such as a
//! proxy in front of the server, cannot find a different request in them.

mod body;
mod conditions;
mod head;
mod range;
mod request;
mod status;
mod target;

#[cfg(test)]
mod tests;

use reveille::codec::Decoder;

use body::BodyReader;
use head::HeadFinder;

pub(crate) use conditions::{Outcome, Validators, is_same_representation, precondition};
pub(crate) use range::{Selected, select};
pub(crate) use request::{Body, Fields, Method, Request};
pub(crate) use status::Status;
pub(crate) use target::Target;

/// The next part of a connection's input.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    Request(Request<'a>),
    /// Follows a request that has a body.
    Body {
        bytes: &'a [u8],
        is_last: bool,
    },
}

/// Decodes the requests of a connection.
#[derive(Default)]
pub(crate) struct Requests {
    finder: HeadFinder,
    /// The body that follows; `None` before a head.
    body: Option<BodyReader>,
}

impl Decoder for Requests {
    type Frame<'a> = Event<'a>;
    type Error = Status;

    fn decode<'a>(&mut self, input: &'a [u8]) -> Result<Option<(Event<'a>, usize)>, Status> {
        if let Some(body) = &mut self.body {
            let Some((bytes, taken)) = body.decode(input)? else { return Ok(None) };
            let is_last = body.is_complete();
            if is_last {
                self.body = None;
            }
            return Ok(Some((Event::Body { bytes, is_last }, taken)));
        }
        let Some((start, line_end, end)) = self.finder.find(input)? else { return Ok(None) };
        let request = Request::parse(&input[start..line_end], &input[line_end..end])?;
        self.body = BodyReader::new(request.body);
        Ok(Some((Event::Request(request), end)))
    }
}
