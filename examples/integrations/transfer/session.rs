//! A connection of the server.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use reveille::codec::{FrameError, FrameHandler, LineCodec, LineError};
use reveille::net::ReplySlot;
use reveille::task::Workers;
use reveille::{ConnectionHandle, TcpConnection};

use crate::checksums::{Checksums, Waiter, reply_later};
use crate::protocol::{Code, Name, Reply, Request};
use crate::root::{Listed, Root};

/// The time without progress after which a connection is closed, unless it waits for this program.
pub(crate) const IDLE: Duration = Duration::from_secs(60);

/// A client must read this many bytes in this time while output waits for it, or the rest.
const OUTPUT_TIME: Duration = Duration::from_secs(30);
const OUTPUT_STEP: u64 = 256 << 10;

/// The time for the client to receive the last reply, and to close.
const LINGER: Duration = Duration::from_secs(5);

/// What all connections share.
pub(crate) struct Service {
    pub(crate) root: Arc<Root>,
    pub(crate) checksums: Arc<Checksums>,
    /// Lists directories.
    pub(crate) workers: Workers,
    pub(crate) connections: AtomicU64,
    pub(crate) files: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

pub(crate) struct Session {
    service: Arc<Service>,
    /// The number of replies that other threads are to give.
    awaited: usize,
    /// The bytes of all replies.
    accepted: u64,
    /// How many of them had been sent when the output was last checked; `None` if no output waits.
    checked: Option<u64>,
}

impl Session {
    pub(crate) fn new(service: Arc<Service>) -> Session {
        service.connections.fetch_add(1, Relaxed);
        Session { service, awaited: 0, accepted: 0, checked: None }
    }

    /// Another thread has given a reply of this length.
    pub(crate) fn on_reply(&mut self, conn: &TcpConnection, awaited: Awaited, length: usize) {
        self.awaited -= 1;
        self.accepted += length as u64;
        self.watch_output(conn);
        // Paused by `list`.
        if awaited == Awaited::Listing {
            conn.resume_reading();
        }
    }

    fn send(&mut self, conn: &TcpConnection, reply: &Reply) -> io::Result<()> {
        let line = reply.encode();
        self.accepted += line.len() as u64;
        Ok(conn.send(line)?)
    }

    fn list(&mut self, conn: &TcpConnection, name: Name) -> io::Result<()> {
        let (slot, connection) = (conn.reserve_reply()?, conn.handle());
        let root = Arc::clone(&self.service.root);
        // One listing at a time, so a connection takes the memory of one.
        self.awaited += 1;
        conn.pause_reading();
        let waiting = Waiting { connection, slot: Some(slot) };
        let job = move || {
            let reply = listing(&root, &name);
            waiting.reply(reply);
        };
        if let Err(refused) = self.service.workers.execute(job) {
            log::warn!("a directory was not listed: {}", refused.reason());
        }
        Ok(())
    }

    fn get(&mut self, conn: &TcpConnection, name: Name, offset: u64) -> io::Result<()> {
        let (file, version) = match self.service.root.open_file(&name) {
            Ok(found) => found,
            Err(code) => return self.send(conn, &code.reply()),
        };
        let Some(left) = version.length.checked_sub(offset) else {
            return self.send(conn, &Code::OutOfRange.reply());
        };
        log::info!("{}: {} from {offset}", conn.peer_address(), name.encode());
        self.send(conn, &Reply::Data { offset, length: version.length })?;
        // The rest of the reply was announced, so an error closes the connection.
        conn.send_file(file, offset, left)?;
        self.accepted += left;
        self.service.files.fetch_add(1, Relaxed);
        self.service.bytes.fetch_add(left, Relaxed);
        match self.service.checksums.known(&version) {
            Some(sum) => self.send(conn, &Reply::Sum(sum)),
            None => {
                let waiter = Waiter { connection: conn.handle(), slot: conn.reserve_reply()? };
                self.awaited += 1;
                self.service.checksums.compute(name, version, waiter);
                Ok(())
            }
        }
    }

    fn sent(&self, conn: &TcpConnection) -> u64 {
        self.accepted.saturating_sub(conn.unsent() as u64)
    }

    /// Limits the time that output may wait for the client.
    fn watch_output(&mut self, conn: &TcpConnection) {
        if conn.unsent() > 0 && self.checked.is_none() {
            self.check_output_later(conn);
        }
    }

    fn check_output_later(&mut self, conn: &TcpConnection) {
        self.checked = Some(self.sent(conn));
        conn.set_deadline(OUTPUT_TIME);
    }
}

impl FrameHandler<LineCodec> for Session {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.send(conn, &Reply::Hello)
    }

    fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
        match Request::parse(line) {
            Ok(Request::List(name)) => self.list(conn, name),
            Ok(Request::Get { name, offset }) => self.get(conn, name, offset),
            Err(error) => {
                log::info!("{}: {error}", conn.peer_address());
                self.send(conn, &Code::BadRequest.reply())?;
                conn.close_gracefully(LINGER);
                Ok(())
            }
        }
    }

    fn on_batch_end(&mut self, conn: &TcpConnection) -> io::Result<()> {
        // A failure closes the connection.
        let _ = conn.flush();
        self.watch_output(conn);
        Ok(())
    }

    fn on_drained(&mut self, conn: &TcpConnection) -> io::Result<()> {
        if self.checked.take().is_some() {
            conn.set_deadline(None);
        }
        Ok(())
    }

    fn on_deadline(&mut self, conn: &TcpConnection) -> io::Result<()> {
        match self.checked.take() {
            // Output may wait for a checksum.
            Some(sent) if self.awaited == 0 && self.sent(conn) < sent + OUTPUT_STEP => {
                log::info!("{}: reads too slowly", conn.peer_address());
                conn.close();
            }
            Some(_) => self.check_output_later(conn),
            None => {}
        }
        Ok(())
    }

    fn on_frame_error(&mut self, conn: &TcpConnection, error: FrameError<LineError>) -> io::Result<()> {
        log::info!("{}: {error}", conn.peer_address());
        self.send(conn, &Code::BadRequest.reply())?;
        conn.close_gracefully(LINGER);
        Ok(())
    }

    fn on_idle(&mut self, conn: &TcpConnection) -> io::Result<()> {
        if self.awaited == 0 {
            conn.close();
        }
        Ok(())
    }
}

/// What another thread computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    Listing,
    Checksum,
}

/// The place of a listing. Its drop without a reply means that the job was refused.
struct Waiting {
    connection: ConnectionHandle,
    slot: Option<ReplySlot>,
}

impl Waiting {
    fn reply(mut self, reply: String) {
        if let Some(slot) = self.slot.take() {
            reply_later(&self.connection, Awaited::Listing, slot, reply);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            reply_later(&self.connection, Awaited::Listing, slot, Code::Busy.reply().encode());
        }
    }
}

/// The reply to `LIST`.
fn listing(root: &Root, name: &Name) -> String {
    match root.list(name) {
        Ok(Listed::File { length, is_executable }) => Reply::File { length, is_executable }.encode(),
        Ok(Listed::Directory(entries)) => {
            let mut reply = Reply::Directory(entries.len() as u64).encode();
            entries.iter().for_each(|entry| reply.push_str(&entry.encode()));
            reply
        }
        Err(code) => code.reply().encode(),
    }
}
