//! The traits of other crates for byte streams.
//!
//! A read into memory that is initialised, such as a slice, has no copy. Those of hyper, and of
//! tokio into a vector, read into memory that is not initialised. To initialise it would cost more
//! than the copy of what arrives, so these read into the loop's input buffer first.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::ByteStream;
#[cfg(any(feature = "tokio", feature = "hyper"))]
use crate::net::connection::demand::Target;

#[cfg(feature = "futures-io")]
#[cfg_attr(docsrs, doc(cfg(feature = "futures-io")))]
impl futures_io::AsyncRead for ByteStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_slice(context, bytes)
    }
}

#[cfg(feature = "futures-io")]
#[cfg_attr(docsrs, doc(cfg(feature = "futures-io")))]
impl futures_io::AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_slice(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_slices(context, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush_output(context)
    }

    /// Same as [`shutdown`](ByteStream::shutdown).
    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown_output(context)
    }
}

#[cfg(any(feature = "tokio", feature = "hyper"))]
impl ByteStream {
    /// Reads at most `max` bytes, and passes them to `put`.
    fn poll_read_through(
        &self,
        context: &Context<'_>,
        max: usize,
        mut put: impl FnMut(&[u8]),
    ) -> Poll<io::Result<()>> {
        let polled = self.state.with(|event_loop, core, ready| {
            let mut input = event_loop.lend_input();
            let space = input.writable_mut();
            let most = max.min(space.len());
            let mut into = Target::Slice(&mut space[..most]);
            let polled = core.poll_receive(event_loop, &self.state, ready, context, &mut into);
            if let Poll::Ready(Ok(n)) = polled {
                put(&space[..n]);
            }
            event_loop.return_input(input);
            polled.map(|read| read.map(drop))
        });
        polled.unwrap_or_else(|| {
            // The connection has ended, or is not open.
            let mut left = vec![0; max.min(64 * 1024)];
            self.poll_read_slice(context, &mut left).map(|read| read.map(|n| put(&left[..n])))
        })
    }
}

#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
impl tokio::io::AsyncRead for ByteStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if bytes.initialized().len() < bytes.capacity() {
            return self.poll_read_through(context, bytes.remaining(), |read| bytes.put_slice(read));
        }
        let polled = self.poll_read_slice(context, bytes.initialize_unfilled());
        polled.map(|read| read.map(|n| bytes.advance(n)))
    }
}

#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
impl tokio::io::AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_slice(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_slices(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush_output(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown_output(context)
    }
}

#[cfg(feature = "hyper")]
#[cfg_attr(docsrs, doc(cfg(feature = "hyper")))]
impl hyper::rt::Read for ByteStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut bytes: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_through(context, bytes.remaining(), |read| bytes.put_slice(read))
    }
}

#[cfg(feature = "hyper")]
#[cfg_attr(docsrs, doc(cfg(feature = "hyper")))]
impl hyper::rt::Write for ByteStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_slice(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_slices(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush_output(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown_output(context)
    }
}
