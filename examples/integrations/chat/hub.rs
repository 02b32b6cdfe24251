//! What all guests of the process share: their names, the rooms, and the groups of connections.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reveille::TcpConnection;
use reveille::net::{FullPolicy, GroupMap, SendError};

use crate::names::{GUEST, Names, Refused};
use crate::outbox::{ClaimReply, Outbox};
use crate::published::Content;
use crate::rooms::{Rooms, TooManyRooms};
use crate::socket;

/// The notice to guests while this process cannot reach the others.
pub(crate) const NOT_CONNECTED: &str = "* there is no connection with the other servers";

/// How the lines to a guest are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// With a line end.
    Lines,
    /// As messages of WebSocket.
    Messages,
}

impl Format {
    pub(crate) fn encode(self, line: &str) -> Vec<u8> {
        match self {
            Format::Lines => format!("{line}\n").into_bytes(),
            Format::Messages => socket::text(line),
        }
    }
}

pub(crate) struct Hub {
    /// The members of the rooms, by the format of their lines. A member who is full is closed, so
    /// that no other waits.
    lines: GroupMap<String>,
    messages: GroupMap<String>,
    /// Locked while lines are remembered and given to the groups, so that a guest who enters a room
    /// gets each line once: from the history, or from the group.
    state: Mutex<State>,
    outbox: Option<Outbox>,
}

struct State {
    names: Names,
    rooms: Rooms,
}

impl Hub {
    /// `outbox` leads to the other processes, if there are any.
    pub(crate) fn new(outbox: Option<Outbox>) -> Hub {
        let state = State { names: Names::default(), rooms: Rooms::new() };
        Hub {
            lines: GroupMap::new(FullPolicy::Close),
            messages: GroupMap::new(FullPolicy::Close),
            state: Mutex::new(state),
            outbox,
        }
    }

    pub(crate) fn outbox(&self) -> Option<&Outbox> {
        self.outbox.as_ref()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn group(&self, format: Format) -> &GroupMap<String> {
        match format {
            Format::Lines => &self.lines,
            Format::Messages => &self.messages,
        }
    }

    // --- Names ---

    /// The name of a new guest.
    pub(crate) fn next_guest(&self) -> String {
        let suffix = self.outbox.as_ref().map(Outbox::suffix).unwrap_or_default();
        self.state().names.next_guest(&suffix)
    }

    /// Reserves a name. With other processes `reply` gets whether none of them has it; otherwise it
    /// is returned, and the name can be used at once.
    pub(crate) fn claim(&self, name: &str, reply: ClaimReply) -> Result<Option<ClaimReply>, Refused> {
        self.state().names.claim(name)?;
        match &self.outbox {
            Some(outbox) => Ok(outbox.claim(&name.to_lowercase(), reply)),
            None => Ok(Some(reply)),
        }
    }

    /// Ends the use of a name in this process. The other processes still regard it as used.
    pub(crate) fn forget(&self, name: &str) {
        self.state().names.release(name);
    }

    /// Ends the use of a name that was chosen. Without effect for the first name of a guest.
    pub(crate) fn release(&self, name: &str) {
        self.forget(name);
        if let Some(outbox) = self.outbox.as_ref().filter(|_| !name.starts_with(GUEST)) {
            outbox.release(&name.to_lowercase());
        }
    }

    /// Changes the name of a guest to one that was reserved.
    pub(crate) fn rename(&self, room: &str, old: &str, new: &str) {
        let mut state = self.state();
        state.names.confirm(new);
        state.rooms.leave(room, old);
        // The guest is in the room, so the room exists.
        let _ = state.rooms.enter(room, new);
        self.notice(&mut state, room, format!("* {old} is now {new}"));
    }

    /// The names that this process uses.
    pub(crate) fn names(&self) -> Vec<String> {
        self.state().names.confirmed().map(str::to_owned).collect()
    }

    // --- Rooms ---

    /// Moves a guest from room `old`, if any, into room `new`: sends the history to the guest, and
    /// then all lines. The inner error is that of the connection; a guest without an old room is in
    /// no room then.
    pub(crate) fn enter(
        &self,
        conn: &TcpConnection,
        format: Format,
        guest: &str,
        old: Option<&str>,
        new: &str,
    ) -> Result<Result<(), SendError>, TooManyRooms> {
        let mut state = self.state();
        state.rooms.enter(new, guest)?;
        if let Some(old) = old {
            self.group(format).leave(old, conn.id());
            state.rooms.leave(old, guest);
            self.notice(&mut state, old, format!("* {guest} has left"));
        }
        let history = state.rooms.history(new);
        let mut greeting = Vec::new();
        if !history.is_empty() {
            greeting.extend(format.encode(&format!("* the last lines in {new}: {}", history.len())));
            greeting.extend(history.iter().flat_map(|line| format.encode(line)));
        }
        greeting.extend(format.encode(&format!("* you are {guest} in {new}")));
        if old.is_none() && self.outbox.as_ref().is_some_and(Outbox::is_lost) {
            greeting.extend(format.encode(NOT_CONNECTED));
        }
        if let Err(error) = conn.send(greeting) {
            if old.is_none() {
                state.rooms.leave(new, guest);
            }
            return Ok(Err(error));
        }
        self.group(format).join(new.to_owned(), &conn.handle());
        self.notice(&mut state, new, format!("* {guest} is in {new}"));
        Ok(Ok(()))
    }

    /// Removes a guest. `what` says what has happened.
    pub(crate) fn leave(&self, conn: &TcpConnection, format: Format, guest: &str, room: &str, what: &str) {
        let mut state = self.state();
        self.group(format).leave(room, conn.id());
        state.rooms.leave(room, guest);
        self.notice(&mut state, room, format!("* {guest} {what}"));
    }

    /// The number of guests in a room, and the first `most` names.
    pub(crate) fn guests(&self, room: &str, most: usize) -> (usize, Vec<String>) {
        let state = self.state();
        let guests = state.rooms.guests(room);
        (guests.len(), guests.take(most).map(str::to_owned).collect())
    }

    // --- Lines ---

    /// Sends a line to all guests of a room, here and elsewhere, and remembers it.
    ///
    /// # Errors
    /// A loop has too much in transit, so some guests do not get the line.
    pub(crate) fn say(&self, room: &str, text: String) -> Result<(), SendError> {
        let mut state = self.state();
        let result = self.remember(&mut state, room, &text);
        self.publish(Content::Said { room: room.to_owned(), text });
        result
    }

    /// Sends a line of another process.
    pub(crate) fn receive(&self, content: Content) -> Result<(), SendError> {
        let mut state = self.state();
        match content {
            Content::Said { room, text } => self.remember(&mut state, &room, &text),
            Content::Notice { room, text } => self.send(&room, &text),
            Content::Hello | Content::Number => Ok(()),
        }
    }

    /// Sends a line to all guests of this process.
    pub(crate) fn announce(&self, text: &str) {
        let state = self.state();
        for room in state.rooms.occupied() {
            if let Err(error) = self.send(room, text) {
                log::warn!("{room}: not sent: {error}");
            }
        }
    }

    fn remember(&self, state: &mut State, room: &str, text: &str) -> Result<(), SendError> {
        state.rooms.push(room, Arc::from(text));
        self.send(room, text)
    }

    /// The state is locked, so the other processes get the lines in the same order.
    fn notice(&self, _: &mut State, room: &str, text: String) {
        if let Err(error) = self.send(room, &text) {
            log::warn!("{room}: a notice was not sent to all: {error}");
        }
        self.publish(Content::Notice { room: room.to_owned(), text });
    }

    fn publish(&self, content: Content) {
        if let Some(outbox) = &self.outbox {
            outbox.publish(content);
        }
    }

    fn send(&self, room: &str, text: &str) -> Result<(), SendError> {
        let sent = [Format::Lines, Format::Messages]
            .map(|format| self.group(format).send(room, format.encode(text)));
        sent.into_iter().collect()
    }
}
