//! Conditional requests (RFC 9110, section 13).

use std::time::{Duration, SystemTime};

use super::{Fields, Method};

/// A file may change again within this time without a visible change of its time of modification.
const CLOCK_STEP: Duration = Duration::from_secs(2);

/// What identifies a version of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Validators {
    /// The characters between the quotes of the ETag.
    pub(crate) tag: String,
    pub(crate) modified: SystemTime,
}

/// The result of the conditions of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Proceed,
    /// 304: the client has this version.
    NotModified,
    /// 412.
    Failed,
}

impl Validators {
    /// Whether each change of the file changes the validators.
    pub(crate) fn is_strong(&self, now: SystemTime) -> bool {
        now.duration_since(self.modified).is_ok_and(|age| age >= CLOCK_STEP)
    }
}

/// Evaluates the conditions in the order of RFC 9110, section 13.2.2. `current` is `None` if there
/// is no file.
pub(crate) fn precondition(
    method: Method,
    fields: &Fields<'_>,
    current: Option<&Validators>,
    now: SystemTime,
) -> Outcome {
    let reads = matches!(method, Method::Get | Method::Head);
    let modified = current.map(|current| seconds(current.modified));
    if !fields.if_match.is_empty() {
        let strong = current.filter(|current| current.is_strong(now));
        let is_any = current.is_some() && fields.if_match.iter().any(|list| list.trim_ascii() == b"*");
        if !is_any && !strong.is_some_and(|current| lists(&fields.if_match, &current.tag, Compare::Strong)) {
            return Outcome::Failed;
        }
    } else if let Some(since) = date(fields.if_unmodified_since) {
        if modified.is_none_or(|modified| modified > since) {
            return Outcome::Failed;
        }
    }
    if !fields.if_none_match.is_empty() {
        let is_any = |list: &&[u8]| list.trim_ascii() == b"*";
        let matches = current.is_some_and(|current| {
            fields.if_none_match.iter().any(is_any)
                || lists(&fields.if_none_match, &current.tag, Compare::Weak)
        });
        match matches {
            true if reads => return Outcome::NotModified,
            true => return Outcome::Failed,
            false => {}
        }
    } else if let (Some(since), Some(modified)) = (date(fields.if_modified_since), modified) {
        if reads && modified <= since {
            return Outcome::NotModified;
        }
    }
    Outcome::Proceed
}

/// Whether the field If-Range permits a partial response: the client's part is of this version.
/// This needs a strong validator, since parts of two versions must not be combined.
pub(crate) fn is_same_representation(if_range: Option<&[u8]>, current: &Validators, now: SystemTime) -> bool {
    let Some(value) = if_range else { return true };
    if !current.is_strong(now) {
        return false;
    }
    match value.first() {
        Some(b'"') => {
            value.strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\"")) == Some(current.tag.as_bytes())
        }
        _ => date(if_range) == Some(seconds(current.modified)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Compare {
    /// Weak tags match nothing.
    Strong,
    Weak,
}

/// Whether one of the lists contains the tag. A list is read up to its first invalid element.
fn lists(values: &[&[u8]], tag: &str, compare: Compare) -> bool {
    values.iter().any(|value| {
        let mut rest = *value;
        loop {
            while let [b' ' | b'\t' | b',', after @ ..] = rest {
                rest = after;
            }
            let (is_weak, quoted) = match rest.strip_prefix(b"W/") {
                Some(quoted) => (true, quoted),
                None => (false, rest),
            };
            let Some(text) = quoted.strip_prefix(b"\"") else { return false };
            let Some(end) = text.iter().position(|&byte| byte == b'"') else { return false };
            if text[..end] == *tag.as_bytes() && !(is_weak && compare == Compare::Strong) {
                return true;
            }
            rest = &text[end + 1..];
        }
    })
}

/// Parses a date in one of the three formats; an invalid one is ignored.
fn date(value: Option<&[u8]>) -> Option<u64> {
    let text = std::str::from_utf8(value?).ok()?;
    Some(seconds(httpdate::parse_http_date(text).ok()?))
}

/// The seconds since 1970, which is the precision of dates in fields.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
