//! [`Payload`]: bytes to be sent, in each of the forms that callers pass.

use std::io::{self, IoSlice};
use std::ops::Deref;
use std::sync::Arc;

use super::queue::Queue;
use crate::buffer::Buffer;
use crate::net::sys::transport::Transferred;
use crate::net::sys::transport::Transport;

/// Bytes to be sent, in one of the forms that callers pass.
pub(super) trait Payload {
    /// Whether a queue has to copy the bytes.
    const IS_BORROWED: bool;

    fn len(&self) -> usize;

    /// Offers all of the bytes to the kernel, in one call.
    fn write(&self, transport: &Transport) -> io::Result<Transferred>;

    /// Queues the bytes after the first `sent`; there is at least one.
    fn queue(self, queue: &mut Queue, sent: usize);

    /// Appends a copy of the bytes. Returns `false` if the payload is more than bytes.
    fn append_to(&self, output: &mut Buffer) -> bool;
}

impl Payload for &[u8] {
    const IS_BORROWED: bool = true;

    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    #[inline]
    fn write(&self, transport: &Transport) -> io::Result<Transferred> {
        transport.send(self)
    }

    fn queue(self, queue: &mut Queue, sent: usize) {
        queue.push(&self[sent..]);
    }

    #[inline]
    fn append_to(&self, output: &mut Buffer) -> bool {
        output.append(self);
        true
    }
}

impl Payload for Vec<u8> {
    const IS_BORROWED: bool = false;

    fn len(&self) -> usize {
        self.len()
    }

    fn write(&self, transport: &Transport) -> io::Result<Transferred> {
        transport.send(self)
    }

    fn queue(self, queue: &mut Queue, sent: usize) {
        queue.push_owned(self, sent);
    }

    fn append_to(&self, output: &mut Buffer) -> bool {
        output.append(self);
        true
    }
}

impl Payload for Buffer {
    const IS_BORROWED: bool = false;

    fn len(&self) -> usize {
        self.len()
    }

    fn write(&self, transport: &Transport) -> io::Result<Transferred> {
        transport.send(self.readable())
    }

    fn queue(self, queue: &mut Queue, sent: usize) {
        let (bytes, consumed) = self.into_storage();
        queue.push_owned(bytes, consumed + sent);
    }

    fn append_to(&self, output: &mut Buffer) -> bool {
        output.append(self.readable());
        true
    }
}

/// Bytes that can be queued without a copy.
pub(super) enum Bytes {
    Owned(Vec<u8>),
    Shared(Arc<[u8]>),
}

impl Bytes {
    /// The memory that they take, as counted by [`Queue::memory`].
    pub(super) fn memory(&self) -> usize {
        match self {
            Bytes::Owned(bytes) => bytes.capacity(),
            Bytes::Shared(bytes) => bytes.len() / Arc::strong_count(bytes),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Owned(bytes) => bytes,
            Bytes::Shared(bytes) => bytes,
        }
    }
}

impl Payload for Bytes {
    const IS_BORROWED: bool = false;

    fn len(&self) -> usize {
        <[u8]>::len(self)
    }

    fn write(&self, transport: &Transport) -> io::Result<Transferred> {
        transport.send(self)
    }

    fn queue(self, queue: &mut Queue, sent: usize) {
        match self {
            Bytes::Owned(bytes) => queue.push_owned(bytes, sent),
            Bytes::Shared(bytes) => queue.push_shared(bytes, sent),
        }
    }

    fn append_to(&self, output: &mut Buffer) -> bool {
        output.append(self);
        true
    }
}

impl Payload for &[IoSlice<'_>] {
    const IS_BORROWED: bool = true;

    fn len(&self) -> usize {
        self.iter().map(|slice| slice.len()).sum()
    }

    fn write(&self, transport: &Transport) -> io::Result<Transferred> {
        transport.send_vectored(self)
    }

    fn queue(self, queue: &mut Queue, mut sent: usize) {
        for slice in self {
            let skipped = sent.min(slice.len());
            queue.push(&slice[skipped..]);
            sent -= skipped;
        }
    }

    fn append_to(&self, output: &mut Buffer) -> bool {
        self.iter().for_each(|slice| output.append(slice));
        true
    }
}
