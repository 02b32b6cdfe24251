//! Frames and malformed input: the calls of the handlers of connections.

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use crate::support::net::{self, End, Host};
use crate::support::{LIMIT, with_watchdog};
use reveille::codec::{
    Decoder, FrameError, FrameHandler, Framed, Frames, LengthCodec, LengthPrefix, LineCodec, LineError,
};
use reveille::net::{CloseReason, ConnectionLimits, TcpServerBuilder};
use reveille::{Buffer, TcpConnection, TcpServer};

/// One call of a handler.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    Frame(String),
    FrameError(String),
    PeerShutdown,
    Close(End),
}

fn frame(text: &str) -> Call {
    Call::Frame(text.to_owned())
}

type OnFrame = fn(&TcpConnection, &[u8]) -> io::Result<()>;

/// Reports its calls, and calls a function for each frame. A frame error closes the connection, or
/// is sent to the peer if `replies_to_errors` is set.
struct Reporting {
    calls: Sender<Call>,
    on_frame: OnFrame,
    replies_to_errors: bool,
}

impl Reporting {
    fn report(&self, call: Call) {
        // Fails if the test has ended.
        let _ = self.calls.send(call);
    }
}

impl<D> FrameHandler<D> for Reporting
where
    D: for<'a> Decoder<Frame<'a> = &'a [u8], Error: std::fmt::Display>,
{
    fn on_frame(&mut self, conn: &TcpConnection, frame: &[u8]) -> io::Result<()> {
        self.report(Call::Frame(String::from_utf8_lossy(frame).into_owned()));
        (self.on_frame)(conn, frame)
    }

    fn on_frame_error(&mut self, conn: &TcpConnection, error: FrameError<D::Error>) -> io::Result<()> {
        self.report(Call::FrameError(error.to_string()));
        if !self.replies_to_errors {
            return Err(error.into());
        }
        conn.send(error.to_string())?;
        Ok(())
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.report(Call::PeerShutdown);
        conn.shutdown();
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection, reason: &CloseReason) {
        self.report(Call::Close(reason.into()));
    }
}

/// A host of [`Reporting`] handlers, and their calls.
fn reporting<D>(decoder: D, replies_to_errors: bool, on_frame: OnFrame) -> (Host, Receiver<Call>)
where
    D: for<'a> Decoder<Frame<'a> = &'a [u8], Error: std::fmt::Display> + Clone + Send + 'static,
{
    reporting_with(|builder| builder, decoder, replies_to_errors, on_frame)
}

fn reporting_with<D>(
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a> + Send + 'static,
    decoder: D,
    replies_to_errors: bool,
    on_frame: OnFrame,
) -> (Host, Receiver<Call>)
where
    D: for<'a> Decoder<Frame<'a> = &'a [u8], Error: std::fmt::Display> + Clone + Send + 'static,
{
    let (sender, calls) = mpsc::channel();
    let host = Host::new(move |event_loop| {
        settings(TcpServer::bind(event_loop, "127.0.0.1:0")?).serve(move |_| {
            Framed::new(decoder.clone(), Reporting { calls: sender.clone(), on_frame, replies_to_errors })
        })
    });
    (host, calls)
}

/// The calls of a connection's handler, up to its close.
#[track_caller]
fn until_close(calls: &Receiver<Call>) -> Vec<Call> {
    let mut received = Vec::new();
    loop {
        let call = calls.recv_timeout(net::LIMIT);
        let call = call.unwrap_or_else(|_| panic!("no close after {received:?}"));
        let is_close = matches!(call, Call::Close(_));
        received.push(call);
        if is_close {
            return received;
        }
    }
}

fn ignore(_: &TcpConnection, _: &[u8]) -> io::Result<()> {
    Ok(())
}

const LENGTHS: LengthPrefix = LengthPrefix::U16Be;

fn with_lengths(frames: &[&[u8]]) -> Vec<u8> {
    let mut output = Buffer::new();
    for frame in frames {
        LengthCodec::new(LENGTHS, 65_535).encode(frame, &mut output).expect("short frames");
    }
    output.readable().to_vec()
}

// --- Frames --------------------------------------------------------------------------------------

#[test]
fn frames_split_at_any_byte_are_delivered_whole() {
    fn check<D>(decoder: D, stream: &[u8])
    where
        D: for<'a> Decoder<Frame<'a> = &'a [u8], Error: std::fmt::Display> + Clone + Send + 'static,
    {
        let (host, calls) = reporting(decoder, false, ignore);
        for split in 0..=stream.len() {
            let mut client = host.connect();
            client.write_all(&stream[..split]).unwrap();
            // When the loop has run this task, it has read the first part.
            host.request(|_, _| ());
            client.write_all(&stream[split..]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            net::wait_for_end(&mut client);
            let expected =
                [frame("one"), frame(""), frame("three"), Call::PeerShutdown, Call::Close(End::Finished)];
            assert_eq!(until_close(&calls), expected, "split at {split}");
        }
    }
    with_watchdog(LIMIT, || {
        check(LineCodec::new(5), b"one\r\n\nthree\r\n");
        check(LengthCodec::new(LENGTHS, 5), &with_lengths(&[b"one", b"", b"three"]));
    });
}

#[test]
fn many_frames_in_one_segment_are_delivered_in_order() {
    with_watchdog(LIMIT, || {
        let (host, _calls) = reporting(LengthCodec::new(LENGTHS, 100), false, |conn, frame| {
            conn.send(with_lengths(&[frame]))?;
            Ok(())
        });
        let frames: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        let bytes = with_lengths(&frames.iter().map(String::as_bytes).collect::<Vec<_>>());
        assert_eq!(net::exchange(&mut host.connect(), &bytes), bytes);
    });
}

/// Each frame has a type, a length and a value. So has each reply.
#[test]
fn a_custom_decoder_defines_a_protocol() {
    struct Tlv;

    impl Decoder for Tlv {
        type Frame<'a> = (u8, &'a [u8]);
        type Error = io::Error;

        fn decode<'a>(&mut self, input: &'a [u8]) -> io::Result<Option<((u8, &'a [u8]), usize)>> {
            let &[kind, length, ref rest @ ..] = input else { return Ok(None) };
            Ok(rest.get(..usize::from(length)).map(|value| ((kind, value), 2 + value.len())))
        }
    }

    struct Next;

    impl FrameHandler<Tlv> for Next {
        fn on_frame(&mut self, conn: &TcpConnection, (kind, value): (u8, &[u8])) -> io::Result<()> {
            conn.send([&[kind + 1, value.len() as u8], value].concat())?;
            Ok(())
        }
    }

    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve(|_| Framed::new(Tlv, Next))
        });
        assert_eq!(net::exchange(&mut host.connect(), b"\x01\x02hi\x07\x00"), b"\x02\x02hi\x08\x00");
    });
}

#[test]
fn frames_may_contain_frames() {
    with_watchdog(LIMIT, || {
        let (host, calls) = reporting(LengthCodec::new(LENGTHS, 100), false, |conn, frame| {
            let mut lines = 0;
            for line in Frames::new(LineCodec::new(5), frame) {
                line?;
                lines += 1;
            }
            conn.send([lines])?;
            Ok(())
        });
        let mut client = host.connect();
        client.write_all(&with_lengths(&[b"a\nb\n", b"\n"])).unwrap();
        assert_eq!(net::read_exact(&mut client, 2), [2, 1]);
        client.write_all(&with_lengths(&[b"too long\n"])).unwrap();
        net::wait_for_end(&mut client);
        let end = until_close(&calls).pop().unwrap();
        let error = "the line is longer than 5 bytes".to_owned();
        assert_eq!(end, Call::Close(End::Error(io::ErrorKind::InvalidData, error)));
    });
}

// --- Malformed input -----------------------------------------------------------------------------

#[test]
fn an_overlong_line_closes_the_connection_with_its_error() {
    with_watchdog(LIMIT, || {
        let (host, calls) = reporting(LineCodec::new(8), false, ignore);
        let mut client = host.connect();
        // The second line has no end yet, and is already too long.
        client.write_all(b"short\ntoo long!").unwrap();
        net::wait_for_end(&mut client);
        let message = "the line is longer than 8 bytes".to_owned();
        let end = End::Error(io::ErrorKind::InvalidData, message.clone());
        assert_eq!(until_close(&calls), [frame("short"), Call::FrameError(message), Call::Close(end)]);
    });
}

#[test]
fn an_excessive_length_closes_before_the_frame_arrives() {
    with_watchdog(LIMIT, || {
        let (host, calls) = reporting(LengthCodec::new(LENGTHS, 300), false, ignore);
        let mut client = host.connect();
        client.write_all(b"\xFF\xFF").unwrap();
        net::wait_for_end(&mut client);
        let message = "a frame of 65535 bytes is longer than 300 bytes".to_owned();
        let end = End::Error(io::ErrorKind::InvalidData, message.clone());
        assert_eq!(until_close(&calls), [Call::FrameError(message), Call::Close(end)]);
    });
}

#[test]
fn the_close_reason_contains_the_decoders_error() {
    struct ReportsError(Sender<Option<LineError>>);

    impl FrameHandler<LineCodec> for ReportsError {
        fn on_frame(&mut self, _: &TcpConnection, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn on_close(&mut self, _: &TcpConnection, reason: &CloseReason) {
            let CloseReason::Error(error) = reason else { panic!("closed with {reason:?}") };
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<LineError>());
            self.0.send(inner.copied()).unwrap();
        }
    }

    with_watchdog(LIMIT, || {
        let (sender, errors) = mpsc::channel();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .serve(move |_| Framed::new(LineCodec::new(3), ReportsError(sender.clone())))
        });
        host.connect().write_all(b"four").unwrap();
        assert_eq!(errors.recv_timeout(net::LIMIT), Ok(Some(LineError::TooLong { limit: 3 })));
    });
}

#[test]
fn a_handled_frame_error_prevents_further_frames() {
    with_watchdog(LIMIT, || {
        let (host, calls) = reporting(LineCodec::new(8), true, ignore);
        let mut client = host.connect();
        client.write_all(b"short\nmuch too long\nshort\n").unwrap();
        let message = "the line is longer than 8 bytes";
        assert_eq!(net::read_exact(&mut client, message.len()), message.as_bytes());
        // Further input causes neither frames nor errors, although it ends within a line.
        client.write_all(b"short\nand again much too long\nsho").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut client), b"");
        let expected = [
            frame("short"),
            Call::FrameError(message.to_owned()),
            Call::PeerShutdown,
            Call::Close(End::Finished),
        ];
        assert_eq!(until_close(&calls), expected);
    });
}

#[test]
fn an_end_of_input_within_a_frame_is_an_error() {
    with_watchdog(LIMIT, || {
        let message = "the input ends within a frame, of which there are 4 bytes".to_owned();
        let stream = [with_lengths(&[b"whole"]), b"\0\x05ha".to_vec()].concat();

        let (host, calls) = reporting(LengthCodec::new(LENGTHS, 5), false, ignore);
        let mut client = host.connect();
        client.write_all(&stream).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        net::wait_for_end(&mut client);
        let end = End::Error(io::ErrorKind::UnexpectedEof, message.clone());
        assert_eq!(
            until_close(&calls),
            [frame("whole"), Call::FrameError(message.clone()), Call::Close(end)]
        );

        // A handler that replies to the error is then notified of the shutdown.
        let (host, calls) = reporting(LengthCodec::new(LENGTHS, 5), true, ignore);
        let mut client = host.connect();
        client.write_all(&stream).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut client), message.as_bytes());
        let expected =
            [frame("whole"), Call::FrameError(message), Call::PeerShutdown, Call::Close(End::Finished)];
        assert_eq!(until_close(&calls), expected);
    });
}

// --- Frames that are withheld --------------------------------------------------------------------

#[test]
fn no_frame_is_delivered_after_a_close() {
    with_watchdog(LIMIT, || {
        let (host, calls) = reporting(LineCodec::new(8), false, |conn, _| {
            conn.close();
            Ok(())
        });
        let mut client = host.connect();
        client.write_all(b"one\ntwo\nthree is too long\n").unwrap();
        net::wait_for_end(&mut client);
        assert_eq!(until_close(&calls), [frame("one"), Call::Close(End::Closed)]);
    });
}

#[test]
fn received_frames_wait_while_reading_is_paused() {
    /// Pauses reading after each line, and resumes it in a later turn.
    struct Pausing(Sender<String>);

    impl FrameHandler<LineCodec> for Pausing {
        fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
            self.0.send(String::from_utf8_lossy(line).into_owned()).expect("a receiver");
            conn.pause_reading();
            conn.notify_drained();
            Ok(())
        }

        fn on_drained(&mut self, conn: &TcpConnection) -> io::Result<()> {
            self.0.send("-".to_owned()).expect("a receiver");
            conn.resume_reading();
            Ok(())
        }
    }

    with_watchdog(LIMIT, || {
        let (sender, lines) = mpsc::channel();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .serve(move |_| Framed::new(LineCodec::new(8), Pausing(sender.clone())))
        });
        let mut client = host.connect();
        client.write_all(b"one\ntwo\nthree\nfo").unwrap();
        let next = || lines.recv_timeout(net::LIMIT).expect("a line or a resume");
        assert_eq!([(); 6].map(|()| next()), ["one", "-", "two", "-", "three", "-"]);
        client.write_all(b"ur\n").unwrap();
        assert_eq!([next(), next()], ["four", "-"]);
    });
}

/// One segment has requests whose replies exceed the limit of unsent bytes, and the end of input
/// follows it. The requests wait until their replies can be queued, and the end waits for them.
#[test]
fn received_frames_wait_while_replies_are_unread() {
    const REQUESTS: usize = 1000;
    const REPLY: usize = 64 << 10;
    const HIGH: usize = 256 << 10;
    with_watchdog(LIMIT, || {
        let (host, calls) = reporting_with(
            |builder| {
                builder.limits(ConnectionLimits::new().water_marks(HIGH, HIGH / 4).max_unsent(HIGH + REPLY))
            },
            LineCodec::new(8),
            false,
            |conn, _| {
                assert!(conn.unsent() <= HIGH);
                conn.send([b'!'; REPLY])?;
                Ok(())
            },
        );
        let mut client = host.connect();
        client.write_all(&b"?\n".repeat(REQUESTS)).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        // Waits until ten turns deliver no request. The kernel and the connection cannot buffer all
        // replies.
        let mut delivered = 0;
        loop {
            (0..10).for_each(|_| host.request(|_, _| ()));
            let more = calls.try_iter().inspect(|call| assert_eq!(*call, frame("?"))).count();
            delivered += more;
            if delivered > 0 && more == 0 {
                break;
            }
        }
        assert!(delivered < REQUESTS, "all requests were delivered although no reply was read");

        let replies = net::read_to_end(&mut client);
        assert_eq!(replies.len(), REQUESTS * REPLY);
        let rest = until_close(&calls);
        assert_eq!(rest.len(), REQUESTS - delivered + 2);
        assert_eq!(rest[REQUESTS - delivered..], [Call::PeerShutdown, Call::Close(End::Finished)]);
    });
}

/// The reply is sent, and the connection closes even if the peer does not.
#[test]
fn a_connection_closes_soon_after_its_error_reply() {
    struct Lenient;

    impl FrameHandler<LineCodec> for Lenient {
        fn on_frame(&mut self, _: &TcpConnection, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn on_frame_error(&mut self, conn: &TcpConnection, error: FrameError<LineError>) -> io::Result<()> {
            conn.send(format!("500 {error}\r\n"))?;
            conn.shutdown();
            conn.close_after(Duration::from_millis(20));
            Ok(())
        }
    }

    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve(|_| Framed::new(LineCodec::new(3), Lenient))
        });
        let mut client = host.connect();
        client.write_all(b"much too long").unwrap();
        assert_eq!(net::read_to_end(&mut client), b"500 the line is longer than 3 bytes\r\n");
        net::until(|| host.open_connections() == 0);
    });
}
