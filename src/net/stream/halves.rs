//! The two halves of a stream, for a future that reads and writes at the same time.

use std::future::poll_fn;
use std::io;

use super::ByteStream;
use crate::buffer::Buffer;
use crate::net::connection::demand::Target;

impl ByteStream {
    /// Divides the stream, for a future that reads and writes at the same time.
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        (ReadHalf(self), WriteHalf(self))
    }
}

/// The input of a [`ByteStream`], see [`split`](ByteStream::split).
#[derive(Debug)]
pub struct ReadHalf<'a>(&'a ByteStream);

impl ReadHalf<'_> {
    /// Same as [`ByteStream::read`].
    ///
    /// # Errors
    /// See [`ByteStream`](ByteStream#errors).
    pub async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| self.0.poll_read_slice(context, bytes)).await
    }

    /// Same as [`ByteStream::read_buf`].
    ///
    /// # Errors
    /// See [`ByteStream`](ByteStream#errors).
    pub async fn read_buf(&mut self, input: &mut Buffer) -> io::Result<usize> {
        poll_fn(|context| self.0.poll_read(context, &mut Target::Buffer(&mut *input))).await
    }
}

/// The output of a [`ByteStream`], see [`split`](ByteStream::split).
#[derive(Debug)]
pub struct WriteHalf<'a>(&'a ByteStream);

impl WriteHalf<'_> {
    /// Same as [`ByteStream::write_all`].
    ///
    /// # Errors
    /// Same as [`ByteStream::write_all`].
    pub async fn write_all(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.write_bytes(bytes.as_ref()).await
    }

    /// Same as [`ByteStream::flush`].
    ///
    /// # Errors
    /// See [`ByteStream`](ByteStream#errors).
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.0.poll_flush_output(context)).await
    }

    /// Same as [`ByteStream::shutdown`].
    ///
    /// # Errors
    /// See [`ByteStream`](ByteStream#errors).
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|context| self.0.poll_shutdown_output(context)).await
    }
}
