//! WebSocket without I/O: the protocol of the crate tungstenite, over buffers.

use std::io::{self, Read, Write};

use reveille::Buffer;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message, Utf8Bytes};

/// The maximum size of a message in bytes.
pub(crate) const LONGEST_MESSAGE: usize = 4 << 10;

/// The server's end of a WebSocket connection.
pub(crate) struct Socket {
    context: WebSocketContext,
}

/// What the client has sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Text(Utf8Bytes),
    /// A ping, which has been replied to, or a pong.
    Sign,
    /// The client closes. [`Socket::close`] sends the reply.
    Close,
    /// The client has broken the protocol; the code says how.
    Broken(CloseCode),
}

/// The bytes of a connection.
struct Bytes<'a> {
    input: &'a mut Buffer,
    output: Vec<u8>,
}

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let length = buffer.len().min(self.input.len());
        buffer[..length].copy_from_slice(self.input.take(length));
        Ok(length)
    }
}

impl Write for Bytes<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket {
    pub(crate) fn new() -> Socket {
        let config = WebSocketConfig::default()
            .max_message_size(Some(LONGEST_MESSAGE))
            .max_frame_size(Some(LONGEST_MESSAGE))
            .read_buffer_size(1 << 10)
            .write_buffer_size(0);
        Socket { context: WebSocketContext::new(Role::Server, Some(config)) }
    }

    /// Decodes the next message. Returns it, or `None` if it is incomplete, and bytes that are to
    /// be sent. Takes all of the input sooner or later: a part of it may stay in the socket.
    pub(crate) fn receive(&mut self, input: &mut Buffer) -> (Option<Received>, Vec<u8>) {
        let mut bytes = Bytes { input, output: Vec::new() };
        let received = match self.context.read(&mut bytes) {
            Ok(Message::Text(text)) => Received::Text(text),
            Ok(Message::Ping(_)) => {
                // The pong is ready; this writes it.
                match self.context.flush(&mut bytes) {
                    Ok(()) => Received::Sign,
                    Err(error) => Received::Broken(code_of(&error)),
                }
            }
            Ok(Message::Pong(_) | Message::Frame(_)) => Received::Sign,
            Ok(Message::Binary(_)) => Received::Broken(CloseCode::Unsupported),
            Ok(Message::Close(_)) => Received::Close,
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return (None, bytes.output);
            }
            Err(error) => Received::Broken(code_of(&error)),
        };
        (Some(received), bytes.output)
    }

    /// Returns the last frame of this end: the reply to the client's close if it has sent one, and
    /// otherwise a close with `code`. Nothing may be sent afterwards.
    pub(crate) fn close(&mut self, code: CloseCode) -> Vec<u8> {
        let mut bytes = Bytes { input: &mut Buffer::new(), output: Vec::new() };
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static("") };
        // Writing to memory cannot fail. The result says that the connection has ended, which the
        // caller knows.
        let _ = self.context.close(&mut bytes, Some(frame));
        bytes.output
    }
}

/// The code that names an error to the client (RFC 6455, section 7.4.1).
fn code_of(error: &Error) -> CloseCode {
    match error {
        Error::Utf8(_) => CloseCode::Invalid,
        Error::Capacity(_) => CloseCode::Size,
        _ => CloseCode::Protocol,
    }
}

/// A text message. Messages of a server are not masked, so all clients can be sent the same bytes.
pub(crate) fn text(text: &str) -> Vec<u8> {
    encode(Frame::message(text.to_owned(), OpCode::Data(Data::Text), true))
}

pub(crate) fn ping() -> Vec<u8> {
    encode(Frame::ping(Vec::new()))
}

fn encode(frame: Frame) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(frame.len());
    frame.format(&mut bytes).expect("writing to memory cannot fail");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use tungstenite::protocol::frame::FrameHeader;
    use tungstenite::protocol::frame::coding::Control;

    /// The frame of a client, with a mask.
    fn frame(opcode: OpCode, payload: &[u8], is_last: bool) -> Vec<u8> {
        let header =
            FrameHeader { is_final: is_last, opcode, mask: Some([1, 2, 3, 4]), ..FrameHeader::default() };
        let frame = Frame::from_payload(header, payload.to_vec().into());
        encode(frame)
    }

    fn text_frame(text: &str) -> Vec<u8> {
        frame(OpCode::Data(Data::Text), text.as_bytes(), true)
    }

    fn received(socket: &mut Socket, input: &[u8]) -> (Vec<Received>, Vec<u8>) {
        let (mut buffer, mut all, mut output) = (Buffer::new(), Vec::new(), Vec::new());
        buffer.append(input);
        loop {
            let (received, bytes) = socket.receive(&mut buffer);
            output.extend(bytes);
            match received {
                Some(received) => all.push(received),
                None => return (all, output),
            }
            if matches!(all.last(), Some(Received::Close | Received::Broken(_))) {
                return (all, output);
            }
        }
    }

    #[test]
    fn messages_are_decoded_however_they_are_divided() {
        let fragments = [
            frame(OpCode::Data(Data::Text), b"one ", false),
            frame(OpCode::Control(Control::Ping), b"?", true),
            frame(OpCode::Data(Data::Continue), "two €".as_bytes(), true),
        ];
        let input = [&text_frame("hello")[..], &fragments.concat(), &text_frame("")].concat();
        let expected = [
            Received::Text("hello".into()),
            Received::Sign,
            Received::Text("one two €".into()),
            Received::Text("".into()),
        ];
        let pong = [0x8a, 1, b'?'];
        assert_eq!(received(&mut Socket::new(), &input), (expected.into(), pong.to_vec()));
        let (mut socket, mut all, mut output) = (Socket::new(), Vec::new(), Vec::new());
        for byte in &input {
            let (some, bytes) = received(&mut socket, &[*byte]);
            all.extend(some);
            output.extend(bytes);
        }
        assert_eq!(all.len(), 4);
        assert_eq!(output, pong);
    }

    #[test]
    fn violations_have_a_code() {
        let long = text_frame(&"x".repeat(LONGEST_MESSAGE + 1));
        let half = "x".repeat(LONGEST_MESSAGE / 2 + 1);
        let long_in_parts = [
            frame(OpCode::Data(Data::Text), half.as_bytes(), false),
            frame(OpCode::Data(Data::Continue), half.as_bytes(), true),
        ];
        // The header of a frame is enough.
        let header = long[..8].to_vec();
        for (input, code) in [
            (header, CloseCode::Size),
            (long, CloseCode::Size),
            (long_in_parts.concat(), CloseCode::Size),
            // Without a mask.
            (text("hello"), CloseCode::Protocol),
            (frame(OpCode::Data(Data::Text), b"\xff", true), CloseCode::Invalid),
            (frame(OpCode::Data(Data::Binary), b"a", true), CloseCode::Unsupported),
            (frame(OpCode::Data(Data::Continue), b"a", true), CloseCode::Protocol),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), CloseCode::Protocol),
        ] {
            let mut socket = Socket::new();
            assert_eq!(received(&mut socket, &input).0, [Received::Broken(code)]);
            let close = [&[0x88, 2][..], &u16::from(code).to_be_bytes()].concat();
            assert_eq!(socket.close(code), close, "{code:?}");
        }
        assert_eq!(received(&mut Socket::new(), &text_frame(&"x".repeat(LONGEST_MESSAGE))).0.len(), 1);
    }

    #[test]
    fn a_close_is_replied_to_with_its_code() {
        let mut socket = Socket::new();
        let input = frame(OpCode::Control(Control::Close), &1000_u16.to_be_bytes(), true);
        assert_eq!(received(&mut socket, &input), (vec![Received::Close], Vec::new()));
        assert_eq!(socket.close(CloseCode::Away), [0x88, 2, 0x03, 0xe8]);
        assert!(socket.close(CloseCode::Away).is_empty());
    }

    #[test]
    fn frames_of_the_server_have_no_mask() {
        assert_eq!(text("é"), [0x81, 2, 0xc3, 0xa9]);
        assert_eq!(ping(), [0x89, 0]);
    }
}
