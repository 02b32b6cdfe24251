//! The rooms: their guests, and the last lines.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// The maximum number of rooms, with and without guests.
const MAX_ROOMS: usize = 1000;

/// The maximum numbers of lines and bytes that a room remembers.
pub(crate) const HISTORY_LINES: usize = 50;
const HISTORY_BYTES: usize = 16 << 10;

/// The room that guests enter first. It always exists.
pub(crate) const LOBBY: &str = "lobby";

/// All rooms have guests, so no other can be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyRooms;

#[derive(Debug)]
pub(crate) struct Rooms {
    rooms: HashMap<String, Room>,
    /// Increases with each use of a room.
    uses: u64,
}

#[derive(Debug, Default)]
struct Room {
    guests: BTreeSet<String>,
    history: VecDeque<Arc<str>>,
    /// The bytes of the history.
    bytes: usize,
    last_use: u64,
}

impl Rooms {
    pub(crate) fn new() -> Rooms {
        Rooms { rooms: HashMap::from([(LOBBY.to_owned(), Room::default())]), uses: 0 }
    }

    /// Adds a guest to a room, which is created if necessary.
    pub(crate) fn enter(&mut self, room: &str, guest: &str) -> Result<(), TooManyRooms> {
        self.room(room)?.guests.insert(guest.to_owned());
        Ok(())
    }

    pub(crate) fn leave(&mut self, room: &str, guest: &str) {
        if let Some(room) = self.rooms.get_mut(room) {
            room.guests.remove(guest);
        }
    }

    /// Remembers a line. A room without guests, such as one of another process, is created if
    /// necessary; if there are too many rooms, the line is not remembered.
    pub(crate) fn push(&mut self, room: &str, line: Arc<str>) {
        let Ok(room) = self.room(room) else { return };
        room.bytes += line.len();
        room.history.push_back(line);
        while room.history.len() > HISTORY_LINES || room.bytes > HISTORY_BYTES {
            let Some(oldest) = room.history.pop_front() else { break };
            room.bytes -= oldest.len();
        }
    }

    /// The last lines of a room, the oldest first.
    pub(crate) fn history(&self, room: &str) -> Vec<Arc<str>> {
        self.rooms.get(room).map_or(Vec::new(), |room| room.history.iter().cloned().collect())
    }

    /// The guests in a room.
    pub(crate) fn guests(&self, room: &str) -> impl ExactSizeIterator<Item = &str> {
        static EMPTY: BTreeSet<String> = BTreeSet::new();
        self.rooms.get(room).map_or(&EMPTY, |room| &room.guests).iter().map(String::as_str)
    }

    /// The rooms that have guests.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = &str> {
        self.rooms.iter().filter(|(_, room)| !room.guests.is_empty()).map(|(name, _)| name.as_str())
    }

    fn room(&mut self, name: &str) -> Result<&mut Room, TooManyRooms> {
        if !self.rooms.contains_key(name) {
            if self.rooms.len() >= MAX_ROOMS {
                self.forget_one()?;
            }
            self.rooms.insert(name.to_owned(), Room::default());
        }
        self.uses += 1;
        let room = self.rooms.get_mut(name).ok_or(TooManyRooms)?;
        room.last_use = self.uses;
        Ok(room)
    }

    /// Removes the room that has had no guest and no line for the longest time.
    fn forget_one(&mut self) -> Result<(), TooManyRooms> {
        let empty = self.rooms.iter().filter(|(name, room)| room.guests.is_empty() && *name != LOBBY);
        let oldest = empty.min_by_key(|(_, room)| room.last_use).map(|(name, _)| name.clone());
        self.rooms.remove(&oldest.ok_or(TooManyRooms)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(rooms: &Rooms, room: &str) -> Vec<String> {
        rooms.history(room).iter().map(|line| line.to_string()).collect()
    }

    #[test]
    fn a_room_remembers_the_last_lines() {
        let mut rooms = Rooms::new();
        for number in 0..HISTORY_LINES + 3 {
            rooms.push("lobby", number.to_string().into());
        }
        let expected: Vec<String> = (3..HISTORY_LINES + 3).map(|number| number.to_string()).collect();
        assert_eq!(said(&rooms, "lobby"), expected);
        assert!(rooms.history("garden").is_empty());
    }

    #[test]
    fn the_bytes_of_a_history_are_limited() {
        let mut rooms = Rooms::new();
        let line = |letter: &str| -> Arc<str> { letter.repeat(HISTORY_BYTES / 2).into() };
        for letter in ["a", "b", "c"] {
            rooms.push("lobby", line(letter));
        }
        assert_eq!(rooms.history("lobby"), [line("b"), line("c")]);
        rooms.push("lobby", "x".repeat(HISTORY_BYTES + 1).into());
        assert!(rooms.history("lobby").is_empty());
        assert_eq!(rooms.rooms["lobby"].bytes, 0);
    }

    #[test]
    fn the_empty_room_that_was_used_least_recently_is_forgotten() {
        let mut rooms = Rooms::new();
        rooms.enter("full", "ann").unwrap();
        // With the lobby, which was never used, these are all.
        for number in 2..MAX_ROOMS {
            rooms.push(&format!("room{number}"), "hello".into());
        }
        rooms.push("room2", "again".into());
        rooms.enter("new", "ben").unwrap();
        assert_eq!(rooms.rooms.len(), MAX_ROOMS);
        assert!(said(&rooms, "room3").is_empty());
        assert_eq!(said(&rooms, "room2"), ["hello", "again"]);
        assert!(rooms.rooms.contains_key(LOBBY));
        assert_eq!(rooms.guests("full").collect::<Vec<_>>(), ["ann"]);
    }

    #[test]
    fn no_room_with_guests_is_forgotten() {
        let mut rooms = Rooms::new();
        for number in 1..MAX_ROOMS {
            rooms.enter(&format!("room{number}"), "ann").unwrap();
        }
        assert_eq!(rooms.enter("another", "ann"), Err(TooManyRooms));
        rooms.push("another", "lost".into());
        assert_eq!(rooms.rooms.len(), MAX_ROOMS);
        rooms.leave("room7", "ann");
        assert_eq!(rooms.occupied().count(), MAX_ROOMS - 2);
        assert_eq!(rooms.enter("another", "ann"), Ok(()));
        assert!(!rooms.rooms.contains_key("room7"));
    }
}
