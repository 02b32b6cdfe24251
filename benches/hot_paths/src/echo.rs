//! A server and a client on one loop that return each other's message.

use std::cell::{Cell, OnceCell};
use std::io;
use std::rc::Rc;

use reveille::net::{ByteStream, SendError};
use reveille::{Buffer, EventLoop, TcpClient, TcpConnection, TcpServer, task};
#[cfg(feature = "inspector")]
use reveille::{LoopThread, observe::Inspector};

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

/// Same, in a process with another thread: there, the C library does more for each wait.
#[cfg(feature = "inspector")]
pub(crate) fn tcp_message_threaded() -> Round {
    let thread = LoopThread::spawn("idle").expect("a thread");
    let mut round = tcp_message_on(new_loop(EventLoop::builder()));
    Box::new(move || {
        let _idle = &thread;
        round();
    })
}

/// Same, on a loop that an inspector watches. Its thread runs beside the loop.
#[cfg(feature = "inspector")]
pub(crate) fn tcp_message_inspected() -> Round {
    let event_loop = new_loop(EventLoop::builder());
    let inspector = Inspector::builder().listen_tcp(([127, 0, 0, 1], 0)).watch_loop(&event_loop.handle());
    let inspector = inspector.start().expect("an inspector");
    let mut round = tcp_message_on(event_loop);
    Box::new(move || {
        let _watching = &inspector;
        round();
    })
}

/// Same, by two async functions: a turn, a poll, a recv(2) and a send(2).
pub(crate) fn tcp_message_async() -> Round {
    let event_loop = new_loop(EventLoop::builder());
    let left = Rc::new(Cell::new(0));
    let server = TcpServer::bind(&event_loop, "127.0.0.1:0").expect("an address");
    let of_server = Rc::clone(&left);
    let server = server.serve_async(move |stream| return_messages(stream, Rc::clone(&of_server)));
    let server = server.expect("a server");
    let connection = Rc::new(OnceCell::new());
    event_loop.spawn_local({
        let (address, connection, left) =
            (server.local_address().clone(), Rc::clone(&connection), Rc::clone(&left));
        async move {
            let stream = ByteStream::connect(address).await.expect("a connection");
            let handle =
                stream.with_connection(|connection| connection.handle()).expect("an open connection");
            connection.set(handle).expect("one client");
            return_messages(stream, left).await
        }
    });
    while connection.get().is_none() || server.open_connections() == 0 {
        event_loop.run_once(None).expect("a turn");
    }
    Box::new(move || {
        let _end = &server;
        left.set(OPERATIONS);
        connection.get().expect("a client").send([b'e'; 64]).expect("an open connection");
        event_loop.run().expect("a run");
    })
}

/// Returns each message, or ends the run after the last one.
async fn return_messages(mut stream: ByteStream, left: Rc<Cell<usize>>) -> io::Result<()> {
    let mut input = Buffer::new();
    while stream.read_buf(&mut input).await? > 0 {
        left.set(left.get() - 1);
        if left.get() == 0 {
            input.clear();
            task::with_loop(EventLoop::quit);
        }
        stream.write_buf(&mut input).await?;
    }
    Ok(())
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
