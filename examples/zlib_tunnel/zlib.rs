//! [`Zlib`]: a filter that compresses output and decompresses input, in the zlib format (RFC 1950).

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use reveille::Buffer;
use reveille::net::{Filter, FilterContext};

/// The space that each call of the compressor gets.
const STEP: usize = 16 * 1024;

pub(crate) struct Zlib {
    compress: Compress,
    decompress: Decompress,
    /// The compressed stream of the peer has ended.
    has_ended: bool,
}

impl Zlib {
    pub(crate) fn new() -> Zlib {
        Zlib {
            compress: Compress::new(Compression::fast(), true),
            decompress: Decompress::new(true),
            has_ended: false,
        }
    }

    /// Compresses all of `input`. `flush` is applied after it.
    fn deflate(&mut self, input: &mut Buffer, output: &mut Buffer, flush: FlushCompress) -> io::Result<()> {
        loop {
            output.reserve(STEP);
            let space = output.writable_mut().len();
            let (read, written) = (self.compress.total_in(), self.compress.total_out());
            let status = self.compress.compress(input.readable(), output.writable_mut(), flush);
            let status = status.map_err(io::Error::other)?;
            input.consume((self.compress.total_in() - read) as usize);
            let written = (self.compress.total_out() - written) as usize;
            output.commit(written);
            // With space left over, everything has been flushed.
            if status == Status::StreamEnd || (input.is_empty() && written < space) {
                return Ok(());
            }
        }
    }
}

impl Filter for Zlib {
    fn decode(
        &mut self,
        context: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        while !self.has_ended {
            // A megabyte of zeroes may arrive in a kilobyte.
            if output.len() >= FilterContext::PIECE {
                context.decode_again();
                return Ok(());
            }
            output.reserve(STEP);
            let space = output.writable_mut().len();
            let (read, written) = (self.decompress.total_in(), self.decompress.total_out());
            let status =
                self.decompress.decompress(input.readable(), output.writable_mut(), FlushDecompress::None);
            let status = status.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            input.consume((self.decompress.total_in() - read) as usize);
            let written = (self.decompress.total_out() - written) as usize;
            output.commit(written);
            self.has_ended = status == Status::StreamEnd;
            if input.is_empty() && written < space {
                return Ok(());
            }
        }
        match input.is_empty() {
            true => Ok(()),
            false => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "there are bytes after the compressed stream"))
            }
        }
    }

    fn encode(
        &mut self,
        _: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        self.deflate(input, output, FlushCompress::Sync)
    }

    fn on_peer_shutdown(
        &mut self,
        _: &mut FilterContext<'_>,
        _: &mut Buffer,
        _: &mut Buffer,
    ) -> io::Result<()> {
        // A peer that sends nothing sends no compressed stream either.
        match self.has_ended || self.decompress.total_in() == 0 {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the compressed stream is truncated")),
        }
    }

    fn finish(&mut self, _: &mut FilterContext<'_>, output: &mut Buffer) -> io::Result<()> {
        self.deflate(&mut Buffer::new(), output, FlushCompress::Finish)
    }
}
