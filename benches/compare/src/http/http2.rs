//! HTTP/2 with prior knowledge (RFC 9113, section 3.3). The headers of a response are not decoded,
//! except the status, which hyper sends first.

use super::BODY;
use super::load::Client;
use crate::Result;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FRAME_HEAD: usize = 9;

/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;

/// Flags. `ACK` is of SETTINGS.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The whole window that a connection can have. It is sufficient for 160 million responses.
const MORE_WINDOW: u32 = (1 << 31) - 1 - 65_535;

/// The indexed header `:status: 200` (RFC 7541, appendix A).
const STATUS_200: u8 = 0x88;

/// `:method: GET`, `:scheme: http`, `:path: /`.
const INDEXED: [u8; 3] = [0x82, 0x86, 0x84];

/// `:authority: localhost`, which the server adds to its table, and afterwards its index there.
const AUTHORITY: &[u8] = b"\x41\x09localhost";
const INDEXED_AUTHORITY: &[u8] = b"\xbe";

#[derive(Default)]
pub(super) struct Http2 {
    /// Requests so far.
    requests: u32,
}

fn frame(output: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[&[u8]]) {
    let len: usize = payload.iter().map(|part| part.len()).sum();
    output.extend_from_slice(&(len as u32).to_be_bytes()[1..]);
    output.extend_from_slice(&[kind, flags]);
    output.extend_from_slice(&stream.to_be_bytes());
    payload.iter().for_each(|part| output.extend_from_slice(part));
}

impl Client for Http2 {
    const NAME: &'static str = "HTTP/2";

    fn begin(&mut self, output: &mut Vec<u8>) {
        output.extend_from_slice(PREFACE);
        frame(output, SETTINGS, 0, 0, &[]);
        frame(output, WINDOW_UPDATE, 0, 0, &[&MORE_WINDOW.to_be_bytes()]);
    }

    fn request(&mut self, output: &mut Vec<u8>) {
        let authority = if self.requests == 0 { AUTHORITY } else { INDEXED_AUTHORITY };
        let stream = 2 * self.requests + 1;
        frame(output, HEADERS, END_STREAM | END_HEADERS, stream, &[&INDEXED, authority]);
        self.requests += 1;
    }

    fn receive(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<(usize, usize)> {
        let (mut taken, mut responses) = (0, 0);
        while let Some((head, rest)) = input[taken..].split_at_checked(FRAME_HEAD) {
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some(payload) = rest.get(..len) else { break };
            taken += FRAME_HEAD + len;
            let (kind, flags) = (head[3], head[4]);
            match kind {
                HEADERS if payload.first() != Some(&STATUS_200) => {
                    return Err("the status of a response is not 200".into());
                }
                DATA if payload != BODY || flags & END_STREAM == 0 => {
                    return Err(format!("a wrong body: {:?}", String::from_utf8_lossy(payload)).into());
                }
                DATA => responses += 1,
                SETTINGS if flags & ACK == 0 => frame(output, SETTINGS, ACK, 0, &[]),
                HEADERS | SETTINGS | WINDOW_UPDATE => {}
                _ => return Err(format!("a frame of type {kind}: {payload:?}").into()),
            }
        }
        Ok((taken, responses))
    }
}
