//! A handler that records its calls.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use reveille::net::CloseReason;
use reveille::tls::{TlsError, TlsInfo};
use reveille::{Buffer, ConnectionHandler, TcpConnection};

/// How a connection was closed.
#[derive(Clone, Debug)]
pub(crate) struct Closed {
    /// The kind of the error, if it was closed with one.
    pub(crate) kind: Option<io::ErrorKind>,
    /// The variant of the TLS error, with its content.
    pub(crate) tls: Option<String>,
    pub(crate) text: String,
}

#[derive(Debug, Default)]
pub(crate) struct Calls {
    pub(crate) opened: Option<TlsInfo>,
    pub(crate) input: Vec<u8>,
    pub(crate) has_ended: bool,
    pub(crate) closed: Option<Closed>,
}

/// What the handler does with its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Echo,
    Record,
}

/// Records calls, and echoes the input or keeps it in the record.
#[derive(Clone)]
pub(crate) struct Recorder {
    pub(crate) calls: Rc<RefCell<Calls>>,
    mode: Mode,
}

impl Recorder {
    pub(crate) fn new(mode: Mode) -> Recorder {
        Recorder { calls: Rc::default(), mode }
    }

    /// The session, which was available when the handler was opened.
    #[track_caller]
    pub(crate) fn info(&self) -> TlsInfo {
        self.calls.borrow().opened.clone().expect("a session")
    }

    pub(crate) fn is_open(&self) -> bool {
        self.calls.borrow().opened.is_some()
    }

    #[track_caller]
    pub(crate) fn closed(&self) -> Closed {
        self.calls.borrow().closed.clone().expect("the connection is not closed")
    }
}

impl ConnectionHandler for Recorder {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.calls.borrow_mut().opened = conn.tls();
        Ok(())
    }

    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        match self.mode {
            Mode::Echo => conn.send(input.take_all())?,
            Mode::Record => self.calls.borrow_mut().input.extend_from_slice(input.take_all()),
        }
        Ok(())
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.calls.borrow_mut().has_ended = true;
        if self.mode == Mode::Echo {
            conn.shutdown();
        }
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection, reason: &CloseReason) {
        let error = match reason {
            CloseReason::Error(error) => Some(error),
            _ => None,
        };
        let tls = error.and_then(TlsError::of).map(|error| format!("{error:?}"));
        let kind = error.map(io::Error::kind);
        self.calls.borrow_mut().closed = Some(Closed { kind, tls, text: reason.to_string() });
    }
}
