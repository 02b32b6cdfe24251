//! Filters that return errors or panic.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;

use super::samples::{Cipher, error_of};
use crate::support::folder::Folder;
use crate::support::net::{self, End, Host, Journal, scripted_with};
use crate::support::{LIMIT, MIB, with_watchdog};
use reveille::net::{CloseReason, ConnectionLimits, Filter, FilterContext, SendError};
use reveille::{Buffer, ConnectionHandler, TcpConnection, TcpServer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// The factory; it can only panic.
    Create,
    Open,
    Decode,
    Encode,
    PeerShutdown,
    Finish,
}

#[derive(Clone, Copy)]
enum Fault {
    Error,
    Panic,
}

/// Fails in one method.
struct Fails(Method, Fault);

impl Fails {
    fn check(&self, method: Method) -> io::Result<()> {
        match self.1 {
            Fault::Error if self.0 == method => Err(io::Error::new(io::ErrorKind::InvalidData, "refused")),
            Fault::Panic if self.0 == method => panic!("a filter panics"),
            _ => Ok(()),
        }
    }
}

impl Filter for Fails {
    fn on_open(&mut self, context: &mut FilterContext) -> io::Result<()> {
        context.to_peer().append(b"hello ");
        self.check(Method::Open)
    }

    fn decode(
        &mut self,
        context: &mut FilterContext,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        if self.0 == Method::Decode {
            context.to_peer().append(b"alert");
        }
        output.append_buffer(input);
        self.check(Method::Decode)
    }

    fn encode(&mut self, _: &mut FilterContext, input: &mut Buffer, output: &mut Buffer) -> io::Result<()> {
        self.check(Method::Encode)?;
        output.append_buffer(input);
        Ok(())
    }

    fn on_peer_shutdown(&mut self, _: &mut FilterContext, _: &mut Buffer, _: &mut Buffer) -> io::Result<()> {
        self.check(Method::PeerShutdown)
    }

    fn finish(&mut self, _: &mut FilterContext, _: &mut Buffer) -> io::Result<()> {
        self.check(Method::Finish)
    }
}

/// A server whose first connection has a filter that fails.
fn host(method: Method, fault: Fault) -> (Host, Journal) {
    let count = AtomicUsize::new(0);
    scripted_with(
        move |builder| {
            builder.filter(move || {
                let is_first = count.fetch_add(1, SeqCst) == 0;
                assert!(!(is_first && method == Method::Create), "the factory panics");
                Fails(if is_first { method } else { Method::Create }, fault)
            })
        },
        |script| script,
    )
}

/// Sends a message and half-closes, waits for the end, and checks that the next connection works.
fn end_of_the_first(host: &Host) {
    // The connection may be closed already, and be reset before connect(2) has returned.
    if let Ok(mut client) = TcpStream::connect(host.address()) {
        let _ = client.write_all(b"message");
        let _ = client.shutdown(Shutdown::Write);
        net::wait_for_end(&mut client);
    }
    let mut next = host.connect();
    next.write_all(b"another").unwrap();
    assert_eq!(net::read_exact(&mut next, 13), b"hello another");
}

#[test]
fn an_error_of_any_method_closes_only_its_connection() {
    for method in [Method::Decode, Method::Encode, Method::PeerShutdown, Method::Finish] {
        with_watchdog(LIMIT, move || {
            let (host, journal) = host(method, Fault::Error);
            end_of_the_first(&host);
            assert_eq!(error_of(&journal, 0), io::ErrorKind::InvalidData, "{method:?}");
        });
    }
}

#[test]
fn a_panic_of_any_method_closes_only_its_connection() {
    for method in [Method::Decode, Method::Encode, Method::PeerShutdown, Method::Finish] {
        with_watchdog(LIMIT, move || {
            let (host, journal) = host(method, Fault::Panic);
            end_of_the_first(&host);
            assert_eq!(journal.end_of(0), End::Panicked, "{method:?}");
        });
    }
}

#[test]
fn a_filter_that_does_not_open_creates_no_handler() {
    for (method, fault) in
        [(Method::Create, Fault::Panic), (Method::Open, Fault::Panic), (Method::Open, Fault::Error)]
    {
        with_watchdog(LIMIT, move || {
            let (host, journal) = host(method, fault);
            end_of_the_first(&host);
            assert_eq!(journal.handlers(), 1, "{method:?}");
        });
    }
}

#[test]
fn bytes_toward_the_peer_leave_before_an_error_closes() {
    with_watchdog(LIMIT, || {
        let (host, _) = host(Method::Decode, Fault::Error);
        let mut client = host.connect();
        client.write_all(b"message").unwrap();
        assert_eq!(net::read_exact(&mut client, 11), b"hello alert");
    });
}

#[test]
fn a_file_that_a_filter_fails_to_encode_closes_the_connection() {
    with_watchdog(LIMIT, || {
        for len in [5, 1000 * 1000] {
            let folder = Folder::new();
            let file = folder.join("file");
            fs::write(&file, vec![0; len]).unwrap();
            let (host, journal) = scripted_with(
                |builder| builder.filter(|| Fails(Method::Encode, Fault::Error)),
                move |script| {
                    let file = file.clone();
                    script.on_message(move |conn, input| {
                        input.clear();
                        // Refused if the filter has not been given all of it.
                        let sent = conn.send_file(File::open(&file).unwrap(), 0, len as u64);
                        assert_eq!((sent.is_ok(), conn.send("more")), (len == 5, Err(SendError::Closed)));
                    })
                },
            );
            let mut client = host.connect();
            client.write_all(b"?").unwrap();
            net::wait_for_end(&mut client);
            assert_eq!(error_of(&journal, 0), io::ErrorKind::InvalidData);
        }
    });
}

#[test]
fn output_that_a_filter_leaves_is_an_error() {
    struct TakesHalf;

    impl Filter for TakesHalf {
        fn encode(
            &mut self,
            _: &mut FilterContext,
            input: &mut Buffer,
            output: &mut Buffer,
        ) -> io::Result<()> {
            output.append(input.take(input.len() / 2));
            Ok(())
        }
    }

    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with(|builder| builder.filter(|| TakesHalf), |script| script);
        let mut client = host.connect();
        client.write_all(b"message").unwrap();
        net::wait_for_end(&mut client);
        assert_eq!(error_of(&journal, 0), io::ErrorKind::InvalidData);
    });
}

/// Sends more than the socket takes, and reports what is unsent at the close.
struct Sender(mpsc::Sender<usize>);

impl ConnectionHandler for Sender {
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        conn.send_owned(vec![0; 16 * MIB])?;
        Ok(conn.send("and a little")?)
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, _: &CloseReason) {
        self.0.send(conn.unsent()).unwrap();
    }
}

#[test]
fn bytes_that_are_not_sent_are_counted_at_the_close() {
    with_watchdog(LIMIT, || {
        let (sender, receiver) = mpsc::channel();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .limits(ConnectionLimits::new().max_unsent(32 * MIB))
                .filter(Cipher::default)
                .serve(move |_| Sender(sender.clone()))
        });
        let mut client = host.connect();
        client.write_all(b"?").unwrap();
        let received = net::read_exact(&mut client, 100_000).len();
        net::reset(client);
        let unsent = receiver.recv_timeout(LIMIT).unwrap();
        let total = 16 * MIB + "and a little".len();
        assert!(unsent > 0 && unsent + received <= total, "{unsent}");
    });
}

#[test]
fn a_panic_or_failure_toward_the_peer_resets_the_connection() {
    for (method, fault) in [
        (Method::Encode, Fault::Error),
        (Method::Encode, Fault::Panic),
        (Method::Finish, Fault::Error),
        (Method::Finish, Fault::Panic),
    ] {
        with_watchdog(LIMIT, move || {
            let (host, journal) = scripted_with(
                move |builder| builder.filter(move || Fails(method, fault)),
                |script| {
                    script.on_message(|conn, input| {
                        let sent = conn.send(input.take_all());
                        conn.shutdown();
                        Ok(sent?)
                    })
                },
            );
            let mut client = host.connect();
            client.write_all(b"message").unwrap();
            let received = net::read_until_reset(&mut client);
            assert!(b"hello message".starts_with(&received), "{received:?}");
            journal.end_of(0);
        });
    }
}

#[test]
fn a_handler_that_panics_resets_its_filtered_connection() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with(
            |builder| builder.filter(Cipher::default),
            |script| script.on_message(|_, _| -> io::Result<()> { panic!("a handler panics") }),
        );
        let mut client = host.connect();
        client.write_all(b"message").unwrap();
        net::read_until_reset(&mut client);
        assert_eq!(journal.end_of(0), End::Panicked);
    });
}
