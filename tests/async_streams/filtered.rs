//! Streams with filters: the loop decodes one input ahead, and no more.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use crate::data::{pattern, read_all};
use crate::support::futures::run;
use crate::support::{KIB, LIMIT, MIB, turn, with_loop};
use reveille::net::{Filter, FilterContext};
use reveille::{Buffer, TcpConnection, task};

/// Changes nothing.
struct PassThrough;

impl Filter for PassThrough {}

/// Repeats each byte, in pieces.
#[derive(Default)]
struct Expand {
    /// The byte in progress, and how often it is still to be repeated.
    rest: Option<(u8, usize)>,
}

/// How often each byte is repeated: a few pieces.
const TIMES: usize = 300 * KIB;

impl Filter for Expand {
    fn decode(
        &mut self,
        context: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        if self.rest.is_none() && !input.is_empty() {
            self.rest = Some((input.take(1)[0], TIMES));
        }
        if let Some((byte, left)) = self.rest {
            let len = left.min(FilterContext::PIECE);
            output.append(&vec![byte; len]);
            self.rest = (left > len).then_some((byte, left - len));
        }
        if self.rest.is_some() || !input.is_empty() {
            context.decode_again();
        }
        Ok(())
    }

    /// The last words of the filter.
    fn on_peer_shutdown(
        &mut self,
        _: &mut FilterContext<'_>,
        _: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        output.append(b"end");
        Ok(())
    }
}

#[test]
fn no_more_than_one_input_is_decoded_ahead() {
    with_loop(|event_loop| {
        let (socket, mut peer) = UnixStream::pair().unwrap();
        let builder = TcpConnection::builder(event_loop).filter(|| PassThrough);
        let mut stream = builder.adopt_async(socket).unwrap();
        let writer = std::thread::spawn(move || peer.write_all(&pattern(4 * MIB)).unwrap());
        run(event_loop, async move {
            let mut first = [0; 1];
            stream.read_exact(&mut first).await.unwrap();
            for _ in 0..1000 {
                task::yield_now().await;
                let unread = stream.with_connection(|conn| conn.unread()).unwrap();
                assert!(unread <= 64 * KIB, "{unread} bytes");
            }
            // Each turn of the loop may receive once more.
            for _ in 0..20 {
                reveille::time::sleep(std::time::Duration::from_micros(100)).await;
                let unread = stream.with_connection(|conn| conn.unread()).unwrap();
                assert!(unread <= 64 * KIB, "{unread} bytes");
            }
            let rest = read_all(&mut stream).await;
            assert!([&first[..], &rest].concat() == pattern(4 * MIB));
        });
        writer.join().unwrap();
    });
}

/// A future that is polled within its wake-up.
type Read = Pin<Box<dyn Future<Output = Vec<u8>>>>;

thread_local! {
    /// The future that `Inline` polls.
    static READ: RefCell<Option<Read>> = const { RefCell::new(None) };
    static IS_WOKEN: Cell<bool> = const { Cell::new(false) };
    static RESULT: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// A waker that polls the future within the wake-up.
struct Inline;

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        IS_WOKEN.set(true);
        // Taken out while it is polled, and polled again if the poll has woken it.
        let Some(mut read) = READ.take() else { return };
        while IS_WOKEN.replace(false) {
            if let Poll::Ready(bytes) = read.as_mut().poll(&mut Context::from_waker(&waker)) {
                return RESULT.set(Some(bytes));
            }
        }
        READ.set(Some(read));
    }
}

#[test]
fn a_waker_that_polls_at_once_gets_all_decoded_input() {
    with_loop(|event_loop| {
        let (socket, mut peer) = UnixStream::pair().unwrap();
        let builder = TcpConnection::builder(event_loop).filter(Expand::default);
        let mut stream = builder.adopt_async(socket).unwrap();
        turn(event_loop);
        READ.set(Some(Box::pin(async move {
            let mut bytes = vec![0; TIMES];
            stream.read_exact(&mut bytes).await.unwrap();
            bytes
        })));
        Arc::new(Inline).wake();
        peer.write_all(b"a").unwrap();
        while RESULT.with_borrow(Option::is_none) {
            event_loop.run_once(LIMIT).unwrap();
        }
        assert!(RESULT.take().unwrap().iter().all(|byte| *byte == b'a'));
    });
}

#[test]
fn input_that_is_decoded_in_pieces_precedes_the_end() {
    with_loop(|event_loop| {
        let (socket, mut peer) = UnixStream::pair().unwrap();
        let builder = TcpConnection::builder(event_loop).filter(Expand::default);
        let mut stream = builder.adopt_async(socket).unwrap();
        peer.write_all(b"abc").unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        run(event_loop, async move {
            let received = read_all(&mut stream).await;
            assert_eq!(received.len(), 3 * TIMES + 3);
            for (byte, part) in b"abc".iter().zip(received.chunks(TIMES)) {
                assert!(part.iter().all(|received| received == byte));
            }
            assert!(received.ends_with(b"end"));
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        });
        drop(peer);
    });
}
