//! A connection: passes its requests to the schedule.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use reveille::TcpConnection;
use reveille::codec::{FrameError, FrameHandler, LineCodec, LineError};
use reveille::net::CloseReason;

use super::request::{Error, Request};
use super::schedule::{Job, Schedule};

pub(crate) struct Session {
    schedule: Arc<Schedule>,
}

impl Session {
    pub(crate) fn new(schedule: Arc<Schedule>) -> Session {
        schedule.totals.connections.fetch_add(1, Relaxed);
        Session { schedule }
    }
}

impl FrameHandler<LineCodec> for Session {
    fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
        match Request::parse(line) {
            // It leaves after the replies that are reserved.
            Err(error) => conn.send(error.reply())?,
            Ok(request) => {
                let (slot, event_loop) = (conn.reserve_reply()?, conn.event_loop().handle());
                self.schedule.add(conn.id(), Job { request, slot, event_loop });
            }
        }
        Ok(())
    }

    /// Earlier requests still get their replies. The rest of the input is discarded.
    fn on_frame_error(&mut self, conn: &TcpConnection, error: FrameError<LineError>) -> io::Result<()> {
        let error = if let FrameError::Malformed(_) = error { Error::TooLong } else { Error::Incomplete };
        conn.send(error.reply())?;
        conn.shutdown_after_work();
        Ok(())
    }

    fn on_idle(&mut self, conn: &TcpConnection) -> io::Result<()> {
        if !self.schedule.has(conn.id()) {
            conn.close();
        }
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection, reason: &CloseReason) {
        log::info!("{}: closed: {reason:?}", conn.peer_address());
        self.schedule.remove(conn.id());
    }
}
