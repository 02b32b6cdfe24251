//! The binary protocol: packets with a header of 24 bytes.

use super::super::item::MAX_KEY;
use super::{ProtocolError, REQUEST_MAGIC};

const HEADER: usize = 24;

/// The first byte of a response.
const RESPONSE_MAGIC: u8 = 0x81;

/// What a request does, by its opcode without its quiet form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Get,
    GetKey,
    Set,
    Add,
    Replace,
    Delete,
    Increment,
    Decrement,
    Quit,
    Flush,
    Noop,
    Version,
    Append,
    Prepend,
    Stat,
    Touch,
    GetAndTouch,
    GetKeyAndTouch,
    /// Authentication, which is not supported.
    SaslMechanisms,
    SaslAuth,
    Unknown,
}

/// Returns the operation of an opcode, and whether it is quiet.
fn operation_of(opcode: u8) -> (Operation, bool) {
    use Operation::*;
    match opcode {
        0x00 => (Get, false),
        0x01 => (Set, false),
        0x02 => (Add, false),
        0x03 => (Replace, false),
        0x04 => (Delete, false),
        0x05 => (Increment, false),
        0x06 => (Decrement, false),
        0x07 => (Quit, false),
        0x08 => (Flush, false),
        0x09 => (Get, true),
        0x0a => (Noop, false),
        0x0b => (Version, false),
        0x0c => (GetKey, false),
        0x0d => (GetKey, true),
        0x0e => (Append, false),
        0x0f => (Prepend, false),
        0x10 => (Stat, false),
        0x11 => (Set, true),
        0x12 => (Add, true),
        0x13 => (Replace, true),
        0x14 => (Delete, true),
        0x15 => (Increment, true),
        0x16 => (Decrement, true),
        0x17 => (Quit, true),
        0x18 => (Flush, true),
        0x19 => (Append, true),
        0x1a => (Prepend, true),
        0x1c => (Touch, false),
        0x1d => (GetAndTouch, false),
        0x1e => (GetAndTouch, true),
        0x20 => (SaslMechanisms, false),
        0x21 | 0x22 => (SaslAuth, false),
        0x23 => (GetKeyAndTouch, false),
        0x24 => (GetKeyAndTouch, true),
        _ => (Unknown, false),
    }
}

/// The status of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Success = 0x00,
    NotFound = 0x01,
    Exists = 0x02,
    TooLarge = 0x03,
    Invalid = 0x04,
    NotStored = 0x05,
    NotNumeric = 0x06,
    UnknownCommand = 0x81,
    OutOfMemory = 0x82,
}

impl Status {
    /// The body of a response that reports it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Status::Success => "",
            Status::NotFound => "Not found",
            Status::Exists => "Data exists for key.",
            Status::TooLarge => "Too large.",
            Status::Invalid => "Invalid arguments",
            Status::NotStored => "Not stored.",
            Status::NotNumeric => "Non-numeric server-side value for incr or decr",
            Status::UnknownCommand => "Unknown command",
            Status::OutOfMemory => "Out of memory allocating item",
        }
    }
}

/// Why a request is not performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) status: Status,
    /// The connection closes after the response.
    pub(crate) closes: bool,
}

/// A request.
#[derive(Debug, PartialEq)]
pub(crate) struct Request<'a> {
    pub(crate) operation: Operation,
    /// There is no response to a success; with the operations that get a value, none to a miss.
    pub(crate) is_quiet: bool,
    pub(crate) opcode: u8,
    pub(crate) opaque: [u8; 4],
    pub(crate) cas: u64,
    extras: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) rejection: Option<Rejection>,
    /// The number of bytes after the request that belong to it and have no meaning.
    pub(crate) skipped: usize,
}

/// Decodes the request at the front of `input`.
pub(crate) fn decode(input: &[u8], max_value: usize) -> Result<Option<(Request<'_>, usize)>, ProtocolError> {
    if input.first().is_some_and(|&magic| magic != REQUEST_MAGIC) {
        return Err(ProtocolError::NoMagic);
    }
    let Some((header, after)) = input.split_at_checked(HEADER) else { return Ok(None) };
    let opcode = header[1];
    let key_length = usize::from(u16_at(header, 2));
    let extras_length = usize::from(header[4]);
    let body_length = u32_at(header, 8) as usize;
    let (operation, is_quiet) = operation_of(opcode);
    let rejected = |status, closes| Request {
        operation,
        is_quiet,
        opcode,
        opaque: [header[12], header[13], header[14], header[15]],
        cas: u64_at(header, 16),
        extras: b"",
        key: b"",
        value: b"",
        rejection: Some(Rejection { status, closes }),
        skipped: 0,
    };
    if key_length + extras_length > body_length {
        return Ok(Some((rejected(Status::UnknownCommand, true), HEADER)));
    }
    if key_length > MAX_KEY || !is_valid(operation, key_length, extras_length, body_length) {
        return Ok(Some((rejected(Status::Invalid, true), HEADER)));
    }
    if matches!(operation, Operation::Unknown | Operation::SaslMechanisms | Operation::SaslAuth) {
        let request = Request { skipped: body_length, ..rejected(Status::UnknownCommand, false) };
        return Ok(Some((request, HEADER)));
    }
    let before_value = extras_length + key_length;
    let Some(front) = after.get(..before_value) else { return Ok(None) };
    let (extras, key) = front.split_at(extras_length);
    let request = Request { extras, key, rejection: None, ..rejected(Status::Success, false) };
    if !has_value(operation) {
        return Ok(Some((request, HEADER + before_value)));
    }
    let value_length = body_length - before_value;
    if value_length > max_value {
        let rejection = Some(Rejection { status: Status::TooLarge, closes: false });
        let request = Request { rejection, skipped: value_length, ..request };
        return Ok(Some((request, HEADER + before_value)));
    }
    let Some(value) = after.get(before_value..body_length) else { return Ok(None) };
    Ok(Some((Request { value, ..request }, HEADER + body_length)))
}

fn has_value(operation: Operation) -> bool {
    use Operation::*;
    matches!(operation, Set | Add | Replace | Append | Prepend)
}

/// Whether the parts of a request have permitted lengths.
fn is_valid(operation: Operation, key: usize, extras: usize, body: usize) -> bool {
    use Operation::*;
    let is_without_value = body == key + extras;
    match operation {
        Quit | Noop | Version | SaslMechanisms => body == 0,
        Flush => key == 0 && is_without_value && (extras == 0 || extras == 4),
        Set | Add | Replace => key > 0 && extras == 8,
        Append | Prepend => key > 0 && extras == 0,
        Get | GetKey | Delete => key > 0 && extras == 0 && is_without_value,
        Increment | Decrement => key > 0 && extras == 20 && is_without_value,
        Touch | GetAndTouch | GetKeyAndTouch => key > 0 && extras == 4 && is_without_value,
        Stat => extras == 0 && is_without_value,
        SaslAuth => extras == 0 && key > 0,
        Unknown => true,
    }
}

impl Request<'_> {
    /// The number of four bytes at an offset of the extras; 0 without it.
    pub(crate) fn extra_u32(&self, at: usize) -> u32 {
        if self.extras.len() < at + 4 { 0 } else { u32_at(self.extras, at) }
    }

    /// The number of eight bytes at an offset of the extras; 0 without it.
    pub(crate) fn extra_u64(&self, at: usize) -> u64 {
        if self.extras.len() < at + 8 { 0 } else { u64_at(self.extras, at) }
    }

    /// Appends the header of a response, whose body has these lengths.
    pub(crate) fn push_header(
        &self,
        bytes: &mut Vec<u8>,
        status: Status,
        extras: u8,
        key: usize,
        value: usize,
        cas: u64,
    ) {
        let body = usize::from(extras) + key + value;
        bytes.extend_from_slice(&[RESPONSE_MAGIC, self.opcode]);
        bytes.extend_from_slice(&(key as u16).to_be_bytes());
        bytes.extend_from_slice(&[extras, 0]);
        bytes.extend_from_slice(&(status as u16).to_be_bytes());
        bytes.extend_from_slice(&(body as u32).to_be_bytes());
        bytes.extend_from_slice(&self.opaque);
        bytes.extend_from_slice(&cas.to_be_bytes());
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) << 16 | u32::from(u16_at(bytes, at + 2))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) << 32 | u64::from(u32_at(bytes, at + 4))
}
