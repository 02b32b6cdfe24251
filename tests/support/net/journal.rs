//! What connections were told: a journal that their handlers write, and handlers that follow a
//! script of the test's.

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use reveille::net::{CloseReason, SendError, SendStatus};
use reveille::{Buffer, ConnectionHandler, TcpConnection};

use super::LIMIT;

/// One call of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Open,
    /// With all of the input that was offered, unless the script is terse.
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
    DeadlinePassed,
    RelayEnded,
    Stopped,
    LoopEnded,
    MemoryLimit,
    Idle,
    Panicked,
    Error(io::ErrorKind, String),
}

impl From<&CloseReason> for End {
    fn from(reason: &CloseReason) -> End {
        match reason {
            CloseReason::Finished => End::Finished,
            CloseReason::Closed => End::Closed,
            CloseReason::DeadlinePassed => End::DeadlinePassed,
            CloseReason::RelayEnded => End::RelayEnded,
            CloseReason::Stopped => End::Stopped,
            CloseReason::LoopEnded => End::LoopEnded,
            CloseReason::MemoryLimit => End::MemoryLimit,
            CloseReason::Idle => End::Idle,
            CloseReason::Panicked => End::Panicked,
            CloseReason::Error(error) => End::Error(error.kind(), error.to_string()),
            _ => panic!("a reason that the tests do not know: {reason:?}"),
        }
    }
}

pub(crate) fn message(text: &str) -> Told {
    Told::Message(text.to_owned())
}

/// What the connections of a server were told, in order, with the number of the connection from 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal(Arc<Entries>);

#[derive(Debug, Default)]
struct Entries {
    /// How many handlers there have been, and what they were told.
    list: Mutex<(usize, Vec<(usize, Told)>)>,
    changed: Condvar,
}

impl Journal {
    pub(crate) fn new() -> Journal {
        Journal::default()
    }

    /// A handler that writes this journal, echoes, and answers a peer's end with its own, unless
    /// told otherwise.
    pub(crate) fn script(&self) -> Script {
        let mut list = self.0.list.lock().unwrap();
        list.0 += 1;
        Script {
            number: list.0 - 1,
            journal: self.clone(),
            terse: false,
            on_open: Box::new(|_| Ok(())),
            on_message: Box::new(|conn, input| Ok(conn.send(input.take_all()).map(drop)?)),
            on_drained: Box::new(|_| Ok(())),
            on_peer_shutdown: Box::new(|conn| {
                conn.shutdown();
                Ok(())
            }),
            on_close: Box::new(|_, _| ()),
        }
    }

    fn write(&self, number: usize, told: Told) {
        self.0.list.lock().unwrap().1.push((number, told));
        self.0.changed.notify_all();
    }

    /// What connection `number` has been told so far.
    pub(crate) fn of(&self, number: usize) -> Vec<Told> {
        let list = self.0.list.lock().unwrap();
        list.1.iter().filter(|entry| entry.0 == number).map(|entry| entry.1.clone()).collect()
    }

    /// How many handlers have been made.
    pub(crate) fn handlers(&self) -> usize {
        self.0.list.lock().unwrap().0
    }

    /// Waits until connection `number` has been told something that `is` it.
    #[track_caller]
    pub(crate) fn wait_for(&self, number: usize, is: impl Fn(&Told) -> bool) -> Told {
        let start = Instant::now();
        let mut list = self.0.list.lock().unwrap();
        loop {
            if let Some(found) = list.1.iter().find(|entry| entry.0 == number && is(&entry.1)) {
                return found.1.clone();
            }
            assert!(start.elapsed() < LIMIT, "not told to {number}; of {:?}", list.1);
            list = self.0.changed.wait_timeout(list, LIMIT).unwrap().0;
        }
    }

    /// Waits until connection `number` is closed, and answers how.
    #[track_caller]
    pub(crate) fn end_of(&self, number: usize) -> End {
        match self.wait_for(number, |told| matches!(told, Told::Close(_))) {
            Told::Close(end) => end,
            _ => unreachable!(),
        }
    }

    /// Waits until connection `number` is closed, and answers all that it was told.
    #[track_caller]
    pub(crate) fn life_of(&self, number: usize) -> Vec<Told> {
        self.end_of(number);
        self.of(number)
    }

    /// That each of `connections` was opened first, closed last, and either but once. To be called
    /// when the loop has ended.
    #[track_caller]
    pub(crate) fn assert_whole_lives(&self, connections: usize) {
        assert_eq!(self.handlers(), connections);
        for number in 0..connections {
            let life = self.of(number);
            assert_eq!(life.first(), Some(&Told::Open), "{number}: {life:?}");
            assert!(matches!(life.last(), Some(Told::Close(_))), "{number}: {life:?}");
            assert_eq!(life.iter().filter(|told| **told == Told::Open).count(), 1, "{number}: {life:?}");
            let ends = life.iter().filter(|told| matches!(told, Told::Close(_))).count();
            assert_eq!(ends, 1, "{number}: {life:?}");
        }
    }
}

type OnEvent = Box<dyn FnMut(&TcpConnection<'_>) -> io::Result<()>>;
type OnMessage = Box<dyn FnMut(&TcpConnection<'_>, &mut Buffer) -> io::Result<()>>;
type OnClose = Box<dyn FnMut(&TcpConnection<'_>, &CloseReason)>;

/// What the closures of a [`Script`] may return.
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

impl Returned for Result<SendStatus, SendError> {
    fn result(self) -> io::Result<()> {
        self.map(drop).map_err(io::Error::from)
    }
}

/// A handler made of closures, which writes a [`Journal`] before it calls them.
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

    /// Notes of messages only that there were some, for tests that send much.
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
        self.journal.write(self.number, Told::Open);
        (self.on_open)(conn)
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        let bytes = if self.terse { &[] } else { input.readable() };
        self.journal.write(self.number, Told::Message(String::from_utf8_lossy(bytes).into_owned()));
        (self.on_message)(conn, input)
    }

    fn on_drained(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.journal.write(self.number, Told::Drained);
        (self.on_drained)(conn)
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.journal.write(self.number, Told::PeerShutdown);
        (self.on_peer_shutdown)(conn)
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        self.journal.write(self.number, Told::Close(reason.into()));
        (self.on_close)(conn, reason);
    }
}
