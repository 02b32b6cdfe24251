//! The text commands.

use super::super::item::push_number;
use super::super::protocol::text::{GetForm, Request};
use super::super::table::{Mode, NewItem, Stored, Unchanged};
use super::{After, Commands, Output, VERSION, copy_or_share};

const END: &[u8] = b"END\r\n";

impl Commands {
    pub(super) fn text(&self, now: u32, request: &Request<'_>, output: &mut impl Output) -> After {
        let table = &self.table;
        let (reply, noreply) = match *request {
            Request::Get { key, form, is_last } => {
                self.text_get(now, key, form, output);
                if is_last {
                    output.bytes().extend_from_slice(END);
                }
                return After::Continue;
            }
            Request::EndOfKeys => ("END", false),
            Request::Store { mode, key, flags, exptime, cas, value, noreply } => {
                let expires = self.expiry(now, exptime);
                let stored = table.store(now, mode, &NewItem { key, value, flags, expires, cas });
                (text_of(stored), noreply)
            }
            Request::TooLarge { mode, key, noreply, .. } => {
                // The item that the value was to replace must not stay.
                if mode == Mode::Set {
                    let _ = table.delete(now, key, 0);
                }
                ("SERVER_ERROR object too large for cache", noreply)
            }
            Request::Touch { key, exptime, noreply } => {
                let touched = table.get(now, key, Some(self.expiry(now, exptime)), |_| ());
                (if touched.is_some() { "TOUCHED" } else { "NOT_FOUND" }, noreply)
            }
            Request::Count { key, delta, is_increment, noreply } => {
                match table.count(now, key, delta, is_increment, 0) {
                    Ok((number, _)) if !noreply => {
                        let bytes = output.bytes();
                        push_number(bytes, number);
                        bytes.extend_from_slice(b"\r\n");
                        return After::Continue;
                    }
                    Ok(_) => ("", noreply),
                    Err(Unchanged::NotFound | Unchanged::Exists) => ("NOT_FOUND", noreply),
                    Err(Unchanged::NotNumeric) => {
                        ("CLIENT_ERROR cannot increment or decrement non-numeric value", noreply)
                    }
                }
            }
            Request::Delete { key, noreply } => {
                let deleted = table.delete(now, key, 0);
                (if deleted.is_ok() { "DELETED" } else { "NOT_FOUND" }, noreply)
            }
            Request::FlushAll { delay, noreply } => {
                self.flush(now, delay);
                ("OK", noreply)
            }
            // The level of the log is that of RUST_LOG.
            Request::Verbosity { noreply } => ("OK", noreply),
            Request::Stats { name, argument } => {
                self.text_stats(now, name, argument, output.bytes());
                return After::Continue;
            }
            Request::Version => {
                output.bytes().extend_from_slice(format!("VERSION {VERSION}\r\n").as_bytes());
                return After::Continue;
            }
            Request::Quit => return After::Close,
            Request::Reply(reply) => (reply, false),
            Request::Nothing => ("", true),
        };
        if !noreply {
            let bytes = output.bytes();
            bytes.extend_from_slice(reply.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        After::Continue
    }

    fn text_get(&self, now: u32, key: &[u8], form: GetForm, output: &mut impl Output) {
        let expires = form.exptime.map(|exptime| self.expiry(now, exptime));
        let bytes = output.bytes();
        let found = self.table.get(now, key, expires, |item| {
            let from = if form.with_cas { item.value_range().start } else { 0 };
            copy_or_share(item, from..item.bytes().len(), bytes, |bytes| {
                if form.with_cas {
                    bytes.extend_from_slice(item.head());
                    bytes.push(b' ');
                    push_number(bytes, item.cas);
                    bytes.extend_from_slice(b"\r\n");
                }
            })
        });
        if let Some(Some((bytes, range))) = found {
            output.share(&bytes, range);
        }
    }
}

fn text_of(stored: Stored) -> &'static str {
    match stored {
        Stored::Yes(_) => "STORED",
        Stored::No => "NOT_STORED",
        Stored::Exists => "EXISTS",
        Stored::NotFound => "NOT_FOUND",
        Stored::NoMemory => "SERVER_ERROR out of memory storing object",
    }
}
