//! The binary commands.

use super::super::protocol::binary::{Operation, Rejection, Request, Status};
use super::super::table::{Mode, NewItem, Stored, Unchanged};
use super::{After, Commands, Output, VERSION, copy_or_share};

/// The expiry time of an increment that does not create an item.
const NO_INITIAL: u32 = u32::MAX;

impl Commands {
    pub(super) fn binary(&self, now: u32, request: &Request<'_>, output: &mut impl Output) -> After {
        if let Some(Rejection { status, closes }) = request.rejection {
            // The item that the value was to replace must not stay.
            if status == Status::TooLarge && request.operation == Operation::Set {
                let _ = self.table.delete(now, request.key, 0);
            }
            report(request, status, output.bytes());
            return if closes { After::Close } else { After::Continue };
        }
        let table = &self.table;
        let (status, body, cas): (Status, &[u8], u64) = match request.operation {
            Operation::Get
            | Operation::GetKey
            | Operation::Touch
            | Operation::GetAndTouch
            | Operation::GetKeyAndTouch => {
                self.binary_get(now, request, output);
                return After::Continue;
            }
            Operation::Set => self.binary_store(now, request, Mode::Set),
            Operation::Add => self.binary_store(now, request, Mode::Add),
            Operation::Replace => self.binary_store(now, request, Mode::Replace),
            Operation::Append => self.binary_store(now, request, Mode::Append),
            Operation::Prepend => self.binary_store(now, request, Mode::Prepend),
            Operation::Delete => match table.delete(now, request.key, request.cas) {
                Ok(()) => (Status::Success, b"", 0),
                Err(reason) => (status_of(reason), b"", 0),
            },
            Operation::Increment | Operation::Decrement => match self.binary_count(now, request) {
                Ok((number, cas)) => {
                    if !request.is_quiet {
                        let bytes = output.bytes();
                        request.push_header(bytes, Status::Success, 0, 0, 8, cas);
                        bytes.extend_from_slice(&number.to_be_bytes());
                    }
                    return After::Continue;
                }
                Err(status) => (status, b"", 0),
            },
            Operation::Flush => {
                self.flush(now, request.extra_u32(0).into());
                (Status::Success, b"", 0)
            }
            Operation::Stat => {
                self.binary_stats(now, request, output.bytes());
                return After::Continue;
            }
            Operation::Version => (Status::Success, VERSION.as_bytes(), 0),
            Operation::Noop => (Status::Success, b"", 0),
            Operation::Quit => {
                if !request.is_quiet {
                    request.push_header(output.bytes(), Status::Success, 0, 0, 0, 0);
                }
                return After::Close;
            }
            // The decoder rejects them.
            Operation::SaslMechanisms | Operation::SaslAuth | Operation::Unknown => {
                (Status::UnknownCommand, b"", 0)
            }
        };
        if status != Status::Success {
            report(request, status, output.bytes());
        } else if !request.is_quiet {
            let bytes = output.bytes();
            request.push_header(bytes, status, 0, 0, body.len(), cas);
            bytes.extend_from_slice(body);
        }
        After::Continue
    }

    fn binary_get(&self, now: u32, request: &Request<'_>, output: &mut impl Output) {
        use Operation::*;
        let touches = matches!(request.operation, Touch | GetAndTouch | GetKeyAndTouch);
        let with_key = matches!(request.operation, GetKey | GetKeyAndTouch);
        let expires = touches.then(|| self.expiry(now, request.extra_u32(0).into()));
        let bytes = output.bytes();
        let key = if with_key { request.key } else { b"" };
        let found = self.table.get(now, request.key, expires, |item| {
            let mut range = item.value_range();
            if request.operation == Touch {
                range.end = range.start;
            }
            let length = range.len();
            copy_or_share(item, range, bytes, |bytes| {
                request.push_header(bytes, Status::Success, 4, key.len(), length, item.cas);
                bytes.extend_from_slice(&item.flags.to_be_bytes());
                bytes.extend_from_slice(key);
            })
        });
        match found {
            Some(Some((bytes, range))) => output.share(&bytes, range),
            Some(None) => {}
            None if request.is_quiet => {}
            None if with_key => {
                let bytes = output.bytes();
                request.push_header(bytes, Status::NotFound, 0, key.len(), 0, 0);
                bytes.extend_from_slice(key);
            }
            None => report(request, Status::NotFound, output.bytes()),
        }
    }

    fn binary_store(&self, now: u32, request: &Request<'_>, mode: Mode) -> (Status, &'static [u8], u64) {
        let is_partial = matches!(mode, Mode::Append | Mode::Prepend);
        let new = NewItem {
            key: request.key,
            value: request.value,
            flags: request.extra_u32(0),
            expires: self.expiry(now, request.extra_u32(4).into()),
            cas: request.cas,
        };
        let with_cas = if request.cas == 0 || is_partial { mode } else { Mode::Cas };
        match self.table.store(now, with_cas, &new) {
            Stored::Yes(cas) => (Status::Success, b"", cas),
            Stored::Exists => (Status::Exists, b"", 0),
            Stored::NotFound => (Status::NotFound, b"", 0),
            Stored::No => match mode {
                Mode::Add => (Status::Exists, b"", 0),
                Mode::Replace => (Status::NotFound, b"", 0),
                _ => (Status::NotStored, b"", 0),
            },
            Stored::NoMemory => (Status::OutOfMemory, b"", 0),
        }
    }

    fn binary_count(&self, now: u32, request: &Request<'_>) -> Result<(u64, u64), Status> {
        let (delta, initial) = (request.extra_u64(0), request.extra_u64(8));
        let exptime = request.extra_u32(16);
        let is_increment = request.operation == Operation::Increment;
        match self.table.count(now, request.key, delta, is_increment, request.cas) {
            Ok(counted) => Ok(counted),
            Err(Unchanged::NotFound) if exptime != NO_INITIAL => {
                let (key, value) = (request.key, initial.to_string());
                let expires = self.expiry(now, exptime.into());
                let new = NewItem { key, value: value.as_bytes(), flags: 0, expires, cas: 0 };
                match self.table.store(now, Mode::Add, &new) {
                    Stored::Yes(cas) => Ok((initial, cas)),
                    Stored::NoMemory => Err(Status::OutOfMemory),
                    _ => Err(Status::NotStored),
                }
            }
            Err(reason) => Err(status_of(reason)),
        }
    }
}

fn status_of(reason: Unchanged) -> Status {
    match reason {
        Unchanged::NotFound => Status::NotFound,
        Unchanged::Exists => Status::Exists,
        Unchanged::NotNumeric => Status::NotNumeric,
    }
}

/// Writes the response to a request that failed. Quiet requests have it too.
pub(super) fn report(request: &Request<'_>, status: Status, bytes: &mut Vec<u8>) {
    let text = status.text();
    request.push_header(bytes, status, 0, 0, text.len(), 0);
    bytes.extend_from_slice(text.as_bytes());
}
