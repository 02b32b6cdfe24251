use super::*;
use crate::random::Random;
use std::collections::VecDeque;
use std::io::Write;

#[test]
fn a_new_buffer_owns_no_memory() {
    let mut buffer = Buffer::new();
    buffer.append(b"");
    buffer.prepend(b"");
    buffer.reserve(0);
    assert_eq!((buffer.len(), buffer.capacity()), (0, 0));
    assert_eq!(buffer.take_all(), b"");
    assert_eq!(Buffer::with_capacity(0).capacity(), 0);
}

#[test]
fn taken_bytes_can_still_be_read() {
    let mut buffer = Buffer::from(b"head body".to_vec());
    assert_eq!(buffer.take(5), b"head ");
    assert_eq!(buffer.readable(), b"body");
    assert_eq!(buffer.take_all(), b"body");
    assert!(buffer.is_empty());
}

#[test]
fn consuming_all_bytes_makes_the_whole_storage_writable() {
    let mut buffer = Buffer::with_capacity(8);
    buffer.append(b"12345678");
    assert_eq!(buffer.writable_mut().len(), 0);
    buffer.consume(8);
    assert_eq!(buffer.writable_mut().len(), 8);
}

#[test]
#[should_panic(expected = "cannot consume 3 bytes of a buffer that holds 2")]
fn consuming_more_than_the_length_panics() {
    Buffer::from(b"ab".to_vec()).consume(3);
}

#[test]
#[should_panic(expected = "cannot commit 9 bytes to a writable region of 8")]
fn committing_more_than_the_writable_region_panics() {
    Buffer::with_capacity(8).commit(9);
}

#[test]
#[should_panic(expected = "capacity overflow")]
fn reserving_the_impossible_panics() {
    Buffer::from(b"ab".to_vec()).reserve(usize::MAX);
}

#[test]
fn prepending_into_free_space_moves_nothing() {
    let mut buffer = Buffer::from(b"....body".to_vec());
    buffer.consume(4);
    let body = buffer.readable().as_ptr();
    buffer.prepend(b"head");
    assert_eq!(buffer.readable(), b"headbody");
    assert_eq!(buffer.readable()[4..].as_ptr(), body);
}

#[test]
fn prepending_uses_space_at_the_end_before_growing() {
    let mut buffer = Buffer::with_capacity(16);
    buffer.append(b"body");
    buffer.prepend(b"head");
    assert_eq!(buffer.readable(), b"headbody");
    assert_eq!((buffer.head, buffer.capacity() - buffer.tail), (4, 4));
    buffer.prepend(b"123456789");
    assert_eq!(buffer.readable(), b"123456789headbody");
    assert_eq!(buffer.capacity(), SMALLEST);
}

#[test]
fn reserve_moves_bytes_only_if_it_gains_as_many() {
    let mut buffer = Buffer::from(vec![b'x'; 100]);
    buffer.consume(50);
    buffer.reserve(50);
    assert_eq!((buffer.head, buffer.capacity()), (0, 100));

    let mut buffer = Buffer::from(vec![b'x'; 100]);
    buffer.consume(49);
    buffer.reserve(1);
    assert_eq!((buffer.head, buffer.capacity()), (0, 200));
}

#[test]
fn release_frees_the_storage_of_an_empty_buffer() {
    let mut buffer = Buffer::from(b"x".to_vec());
    buffer.release();
    assert_eq!(buffer.readable(), b"x");
    buffer.consume(1);
    assert!(buffer.capacity() > 0);
    buffer.release();
    assert_eq!(buffer.capacity(), 0);
}

#[test]
fn spare_capacity_of_a_vector_becomes_writable() {
    let mut bytes = Vec::with_capacity(100);
    bytes.extend_from_slice(b"abc");
    let capacity = bytes.capacity();
    let mut buffer = Buffer::from(bytes);
    assert_eq!(buffer.as_ref(), b"abc");
    assert_eq!(buffer.writable_mut().len(), capacity - 3);
}

#[test]
fn bytes_are_found_at_any_position() {
    for len in 0..130 {
        let mut buffer = Buffer::from(vec![b'.'; len + 1]);
        buffer.consume(1);
        assert_eq!(buffer.find(b'x'), None);
        for at in 0..len {
            // The second one checks that the first is found.
            buffer.storage[len] = b'x';
            buffer.storage[at + 1] = b'x';
            assert_eq!(buffer.find(b'x'), Some(at), "in {len} bytes");
            buffer.storage[1..].fill(b'.');
        }
    }
}

#[test]
fn a_line_end_is_both_bytes_in_order_and_readable() {
    let find = |bytes: &[u8]| Buffer::from(bytes.to_vec()).find_crlf();
    assert_eq!(find(b""), None);
    assert_eq!(find(b"\r"), None);
    assert_eq!(find(b"\n\r"), None);
    assert_eq!(find(b"\r\n"), Some(0));
    assert_eq!(find(b"a\nb\rc\r\r\nd\r\n"), Some(6));
    assert_eq!(find(b"no end in sight\n"), None);

    let mut buffer = Buffer::from(b"\r\nx".to_vec());
    buffer.consume(1);
    assert_eq!(buffer.find_crlf(), None, "the \\r has been consumed");
}

#[test]
fn debug_shows_sizes_and_a_short_preview() {
    let mut buffer = Buffer::from(b"\0\"\n".to_vec());
    let shown = format!("{buffer:?}");
    assert_eq!(shown, r#"Buffer { len: 3, capacity: 3, readable: b"\x00\"\n" }"#);
    buffer.append(&[b'x'; 1000]);
    assert!(format!("{buffer:?}").len() < 120);
}

#[test]
fn formatting_appends() {
    let mut buffer = Buffer::from(b"n=".to_vec());
    write!(buffer, "{:03}", 7).unwrap();
    buffer.flush().unwrap();
    assert_eq!(buffer.readable(), b"n=007");
}

/// Bytes flow through the buffer while it holds at most `fullest`. The cost of copying is bounded
/// by the number of bytes, and the memory stays within four times of the need.
#[test]
fn a_flow_of_bytes_costs_linear_work_and_bounded_memory() {
    for (fullest, piece) in [(100, 1), (100, 99), (1000, 7), (4096, 4096), (5000, 1460), (1, 1)] {
        let mut rng = Random::new(fullest as u64);
        let mut buffer = Buffer::new();
        let (mut moved, mut consumed) = (0, 0);
        for _ in 0..20_000 {
            let n = piece.min(fullest - buffer.len());
            let (head, capacity) = (buffer.head, buffer.capacity());
            let held = buffer.len();
            buffer.append(&vec![0; n]);
            if buffer.head != head || buffer.capacity() != capacity {
                moved += held;
            }
            let n = rng.below(buffer.len() + 1).min(2 * piece);
            buffer.consume(n);
            consumed += n;
        }
        assert!(moved <= consumed + buffer.capacity(), "{moved} moved, {consumed} consumed");
        assert!(buffer.capacity() <= 4 * (fullest + piece).max(SMALLEST), "{buffer:?}");
    }
}

#[test]
fn random_operations_agree_with_a_deque() {
    for seed in 1..=200 {
        let mut rng = Random::new(seed);
        let mut buffer = Buffer::new();
        let mut model = VecDeque::new();
        let mut counter = 0u8;
        for _ in 0..500 {
            let n = if rng.below(20) == 0 { rng.below(500) } else { rng.below(24) };
            let bytes: Vec<u8> = std::iter::repeat_with(|| {
                counter = counter.wrapping_add(1);
                counter
            })
            .take(n)
            .collect();
            let some = rng.below(model.len() + 1);
            match rng.below(12) {
                0 | 1 => {
                    buffer.append(&bytes);
                    model.extend(&bytes);
                }
                2 => {
                    assert_eq!(buffer.write(&bytes).unwrap(), n);
                    model.extend(&bytes);
                }
                3 => {
                    buffer.prepend(&bytes);
                    bytes.iter().rev().for_each(|&b| model.push_front(b));
                }
                4 | 5 => {
                    buffer.reserve(n);
                    assert!(buffer.writable_mut().len() >= n);
                    let written = rng.below(n + 1);
                    buffer.writable_mut()[..written].copy_from_slice(&bytes[..written]);
                    buffer.commit(written);
                    model.extend(&bytes[..written]);
                }
                6 | 7 => {
                    buffer.consume(some);
                    model.drain(..some);
                }
                8 => {
                    let expected: Vec<u8> = model.drain(..some).collect();
                    assert_eq!(buffer.take(some), expected);
                }
                9 => {
                    let byte = rng.below(256) as u8;
                    assert_eq!(buffer.find(byte), model.iter().position(|&b| b == byte));
                    let pair = model.iter().zip(model.iter().skip(1)).position(|p| p == (&13, &10));
                    assert_eq!(buffer.find_crlf(), pair);
                }
                10 => buffer.release(),
                _ => match rng.below(4) {
                    0 => {
                        buffer.clear();
                        model.clear();
                    }
                    1 => {
                        assert_eq!(buffer.take_all(), model.make_contiguous());
                        model.clear();
                    }
                    2 => buffer = Buffer::from(buffer.readable().to_vec()),
                    _ => {}
                },
            }
            assert_eq!(buffer.readable(), model.make_contiguous());
            assert_eq!(buffer.len(), model.len());
            assert_eq!(buffer.is_empty(), model.is_empty());
            assert!(!buffer.is_empty() || (buffer.head, buffer.tail) == (0, 0));
        }
    }
}
