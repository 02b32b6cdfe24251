//! Bytes that a filter leaves in its input, before many new ones.

use std::io;
use std::sync::{Arc, Mutex};

use super::samples::{block, cipher};
use crate::support::{LIMIT, with_watchdog};
use reveille::net::{Filter, FilterContext};
use reveille::testing::Peer;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection};

/// Decodes blocks that are enciphered as a whole stream. It deciphers bytes as soon as it is given
/// them, and leaves an incomplete block deciphered.
struct Sealed {
    position: usize,
    /// How many of the bytes that were left are deciphered.
    deciphered: usize,
    /// The length of the input of each call.
    lengths: Arc<Mutex<Vec<usize>>>,
}

impl Filter for Sealed {
    fn decode(
        &mut self,
        _: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        self.lengths.lock().unwrap().push(input.len());
        cipher(&mut input.readable_mut()[self.deciphered..], &mut self.position);
        while let [high, low, rest @ ..] = input.readable() {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            if rest.len() < len {
                break;
            }
            output.append(&rest[..len]);
            input.consume(2 + len);
        }
        self.deciphered = input.len();
        Ok(())
    }
}

struct Take(Arc<Mutex<Vec<u8>>>);

impl ConnectionHandler for Take {
    fn on_message(&mut self, _: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        self.0.lock().unwrap().extend_from_slice(input.take_all());
        Ok(())
    }
}

/// Sends an enciphered stream in pieces. Returns what the handler gets, and the lengths of the
/// filter's inputs.
fn decode(stream: &[u8], pieces: &[usize]) -> (Vec<u8>, Vec<usize>) {
    let event_loop = EventLoop::new().unwrap();
    let (lengths, got) = (Arc::<Mutex<Vec<usize>>>::default(), Arc::<Mutex<Vec<u8>>>::default());
    let (seen, taken) = (Arc::clone(&lengths), Arc::clone(&got));
    let sealed = move || Sealed { position: 0, deciphered: 0, lengths: Arc::clone(&seen) };
    let builder = TcpConnection::builder(&event_loop).filter(sealed);
    let peer = Peer::connect_with(builder, move |_| Take(taken)).unwrap();
    let mut sealed = stream.to_vec();
    cipher(&mut sealed, &mut 0);
    let mut rest = &sealed[..];
    for &piece in pieces.iter().cycle() {
        let (now, later) = rest.split_at(piece.min(rest.len()));
        peer.send(now).unwrap();
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    let got = std::mem::take(&mut *got.lock().unwrap());
    (got, std::mem::take(&mut *lengths.lock().unwrap()))
}

#[test]
fn left_and_changed_bytes_precede_a_large_input() {
    with_watchdog(LIMIT, || {
        let sizes = [1, 700, 16 * 1024, 17 * 1024 - 2, 17 * 1024 - 1, 17 * 1024, 30_000, 65_534, 0, 3];
        let content: Vec<u8> = (0..65_535_u32).map(|n| (n % 249) as u8).collect();
        let stream: Vec<u8> =
            sizes.iter().cycle().take(40).flat_map(|&size| block(&content[..size])).collect();
        for pieces in
            [&[1, 40_000][..], &[17 * 1024 + 1], &[60_000, 3, 17 * 1024], &[9, 50_000, 16_000, 20_000]]
        {
            assert!(decode(&stream, pieces).0 == unblock_all(&stream), "in pieces of {pieces:?}");
        }
    });
}

/// The content of all blocks; an empty one is none.
fn unblock_all(stream: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    let mut rest = stream;
    while let [high, low, after @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        content.extend_from_slice(&after[..len]);
        rest = &after[len..];
    }
    content
}

#[test]
fn a_few_left_bytes_are_joined_with_few_new_ones() {
    with_watchdog(LIMIT, || {
        let stream: Vec<u8> = (0..60).flat_map(|_| block(&[7; 998])).collect();
        let (content, lengths) = decode(&stream, &[10, stream.len()]);
        assert_eq!(content, vec![7; 60 * 998]);
        // 17 KiB, and then the others where they were received.
        assert_eq!(lengths, [10, 10 + 17 * 1024, stream.len() - 17_000]);
    });
}
