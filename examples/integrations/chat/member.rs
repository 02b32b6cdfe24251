//! A guest, apart from the connection: a name, a room, and commands.

use std::cell::Cell;
use std::fmt::Display;
use std::io;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use reveille::net::{CloseReason, SendError};
use reveille::{ConnectionHandle, TcpConnection};

use crate::browser::Browser;
use crate::command::{Command, HELP};
use crate::hub::{Format, Hub};
use crate::lines::LineGuest;
use crate::names::{Refused, is_name};
use crate::outbox::ClaimReply;
use crate::pace::Pace;
use crate::rooms::LOBBY;

/// The names that `/who` shows.
const MOST_SHOWN: usize = 50;

/// The totals of all loops.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) guests: AtomicU64,
    pub(crate) lines: AtomicU64,
    pub(crate) removed: AtomicU64,
}

/// The counts of one loop. Added to the totals when the loop ends.
pub(crate) struct Counts {
    pub(crate) totals: Arc<Totals>,
    pub(crate) guests: Cell<u64>,
    pub(crate) lines: Cell<u64>,
    pub(crate) removed: Cell<u64>,
}

impl Counts {
    pub(crate) fn new(totals: &Arc<Totals>) -> Rc<Counts> {
        let zero = Cell::default;
        Rc::new(Counts { totals: Arc::clone(totals), guests: zero(), lines: zero(), removed: zero() })
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        self.totals.guests.fetch_add(self.guests.get(), Relaxed);
        self.totals.lines.fetch_add(self.lines.get(), Relaxed);
        self.totals.removed.fetch_add(self.removed.get(), Relaxed);
    }
}

pub(crate) struct Member {
    hub: Arc<Hub>,
    counts: Rc<Counts>,
    format: Format,
    name: String,
    room: String,
    /// A name that waits for the reply of the other processes.
    pending: Option<String>,
    pace: Pace,
}

/// How a connection continues after a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Read,
    /// The guest writes too fast, and is not read for this time.
    Wait(Duration),
    Quit,
}

/// A handler of connections that may have a member.
pub(crate) trait HasMember: 'static {
    fn member(&mut self) -> Option<&mut Member>;
}

impl Member {
    /// Enters the lobby.
    pub(crate) fn enter(
        hub: &Arc<Hub>,
        counts: &Rc<Counts>,
        conn: &TcpConnection,
        format: Format,
    ) -> io::Result<Member> {
        let (name, now) = (hub.next_guest(), conn.event_loop().now());
        counts.guests.set(counts.guests.get() + 1);
        hub.enter(conn, format, &name, None, LOBBY).map_err(|_| io::Error::other("too many rooms"))??;
        Ok(Member {
            hub: Arc::clone(hub),
            counts: Rc::clone(counts),
            format,
            name,
            room: LOBBY.to_owned(),
            pending: None,
            pace: Pace::new(now),
        })
    }

    /// Executes what the guest has written.
    pub(crate) fn on_line(&mut self, conn: &TcpConnection, line: &str) -> Result<Next, SendError> {
        self.counts.lines.set(self.counts.lines.get() + 1);
        match Command::parse(line) {
            Command::Say(text) => {
                if let Err(error) = self.hub.say(&self.room, format!("{}: {text}", self.name)) {
                    // This is not the fault of a single guest.
                    self.reply(conn, &format!("* not sent to all: {error}"))?;
                }
            }
            Command::Nick(name) => self.nick(conn, name)?,
            Command::Join(room) => self.join(conn, room)?,
            Command::Who => {
                let (number, names) = self.hub.guests(&self.room, MOST_SHOWN);
                let others = match number - names.len() {
                    0 => String::new(),
                    others => format!(" and {others} others"),
                };
                // The other processes have guests of their own.
                let place = if self.hub.outbox().is_some() { "here on this server" } else { "here" };
                self.reply(conn, &format!("* {number} {place}: {}{others}", names.join(", ")))?;
            }
            Command::Help => self.reply(conn, &format!("* {HELP}"))?,
            Command::Incomplete(what) => self.reply(conn, &format!("* {what}"))?,
            Command::Unknown => self.reply(conn, &format!("* unknown command; {HELP}"))?,
            Command::Quit => return Ok(Next::Quit),
            Command::Nothing => {}
        }
        Ok(match self.pace.count(line.len(), conn.event_loop().now()) {
            Some(delay) => Next::Wait(delay),
            None => Next::Read,
        })
    }

    /// Sends a line to this guest only.
    pub(crate) fn reply(&self, conn: &TcpConnection, line: &str) -> Result<(), SendError> {
        conn.send(self.format.encode(line))
    }

    fn join(&mut self, conn: &TcpConnection, room: &str) -> Result<(), SendError> {
        if !is_name(room) {
            return self.reply(conn, &format!("* not joined: {}", Refused::Invalid));
        }
        if room == self.room {
            return self.reply(conn, &format!("* you are {} in {room}", self.name));
        }
        match self.hub.enter(conn, self.format, &self.name, Some(&self.room), room) {
            Ok(entered) => {
                room.clone_into(&mut self.room);
                entered
            }
            Err(_) => self.reply(conn, "* not joined: there are too many rooms"),
        }
    }

    fn nick(&mut self, conn: &TcpConnection, name: &str) -> Result<(), SendError> {
        if self.pending.is_some() {
            return self.reply(conn, "* the last name is still being checked");
        }
        if name.to_lowercase() == self.name.to_lowercase() {
            return self.reply(conn, &format!("* you are {} already", self.name));
        }
        match self.hub.claim(name, self.claim_reply(conn.handle(), name)) {
            Err(Refused::Taken) => self.reply(conn, &format!("* the name {name} is taken")),
            Err(refused) => self.reply(conn, &format!("* {refused}")),
            Ok(Some(_)) => self.rename(conn, name),
            Ok(None) => {
                self.pending = Some(name.to_owned());
                Ok(())
            }
        }
    }

    /// Continues with the reply of the other processes, on the loop of the guest.
    fn claim_reply(&self, conn: ConnectionHandle, name: &str) -> ClaimReply {
        let (hub, name, format) = (Arc::clone(&self.hub), name.to_owned(), self.format);
        Box::new(move |is_free| {
            let claim = Claim { hub, name, is_free };
            // The claim ends if the call is refused, because the guest has left.
            match format {
                Format::Lines => _ = conn.with(|guest: &mut LineGuest, conn| claim.end(guest, conn)),
                Format::Messages => _ = conn.with(|guest: &mut Browser, conn| claim.end(guest, conn)),
            }
        })
    }

    fn rename(&mut self, conn: &TcpConnection, name: &str) -> Result<(), SendError> {
        self.hub.rename(&self.room, &self.name, name);
        self.hub.release(&self.name);
        name.clone_into(&mut self.name);
        // The notice to the room follows: it is a task.
        self.reply(conn, &format!("* you are {name} in {}", self.room))
    }

    /// Leaves the chat for the reason `why`.
    pub(crate) fn leave(self, conn: &TcpConnection, why: impl Display) {
        log::info!("{} {}: {why}", conn.peer_address(), self.name);
        self.remove(conn, "has left");
    }

    /// Leaves the chat because the connection has closed.
    pub(crate) fn on_close(self, conn: &TcpConnection, reason: &CloseReason) {
        if !is_full(reason) {
            return self.leave(conn, reason);
        }
        self.counts.removed.set(self.counts.removed.get() + 1);
        log::warn!("{} {}: does not read", conn.peer_address(), self.name);
        self.remove(conn, "was removed: too much is unread");
    }

    fn remove(self, conn: &TcpConnection, what: &str) {
        self.hub.leave(conn, self.format, &self.name, &self.room, what);
        self.hub.release(&self.name);
        if let Some(name) = &self.pending {
            // The reply to the claim releases it elsewhere.
            self.hub.forget(name);
        }
    }
}

/// The reply to the claim of a name.
struct Claim {
    hub: Arc<Hub>,
    name: String,
    is_free: bool,
}

impl Claim {
    fn end(mut self, handler: &mut impl HasMember, conn: &TcpConnection) -> Result<(), SendError> {
        let Some(member) = handler.member() else { return Ok(()) };
        let Some(name) = member.pending.take_if(|pending| *pending == self.name) else { return Ok(()) };
        // From here on the name is the guest's.
        if mem::take(&mut self.is_free) {
            return member.rename(conn, &name);
        }
        member.hub.forget(&name);
        member.reply(conn, &format!("* the name {name} is taken"))
    }
}

impl Drop for Claim {
    /// A name that was reserved for a guest who has left.
    fn drop(&mut self) {
        if let Some(outbox) = self.hub.outbox().filter(|_| self.is_free) {
            outbox.release(&self.name.to_lowercase());
        }
    }
}

/// Whether a connection was closed because its unsent bytes exceeded the limit.
fn is_full(reason: &CloseReason) -> bool {
    let CloseReason::Error(error) = reason else { return false };
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<SendError>());
    inner == Some(&SendError::Full)
}
