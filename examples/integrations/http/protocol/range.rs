//! The field Range (RFC 9110, section 14).

/// The part of a file that a response contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selected {
    /// The whole file. Also for an invalid field, and for one with several ranges: a server may
    /// ignore the field.
    Whole,
    /// From the first to the last byte, inclusive.
    Part { first: u64, last: u64 },
    /// No byte of the file is in the range.
    Nothing,
}

/// Returns what the value of a field Range selects of a file of this length.
pub(crate) fn select(range: &[u8], length: u64) -> Selected {
    let Some((unit, range)) = range.split_at_checked(6) else { return Selected::Whole };
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return Selected::Whole;
    }
    let range = range.trim_ascii();
    let Some(dash) = range.iter().position(|&byte| byte == b'-') else { return Selected::Whole };
    let (first, last) = (&range[..dash], &range[dash + 1..]);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => Selected::Whole,
        (Some(first), _) if first >= length && (last.is_empty() || number(last).is_some()) => {
            Selected::Nothing
        }
        (Some(first), Some(last)) => Selected::Part { first, last: last.min(length - 1) },
        (Some(first), None) if last.is_empty() => Selected::Part { first, last: length - 1 },
        // The last bytes.
        (None, Some(0)) if first.is_empty() => Selected::Nothing,
        // All of an empty file, for which there is no partial response.
        (None, Some(_)) if first.is_empty() && length == 0 => Selected::Whole,
        (None, Some(count)) if first.is_empty() => {
            Selected::Part { first: length.saturating_sub(count), last: length - 1 }
        }
        _ => Selected::Whole,
    }
}

/// A number of any length; one that is too large for a position in a file is the largest.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, value))
}
