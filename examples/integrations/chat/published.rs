//! The messages that the processes publish for each other, and which of them were missed.
//!
//! A message is one line: `ORIGIN NUMBER KIND ROOM TEXT`. Each process numbers its lines, so the
//! others notice a gap. A message without a line has the number of the last line: it shows a gap at
//! the end, and introduces a process.

use std::collections::HashMap;

use crate::command::printable;
use crate::names::is_name;

/// The longest text that is accepted from another process.
const LONGEST_TEXT: usize = 4096;

/// The maximum number of processes that are remembered.
const MAX_ORIGINS: usize = 1000;

/// Identifies a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin(pub(crate) u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) origin: Origin,
    /// The number of this line, or of the last one.
    pub(crate) number: u64,
    pub(crate) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// What a guest has said; remembered by the room.
    Said { room: String, text: String },
    /// Another line for a room.
    Notice { room: String, text: String },
    /// The process has subscribed, and wants to know the numbers of the others.
    Hello,
    /// No line.
    Number,
}

impl Published {
    pub(crate) fn encode(&self) -> String {
        let (kind, room, text) = match &self.content {
            Content::Said { room, text } => ("said", room.as_str(), text.as_str()),
            Content::Notice { room, text } => ("notice", room.as_str(), text.as_str()),
            Content::Hello => ("hello", "-", ""),
            Content::Number => ("number", "-", ""),
        };
        format!("{:016x} {} {kind} {room} {text}", self.origin.0, self.number)
    }

    /// Returns `None` for what is not a message of this program: any client can publish.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Published> {
        let mut fields = std::str::from_utf8(bytes).ok()?.splitn(5, ' ');
        let mut field = || fields.next();
        let (origin, number, kind, room, text) = (field()?, field()?, field()?, field()?, field()?);
        let origin = Some(origin).filter(|origin| origin.len() == 16)?;
        let line = || {
            let is_valid = is_name(room) && !text.is_empty() && text.len() <= LONGEST_TEXT;
            is_valid.then(|| (room.to_owned(), printable(text)))
        };
        let content = match kind {
            "said" => line().map(|(room, text)| Content::Said { room, text })?,
            "notice" => line().map(|(room, text)| Content::Notice { room, text })?,
            "hello" => Content::Hello,
            "number" => Content::Number,
            _ => return None,
        };
        Some(Published {
            origin: Origin(u64::from_str_radix(origin, 16).ok()?),
            number: number.parse().ok()?,
            content,
        })
    }

    fn is_line(&self) -> bool {
        matches!(self.content, Content::Said { .. } | Content::Notice { .. })
    }
}

/// What a message shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The number of lines before it that have not arrived.
    pub(crate) missed: u64,
    /// Whether it was received before.
    pub(crate) is_repeated: bool,
}

/// The last number of each process.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    last: HashMap<Origin, Last>,
    received: u64,
}

#[derive(Debug)]
struct Last {
    number: u64,
    /// The count of all messages when this one was received.
    received: u64,
}

impl Numbers {
    /// Records a message. The first one of a process shows no gap: what was published before this
    /// process subscribed was not for it.
    pub(crate) fn observe(&mut self, message: &Published) -> Observed {
        self.received += 1;
        let first = message.number.saturating_sub(u64::from(message.is_line()));
        if !self.last.contains_key(&message.origin) && self.last.len() >= MAX_ORIGINS {
            let silent = self.last.iter().min_by_key(|(_, last)| last.received).map(|(origin, _)| *origin);
            silent.map(|silent| self.last.remove(&silent));
        }
        let received = self.received;
        let last = self.last.entry(message.origin).or_insert(Last { number: first, received });
        last.received = received;
        let is_repeated = message.is_line() && message.number <= last.number;
        let missed = first.saturating_sub(last.number);
        last.number = last.number.max(message.number);
        Observed { missed, is_repeated }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(origin: u64, number: u64) -> Published {
        let content = Content::Said { room: "lobby".to_owned(), text: "ann: a b".to_owned() };
        Published { origin: Origin(origin), number, content }
    }

    fn number(origin: u64, number: u64) -> Published {
        Published { origin: Origin(origin), number, content: Content::Number }
    }

    #[test]
    fn messages_are_decoded_as_they_were_encoded() {
        let notice = Content::Notice { room: "gärten".to_owned(), text: "* ann has left".to_owned() };
        for content in [said(0, 0).content, notice, Content::Hello, Content::Number] {
            let message = Published { origin: Origin(0xfedc), number: u64::MAX, content };
            assert_eq!(Published::decode(message.encode().as_bytes()), Some(message));
        }
    }

    #[test]
    fn other_messages_are_refused() {
        let valid = "000000000000fedc 1 said lobby text";
        assert!(Published::decode(valid.as_bytes()).is_some());
        for (part, replacement) in [
            ("000000000000fedc", "fedc"),
            ("000000000000fedc", "00000000000gfedc"),
            (" 1 ", " -1 "),
            (" 1 ", " 18446744073709551616 "),
            ("said", "shouted"),
            ("lobby", "a/b"),
            ("lobby", ""),
            (" text", " "),
            (" text", ""),
            (" text", &format!(" {}", "x".repeat(LONGEST_TEXT + 1))),
        ] {
            let message = valid.replacen(part, replacement, 1);
            assert_eq!(Published::decode(message.as_bytes()), None, "{message:?}");
        }
        assert_eq!(Published::decode(b"\xff"), None);
        assert_eq!(Published::decode(b""), None);
    }

    #[test]
    fn control_characters_of_another_client_are_replaced() {
        let message = Published::decode(b"000000000000fedc 1 said lobby a\nb\x1b[0m").unwrap();
        assert_eq!(message.content, Content::Said { room: "lobby".to_owned(), text: "a b [0m".to_owned() });
    }

    #[test]
    fn gaps_are_counted_for_each_process() {
        let mut numbers = Numbers::default();
        let mut missed = |message: Published| numbers.observe(&message).missed;
        assert_eq!(missed(said(1, 100)), 0);
        assert_eq!(missed(said(1, 101)), 0);
        assert_eq!(missed(number(2, 7)), 0);
        assert_eq!(missed(said(2, 8)), 0);
        assert_eq!(missed(said(1, 105)), 3);
        assert_eq!(missed(said(1, 106)), 0);
        // A gap at the end.
        assert_eq!(missed(number(2, 10)), 2);
        assert_eq!(missed(number(2, 10)), 0);
        assert_eq!(missed(said(2, 11)), 0);
    }

    #[test]
    fn a_repeated_line_is_recognized() {
        let mut numbers = Numbers::default();
        let mut repeated = |message: Published| numbers.observe(&message).is_repeated;
        assert!(!repeated(said(1, 1)));
        assert!(repeated(said(1, 1)));
        assert!(!repeated(number(1, 1)));
        assert!(!repeated(said(1, 2)));
        assert!(repeated(said(1, 1)));
    }

    #[test]
    fn the_process_that_was_silent_longest_is_forgotten() {
        let mut numbers = Numbers::default();
        for origin in 0..MAX_ORIGINS as u64 {
            numbers.observe(&said(origin, 1));
        }
        numbers.observe(&said(0, 2));
        numbers.observe(&said(u64::MAX, 1));
        assert_eq!(numbers.last.len(), MAX_ORIGINS);
        assert_eq!(numbers.observe(&said(0, 9)).missed, 6);
        // Forgotten, so its number is the first one.
        assert_eq!(numbers.observe(&said(1, 9)).missed, 0);
    }
}
