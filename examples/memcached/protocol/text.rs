//! The text protocol: command lines, some of which are followed by a value.

use super::super::item::MAX_KEY;
use super::super::numbers::{signed, unsigned};
use super::super::table::Mode;
use super::ProtocolError;
use super::tokens::Tokens;

/// The maximum length of a line. Only lines of keys may be long.
pub(crate) const LONGEST_LINE: usize = 1 << 20;

/// The maximum length of another line.
const LONGEST_COMMAND: usize = 2048;

const BAD_FORMAT: &str = "CLIENT_ERROR bad command line format";
const BAD_EXPTIME: &str = "CLIENT_ERROR invalid exptime argument";
const ERROR: &str = "ERROR";

/// A command, or one key of a command with several keys.
#[derive(Debug, PartialEq)]
pub(crate) enum Request<'a> {
    /// One key of get, gets, gat or gats.
    Get {
        key: &'a [u8],
        form: GetForm,
        is_last: bool,
    },
    /// A gat or gats without a key.
    EndOfKeys,
    Store {
        mode: Mode,
        key: &'a [u8],
        flags: u32,
        exptime: i64,
        cas: u64,
        value: &'a [u8],
        noreply: bool,
    },
    /// A value of `length` bytes, including its end, follows and is too long.
    TooLarge {
        mode: Mode,
        key: &'a [u8],
        length: usize,
        noreply: bool,
    },
    Touch {
        key: &'a [u8],
        exptime: i64,
        noreply: bool,
    },
    Count {
        key: &'a [u8],
        delta: u64,
        is_increment: bool,
        noreply: bool,
    },
    Delete {
        key: &'a [u8],
        noreply: bool,
    },
    FlushAll {
        delay: i64,
        noreply: bool,
    },
    Verbosity {
        noreply: bool,
    },
    /// With its first two arguments, which may be empty.
    Stats {
        name: &'a [u8],
        argument: &'a [u8],
    },
    Version,
    Quit,
    /// A command that gets this reply and has no other effect.
    Reply(&'static str),
    /// An error in a command without replies.
    Nothing,
}

/// What a command of the get family does with each item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct GetForm {
    pub(crate) with_cas: bool,
    /// The new expiry time.
    pub(crate) exptime: Option<i64>,
}

/// The state of a stream of commands.
#[derive(Debug)]
pub(crate) enum Decoder {
    /// The beginning of a line, of which this number of bytes has no end.
    Line { searched: usize },
    /// A line whose value is incomplete; both together have this length.
    Value { length: usize },
    /// Within a line of keys: the length of the remaining keys, and of the end after them.
    Keys { keys: usize, end: usize, form: GetForm },
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::Line { searched: 0 }
    }
}

type Decoded<'a> = Result<Option<(Request<'a>, usize)>, ProtocolError>;

impl Decoder {
    /// Decodes the request at the front of `input`. The input after a `TooLarge` has to be skipped.
    pub(crate) fn decode<'a>(&mut self, input: &'a [u8], max_value: usize) -> Decoded<'a> {
        let searched = match *self {
            Decoder::Keys { keys, end, form } => return Ok(Some(self.next_key(input, keys, end, form))),
            Decoder::Value { length } if input.len() < length => return Ok(None),
            Decoder::Value { .. } => 0,
            Decoder::Line { searched } => searched,
        };
        let Some(end) = input[searched..].iter().position(|&byte| byte == b'\n') else {
            *self = Decoder::Line { searched: input.len() };
            return if may_continue(input) { Ok(None) } else { Err(ProtocolError::LineTooLong) };
        };
        *self = Decoder::default();
        let end = searched + end;
        let line = match &input[..end] {
            [line @ .., b'\r'] if !line.is_empty() => line,
            line => line,
        };
        let after_line = end + 1;
        // memcached treats the line as a string of C.
        let line = line.split(|&byte| byte == 0).next().unwrap_or(line);
        let tokens = Tokens::of(line);
        let name = tokens.get(0);
        let request = match (name, tokens.count()) {
            (b"get" | b"gets" | b"gat" | b"gats", 2..) => {
                let form = match GetForm::of(&tokens) {
                    Ok(form) => form,
                    Err(error) => return Ok(Some((Request::Reply(error), after_line))),
                };
                let keys = after_words(line, if form.exptime.is_some() { 2 } else { 1 });
                if words(&line[keys..]).any(|key| key.len() > MAX_KEY) {
                    return Ok(Some((Request::Reply(BAD_FORMAT), after_line)));
                }
                let (request, length) =
                    self.next_key(&input[keys..], line.len() - keys, after_line - line.len(), form);
                return Ok(Some((request, keys + length)));
            }
            (b"set", 5 | 6) => return self.store(Mode::Set, input, after_line, &tokens, max_value),
            (b"add", 5 | 6) => return self.store(Mode::Add, input, after_line, &tokens, max_value),
            (b"replace", 5 | 6) => return self.store(Mode::Replace, input, after_line, &tokens, max_value),
            (b"append", 5 | 6) => return self.store(Mode::Append, input, after_line, &tokens, max_value),
            (b"prepend", 5 | 6) => return self.store(Mode::Prepend, input, after_line, &tokens, max_value),
            (b"cas", 6 | 7) => return self.store(Mode::Cas, input, after_line, &tokens, max_value),
            (b"quit", _) => Request::Quit,
            (b"version", _) => Request::Version,
            (b"stats", _) => Request::Stats { name: tokens.get(1), argument: tokens.get(2) },
            _ => {
                let noreply = tokens.last() == b"noreply";
                match simple(&tokens, noreply) {
                    Ok(request) => request,
                    Err(ERROR) if is_http(&tokens) => return Err(ProtocolError::Http),
                    Err(ERROR) => Request::Reply(ERROR),
                    Err(_) if noreply => Request::Nothing,
                    Err(error) => Request::Reply(error),
                }
            }
        };
        Ok(Some((request, after_line)))
    }

    /// Takes the next key of the remaining `keys` bytes, after which the line has `end` more.
    fn next_key<'a>(
        &mut self,
        input: &'a [u8],
        keys: usize,
        end: usize,
        form: GetForm,
    ) -> (Request<'a>, usize) {
        let mut rest = &input[..keys];
        let skip_spaces = |rest: &mut &'a [u8]| {
            let spaces = rest.iter().take_while(|&&byte| byte == b' ').count();
            *rest = &rest[spaces..];
        };
        skip_spaces(&mut rest);
        let length = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
        let (key, mut rest) = rest.split_at(length);
        skip_spaces(&mut rest);
        let is_last = rest.is_empty();
        let request = if key.is_empty() { Request::EndOfKeys } else { Request::Get { key, form, is_last } };
        if is_last {
            *self = Decoder::default();
            return (request, keys + end);
        }
        *self = Decoder::Keys { keys: rest.len(), end, form };
        (request, keys - rest.len())
    }

    /// A command with a value, which follows the line of `after_line` bytes.
    fn store<'a>(
        &mut self,
        mode: Mode,
        input: &'a [u8],
        after_line: usize,
        tokens: &Tokens<'a>,
        max_value: usize,
    ) -> Decoded<'a> {
        let noreply = tokens.last() == b"noreply";
        let parsed = || {
            let key = tokens.get(1);
            let flags = unsigned(tokens.get(2))? as u32;
            let exptime = i64::from(signed(tokens.get(3))? as i32);
            let length = usize::try_from(signed(tokens.get(4))? as i32).ok()?;
            let cas = if mode == Mode::Cas { unsigned(tokens.get(5))? } else { 0 };
            (key.len() <= MAX_KEY && length <= i32::MAX as usize - 2)
                .then_some((key, flags, exptime, length, cas))
        };
        let Some((key, flags, exptime, length, cas)) = parsed() else {
            let request = if noreply { Request::Nothing } else { Request::Reply(BAD_FORMAT) };
            return Ok(Some((request, after_line)));
        };
        if length > max_value {
            return Ok(Some((Request::TooLarge { mode, key, length: length + 2, noreply }, after_line)));
        }
        let total = after_line + length + 2;
        let Some(value) = input.get(after_line..total) else {
            *self = Decoder::Value { length: total };
            return Ok(None);
        };
        let request = match value {
            [value @ .., b'\r', b'\n'] => Request::Store { mode, key, flags, exptime, cas, value, noreply },
            _ if noreply => Request::Nothing,
            _ => Request::Reply("CLIENT_ERROR bad data chunk"),
        };
        Ok(Some((request, total)))
    }
}

impl GetForm {
    fn of(tokens: &Tokens<'_>) -> Result<GetForm, &'static str> {
        let name = tokens.get(0);
        let exptime = match name {
            b"gat" | b"gats" => Some(i64::from(signed(tokens.get(1)).ok_or(BAD_EXPTIME)? as i32)),
            _ => None,
        };
        Ok(GetForm { with_cas: name.ends_with(b"s"), exptime })
    }
}

/// A command of a fixed number of words. The error is its reply.
fn simple<'a>(tokens: &Tokens<'a>, noreply: bool) -> Result<Request<'a>, &'static str> {
    let (key, argument) = (tokens.get(1), tokens.get(2));
    let checked = |key: &'a [u8]| if key.len() > MAX_KEY { Err(BAD_FORMAT) } else { Ok(key) };
    match (tokens.get(0), tokens.count()) {
        (b"touch", 3 | 4) => {
            let key = checked(key)?;
            let exptime = i64::from(signed(argument).ok_or(BAD_EXPTIME)? as i32);
            Ok(Request::Touch { key, exptime, noreply })
        }
        (name @ (b"incr" | b"decr"), 3 | 4) => {
            let key = checked(key)?;
            let delta = unsigned(argument).ok_or("CLIENT_ERROR invalid numeric delta argument")?;
            Ok(Request::Count { key, delta, is_increment: name == b"incr", noreply })
        }
        (b"delete", count @ 2..=4) => {
            // Early clients sent a time, of which only 0 was ever useful.
            let is_valid = match count {
                2 => true,
                3 => argument == b"0" || noreply,
                _ => argument == b"0" && noreply,
            };
            if !is_valid {
                return Err("CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]");
            }
            // A key may be called noreply.
            Ok(Request::Delete { key: checked(key)?, noreply: noreply && count > 2 })
        }
        (b"flush_all", count @ 1..=3) => {
            let has_delay = count > 1 + usize::from(noreply);
            let delay = if has_delay { i64::from(signed(key).ok_or(BAD_EXPTIME)? as i32) } else { 0 };
            Ok(Request::FlushAll { delay, noreply })
        }
        (b"verbosity", 2 | 3) => {
            unsigned(key).ok_or(BAD_FORMAT)?;
            Ok(Request::Verbosity { noreply })
        }
        _ => Err(ERROR),
    }
}

/// memcached looks for HTTP only if the first word begins like no command with a common letter.
fn is_http(tokens: &Tokens<'_>) -> bool {
    let name = tokens.get(0);
    name.len() > 1 && !b"gsacidt".contains(&name[0]) && tokens.last().starts_with(b"HTTP/")
}

/// Whether an incomplete line may become a command.
fn may_continue(line: &[u8]) -> bool {
    let spaces = line.iter().take(LONGEST_COMMAND).take_while(|&&byte| byte == b' ').count();
    let is_get = line[spaces..].starts_with(b"get ") || line[spaces..].starts_with(b"gets ");
    line.len() <= LONGEST_COMMAND || (is_get && spaces <= 100 && line.len() <= LONGEST_LINE)
}

/// The length of the first `count` words of a line.
fn after_words(line: &[u8], count: usize) -> usize {
    let is_space = |byte: &u8| *byte == b' ';
    (0..count).fold(0, |at, _| {
        let word = at + line[at..].iter().take_while(|byte| is_space(byte)).count();
        word + line[word..].iter().take_while(|byte| !is_space(byte)).count()
    })
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b' ').filter(|word| !word.is_empty())
}
