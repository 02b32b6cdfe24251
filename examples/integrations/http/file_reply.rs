//! The response with a file, or with what the conditions and the range of the request select of it.

use std::fs::File;

use reveille::net::SendError;

use crate::clock::DATE_LENGTH;
use crate::content_type;
use crate::exchange::{Exchange, Sent};
use crate::protocol::{Method, Outcome, Selected, Status, Validators};
use crate::protocol::{is_same_representation, precondition, select};
use crate::reply::Head;
use crate::root::FileVersion;
use std::time::SystemTime;

/// Where the content of a file is.
pub(crate) enum Content<'a> {
    Memory(&'a [u8]),
    File(File),
}

pub(crate) fn send_selected(
    exchange: &Exchange<'_>,
    path: &[u8],
    FileVersion { length, validators }: &FileVersion,
    content: Content<'_>,
) -> Result<Sent, SendError> {
    let Exchange { request, date, time, .. } = *exchange;
    let head = |status| file_head(status, date, path, validators, time);
    match precondition(request.method, &request.fields, Some(validators), time) {
        Outcome::Proceed => {}
        Outcome::NotModified => return exchange.send(Status(304), head(Status(304)), b""),
        Outcome::Failed => return exchange.refuse(Status(412)),
    }
    // Of other methods than GET, a range is ignored.
    let range = request.fields.range.filter(|_| {
        request.method == Method::Get && is_same_representation(request.fields.if_range, validators, time)
    });
    match range.map_or(Selected::Whole, |range| select(range, *length)) {
        Selected::Whole => send_part(exchange, Status(200), head(Status(200)), content, 0, *length),
        Selected::Part { first, last } => {
            let range = format!("bytes {first}-{last}/{length}");
            let head = head(Status(206)).field("Content-Range", range);
            send_part(exchange, Status(206), head, content, first, last - first + 1)
        }
        Selected::Nothing => {
            let range = format!("bytes */{length}");
            exchange.send_status(Status(416), exchange.head(Status(416)).field("Content-Range", range))
        }
    }
}

fn send_part(
    exchange: &Exchange<'_>,
    status: Status,
    head: Head,
    content: Content<'_>,
    first: u64,
    length: u64,
) -> Result<Sent, SendError> {
    match content {
        // The part is within the content.
        Content::Memory(bytes) => {
            exchange.send(status, head, &bytes[first as usize..(first + length) as usize])
        }
        Content::File(file) => {
            let head = head.field("Content-Length", length).end(exchange.persistence);
            let length = if exchange.is_head() { 0 } else { length };
            exchange.conn.send(&head)?;
            exchange.conn.send_file(file, first, length).map_err(|refused| refused.reason())?;
            Ok(Sent { status, bytes: head.len() as u64 + length })
        }
    }
}

/// The head of a response with the fields that describe a version of a file.
pub(crate) fn file_head(
    status: Status,
    date: [u8; DATE_LENGTH],
    path: &[u8],
    validators: &Validators,
    time: SystemTime,
) -> Head {
    let weak = if validators.is_strong(time) { "" } else { "W/" };
    let head = Head::new(status, date)
        .field("Last-Modified", httpdate::fmt_http_date(validators.modified))
        .field("ETag", format_args!("{weak}\"{}\"", validators.tag));
    match status.has_no_content() {
        true => head,
        false => head.field("Content-Type", content_type::of(path)).field("Accept-Ranges", "bytes"),
    }
}
