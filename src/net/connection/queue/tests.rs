use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::{PIECE, Queue};
use crate::net::sys::transport::Transport;

#[test]
fn a_block_counts_fully_until_its_last_byte_is_sent() {
    let mut queue = Queue::default();
    queue.push_owned(vec![0; 10 * PIECE], 1);
    queue.push(&[0; 100]);
    queue.consume(10 * PIECE - 2);
    assert_eq!(queue.in_memory(), 101);
    assert!(queue.memory() >= 10 * PIECE + 100);
    queue.consume(1);
    assert!(queue.memory() >= 100 && queue.memory() < PIECE);
    queue.push(&[0; 1000]);
    queue.consume(1100);
    assert_eq!((queue.in_memory(), queue.memory()), (0, 0));
}

#[test]
fn each_holder_counts_its_share_of_shared_bytes() {
    let bytes: Arc<[u8]> = vec![0; PIECE].into();
    let mut queues: Vec<Queue> = (0..100).map(|_| Queue::default()).collect();
    let held: Vec<Arc<[u8]>> = queues.iter().map(|_| Arc::clone(&bytes)).collect();
    for (queue, bytes) in queues.iter_mut().zip(held) {
        queue.push_shared(bytes, 0);
    }
    let memory: usize = queues.iter().map(Queue::memory).sum();
    assert!(memory > PIECE / 2 && memory <= PIECE, "{memory}");
    for queue in &mut queues {
        queue.consume(PIECE);
        assert_eq!(queue.memory(), 0);
    }
}

/// Bytes in which, for the purposes of these tests, no two ranges of equal length are equal.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32 / 4 + 1).flat_map(u32::to_be_bytes).take(len).collect()
}

/// Everything that the queue sends, as read from the other end of a socket.
fn sent_by(mut queue: Queue) -> Vec<u8> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let ours = Transport::Socket(ours.into());
    let mut received = Vec::new();
    while !queue.is_empty() {
        queue.write_to(&ours).unwrap();
        // Reads all available bytes before it returns WouldBlock.
        assert_eq!(theirs.read_to_end(&mut received).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    assert_eq!((queue.len(), queue.in_memory()), (0, 0));
    received
}

/// Lengths, and how much of each was sent before: tails that are kept without a copy, and tails
/// that are copied.
const TAILS: [(usize, usize); 5] =
    [(PIECE, 1), (2 * PIECE, PIECE), (PIECE, PIECE - PIECE / 16), (PIECE, PIECE - 100), (100, 99)];

fn assert_sends_tails(push: impl Fn(&mut Queue, Vec<u8>, usize)) {
    for (len, sent) in TAILS {
        let bytes = pattern(len);
        let mut queue = Queue::default();
        queue.push(b"before");
        push(&mut queue, bytes.clone(), sent);
        assert_eq!(queue.len(), 6 + len - sent, "{sent} of {len}");
        queue.push(b"behind");
        let expected = [b"before", &bytes[sent..], b"behind"].concat();
        assert!(sent_by(queue) == expected, "{sent} of {len}");
    }
}

#[test]
fn only_the_unsent_tail_of_owned_bytes_is_queued() {
    assert_sends_tails(Queue::push_owned);
}

#[test]
fn only_the_unsent_tail_of_shared_bytes_is_queued() {
    assert_sends_tails(|queue, bytes, sent| queue.push_shared(Arc::from(bytes), sent));
}
