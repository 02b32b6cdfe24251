//! Numbers in commands and values, as memcached reads them: with leading white space and a sign,
//! and ended by white space, a zero byte or the end.

/// Returns the number at the front of `text`, as a two's complement number if it is negative.
pub(crate) fn unsigned(text: &[u8]) -> Option<u64> {
    let (is_negative, magnitude) = parse(text)?;
    let number = if is_negative { magnitude.wrapping_neg() } else { magnitude };
    // A number as large as that may be the result of a sign. Any minus sign counts.
    let text = text.split(|&byte| byte == 0).next()?;
    if number > i64::MAX as u64 && text.contains(&b'-') { None } else { Some(number) }
}

/// Returns the number at the front of `text`.
pub(crate) fn signed(text: &[u8]) -> Option<i64> {
    let (is_negative, magnitude) = parse(text)?;
    if is_negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

fn parse(text: &[u8]) -> Option<(bool, u64)> {
    let spaces = text.iter().take_while(|&&byte| is_space(byte)).count();
    let (is_negative, mut text) = match &text[spaces..] {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if !text.first()?.is_ascii_digit() {
        return None;
    }
    let mut magnitude: u64 = 0;
    while let [digit @ b'0'..=b'9', rest @ ..] = text {
        magnitude = magnitude.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
        text = rest;
    }
    match text.first() {
        Some(&after) if after != 0 && !is_space(after) => None,
        _ => Some((is_negative, magnitude)),
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}
