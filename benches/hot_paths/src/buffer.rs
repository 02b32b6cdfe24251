//! `Buffer`.

use std::hint::black_box;

use reveille::Buffer;

use crate::workload::{OPERATIONS, Round};

const MESSAGE: [u8; 64] = [b'm'; 64];

/// Each message is consumed before the next arrives, so no byte is moved.
pub(crate) fn append_and_consume() -> Round {
    let mut buffer = Buffer::with_capacity(4096);
    Box::new(move || {
        for _ in 0..OPERATIONS {
            buffer.append(black_box(&MESSAGE));
            black_box(buffer.take(MESSAGE.len()));
        }
    })
}

/// The buffer starts without storage, and grows to hold all messages.
pub(crate) fn append_to_new_buffer() -> Round {
    Box::new(|| {
        let mut buffer = Buffer::new();
        for _ in 0..OPERATIONS {
            buffer.append(black_box(&MESSAGE));
        }
        black_box(buffer.readable());
    })
}

/// 100 bytes of an incomplete message stay in the buffer, so reserving has to move them from time
/// to time.
pub(crate) fn reserve_behind_partial_message() -> Round {
    const READ: usize = 1024;
    let mut buffer = Buffer::new();
    buffer.append(&[b'p'; 100]);
    Box::new(move || {
        for _ in 0..OPERATIONS {
            buffer.reserve(black_box(READ));
            black_box(buffer.writable_mut());
            buffer.commit(READ);
            buffer.consume(READ);
        }
    })
}
