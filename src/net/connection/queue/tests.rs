use std::sync::Arc;

use super::{PIECE, Queue};

#[test]
fn a_block_counts_whole_until_its_last_byte_is_sent() {
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
fn shared_bytes_count_in_part_with_each_holder() {
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
