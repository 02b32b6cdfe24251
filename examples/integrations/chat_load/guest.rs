//! A connection of the load.

use std::io;
use std::rc::Rc;

use reveille::TcpConnection;
use reveille::codec::{FrameHandler, LineCodec};
use reveille::net::CloseReason;

use crate::load::Load;

/// What precedes the fields of a line.
const MARK: &str = ": @";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Reader,
    /// Does not read once it is in the room.
    Silent,
}

pub(crate) struct Guest {
    pub(crate) load: Rc<Load>,
    pub(crate) role: Role,
    /// The first guest observes the notices.
    pub(crate) is_first: bool,
    is_in_room: bool,
    /// The number of lines received from each sender.
    received: Vec<u64>,
}

impl Guest {
    pub(crate) fn new(load: &Rc<Load>, role: Role, is_first: bool) -> Guest {
        Guest { load: Rc::clone(load), role, is_first, is_in_room: false, received: vec![0; load.senders] }
    }

    /// A line that is sent, without its end.
    pub(crate) fn line(sender: usize, number: u64, microseconds: u64, size: usize) -> String {
        let mut line = format!("@{sender} {number} {microseconds} ");
        line.extend(std::iter::repeat_n('x', size.saturating_sub(line.len())));
        line
    }

    fn on_line(&mut self, sender: usize, number: u64, sent_at: u64) {
        let Some(received) = self.received.get_mut(sender) else { return };
        *received += 1;
        self.load.record(number == *received, sent_at);
    }
}

impl FrameHandler<LineCodec> for Guest {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.send(format!("/join {}\n", self.load.room))?;
        Ok(())
    }

    fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
        let line = String::from_utf8_lossy(line);
        if let Some((_, fields)) = line.split_once(MARK).filter(|(name, _)| !name.starts_with('*')) {
            if let Some([sender, number, sent_at]) = parse(fields) {
                self.on_line(sender as usize, number, sent_at);
            }
        } else if !self.is_in_room
            && line.starts_with("* you are ")
            && line.ends_with(&format!(" in {}", self.load.room))
        {
            self.is_in_room = true;
            if self.role == Role::Silent {
                conn.pause_reading();
            }
            self.load.on_entered(conn.event_loop());
        } else if self.is_first && line.contains(" was removed: ") {
            self.load.removed.set(self.load.removed.get() + 1);
        }
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection, reason: &CloseReason) {
        if self.role == Role::Reader && !self.load.is_ending.get() {
            log::warn!("a guest who reads: {reason}");
            self.load.lost.set(self.load.lost.get() + 1);
        }
    }
}

/// Returns the numbers before the padding.
fn parse(fields: &str) -> Option<[u64; 3]> {
    let mut numbers = fields.split(' ').map(|field| field.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_parsed_as_it_was_written() {
        let line = Guest::line(3, 17, 123_456, 80);
        assert_eq!(line.len(), 80);
        let heard = format!("guest1{}", line.replacen('@', MARK, 1));
        let (name, fields) = heard.split_once(MARK).unwrap();
        assert_eq!((name, parse(fields)), ("guest1", Some([3, 17, 123_456])));
        assert_eq!(parse("1 2"), None);
        assert_eq!(parse("1 x 2"), None);
    }
}
