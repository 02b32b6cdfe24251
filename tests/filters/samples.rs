//! Filters for the tests, and their encoded form as a peer sees it.

use std::io;

use crate::support::net::{End, Journal};
use reveille::Buffer;
use reveille::net::{Filter, FilterContext};

/// Waits until connection `number` has ended with an error, and returns its kind.
#[track_caller]
pub(crate) fn error_of(journal: &Journal, number: usize) -> io::ErrorKind {
    match journal.end_of(number) {
        End::Error(kind, _) => kind,
        other => panic!("the connection has ended as {other:?}"),
    }
}

/// A stream cipher, not a secret one: each byte is changed by its position in the stream. So bytes
/// that are lost, repeated or in another order decode to other bytes.
#[derive(Default)]
pub(crate) struct Cipher {
    decoded: usize,
    encoded: usize,
}

/// Encodes or decodes bytes that begin at `position`, and advances it.
pub(crate) fn cipher(bytes: &mut [u8], position: &mut usize) {
    for byte in bytes {
        *byte ^= (*position % 251) as u8;
        *position += 1;
    }
}

impl Filter for Cipher {
    fn decode(&mut self, _: &mut FilterContext, input: &mut Buffer, output: &mut Buffer) -> io::Result<()> {
        cipher(input.readable_mut(), &mut self.decoded);
        output.append_buffer(input);
        Ok(())
    }

    fn encode(&mut self, _: &mut FilterContext, input: &mut Buffer, output: &mut Buffer) -> io::Result<()> {
        cipher(input.readable_mut(), &mut self.encoded);
        output.append_buffer(input);
        Ok(())
    }
}

/// Blocks with a length before them, as in TLS: `decode` leaves an incomplete block. The output
/// ends with an empty block, and input without it is truncated.
///
/// A block of the length 0xffff is a request, which the filter answers with an empty request.
#[derive(Default)]
pub(crate) struct Blocks {
    has_ended: bool,
}

pub(crate) const REQUEST: [u8; 2] = [0xff, 0xff];

pub(crate) const END: [u8; 2] = [0, 0];

pub(crate) fn block(bytes: &[u8]) -> Vec<u8> {
    let mut block = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    block.extend_from_slice(bytes);
    block
}

/// The content of blocks, and whether the last of them is the end.
pub(crate) fn unblock(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    while let [high, low, rest @ ..] = bytes {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        if len == 0 {
            assert_eq!(rest, b"", "bytes after the end");
            return (content, true);
        }
        content.extend_from_slice(&rest[..len]);
        bytes = &rest[len..];
    }
    (content, false)
}

impl Filter for Blocks {
    fn decode(
        &mut self,
        context: &mut FilterContext,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        while let [high, low, rest @ ..] = input.readable() {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            if self.has_ended {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a block after the end"));
            }
            if [*high, *low] == REQUEST {
                input.consume(2);
                context.to_peer().append(&REQUEST);
                continue;
            }
            if rest.len() < len {
                break;
            }
            self.has_ended = len == 0;
            output.append(&rest[..len]);
            input.consume(2 + len);
        }
        Ok(())
    }

    fn encode(&mut self, _: &mut FilterContext, input: &mut Buffer, output: &mut Buffer) -> io::Result<()> {
        while !input.is_empty() {
            let len = input.len().min(1000);
            output.append(&(len as u16).to_be_bytes());
            output.append(input.take(len));
        }
        Ok(())
    }

    fn on_peer_shutdown(&mut self, _: &mut FilterContext, _: &mut Buffer, _: &mut Buffer) -> io::Result<()> {
        match self.has_ended {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no end block")),
        }
    }

    fn finish(&mut self, _: &mut FilterContext, output: &mut Buffer) -> io::Result<()> {
        output.append(&END);
        Ok(())
    }
}

/// A handshake of one byte: each side sends `!`, and is ready when it has received the other's.
/// After it, `.` is the end of the input. The output ends with `.` too.
#[derive(Default)]
pub(crate) struct Greets {
    is_ready: bool,
}

impl Filter for Greets {
    fn on_open(&mut self, context: &mut FilterContext<'_>) -> io::Result<()> {
        context.to_peer().append(b"!");
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.is_ready
    }

    fn decode(
        &mut self,
        context: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        if !self.is_ready {
            match input.take(1) {
                b"!" => self.is_ready = true,
                other => {
                    let message = format!("{other:?} is not a greeting");
                    context.to_peer().append(b"alert");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, message));
                }
            }
        }
        match input.find(b'.') {
            None => output.append_buffer(input),
            Some(end) => {
                output.append(input.take(end));
                input.clear();
                context.end_input();
            }
        }
        Ok(())
    }

    fn encode(
        &mut self,
        _: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        assert!(self.is_ready, "output before the handshake is done");
        output.append_buffer(input);
        Ok(())
    }

    fn on_peer_shutdown(
        &mut self,
        _: &mut FilterContext<'_>,
        _: &mut Buffer,
        _: &mut Buffer,
    ) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the input has no end"))
    }

    fn finish(&mut self, _: &mut FilterContext<'_>, output: &mut Buffer) -> io::Result<()> {
        assert!(self.is_ready, "the end before the handshake is done");
        output.append(b".");
        Ok(())
    }
}
