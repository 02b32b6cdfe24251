//! What the tests of the ends of connections share: a server within reach, and the question whether
//! a connection has ended.

use std::cell::RefCell;
use std::net::TcpStream;
use std::rc::Rc;

use reveille::{EventLoop, TcpServer};

use super::net::{self, Journal, Script, Told};

/// A server on a loop of this thread, whose sockets can be looked at from outside.
pub(crate) fn scripted_here(
    event_loop: &EventLoop,
    script: impl Fn(Script) -> Script + 'static,
) -> (TcpServer, Journal, Rc<RefCell<Vec<TcpStream>>>) {
    let journal = Journal::new();
    let sockets = Rc::new(RefCell::new(Vec::new()));
    let (writing, opening) = (journal.clone(), Rc::clone(&sockets));
    let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |conn| {
        opening.borrow_mut().push(net::peephole(conn));
        script(writing.script())
    });
    (server.unwrap(), journal, sockets)
}

/// Whether the handler has had its last call.
pub(crate) fn is_closed(journal: &Journal, number: usize) -> bool {
    journal.of(number).iter().any(|told| matches!(told, Told::Close(_)))
}
