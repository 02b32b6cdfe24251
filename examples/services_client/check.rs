//! Verifies what a service sends, and converts it to text. Without I/O.

use std::io;
use std::time::Duration;

use super::{clock, pattern};

/// The maximum length of a piece of [`Text`].
pub(crate) const PIECE: usize = 64 * 1024;

/// The text that is sent to echo and discard, and expected from echo and chargen.
pub(crate) struct Text(Vec<u8>);

impl Text {
    pub(crate) fn new() -> Text {
        Text(pattern::text(0, pattern::PERIOD + PIECE))
    }

    /// The text from `position`, of at most [`PIECE`] bytes.
    pub(crate) fn piece(&self, position: usize, length: usize) -> &[u8] {
        let start = position % pattern::PERIOD;
        &self.0[start..start + length.min(PIECE)]
    }

    /// Verifies that `received` is the text from `position`.
    pub(crate) fn verify(&self, position: usize, received: &[u8]) -> io::Result<()> {
        let mut at = position;
        for part in received.chunks(PIECE) {
            let expected = self.piece(at, part.len());
            if let Some(wrong) = part.iter().zip(expected).position(|(one, other)| one != other) {
                return Err(invalid(format!("byte {} is wrong", at + wrong)));
            }
            at += part.len();
        }
        Ok(())
    }

    /// Verifies a datagram of chargen, which begins with any line of the text.
    pub(crate) fn verify_lines(&self, received: &[u8]) -> io::Result<()> {
        if received.len() > 512 {
            return Err(invalid(format!("a datagram of {} bytes is longer than 512", received.len())));
        }
        let line = received.first().map_or(0, |first| usize::from(first.wrapping_sub(b' ')));
        if line >= pattern::LINES {
            return Err(invalid("byte 0 is wrong".to_owned()));
        }
        self.verify(line * pattern::LINE, received)
    }
}

pub(crate) fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// The text of a reply of daytime or qotd, without its end.
pub(crate) fn only_text(reply: &[u8]) -> io::Result<String> {
    let text = text(reply);
    if text.is_empty() { Err(invalid("the reply has no text".to_owned())) } else { Ok(text) }
}

/// The text of a reply, without its end.
pub(crate) fn text(reply: &[u8]) -> String {
    let reply = String::from_utf8_lossy(reply);
    // A terminal must not interpret it.
    let visible = |c: char| if c.is_control() && c != '\n' { '?' } else { c };
    reply.trim_end().replace("\r\n", "\n").chars().map(visible).collect()
}

/// The date in a reply of time.
pub(crate) fn date(reply: &[u8], now: u64) -> io::Result<String> {
    let length = reply.len();
    let reply = reply.try_into().map_err(|_| invalid(format!("{length} bytes instead of 4")))?;
    let seconds = seconds_of(reply, now).ok_or_else(|| invalid("the time is before 1970".to_owned()))?;
    Ok(clock::daytime(seconds))
}

/// The seconds since 1970 of a reply of time: of the times with these 32 bits, the one that is
/// nearest to `now`. `None` if it is before 1970.
pub(crate) fn seconds_of(reply: [u8; 4], now: u64) -> Option<u64> {
    let ahead = u32::from_be_bytes(reply).wrapping_sub(u32::from_be_bytes(clock::time(now))) as i32;
    now.checked_add_signed(ahead.into())
}

/// A line such as `echo: 1048576 bytes verified, 100.0 MiB/s`.
pub(crate) fn summary(what: &str, bytes: usize, done: &str, took: Duration) -> String {
    let rate = bytes as f64 / f64::from(1 << 20) / took.as_secs_f64().max(1e-9);
    format!("{what}: {bytes} bytes {done}, {rate:.1} MiB/s")
}
