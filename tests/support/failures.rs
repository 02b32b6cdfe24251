//! For the tests of failing writes: a server with one connection, whose peer the test controls.

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
use super::net::{self, End, HandlerCall, Journal, Script};
use super::turn;
use super::unix::{self, abstract_name};

/// A server on a loop of this thread with one connection, whose peer the test controls.
pub(crate) struct Bench {
    pub(crate) server: TcpServer,
    pub(crate) journal: Journal,
    handle: Rc<RefCell<Option<ConnectionHandle>>>,
    pub(crate) socket: Rc<RefCell<Option<TcpStream>>>,
    /// The numbers of unsent and undelivered bytes at the close.
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
        let (server_journal, server_lost) = (journal.clone(), Rc::clone(&lost));
        let (server_handle, server_socket) = (Rc::clone(&handle), Rc::clone(&socket));
        let server = builder.serve(move |conn| {
            SockRef::from(conn).set_send_buffer_size(4096).unwrap();
            server_handle.replace(Some(conn.handle()));
            server_socket.replace(Some(net::second_descriptor(conn)));
            let lost = Rc::clone(&server_lost);
            script(server_journal.script())
                .on_close(move |conn, _| lost.set((conn.unsent(), conn.undelivered().unwrap())))
        });
        Bench { server: server.unwrap(), journal, handle, socket, lost }
    }

    /// Connects a peer with a small receive buffer.
    pub(crate) fn connect(&self, event_loop: &EventLoop) -> TcpStream {
        let client = net::connect_with_small_receive_buffer(self.server.local_addr().unwrap());
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

    /// Waits until a poll of the connection's socket returns `flags`, which report that the peer
    /// has closed.
    pub(crate) fn wait_for(&self, flags: PollFlags) {
        net::until(|| net::poll_flags(self.socket.borrow().as_ref().unwrap()).contains(flags));
    }

    /// Turns the loop until the connection is closed. Returns all calls of its handler.
    pub(crate) fn calls_until_close(&self, event_loop: &EventLoop) -> Vec<HandlerCall> {
        net::turn_until(event_loop, || is_closed(&self.journal, 0));
        self.socket.borrow_mut().take();
        self.journal.of(0)
    }
}

/// Runs a fixed number of turns, for work that needs more than one.
pub(crate) fn turns(event_loop: &EventLoop) {
    for _ in 0..20 {
        turn(event_loop);
    }
}

/// Checks that the last call is `on_close` with an error of this kind.
#[track_caller]
pub(crate) fn assert_ends_with(calls: &[HandlerCall], kind: ErrorKind) {
    assert!(
        matches!(calls.last(), Some(HandlerCall::Close(End::Error(found, _))) if *found == kind),
        "{calls:?}"
    );
}
