//! For the tests of writes that fail: a server with one connection, whose peer is the test's to
//! end.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use reveille::net::{ConnectionLimits, TcpServerBuilder};
use reveille::{ConnectionHandle, EventLoop, TcpServer};
use rustix::event::PollFlags;
use socket2::SockRef;

use super::endings::is_closed;
use super::net::{self, End, Journal, Script, Told};
use super::turn;
use super::unix::{self, abstract_name};

/// A server on a loop of this thread with one connection, whose peer is the test's.
pub(crate) struct Bench {
    pub(crate) server: TcpServer,
    pub(crate) journal: Journal,
    handle: Rc<RefCell<Option<ConnectionHandle>>>,
    pub(crate) socket: Rc<RefCell<Option<TcpStream>>>,
    /// What was unsent, and what was undelivered, at the close.
    pub(crate) lost: Rc<Cell<(usize, usize)>>,
}

impl Bench {
    pub(crate) fn new(event_loop: &EventLoop, script: impl Fn(Script) -> Script + 'static) -> Bench {
        Bench::of(
            TcpServer::bind(event_loop, "127.0.0.1:0")
                .unwrap()
                .limits(ConnectionLimits::new().water_marks(64 * 1024, 0)),
            script,
        )
    }

    pub(crate) fn on_unix(event_loop: &EventLoop, script: impl Fn(Script) -> Script + 'static) -> Bench {
        Bench::of(TcpServer::bind_unix(event_loop, abstract_name()).unwrap(), script)
    }

    pub(crate) fn of(builder: TcpServerBuilder<'_>, script: impl Fn(Script) -> Script + 'static) -> Bench {
        let (journal, lost) = (Journal::new(), Rc::<Cell<_>>::default());
        let (handle, socket) = (Rc::<RefCell<Option<_>>>::default(), Rc::<RefCell<Option<_>>>::default());
        let (written, noted) = (journal.clone(), Rc::clone(&lost));
        let (kept, opening) = (Rc::clone(&handle), Rc::clone(&socket));
        let server = builder.serve(move |conn| {
            SockRef::from(conn).set_send_buffer_size(4096).unwrap();
            kept.replace(Some(conn.handle()));
            opening.replace(Some(net::peephole(conn)));
            let noted = Rc::clone(&noted);
            script(written.script())
                .on_close(move |conn, _| noted.set((conn.unsent(), conn.undelivered().unwrap())))
        });
        Bench { server: server.unwrap(), journal, handle, socket, lost }
    }

    /// Connects a peer that takes few bytes until it reads.
    pub(crate) fn connect(&self, event_loop: &EventLoop) -> TcpStream {
        let client = net::connect_with_little_room(self.server.local_addr().unwrap());
        net::turn_until(event_loop, || self.journal.handlers() == 1);
        client
    }

    pub(crate) fn connect_unix(&self, event_loop: &EventLoop) -> UnixStream {
        let client = unix::connect(&self.server);
        net::turn_until(event_loop, || self.journal.handlers() == 1);
        client
    }

    pub(crate) fn handle(&self) -> ConnectionHandle {
        self.handle.borrow().clone().expect("a connection")
    }

    /// Waits until the kernel knows that the peer has gone.
    pub(crate) fn wait_for(&self, flags: PollFlags) {
        net::until(|| net::condition(self.socket.borrow().as_ref().unwrap()).contains(flags));
    }

    /// Turns until the connection is closed. Returns what its handler was called for.
    pub(crate) fn life(&self, event_loop: &EventLoop) -> Vec<Told> {
        net::turn_until(event_loop, || is_closed(&self.journal, 0));
        self.socket.borrow_mut().take();
        self.journal.of(0)
    }
}

pub(crate) fn turns(event_loop: &EventLoop) {
    for _ in 0..20 {
        turn(event_loop);
    }
}

#[track_caller]
pub(crate) fn assert_ends_with(life: &[Told], kind: ErrorKind) {
    assert!(matches!(life.last(), Some(Told::Close(End::Error(found, _))) if *found == kind), "{life:?}");
}
