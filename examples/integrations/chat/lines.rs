//! A guest with a program such as nc: lines over TCP.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use reveille::TcpConnection;
use reveille::codec::{FrameError, FrameHandler, Framed, LineCodec, LineError};
use reveille::net::CloseReason;

use crate::hub::{Format, Hub};
use crate::member::{Counts, HasMember, Member, Next};

/// The longest line in bytes.
const LONGEST_LINE: usize = 1000;

/// The time that a guest has to complete a line.
const LINE_TIME: Duration = Duration::from_secs(60);

/// The time that a guest has to read what is sent last.
const LAST_TIME: Duration = Duration::from_secs(5);

/// One connection.
pub(crate) struct LineGuest {
    hub: Arc<Hub>,
    counts: Rc<Counts>,
    /// From the beginning of the connection until the guest leaves.
    member: Option<Member>,
}

impl LineGuest {
    pub(crate) fn framed(hub: &Arc<Hub>, counts: &Rc<Counts>) -> Framed<LineCodec, LineGuest> {
        let guest = LineGuest { hub: Arc::clone(hub), counts: Rc::clone(counts), member: None };
        Framed::new(LineCodec::new(LONGEST_LINE), guest).frame_timeout(LINE_TIME)
    }

    /// Leaves before the client closes, for the reason `why`.
    fn end(&mut self, conn: &TcpConnection, why: &str) {
        if let Some(member) = self.member.take() {
            member.leave(conn, why);
        }
        conn.close_gracefully(LAST_TIME);
    }
}

impl HasMember for LineGuest {
    fn member(&mut self) -> Option<&mut Member> {
        self.member.as_mut()
    }
}

impl FrameHandler<LineCodec> for LineGuest {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.member = Some(Member::enter(&self.hub, &self.counts, conn, Format::Lines)?);
        Ok(())
    }

    fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
        let Some(member) = &mut self.member else { return Ok(()) };
        match member.on_line(conn, &String::from_utf8_lossy(line))? {
            Next::Read => {}
            Next::Wait(delay) => {
                conn.pause_reading();
                conn.set_deadline(delay);
            }
            Next::Quit => self.end(conn, "/quit"),
        }
        Ok(())
    }

    /// The guest may write again.
    fn on_deadline(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.resume_reading();
        Ok(())
    }

    fn on_frame_error(&mut self, conn: &TcpConnection, error: FrameError<LineError>) -> io::Result<()> {
        let why = match error {
            FrameError::Incomplete { .. } => "the last line has no end and was not sent".to_owned(),
            FrameError::TimedOut { .. } => "the line was not complete in time".to_owned(),
            error => error.to_string(),
        };
        conn.send(Format::Lines.encode(&format!("* {why}")))?;
        self.end(conn, &why);
        Ok(())
    }

    fn on_stop(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.send(Format::Lines.encode("* the server ends"))?;
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection, reason: &CloseReason) {
        if let Some(member) = self.member.take() {
            member.on_close(conn, reason);
        }
    }
}
