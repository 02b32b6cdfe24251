//! A connection: executes its commands, and sends the replies of a batch together.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::mem;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reveille::codec::{FrameError, FrameHandler};
use reveille::net::{ReplySlot, SendError, ServerHandle};
use reveille::{EventLoop, TcpConnection};

use super::commands::{After, Client, CommandTable, Context, Facts};
use super::database::{Database, Millis};
use super::protocol::{Arguments, Commands, ProtocolError};
use super::reply::Reply;

/// The connection pauses at this number of unsent bytes.
pub(crate) const HIGH_WATER: usize = 1 << 20;

/// Replies leave when there are this many bytes.
const BATCH: usize = 64 * 1024;

/// Replies of this length leave together with their memory, which is otherwise used again.
const LARGE: usize = 4 * BATCH;

/// The time that a client has to read the last replies.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the connections share. They are all on one loop.
pub(crate) struct Shared {
    commands: CommandTable,
    pub(crate) database: RefCell<Database>,
    /// The maximum length of a reply.
    max_reply: usize,
    pub(crate) server: OnceCell<ServerHandle>,
    pub(crate) executed: Cell<u64>,
    clients: Cell<u64>,
    started: Instant,
    /// The time of `started`.
    started_at: Millis,
    /// The time of the last command or expiry, as the loop has it.
    last: Cell<Instant>,
    /// The memory for the replies of the next batch, so that idle connections have none.
    spare: Cell<Vec<u8>>,
}

impl Shared {
    pub(crate) fn new(event_loop: &EventLoop, max_memory: usize) -> Shared {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (started, started_at) = (event_loop.now(), unix.as_millis() as Millis);
        let mut database = Database::new(max_memory);
        database.set_now(started_at);
        Shared {
            commands: CommandTable::new(),
            database: RefCell::new(database),
            max_reply: max_memory,
            server: OnceCell::new(),
            executed: Cell::new(0),
            clients: Cell::new(0),
            started,
            started_at,
            last: Cell::new(started),
            spare: Cell::default(),
        }
    }

    /// Gives the database the time of the loop.
    pub(crate) fn update_time(&self, event_loop: &EventLoop, database: &mut Database) {
        let now = event_loop.now();
        if self.last.replace(now) != now {
            let passed = now.saturating_duration_since(self.started);
            database.set_now(self.started_at + passed.as_millis() as Millis);
        }
    }

    fn facts(&self) -> Facts {
        let mut facts = Facts {
            executed: self.executed.get(),
            uptime: self.last.get().saturating_duration_since(self.started),
            ..Facts::default()
        };
        if let Some(server) = self.server.get() {
            facts.connections = server.open_connections();
            facts.accepted = server.counters().accepted;
            facts.port = server.local_addr().map_or(0, |address| address.port());
        }
        facts
    }
}

/// One connection.
pub(crate) struct Session {
    shared: Rc<Shared>,
    client: Client,
    /// The replies that were not sent yet.
    replies: Reply,
    /// The replies to WAIT without a time limit. They are never due.
    waiting: Vec<ReplySlot>,
}

impl Session {
    pub(crate) fn new(shared: &Rc<Shared>) -> Session {
        let id = shared.clients.get() + 1;
        shared.clients.set(id);
        let client = Client { id, ..Client::default() };
        let replies = Reply { limit: shared.max_reply, ..Reply::default() };
        Session { shared: Rc::clone(shared), client, replies, waiting: Vec::new() }
    }

    fn send_replies(&mut self, conn: &TcpConnection) -> Result<(), SendError> {
        let bytes = &mut self.replies.bytes;
        match bytes.len() {
            0 => Ok(()),
            // What the kernel does not take is queued without a copy.
            LARGE.. => conn.send_owned(mem::take(bytes)).map_err(|refused| refused.reason()),
            _ => {
                conn.send(&*bytes)?;
                bytes.clear();
                Ok(())
            }
        }
    }

    fn execute(&mut self, conn: &TcpConnection, name: &[u8], arguments: &[&[u8]]) -> After {
        let shared = &*self.shared;
        shared.executed.set(shared.executed.get() + 1);
        let mut database = shared.database.borrow_mut();
        shared.update_time(conn.event_loop(), &mut database);
        let mut context = Context {
            database: &mut database,
            reply: &mut self.replies,
            client: &mut self.client,
            facts: &|| shared.facts(),
            after: After::Continue,
        };
        shared.commands.execute(&mut context, name, arguments);
        context.after
    }

    /// Reserves the place of a reply, which delays the replies to later commands.
    fn wait(&mut self, conn: &TcpConnection, time: Option<Duration>) -> Result<(), SendError> {
        self.send_replies(conn)?;
        let reply = conn.reserve_reply()?;
        match time {
            // The timer ends with the connection.
            Some(time) => {
                conn.run_after(time, move |_: &mut Session, _| {
                    reply.fill(":0\r\n").map_err(|refused| refused.reason())
                });
            }
            None => self.waiting.push(reply),
        }
        Ok(())
    }
}

impl FrameHandler<Commands> for Session {
    fn on_frame(&mut self, conn: &TcpConnection, arguments: Arguments<'_>) -> io::Result<()> {
        if self.replies.bytes.capacity() == 0 {
            self.replies.bytes = self.shared.spare.take();
        }
        let after = arguments.with(|arguments| match arguments {
            // An empty line or array.
            [] => After::Continue,
            [name, arguments @ ..] => self.execute(conn, name, arguments),
        });
        if self.replies.is_too_long {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the reply is longer than the limit of memory",
            ));
        }
        if self.replies.bytes.len() >= BATCH {
            self.send_replies(conn)?;
        }
        match after {
            After::Continue => {}
            After::Wait(time) => self.wait(conn, time)?,
            After::Close => {
                self.send_replies(conn)?;
                conn.close_gracefully(CLOSE_TIMEOUT);
            }
        }
        Ok(())
    }

    fn on_batch_end(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.send_replies(conn)?;
        let bytes = mem::take(&mut self.replies.bytes);
        // The memory of a large reply must not stay allocated.
        if bytes.capacity() <= 2 * BATCH {
            self.shared.spare.set(bytes);
        }
        Ok(())
    }

    fn on_frame_error(&mut self, conn: &TcpConnection, error: FrameError<ProtocolError>) -> io::Result<()> {
        self.send_replies(conn)?;
        conn.send(format!("-ERR {error}\r\n"))?;
        conn.close_gracefully(CLOSE_TIMEOUT);
        Ok(())
    }
}
