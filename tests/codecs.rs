//! Connections whose input is frames: what their handlers are given, and what becomes of input that
//! is no frames.

mod support;

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use reveille::codec::{
    Decoder, FrameError, FrameHandler, Framed, Frames, LengthCodec, LengthPrefix, LineCodec, LineError,
};
use reveille::net::{CloseReason, ConnectionLimits, TcpServerBuilder};
use reveille::{Buffer, TcpConnection, TcpServer};
use support::net::{self, End, Host};
use support::{LIMIT, with_watchdog};

/// One call of a handler.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Frame(String),
    FrameError(String),
    PeerShutdown,
    Close(End),
}

fn frame(text: &str) -> Told {
    Told::Frame(text.to_owned())
}

/// What to do with a frame.
type OnFrame = fn(&TcpConnection, &[u8]) -> io::Result<()>;

/// Says what it is told. Frames are answered by a function, and errors as usual, or with themselves
/// and the end.
struct Telling {
    told: Sender<Told>,
    on_frame: OnFrame,
    answers_errors: bool,
}

impl Telling {
    fn tell(&self, what: Told) {
        // The test may have seen enough.
        let _ = self.told.send(what);
    }
}

impl<D> FrameHandler<D> for Telling
where
    D: for<'a> Decoder<Frame<'a> = &'a [u8], Error: std::fmt::Display>,
{
    fn on_frame(&mut self, conn: &TcpConnection, frame: &[u8]) -> io::Result<()> {
        self.tell(Told::Frame(String::from_utf8_lossy(frame).into_owned()));
        (self.on_frame)(conn, frame)
    }

    fn on_frame_error(&mut self, conn: &TcpConnection, error: FrameError<D::Error>) -> io::Result<()> {
        self.tell(Told::FrameError(error.to_string()));
        if !self.answers_errors {
            return Err(error.into());
        }
        conn.send(error.to_string())?;
        Ok(())
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.tell(Told::PeerShutdown);
        conn.shutdown();
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection, reason: &CloseReason) {
        self.tell(Told::Close(reason.into()));
    }
}

/// A host of [`Telling`] handlers, and what they say.
fn telling<D>(decoder: D, answers_errors: bool, on_frame: OnFrame) -> (Host, Receiver<Told>)
where
    D: for<'a> Decoder<Frame<'a> = &'a [u8], Error: std::fmt::Display> + Clone + Send + 'static,
{
    telling_with(|builder| builder, decoder, answers_errors, on_frame)
}

fn telling_with<D>(
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a> + Send + 'static,
    decoder: D,
    answers_errors: bool,
    on_frame: OnFrame,
) -> (Host, Receiver<Told>)
where
    D: for<'a> Decoder<Frame<'a> = &'a [u8], Error: std::fmt::Display> + Clone + Send + 'static,
{
    let (told, heard) = mpsc::channel();
    let host = Host::new(move |event_loop| {
        settings(TcpServer::bind(event_loop, "127.0.0.1:0")?).serve(move |_| {
            Framed::new(decoder.clone(), Telling { told: told.clone(), on_frame, answers_errors })
        })
    });
    (host, heard)
}

/// All that is said until the connection is closed.
#[track_caller]
fn life(heard: &Receiver<Told>) -> Vec<Told> {
    let mut life = Vec::new();
    loop {
        let told = heard.recv_timeout(net::LIMIT).unwrap_or_else(|_| panic!("no end after {life:?}"));
        let is_end = matches!(told, Told::Close(_));
        life.push(told);
        if is_end {
            return life;
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

// --- Frames
// ---------------------------------------------------------------------------------------

#[test]
fn frames_that_come_in_two_pieces_split_anywhere_come_out_whole() {
    fn check<D>(decoder: D, stream: &[u8])
    where
        D: for<'a> Decoder<Frame<'a> = &'a [u8], Error: std::fmt::Display> + Clone + Send + 'static,
    {
        let (host, heard) = telling(decoder, false, ignore);
        for split in 0..=stream.len() {
            let mut client = host.connect();
            client.write_all(&stream[..split]).unwrap();
            // Asked behind the bytes, so that they are read by themselves.
            host.ask(|_, _| ());
            client.write_all(&stream[split..]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            net::wait_for_end(&mut client);
            let expected =
                [frame("one"), frame(""), frame("three"), Told::PeerShutdown, Told::Close(End::Finished)];
            assert_eq!(life(&heard), expected, "split at {split}");
        }
    }
    with_watchdog(LIMIT, || {
        check(LineCodec::new(5), b"one\r\n\nthree\r\n");
        check(LengthCodec::new(LENGTHS, 5), &with_lengths(&[b"one", b"", b"three"]));
    });
}

#[test]
fn many_frames_in_one_segment_are_each_answered_in_order() {
    with_watchdog(LIMIT, || {
        let (host, _heard) = telling(LengthCodec::new(LENGTHS, 100), false, |conn, frame| {
            conn.send(with_lengths(&[frame]))?;
            Ok(())
        });
        let frames: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        let bytes = with_lengths(&frames.iter().map(String::as_bytes).collect::<Vec<_>>());
        assert_eq!(net::exchange(&mut host.connect(), &bytes), bytes);
    });
}

/// Type, length, value; with the answer in the same form.
#[test]
fn a_protocol_of_ones_own_is_a_decoder_and_a_handler() {
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
fn frames_may_have_frames_in_them() {
    with_watchdog(LIMIT, || {
        let (host, heard) = telling(LengthCodec::new(LENGTHS, 100), false, |conn, frame| {
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
        let end = life(&heard).pop().unwrap();
        let error = "the line is longer than 5 bytes".to_owned();
        assert_eq!(end, Told::Close(End::Error(io::ErrorKind::InvalidData, error)));
    });
}

// --- What is no frame
// -----------------------------------------------------------------------------

#[test]
fn a_line_that_is_too_long_closes_the_connection_and_says_why() {
    with_watchdog(LIMIT, || {
        let (host, heard) = telling(LineCodec::new(8), false, ignore);
        let mut client = host.connect();
        // Without an end: it is too long whatever comes.
        client.write_all(b"short\ntoo long!").unwrap();
        net::wait_for_end(&mut client);
        let why = "the line is longer than 8 bytes".to_owned();
        let end = End::Error(io::ErrorKind::InvalidData, why.clone());
        assert_eq!(life(&heard), [frame("short"), Told::FrameError(why), Told::Close(end)]);
    });
}

#[test]
fn a_length_that_is_too_large_closes_the_connection_before_the_frame_has_come() {
    with_watchdog(LIMIT, || {
        let (host, heard) = telling(LengthCodec::new(LENGTHS, 300), false, ignore);
        let mut client = host.connect();
        client.write_all(b"\xFF\xFF").unwrap();
        net::wait_for_end(&mut client);
        let why = "a frame of 65535 bytes is longer than 300 bytes".to_owned();
        let end = End::Error(io::ErrorKind::InvalidData, why.clone());
        assert_eq!(life(&heard), [Told::FrameError(why), Told::Close(end)]);
    });
}

#[test]
fn the_reason_of_the_close_has_the_decoders_error_in_it() {
    struct Asking(Sender<Option<LineError>>);

    impl FrameHandler<LineCodec> for Asking {
        fn on_frame(&mut self, _: &TcpConnection, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn on_close(&mut self, _: &TcpConnection, reason: &CloseReason) {
            let CloseReason::Error(error) = reason else { panic!("closed for {reason:?}") };
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<LineError>());
            self.0.send(inner.copied()).unwrap();
        }
    }

    with_watchdog(LIMIT, || {
        let (told, heard) = mpsc::channel();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .serve(move |_| Framed::new(LineCodec::new(3), Asking(told.clone())))
        });
        host.connect().write_all(b"four").unwrap();
        assert_eq!(heard.recv_timeout(net::LIMIT), Ok(Some(LineError::TooLong { limit: 3 })));
    });
}

#[test]
fn a_handler_that_answers_an_error_keeps_the_connection_and_gets_no_more_frames() {
    with_watchdog(LIMIT, || {
        let (host, heard) = telling(LineCodec::new(8), true, ignore);
        let mut client = host.connect();
        client.write_all(b"short\nmuch too long\nshort\n").unwrap();
        let why = "the line is longer than 8 bytes";
        assert_eq!(net::read_exact(&mut client, why.len()), why.as_bytes());
        // Neither frames nor errors come of what follows, the end within a line included.
        client.write_all(b"short\nand again much too long\nsho").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut client), b"");
        let expected = [
            frame("short"),
            Told::FrameError(why.to_owned()),
            Told::PeerShutdown,
            Told::Close(End::Finished),
        ];
        assert_eq!(life(&heard), expected);
    });
}

#[test]
fn a_peer_that_finishes_within_a_frame_has_made_an_error() {
    with_watchdog(LIMIT, || {
        let why = "the input ends within a frame, of which there are 4 bytes".to_owned();
        let stream = [with_lengths(&[b"whole"]), b"\0\x05ha".to_vec()].concat();

        let (host, heard) = telling(LengthCodec::new(LENGTHS, 5), false, ignore);
        let mut client = host.connect();
        client.write_all(&stream).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        net::wait_for_end(&mut client);
        let end = End::Error(io::ErrorKind::UnexpectedEof, why.clone());
        assert_eq!(life(&heard), [frame("whole"), Told::FrameError(why.clone()), Told::Close(end)]);

        // One that the handler may answer, and the shutdown comes as it always does.
        let (host, heard) = telling(LengthCodec::new(LENGTHS, 5), true, ignore);
        let mut client = host.connect();
        client.write_all(&stream).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut client), why.as_bytes());
        let expected =
            [frame("whole"), Told::FrameError(why), Told::PeerShutdown, Told::Close(End::Finished)];
        assert_eq!(life(&heard), expected);
    });
}

// --- When frames do not come
// ----------------------------------------------------------------------

#[test]
fn no_frame_comes_after_a_close() {
    with_watchdog(LIMIT, || {
        let (host, heard) = telling(LineCodec::new(8), false, |conn, _| {
            conn.close();
            Ok(())
        });
        let mut client = host.connect();
        client.write_all(b"one\ntwo\nthree is too long\n").unwrap();
        net::wait_for_end(&mut client);
        assert_eq!(life(&heard), [frame("one"), Told::Close(End::Closed)]);
    });
}

#[test]
fn frames_that_are_there_wait_while_reading_is_paused() {
    /// Wants one line, and the next in a later turn.
    struct Pausing(Sender<String>);

    impl FrameHandler<LineCodec> for Pausing {
        fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
            self.0.send(String::from_utf8_lossy(line).into_owned()).expect("somebody listens");
            conn.pause_reading();
            conn.notify_drained();
            Ok(())
        }

        fn on_drained(&mut self, conn: &TcpConnection) -> io::Result<()> {
            self.0.send("-".to_owned()).expect("somebody listens");
            conn.resume_reading();
            Ok(())
        }
    }

    with_watchdog(LIMIT, || {
        let (told, heard) = mpsc::channel();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .serve(move |_| Framed::new(LineCodec::new(8), Pausing(told.clone())))
        });
        let mut client = host.connect();
        client.write_all(b"one\ntwo\nthree\nfo").unwrap();
        let hear = || heard.recv_timeout(net::LIMIT).expect("a line, or a pause");
        assert_eq!([(); 6].map(|()| hear()), ["one", "-", "two", "-", "three", "-"]);
        client.write_all(b"ur\n").unwrap();
        assert_eq!([hear(), hear()], ["four", "-"]);
    });
}

/// One segment asks for much more than may be unsent, and the end follows it: the questions wait
/// until their answers have somewhere to go, and the end waits behind them.
#[test]
fn frames_that_are_there_wait_while_the_peer_does_not_read_the_answers() {
    const QUESTIONS: usize = 1000;
    const ANSWER: usize = 64 << 10;
    const HIGH: usize = 256 << 10;
    with_watchdog(LIMIT, || {
        let (host, heard) = telling_with(
            |builder| {
                builder.limits(ConnectionLimits::new().water_marks(HIGH, HIGH / 4).max_unsent(HIGH + ANSWER))
            },
            LineCodec::new(8),
            false,
            |conn, _| {
                assert!(conn.unsent() <= HIGH);
                conn.send([b'!'; ANSWER])?;
                Ok(())
            },
        );
        let mut client = host.connect();
        client.write_all(&b"?\n".repeat(QUESTIONS)).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        // Turns go by, until no more is answered: neither the kernel nor the connection has room
        // for all.
        let mut answered = 0;
        loop {
            (0..10).for_each(|_| host.ask(|_, _| ()));
            let more = heard.try_iter().inspect(|told| assert_eq!(*told, frame("?"))).count();
            answered += more;
            if answered > 0 && more == 0 {
                break;
            }
        }
        assert!(answered < QUESTIONS, "everything was answered, and nobody read it");

        let answers = net::read_to_end(&mut client);
        assert_eq!(answers.len(), QUESTIONS * ANSWER);
        let rest = life(&heard);
        assert_eq!(rest.len(), QUESTIONS - answered + 2);
        assert_eq!(rest[QUESTIONS - answered..], [Told::PeerShutdown, Told::Close(End::Finished)]);
    });
}

/// The example of an answered error: the connection does not outlive its peer's patience.
#[test]
fn an_answered_error_may_be_given_a_time_to_be_read() {
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
