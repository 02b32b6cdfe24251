//! Connections without a socket: pipes, files, terminals, child processes, and pairs in memory.

#[path = "../support/mod.rs"]
mod support;

mod children;
mod files;
mod forks;
mod pairs;
mod peers;
mod pipes;
mod refusals;
mod sockets;
mod terminals;

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use reveille::net::CloseReason;
use reveille::{Buffer, ConnectionHandler, TcpConnection};
use rustix::pipe::PipeFlags;

/// What a handler has seen.
#[derive(Clone, Debug, Default)]
struct Seen(Rc<RefCell<Record>>);

#[derive(Debug, Default)]
struct Record {
    opens: usize,
    input: Vec<u8>,
    ends: usize,
    /// The reason and the unsent bytes.
    closed: Option<(String, usize)>,
}

impl Seen {
    fn handler(&self) -> Collector {
        Collector { seen: self.clone(), on_open: None, echoes: false }
    }

    /// A handler that calls `on_open` first.
    fn opening(&self, on_open: impl FnOnce(&TcpConnection<'_>) + 'static) -> Collector {
        Collector { on_open: Some(Box::new(on_open)), ..self.handler() }
    }

    /// A handler that sends back what it receives.
    fn echo(&self) -> Collector {
        Collector { echoes: true, ..self.handler() }
    }

    fn input(&self) -> Vec<u8> {
        self.0.borrow().input.clone()
    }

    fn received(&self) -> usize {
        self.0.borrow().input.len()
    }

    fn opens(&self) -> usize {
        self.0.borrow().opens
    }

    fn ends(&self) -> usize {
        self.0.borrow().ends
    }

    fn is_closed(&self) -> bool {
        self.0.borrow().closed.is_some()
    }

    #[track_caller]
    fn close(&self) -> (String, usize) {
        self.0.borrow().closed.clone().expect("a close")
    }
}

type OnOpen = Box<dyn FnOnce(&TcpConnection<'_>)>;

struct Collector {
    seen: Seen,
    on_open: Option<OnOpen>,
    echoes: bool,
}

impl ConnectionHandler for Collector {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.seen.0.borrow_mut().opens += 1;
        if let Some(on_open) = self.on_open.take() {
            on_open(conn);
        }
        Ok(())
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        let bytes = input.take_all();
        self.seen.0.borrow_mut().input.extend_from_slice(bytes);
        if self.echoes {
            conn.send(bytes)?;
        }
        Ok(())
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.seen.0.borrow_mut().ends += 1;
        conn.shutdown();
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        self.seen.0.borrow_mut().closed = Some((reason.to_string(), conn.unsent()));
    }
}

/// The read end and the write end of a pipe.
fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("a pipe")
}
