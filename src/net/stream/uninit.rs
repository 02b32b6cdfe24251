//! Reads of tokio's and hyper's traits, into memory that need not be initialised.
//!
//! A socket is read directly into that memory: no byte is copied, and none is initialised first.

#![allow(unsafe_code, reason = "only unsafe calls give access to memory that is not initialised")]

use std::io;
use std::task::{Context, Poll, ready};

use super::ByteStream;
use crate::net::connection::demand::Target;

#[cfg(feature = "tokio")]
impl ByteStream {
    pub(super) fn poll_read_buf(
        &self,
        context: &Context<'_>,
        bytes: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: a read makes no byte of a `Target::Uninit` uninitialised.
        let space = unsafe { bytes.unfilled_mut() };
        let n = ready!(self.poll_read(context, &mut Target::Uninit(space)))?;
        // SAFETY: the read has initialised the first `n` bytes, see `Target::Uninit`.
        unsafe { bytes.assume_init(n) };
        bytes.advance(n);
        Poll::Ready(Ok(()))
    }
}

#[cfg(feature = "hyper")]
impl ByteStream {
    pub(super) fn poll_read_cursor(
        &self,
        context: &Context<'_>,
        mut bytes: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: a read makes no byte of a `Target::Uninit` uninitialised.
        let space = unsafe { bytes.as_mut() };
        let n = ready!(self.poll_read(context, &mut Target::Uninit(space)))?;
        // SAFETY: the read has initialised the first `n` bytes, see `Target::Uninit`.
        unsafe { bytes.advance(n) };
        Poll::Ready(Ok(()))
    }
}
