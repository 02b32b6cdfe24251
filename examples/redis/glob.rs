//! Patterns of keys: `*`, `?`, `[abc]`, `[^a-z]`, and `\` before a character.

/// Whether the whole `text` matches `pattern`.
///
/// After a mismatch only the last `*` is tried with more characters, so the time is at most the
/// product of both lengths.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // What follows the last `*`, and the text that it has not taken.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            retry = Some((rest, text));
            pattern = rest;
            continue;
        }
        match (one(pattern, text.first().copied()), text.is_empty()) {
            (Some(rest), false) => {
                pattern = rest;
                text = &text[1..];
                continue;
            }
            _ if pattern.is_empty() && text.is_empty() => return true,
            _ => {}
        }
        match retry {
            Some((after, [_, rest @ ..])) => {
                retry = Some((after, rest));
                (pattern, text) = (after, rest);
            }
            _ => return false,
        }
    }
}

/// Matches one character. Returns the rest of the pattern.
fn one(pattern: &[u8], byte: Option<u8>) -> Option<&[u8]> {
    let byte = byte?;
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => class(rest, byte),
        [b'\\', escaped, rest @ ..] => (*escaped == byte).then_some(rest),
        [literal, rest @ ..] => (*literal == byte).then_some(rest),
        [] => None,
    }
}

/// Matches a character of a class, of which the opening bracket has been taken. A class that is not
/// closed ends with the pattern.
fn class(mut pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let is_negated = matches!(pattern, [b'^', ..]);
    if is_negated {
        pattern = &pattern[1..];
    }
    let mut is_found = false;
    loop {
        match pattern {
            [] => break,
            [b']', rest @ ..] => {
                pattern = rest;
                break;
            }
            [b'\\', escaped, rest @ ..] => {
                is_found |= *escaped == byte;
                pattern = rest;
            }
            [first, b'-', last, rest @ ..] => {
                is_found |= (*first.min(last)..=*first.max(last)).contains(&byte);
                pattern = rest;
            }
            [literal, rest @ ..] => {
                is_found |= *literal == byte;
                pattern = rest;
            }
        }
    }
    (is_found != is_negated).then_some(pattern)
}
