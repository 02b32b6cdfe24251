//! HTTP/1.1 with keep-alive. hyper's responses have one length, which the first one shows.

use super::BODY;
use super::load::Client;
use crate::Result;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

const STATUS: &[u8] = b"HTTP/1.1 200 OK\r\n";

const HEAD_END: &[u8] = b"\r\n\r\n";

#[derive(Default)]
pub(super) struct Http1 {
    /// The length of a response, once one has been received.
    len: Option<usize>,
}

impl Client for Http1 {
    const NAME: &'static str = "HTTP/1.1";

    fn request(&mut self, output: &mut Vec<u8>) {
        output.extend_from_slice(REQUEST);
    }

    fn receive(&mut self, input: &[u8], _output: &mut Vec<u8>) -> Result<(usize, usize)> {
        let (mut taken, mut responses) = (0, 0);
        while taken < input.len() {
            let rest = &input[taken..];
            let len = match self.len {
                Some(len) => len,
                None => match rest.windows(HEAD_END.len()).position(|bytes| bytes == HEAD_END) {
                    Some(head) => *self.len.insert(head + HEAD_END.len() + BODY.len()),
                    None => break,
                },
            };
            let Some(response) = rest.get(..len) else { break };
            let (head, body) = response.split_at(len - BODY.len());
            if !head.starts_with(STATUS) || !head.ends_with(HEAD_END) || body != BODY {
                return Err(format!("a wrong response: {:?}", String::from_utf8_lossy(response)).into());
            }
            taken += len;
            responses += 1;
        }
        Ok((taken, responses))
    }
}
