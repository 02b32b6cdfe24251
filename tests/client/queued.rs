//! Sends and calls that a client accepts while it has no session.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::rc::Rc;

use crate::support::client::{Refusing, backoff, echo_server};
use crate::support::net::{self, Host, reason};
use crate::support::{LIMIT, Recorder, on_another_thread, with_catching_loop, with_loop, with_watchdog};
use reveille::net::{CloseReason, SendError, WithError};
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpClient, TcpConnection};

/// Records what the peer sends, and how the session ends.
#[derive(Clone, Default)]
struct Session {
    received: Rc<RefCell<Vec<u8>>>,
    opened: Rc<Cell<u32>>,
}

impl ConnectionHandler for Session {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.opened.set(self.opened.get() + 1);
        conn.send("open ")?;
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        self.received.borrow_mut().extend(input.take_all());
        Ok(())
    }
}

#[test]
fn queued_sends_and_calls_follow_on_open_in_order() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, "127.0.0.1:0".parse().unwrap());
        let (session, running) = (Session::default(), Rc::new(Cell::new(false)));
        let made = session.clone();
        let client =
            TcpClient::connect(event_loop, server.local_address()).serve(move |_| made.clone()).unwrap();
        client.send("one ").unwrap();
        let noted = Rc::clone(&running);
        client
            .with(move |session: &mut Session, conn| {
                assert_eq!(session.opened.get(), 1);
                noted.set(true);
                conn.send("two ")
            })
            .unwrap();
        client.send("three").unwrap();
        assert!(!running.get(), "the call ran without a session");
        let expected = b"open one two three";
        net::turn_until(event_loop, || session.received.borrow().len() >= expected.len());
        assert_eq!(*session.received.borrow(), expected);
        // With a session, a call runs at once.
        running.set(false);
        let noted = Rc::clone(&running);
        client.with(move |_: &mut Session, _| noted.set(true)).unwrap();
        assert!(running.get());
    });
}

#[test]
fn what_exceeds_the_limits_of_the_queue_is_returned() {
    with_loop(|event_loop| {
        let refusing = Refusing::new();
        let client = TcpClient::connect(event_loop, refusing.address())
            .max_queued(10, 1)
            .serve(|_| Session::default())
            .unwrap();
        assert_eq!(reason(client.send([0; 10])), Ok(()));
        let refused = client.send("x").unwrap_err();
        assert_eq!((refused.reason(), refused.into_inner()), (SendError::Full, b"x".to_vec()));
        assert_eq!(reason(client.with(|_: &mut Session, _| ())), Ok(()));
        assert_eq!(reason(client.with(|_: &mut Session, _| ())), Err(WithError::Full));
        assert_eq!(reason(client.with(|_: &mut String, _| ())), Err(WithError::WrongHandler));
        client.stop();
        assert_eq!(reason(client.send("x")), Err(SendError::Closed));
        assert_eq!(reason(client.with(|_: &mut Session, _| ())), Err(WithError::Closed));
    });
}

#[test]
fn sends_between_two_sessions_go_to_the_next() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, "127.0.0.1:0".parse().unwrap());
        let session = Session::default();
        let made = session.clone();
        let client = TcpClient::connect(event_loop, server.local_address())
            .retry(backoff())
            .reconnect()
            .serve(move |_| made.clone())
            .unwrap();
        net::turn_until(event_loop, || session.received.borrow().ends_with(b"open "));
        client.handle().unwrap().close();
        session.received.borrow_mut().clear();
        client.send("queued").unwrap();
        net::turn_until(event_loop, || session.received.borrow().ends_with(b"queued"));
        assert_eq!(*session.received.borrow(), b"open queued");
        assert_eq!(session.opened.get(), 2);
    });
}

#[test]
fn calls_of_a_failed_client_are_dropped_after_on_failure() {
    with_loop(|event_loop| {
        let refusing = Refusing::new();
        let events = Recorder::new();
        let failed = events.clone();
        let client = TcpClient::connect(event_loop, refusing.address())
            .on_failure(move |_, error| {
                failed.record(format!("failed with {} bytes, {} calls", error.unsent(), error.calls()));
            })
            .serve(|_| Session::default())
            .unwrap();
        struct Dropped(Recorder<String>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.record("dropped".to_owned());
            }
        }
        let captured = Dropped(events.clone());
        client
            .with(move |session: &mut Session, _| {
                drop(captured);
                assert_eq!(session.opened.get(), 0, "there is no session");
            })
            .unwrap();
        client.send("12345").unwrap();
        net::turn_until(event_loop, || events.len() == 2);
        assert_eq!(events.take(), ["failed with 5 bytes, 1 calls", "dropped"]);
    });
}

/// A call may send on the client, which is possible while the session is just opening.
#[test]
fn a_queued_call_may_use_its_client() {
    with_loop(|event_loop| {
        let host = Host::new(|event_loop| {
            reveille::TcpServer::bind(event_loop, "127.0.0.1:0")?
                .serve_fn(|conn, input| conn.send(input.take_all()))
        });
        let session = Session::default();
        let made = session.clone();
        let client =
            Rc::new(TcpClient::connect(event_loop, host.address()).serve(move |_| made.clone()).unwrap());
        let again = Rc::downgrade(&client);
        client
            .with(move |_: &mut Session, conn| {
                conn.send("one ")?;
                let client = again.upgrade().expect("the client exists");
                client.send("two")?;
                io::Result::Ok(())
            })
            .unwrap();
        let expected = b"open one two";
        net::turn_until(event_loop, || session.received.borrow().len() >= expected.len());
        assert_eq!(*session.received.borrow(), expected);
    });
}

#[test]
fn a_stopped_client_counts_what_it_has_dropped() {
    with_loop(|event_loop| {
        let refusing = Refusing::new();
        let client =
            TcpClient::connect(event_loop, refusing.address()).serve(|_| Session::default()).unwrap();
        client.send("12345").unwrap();
        let captured = Rc::new(());
        let held = Rc::clone(&captured);
        client.with(move |_: &mut Session, _| drop(held)).unwrap();
        assert_eq!((client.unsent(), client.calls()), (5, 1));
        client.stop();
        assert_eq!((client.unsent(), client.calls()), (5, 1));
        assert_eq!(Rc::strong_count(&captured), 1, "the call was not dropped");
    });
}

#[test]
fn a_client_without_a_loop_refuses_and_counts_what_waits() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let refusing = Refusing::new();
        let client =
            TcpClient::connect(&event_loop, refusing.address()).serve(|_| Session::default()).unwrap();
        client.send("12345").unwrap();
        drop(event_loop);
        assert_eq!(reason(client.send("x")), Err(SendError::Closed));
        assert_eq!(reason(client.with(|_: &mut Session, _| ())), Err(WithError::Closed));
        assert_eq!((client.unsent(), client.calls()), (5, 0));
    });
}

#[test]
fn the_handle_of_a_session_calls_its_handler_from_any_thread() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, "127.0.0.1:0".parse().unwrap());
        let session = Session::default();
        let made = session.clone();
        // The handler is not `Send`.
        let client =
            TcpClient::connect(event_loop, server.local_address()).serve(move |_| made.clone()).unwrap();
        net::turn_until(event_loop, || session.received.borrow().ends_with(b"open "));
        let handle = client.handle().unwrap();
        on_another_thread(|| {
            let call = |session: &mut Session, conn: &TcpConnection<'_>| {
                assert_eq!(session.opened.get(), 1);
                conn.send("called")
            };
            handle.with(call).unwrap();
            assert_eq!(reason(handle.with(|_: &mut String, _| ())), Err(WithError::WrongHandler));
        });
        net::turn_until(event_loop, || session.received.borrow().ends_with(b"called"));
        client.stop();
        assert_eq!(reason(handle.with(|_: &mut Session, _| ())), Err(WithError::Closed));
    });
}

/// Makes a request of its client in `on_close`.
struct Closing {
    client: Rc<OnceCell<TcpClient>>,
    results: Recorder<(Result<(), SendError>, Result<(), WithError>)>,
}

impl ConnectionHandler for Closing {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        conn.close();
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection, _: &CloseReason) {
        let client = self.client.get().expect("a client");
        let with = client.with(|_: &mut Closing, _| ());
        self.results.record((reason(client.send("x")), reason(with)));
    }
}

#[test]
fn a_request_in_the_last_on_close_is_refused() {
    for reconnects in [false, true] {
        with_loop(move |event_loop| {
            let server = echo_server(event_loop, "127.0.0.1:0".parse().unwrap());
            let (cell, results) = (Rc::new(OnceCell::new()), Recorder::new());
            let (client, recorder) = (Rc::clone(&cell), results.clone());
            let builder = TcpClient::connect(event_loop, server.local_address()).retry(backoff());
            let builder = if reconnects { builder.reconnect() } else { builder };
            let made =
                builder.serve(move |_| Closing { client: Rc::clone(&client), results: recorder.clone() });
            assert!(cell.set(made.unwrap()).is_ok());
            let client = cell.get().unwrap();
            client.send("first").unwrap();
            net::turn_until(event_loop, || results.len() > 0);
            let expected = match reconnects {
                true => (Ok(()), Ok(())),
                false => (Err(SendError::Closed), Err(WithError::Closed)),
            };
            assert_eq!(results.take()[0], expected);
            client.stop();
        });
    }
}

#[test]
fn requests_outlast_a_factory_that_panics() {
    with_catching_loop(|event_loop| {
        let server = echo_server(event_loop, "127.0.0.1:0".parse().unwrap());
        let session = Session::default();
        let (made, is_first) = (session.clone(), Cell::new(true));
        let client = TcpClient::connect(event_loop, server.local_address())
            .retry(backoff())
            .reconnect()
            .serve(move |_| {
                assert!(!is_first.replace(false), "deliberate");
                made.clone()
            })
            .unwrap();
        client.with(|_: &mut Session, conn| conn.send("called ")).unwrap();
        client.send("sent").unwrap();
        net::turn_until(event_loop, || session.received.borrow().ends_with(b"sent"));
        assert_eq!(*session.received.borrow(), b"open called sent");
        assert_eq!((client.unsent(), client.calls()), (0, 0));
    });
}
