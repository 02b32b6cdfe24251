//! A server and a client on one loop that return each other's message.

use std::cell::Cell;
use std::rc::Rc;

use reveille::net::SendError;
use reveille::{Buffer, EventLoop, TcpClient, TcpConnection, TcpServer};

use crate::workload::{OPERATIONS, Round, new_loop, watch};

/// An operation is one message of 64 bytes: a turn, a recv(2) and a send(2).
pub(crate) fn tcp_message() -> Round {
    tcp_message_on(new_loop(EventLoop::builder()))
}

/// Same, on a loop that measures its times and delays.
pub(crate) fn tcp_message_metrics() -> Round {
    tcp_message_on(new_loop(EventLoop::builder().metrics()))
}

/// Same, on a loop that a watchdog watches.
pub(crate) fn tcp_message_watched() -> Round {
    let event_loop = new_loop(EventLoop::builder());
    let watchdog = watch(&event_loop);
    let mut round = tcp_message_on(event_loop);
    Box::new(move || {
        let _watched = &watchdog;
        round();
    })
}

fn tcp_message_on(event_loop: EventLoop) -> Round {
    let left = Rc::new(Cell::new(0));
    let server = TcpServer::bind(&event_loop, "127.0.0.1:0").expect("an address");
    let server = server.serve_fn(reply(&left)).expect("a server");
    let client = TcpClient::connect(&event_loop, server.local_addr().expect("an IP address"));
    let client = client.serve_fn(reply(&left)).expect("a client");
    let connection = loop {
        event_loop.run_once(None).expect("a turn");
        if let Some(connection) = client.handle().filter(|_| server.open_connections() == 1) {
            break connection;
        }
    };
    Box::new(move || {
        // Both stay alive for as long as the rounds.
        let _ends = (&server, &client);
        left.set(OPERATIONS);
        connection.send([b'e'; 64]).expect("an open connection");
        event_loop.run().expect("a run");
    })
}

/// Returns the message, or ends the run after the last one.
fn reply(
    left: &Rc<Cell<usize>>,
) -> impl FnMut(&TcpConnection<'_>, &mut Buffer) -> Result<(), SendError> + use<> {
    let left = Rc::clone(left);
    move |connection, input| {
        let message = input.take_all();
        left.set(left.get() - 1);
        if left.get() == 0 {
            connection.event_loop().quit();
            return Ok(());
        }
        connection.send(message).map(|_| ())
    }
}
