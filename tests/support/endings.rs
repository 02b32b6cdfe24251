//! For the tests of the ends of connections: a server on the loop of this thread, and a check
//! whether a connection has ended.

use std::cell::RefCell;
use std::net::TcpStream;
use std::rc::Rc;

use reveille::{EventLoop, TcpServer};

use super::net::{self, HandlerCall, Journal, Script};

/// Starts a scripted server on a loop of this thread. Also returns its journal, and a second
/// descriptor of each connection's socket in the order of opening.
pub(crate) fn scripted_server(
    event_loop: &EventLoop,
    script: impl Fn(Script) -> Script + 'static,
) -> (TcpServer, Journal, Rc<RefCell<Vec<TcpStream>>>) {
    let journal = Journal::new();
    let sockets = Rc::new(RefCell::new(Vec::new()));
    let (server_journal, server_sockets) = (journal.clone(), Rc::clone(&sockets));
    let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |conn| {
        server_sockets.borrow_mut().push(net::second_descriptor(conn));
        script(server_journal.script())
    });
    (server.unwrap(), journal, sockets)
}

/// Whether `on_close` of connection `number` has been called.
pub(crate) fn is_closed(journal: &Journal, number: usize) -> bool {
    journal.of(number).iter().any(|call| matches!(call, HandlerCall::Close(_)))
}
