//! A connection: executes its requests, and sends the replies of a batch together.

use std::cell::Cell;
use std::io;
use std::mem;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use reveille::TcpConnection;
use reveille::codec::{FrameError, FrameHandler};
use reveille::net::SendError;

use super::commands::{After, Commands, Output};
use super::protocol::{Protocol, ProtocolError, Request};

/// The connection pauses at this number of unsent bytes.
pub(crate) const HIGH_WATER: usize = 1 << 20;

/// Replies leave when there are this many bytes.
const BATCH: usize = 64 * 1024;

/// The time that a client has to read the last replies.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the connections of a loop share.
#[derive(Clone)]
pub(crate) struct Local(Rc<Shared>);

struct Shared {
    commands: Arc<Commands>,
    /// The memory for the replies of the next batch, so that idle connections have none.
    spare: Cell<Vec<u8>>,
}

impl Local {
    pub(crate) fn new(commands: Arc<Commands>) -> Local {
        Local(Rc::new(Shared { commands, spare: Cell::default() }))
    }
}

/// One connection.
pub(crate) struct Session {
    local: Local,
    /// The replies that were not sent yet.
    replies: Vec<u8>,
}

impl Session {
    pub(crate) fn new(local: &Local) -> Session {
        Session { local: local.clone(), replies: Vec::new() }
    }

    fn send_replies(&mut self, conn: &TcpConnection) -> Result<(), SendError> {
        if !self.replies.is_empty() {
            conn.send(&self.replies)?;
            self.replies.clear();
        }
        Ok(())
    }
}

impl FrameHandler<Protocol> for Session {
    fn on_frame(&mut self, conn: &TcpConnection, request: Request<'_>) -> io::Result<()> {
        if self.replies.capacity() == 0 {
            self.replies = self.local.0.spare.take();
        }
        let shared = Rc::clone(&self.local.0);
        let now = shared.commands.clock.second(conn.event_loop().now());
        let mut output = Replies { conn, bytes: mem::take(&mut self.replies), result: Ok(()) };
        let after = shared.commands.execute(now, &request, &mut output);
        output.result?;
        self.replies = output.bytes;
        if self.replies.len() >= BATCH {
            self.send_replies(conn)?;
        }
        if after == After::Close {
            self.send_replies(conn)?;
            conn.close_gracefully(CLOSE_TIMEOUT);
        }
        Ok(())
    }

    fn on_batch_end(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.send_replies(conn)?;
        let replies = mem::take(&mut self.replies);
        // A reply about all counters, or a large batch, must not stay allocated.
        if replies.capacity() <= 2 * BATCH {
            self.local.0.spare.set(replies);
        }
        Ok(())
    }

    fn on_frame_error(&mut self, conn: &TcpConnection, _: FrameError<ProtocolError>) -> io::Result<()> {
        self.send_replies(conn)?;
        conn.close_gracefully(CLOSE_TIMEOUT);
        Ok(())
    }
}

/// The output of one request.
struct Replies<'a> {
    conn: &'a TcpConnection<'a>,
    bytes: Vec<u8>,
    result: Result<(), SendError>,
}

impl Output for Replies<'_> {
    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    fn share(&mut self, bytes: &Arc<[u8]>, range: Range<usize>) {
        let conn = self.conn;
        self.result = self.result.and_then(|()| {
            if !self.bytes.is_empty() {
                conn.send(&self.bytes)?;
                self.bytes.clear();
            }
            if range.len() == bytes.len() { conn.send_shared(bytes) } else { conn.send(&bytes[range]) }
        });
    }
}
