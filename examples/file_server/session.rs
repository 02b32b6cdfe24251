//! The requests of a connection, which are served one after the other.

use std::io;
use std::rc::Rc;

use reveille::TcpConnection;
use reveille::codec::{FrameError, FrameHandler, LineCodec, LineError};
use reveille::net::CloseReason;

use super::service::{GRACE, Service};
use super::transfer::Transfer;

/// One connection.
pub(crate) struct Session {
    pub(crate) service: Rc<Service>,
    /// The last transfer, completed or not.
    pub(crate) transfer: Option<Rc<Transfer>>,
}

impl FrameHandler<LineCodec> for Session {
    fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
        let Some(name) = line.strip_prefix(b"GET ") else {
            conn.send("ERR invalid request\n")?;
            return Ok(());
        };
        match self.service.path_of(name) {
            None => {
                conn.send("ERR invalid file name\n")?;
            }
            Some(path) => {
                // If the previous file could not be sent completely, reading has been resumed.
                if let Some(transfer) = self.transfer.take() {
                    transfer.end();
                }
                // The next request waits, mostly in the kernel, until this one is served.
                conn.pause_reading();
                self.transfer = Some(Transfer::begin(&self.service, conn.handle(), path));
            }
        }
        Ok(())
    }

    fn on_frame_error(&mut self, conn: &TcpConnection, error: FrameError<LineError>) -> io::Result<()> {
        match error {
            FrameError::Malformed(_) => conn.send("ERR the file name is too long\n")?,
            FrameError::TimedOut { .. } => conn.send("ERR the request is incomplete\n")?,
            _ => {}
        }
        conn.close_gracefully(GRACE);
        Ok(())
    }

    fn on_high_water(&mut self, _conn: &TcpConnection, _unsent: usize) -> io::Result<()> {
        if let Some(transfer) = &self.transfer {
            transfer.set_paused(true);
        }
        Ok(())
    }

    fn on_low_water(&mut self, _conn: &TcpConnection) -> io::Result<()> {
        if let Some(transfer) = &self.transfer {
            transfer.set_paused(false);
        }
        Ok(())
    }

    /// The time limit of the last file has passed.
    fn on_deadline(&mut self, conn: &TcpConnection) -> io::Result<()> {
        if conn.unsent() > 0 || self.transfer.as_ref().is_some_and(|transfer| !transfer.is_done()) {
            log::info!("{}: reads too slowly", conn.peer_address());
            conn.close();
        }
        Ok(())
    }

    /// The grace period is over. The reset signals to the client that the file is incomplete.
    fn on_stop(&mut self, conn: &TcpConnection) -> io::Result<()> {
        if self.transfer.as_ref().is_some_and(|transfer| !transfer.is_done()) {
            conn.close();
        }
        Ok(())
    }

    fn on_close(&mut self, _conn: &TcpConnection, _reason: &CloseReason) {
        if let Some(transfer) = self.transfer.take() {
            transfer.end();
        }
    }
}
