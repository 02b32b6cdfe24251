//! Handlers that run closures of a test and record their calls in a journal.

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use reveille::net::CloseReason;
use reveille::{Buffer, ConnectionHandler, TcpConnection};

use super::LIMIT;

/// One call of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HandlerCall {
    Open,
    /// The whole input buffer; empty if the script records no text.
    Message(String),
    Drained,
    PeerShutdown,
    Close(End),
}

/// A [`CloseReason`] that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Finished,
    Closed,
    Reset,
    DeadlinePassed,
    RelayEnded,
    Stopped,
    LoopEnded,
    MemoryLimit,
    Idle,
    TimedOut,
    ReplyDropped,
    Panicked,
    Error(io::ErrorKind, String),
}

impl From<&CloseReason> for End {
    fn from(reason: &CloseReason) -> End {
        match reason {
            CloseReason::Finished => End::Finished,
            CloseReason::Closed => End::Closed,
            CloseReason::Reset => End::Reset,
            CloseReason::DeadlinePassed => End::DeadlinePassed,
            CloseReason::RelayEnded => End::RelayEnded,
            CloseReason::Stopped => End::Stopped,
            CloseReason::LoopEnded => End::LoopEnded,
            CloseReason::MemoryLimit => End::MemoryLimit,
            CloseReason::Idle => End::Idle,
            CloseReason::TimedOut => End::TimedOut,
            CloseReason::ReplyDropped => End::ReplyDropped,
            CloseReason::Panicked => End::Panicked,
            CloseReason::Error(error) => End::Error(error.kind(), error.to_string()),
            _ => panic!("unknown reason: {reason:?}"),
        }
    }
}

pub(crate) fn message(text: &str) -> HandlerCall {
    HandlerCall::Message(text.to_owned())
}

/// The handler calls of all connections of a server, in order. Connections are numbered from 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal(Arc<Entries>);

#[derive(Debug, Default)]
struct Entries {
    /// The number of handlers created, and each call with the number of its connection.
    list: Mutex<(usize, Vec<(usize, HandlerCall)>)>,
    changed: Condvar,
}

impl Journal {
    pub(crate) fn new() -> Journal {
        Journal::default()
    }

    /// Creates a handler that records its calls in this journal. By default it echoes, and shuts
    /// down its own direction when the peer has half-closed.
    pub(crate) fn script(&self) -> Script {
        let mut list = self.0.list.lock().unwrap();
        list.0 += 1;
        Script {
            number: list.0 - 1,
            journal: self.clone(),
            terse: false,
            on_open: Box::new(|_| Ok(())),
            on_message: Box::new(|conn, input| Ok(conn.send(input.take_all())?)),
            on_drained: Box::new(|_| Ok(())),
            on_peer_shutdown: Box::new(|conn| {
                conn.shutdown();
                Ok(())
            }),
            on_close: Box::new(|_, _| ()),
        }
    }

    fn write(&self, number: usize, call: HandlerCall) {
        self.0.list.lock().unwrap().1.push((number, call));
        self.0.changed.notify_all();
    }

    /// Returns the calls for connection `number` so far.
    pub(crate) fn of(&self, number: usize) -> Vec<HandlerCall> {
        let list = self.0.list.lock().unwrap();
        list.1.iter().filter(|entry| entry.0 == number).map(|entry| entry.1.clone()).collect()
    }

    /// Returns the number of handlers created.
    pub(crate) fn handlers(&self) -> usize {
        self.0.list.lock().unwrap().0
    }

    /// Waits for a call for connection `number` that matches, and returns it.
    #[track_caller]
    pub(crate) fn wait_for(&self, number: usize, matches: impl Fn(&HandlerCall) -> bool) -> HandlerCall {
        let start = Instant::now();
        let mut list = self.0.list.lock().unwrap();
        loop {
            if let Some(found) = list.1.iter().find(|entry| entry.0 == number && matches(&entry.1)) {
                return found.1.clone();
            }
            assert!(start.elapsed() < LIMIT, "no such call for connection {number}: {:?}", list.1);
            list = self.0.changed.wait_timeout(list, LIMIT).unwrap().0;
        }
    }

    /// Waits until connection `number` is closed, and returns the reason.
    #[track_caller]
    pub(crate) fn end_of(&self, number: usize) -> End {
        match self.wait_for(number, |call| matches!(call, HandlerCall::Close(_))) {
            HandlerCall::Close(end) => end,
            _ => unreachable!(),
        }
    }

    /// Waits until connection `number` is closed, and returns all its calls.
    #[track_caller]
    pub(crate) fn calls_until_close(&self, number: usize) -> Vec<HandlerCall> {
        self.end_of(number);
        self.of(number)
    }

    /// Checks that there were `connections` connections, and that for each `on_open` was the first
    /// call, `on_close` the last, and both were called once. For use after the loop has ended.
    #[track_caller]
    pub(crate) fn assert_opened_and_closed_once(&self, connections: usize) {
        assert_eq!(self.handlers(), connections);
        for number in 0..connections {
            let calls = self.of(number);
            assert_eq!(calls.first(), Some(&HandlerCall::Open), "{number}: {calls:?}");
            assert!(matches!(calls.last(), Some(HandlerCall::Close(_))), "{number}: {calls:?}");
            assert_eq!(
                calls.iter().filter(|call| **call == HandlerCall::Open).count(),
                1,
                "{number}: {calls:?}"
            );
            let closes = calls.iter().filter(|call| matches!(call, HandlerCall::Close(_))).count();
            assert_eq!(closes, 1, "{number}: {calls:?}");
        }
    }
}

type OnEvent = Box<dyn FnMut(&TcpConnection<'_>) -> io::Result<()>>;
type OnMessage = Box<dyn FnMut(&TcpConnection<'_>, &mut Buffer) -> io::Result<()>>;
type OnClose = Box<dyn FnMut(&TcpConnection<'_>, &CloseReason)>;

/// A return type of the closures of a [`Script`].
pub(crate) trait Returned {
    fn result(self) -> io::Result<()>;
}

impl Returned for () {
    fn result(self) -> io::Result<()> {
        Ok(())
    }
}

impl Returned for io::Result<()> {
    fn result(self) -> io::Result<()> {
        self
    }
}

/// A handler that records each call in a [`Journal`] and then runs the closure for it.
pub(crate) struct Script {
    number: usize,
    journal: Journal,
    terse: bool,
    on_open: OnEvent,
    on_message: OnMessage,
    on_drained: OnEvent,
    on_peer_shutdown: OnEvent,
    on_close: OnClose,
}

impl Script {
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Records messages without their text, for tests that send much data.
    pub(crate) fn terse(mut self) -> Script {
        self.terse = true;
        self
    }

    pub(crate) fn on_open<R: Returned>(
        mut self,
        mut call: impl FnMut(&TcpConnection<'_>) -> R + 'static,
    ) -> Script {
        self.on_open = Box::new(move |conn| call(conn).result());
        self
    }

    pub(crate) fn on_message<R: Returned>(
        mut self,
        mut call: impl FnMut(&TcpConnection<'_>, &mut Buffer) -> R + 'static,
    ) -> Script {
        self.on_message = Box::new(move |conn, input| call(conn, input).result());
        self
    }

    pub(crate) fn on_drained<R: Returned>(
        mut self,
        mut call: impl FnMut(&TcpConnection<'_>) -> R + 'static,
    ) -> Script {
        self.on_drained = Box::new(move |conn| call(conn).result());
        self
    }

    pub(crate) fn on_peer_shutdown<R: Returned>(
        mut self,
        mut call: impl FnMut(&TcpConnection<'_>) -> R + 'static,
    ) -> Script {
        self.on_peer_shutdown = Box::new(move |conn| call(conn).result());
        self
    }

    pub(crate) fn on_close(mut self, call: impl FnMut(&TcpConnection<'_>, &CloseReason) + 'static) -> Script {
        self.on_close = Box::new(call);
        self
    }
}

impl ConnectionHandler for Script {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.journal.write(self.number, HandlerCall::Open);
        (self.on_open)(conn)
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        let bytes = if self.terse { &[] } else { input.readable() };
        self.journal.write(self.number, HandlerCall::Message(String::from_utf8_lossy(bytes).into_owned()));
        (self.on_message)(conn, input)
    }

    fn on_drained(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.journal.write(self.number, HandlerCall::Drained);
        (self.on_drained)(conn)
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.journal.write(self.number, HandlerCall::PeerShutdown);
        (self.on_peer_shutdown)(conn)
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        self.journal.write(self.number, HandlerCall::Close(reason.into()));
        (self.on_close)(conn, reason);
    }
}
