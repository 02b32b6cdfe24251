//! Byte buffers between a socket and the code that reads or writes it.

use std::fmt;
use std::io;
use std::mem;

/// The smallest allocation, so that a buffer filled byte by byte does not start with a series of
/// tiny ones.
const SMALLEST: usize = 64;

/// A queue of bytes in one contiguous piece: appended at the back, consumed from the front.
///
/// ```text
/// +-------------+------------------+------------------+
/// | prependable |     readable     |     writable     |
/// +-------------+------------------+------------------+
/// 0            head               tail            capacity
/// ```
///
/// Consuming moves `head`, appending moves `tail`. The bytes themselves stay in place until the
/// space behind them is used up. Then they move to the front if that is cheap, otherwise to storage
/// of at least twice the size. So appending costs amortised constant time per byte, and the
/// capacity of a buffer with a steady flow of bytes stays within four times the largest sum of its
/// content and the requested space.
///
/// A new buffer owns no memory. Storage is kept when a buffer becomes empty, ready for the next
/// bytes; [`release`](Buffer::release) frees it.
///
/// # Examples
/// Splitting a stream into lines, independent of how it is split into pieces:
/// ```
/// use reveille::Buffer;
///
/// let mut input = Buffer::new();
/// let mut lines = Vec::new();
/// for piece in ["EHLO exa", "mple.org\r\nQU", "IT\r\n"] {
///     input.append(piece.as_bytes());
///     while let Some(end) = input.find_crlf() {
///         lines.push(String::from_utf8_lossy(input.take(end)).into_owned());
///         input.consume(2);
///     }
/// }
/// assert_eq!(lines, ["EHLO example.org", "QUIT"]);
/// assert!(input.is_empty());
/// ```
#[derive(Default)]
pub struct Buffer {
    /// Initialised over its whole length, which is the capacity: the writable region is a plain
    /// byte slice, and zeroes are written once per growth instead of once per read.
    storage: Vec<u8>,
    /// Invariant: `head <= tail <= storage.len()`. Both are 0 when the buffer is empty, except
    /// while bytes are being added.
    head: usize,
    tail: usize,
}

impl Buffer {
    /// An empty buffer that owns no memory yet.
    #[must_use]
    pub const fn new() -> Buffer {
        Buffer { storage: Vec::new(), head: 0, tail: 0 }
    }

    /// An empty buffer with capacity for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Buffer {
        Buffer { storage: vec![0; capacity], head: 0, tail: 0 }
    }

    /// The number of readable bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tail - self.head
    }

    /// Whether there are no readable bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// The size of the memory owned, in bytes: the readable bytes and the space on either side.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.storage.len()
    }

    /// All readable bytes, oldest byte first.
    #[must_use]
    pub fn readable(&self) -> &[u8] {
        &self.storage[self.head..self.tail]
    }

    /// All readable bytes, to be changed in place.
    #[must_use]
    pub fn readable_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.head..self.tail]
    }

    /// Drops the first `n` bytes.
    ///
    /// # Panics
    /// If there are fewer than `n`.
    #[track_caller]
    pub fn consume(&mut self, n: usize) {
        let len = self.len();
        assert!(n <= len, "cannot consume {n} bytes of a buffer that holds {len}");
        if n == len {
            self.clear();
        } else {
            self.head += n;
        }
    }

    /// Consumes the first `n` bytes and returns a reference to them.
    ///
    /// They stay in place until the next change of the buffer, which the borrow prevents.
    ///
    /// # Panics
    /// If there are fewer than `n`.
    #[track_caller]
    pub fn take(&mut self, n: usize) -> &[u8] {
        let start = self.head;
        self.consume(n);
        &self.storage[start..start + n]
    }

    /// Consumes all bytes and returns a reference to them.
    pub fn take_all(&mut self) -> &[u8] {
        self.take(self.len())
    }

    /// Adds `bytes` after the readable bytes.
    ///
    /// # Panics
    /// If the length would pass `isize::MAX`, as with [`Vec`].
    pub fn append(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.writable_mut()[..bytes.len()].copy_from_slice(bytes);
        self.commit(bytes.len());
    }

    /// Moves all bytes of `other` after the readable bytes; `other` is empty afterwards.
    ///
    /// Copies nothing if this buffer is empty: the two exchange their storage. Otherwise the bytes
    /// are copied.
    ///
    /// # Panics
    /// If the length would pass `isize::MAX`, as with [`Vec`].
    pub fn append_buffer(&mut self, other: &mut Buffer) {
        if self.is_empty() {
            mem::swap(self, other);
        } else {
            self.append(other.readable());
        }
        other.clear();
    }

    /// Inserts `bytes` before the readable bytes: a header whose contents are known only once the
    /// body is written.
    ///
    /// Costs the length of `bytes` if there is enough space before the readable bytes: that of
    /// consumed bytes, or what an earlier call has left. Otherwise the readable bytes move once,
    /// and the free space is split evenly before and after them.
    ///
    /// # Panics
    /// If the length would pass `isize::MAX`, as with [`Vec`].
    ///
    /// # Examples
    /// ```
    /// use reveille::Buffer;
    ///
    /// let mut message = Buffer::new();
    /// message.append(b"body");
    /// let length = u16::try_from(message.len()).unwrap();
    /// message.prepend(&length.to_be_bytes());
    /// assert_eq!(message.readable(), b"\x00\x04body");
    /// ```
    pub fn prepend(&mut self, bytes: &[u8]) {
        let n = bytes.len();
        if self.head < n {
            let len = self.len();
            let capacity = if self.capacity() - len >= n { self.capacity() } else { self.grown_by(n) };
            // The even split prevents calls that alternate between the two ends from moving
            // everything each time.
            self.relocate(capacity, n + (capacity - len - n) / 2);
        }
        self.head -= n;
        self.storage[self.head..self.head + n].copy_from_slice(bytes);
    }

    /// Makes the writable region at least `n` bytes long.
    ///
    /// # Panics
    /// If the length would pass `isize::MAX`, as with [`Vec`].
    pub fn reserve(&mut self, n: usize) {
        if self.storage.len() - self.tail >= n {
            return;
        }
        let len = self.len();
        // A move copies `len` bytes and gains `head` bytes of space. At least `head` bytes have
        // been consumed or appended since the last move, so with `len <= head` the cost per byte is
        // constant. Without this condition a nearly full buffer would copy its content for every
        // few bytes that pass through.
        let moving_pays = len <= self.head && self.capacity() - len >= n;
        let capacity = if moving_pays { self.capacity() } else { self.grown_by(n) };
        self.relocate(capacity, 0);
    }

    /// The space after the readable bytes, to be written to and then [committed](Buffer::commit).
    ///
    /// Its content is initialised but meaningless: zeroes, or bytes consumed earlier. It is at
    /// least as long as [`reserve`](Buffer::reserve) made it, and may be empty.
    ///
    /// # Examples
    /// ```
    /// use reveille::Buffer;
    /// use std::io::Read;
    ///
    /// let mut source: &[u8] = b"from somewhere";
    /// let mut buffer = Buffer::new();
    /// buffer.reserve(4096);
    /// let n = source.read(buffer.writable_mut())?;
    /// buffer.commit(n);
    /// assert_eq!(buffer.readable(), b"from somewhere");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn writable_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.tail..]
    }

    /// Makes the first `n` bytes of the writable region readable.
    ///
    /// # Panics
    /// If the writable region is shorter than `n`.
    #[track_caller]
    pub fn commit(&mut self, n: usize) {
        let writable = self.storage.len() - self.tail;
        assert!(n <= writable, "cannot commit {n} bytes to a writable region of {writable}");
        self.tail += n;
    }

    /// The position of the first `byte`, relative to the first readable byte.
    #[must_use]
    pub fn find(&self, byte: u8) -> Option<usize> {
        position(self.readable(), byte)
    }

    /// The position of the first `\r\n`, relative to the first readable byte.
    ///
    /// A `\r` at the very end does not count.
    #[must_use]
    pub fn find_crlf(&self) -> Option<usize> {
        let bytes = self.readable();
        let mut from = 0;
        while let Some(at) = position(&bytes[from..], b'\n') {
            let newline = from + at;
            if newline > 0 && bytes[newline - 1] == b'\r' {
                return Some(newline - 1);
            }
            from = newline + 1;
        }
        None
    }

    /// Drops all bytes and keeps the storage.
    pub fn clear(&mut self) {
        self.head = 0;
        self.tail = 0;
    }

    /// Releases the storage if the buffer is empty, which makes it the same as a new one. Otherwise
    /// does nothing.
    ///
    /// For a buffer that will not be needed for a while, such as that of an idle connection.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Buffer::new();
        }
    }

    /// Returns the storage up to the last readable byte, and the position of the first one.
    pub(crate) fn into_storage(mut self) -> (Vec<u8>, usize) {
        self.storage.truncate(self.tail);
        (self.storage, self.head)
    }

    /// The capacity to grow to for `n` more bytes. At least twice the present one, so that the
    /// total of all copying by growth is no more than the final capacity.
    fn grown_by(&self, n: usize) -> usize {
        let needed = self.len().checked_add(n).expect("capacity overflow");
        needed.max(self.capacity().saturating_mul(2)).max(SMALLEST)
    }

    /// Moves the readable bytes to `head`, in new storage if `capacity` is larger than the present
    /// one.
    fn relocate(&mut self, capacity: usize, head: usize) {
        let tail = head + self.len();
        if capacity > self.capacity() {
            // Fresh zeroed memory instead of `Vec::resize`, which would also copy consumed bytes.
            // Large zeroed allocations come from the kernel as untouched pages.
            let mut storage = vec![0; capacity];
            storage[head..tail].copy_from_slice(self.readable());
            self.storage = storage;
        } else {
            self.storage.copy_within(self.head..self.tail, head);
        }
        self.head = head;
        self.tail = tail;
    }
}

/// The position of the first `byte` in `bytes`.
pub(crate) fn position(bytes: &[u8], byte: u8) -> Option<usize> {
    // Each block is tested without an early exit, which compiles to vector comparisons. Only the
    // block that contains the byte, or the incomplete last block, is then searched byte by byte.
    const BLOCK: usize = 32;
    let misses = bytes
        .chunks_exact(BLOCK)
        .take_while(|block| !block.iter().fold(false, |found, &b| found | (b == byte)))
        .count();
    let from = misses * BLOCK;
    bytes[from..].iter().position(|&b| b == byte).map(|at| from + at)
}

/// The content of the vector becomes the readable bytes, without a copy; its spare capacity becomes
/// writable.
impl From<Vec<u8>> for Buffer {
    fn from(mut bytes: Vec<u8>) -> Buffer {
        let tail = bytes.len();
        bytes.resize(bytes.capacity(), 0);
        Buffer { storage: bytes, head: 0, tail }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.readable()
    }
}

/// Appends, so that `write!` and encoders work on a buffer. Never fails, and always writes all
/// bytes.
impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Shows the sizes and the first few bytes, since the content may be long and may be confidential.
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 16;
        let preview = &self.readable()[..self.len().min(SHOWN)];
        let more = if self.len() > SHOWN { ".." } else { "" };
        f.debug_struct("Buffer")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("readable", &format_args!("b\"{}\"{more}", preview.escape_ascii()))
            .finish()
    }
}

#[cfg(test)]
mod tests;
