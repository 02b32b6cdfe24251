//! The tests of the protocol.

mod bodies;
mod conditions;
mod requests;
mod targets;

use reveille::codec::Decoder;

use super::{Event, Requests, Status};

/// The requests in `input`, as `METHOD PATH [BODY]` each, and the status that refuses the rest.
fn read(input: impl AsRef<[u8]>) -> (Vec<String>, Option<u16>) {
    read_in_pieces(input.as_ref(), usize::MAX)
}

/// Same as [`read`], for input that arrives in pieces.
fn read_in_pieces(input: &[u8], piece: usize) -> (Vec<String>, Option<u16>) {
    let (mut requests, mut decoder) = (Vec::<String>::new(), Requests::default());
    let mut pending = Vec::new();
    for piece in input.chunks(piece.min(input.len().max(1))) {
        pending.extend_from_slice(piece);
        while !pending.is_empty() {
            let taken = match decoder.decode(&pending) {
                Err(Status(status)) => return (requests, Some(status)),
                Ok(None) => break,
                Ok(Some((Event::Request(request), taken))) => {
                    let path = String::from_utf8_lossy(&request.target.path);
                    requests.push(format!("{:?} /{path}", request.method).to_uppercase());
                    taken
                }
                Ok(Some((Event::Body { bytes, is_last }, taken))) => {
                    let request = requests.last_mut().unwrap();
                    if !request.contains(" [") {
                        request.push_str(" [");
                    }
                    request.push_str(&String::from_utf8_lossy(bytes));
                    if is_last {
                        request.push(']');
                    }
                    taken
                }
            };
            assert!(taken > 0);
            pending.drain(..taken);
        }
    }
    (requests, None)
}

/// The status that refuses a request with these lines; 0 if it is complete.
fn status(lines: &str) -> u16 {
    let (requests, status) = read(lines.replace('\n', "\r\n"));
    status.unwrap_or_else(|| {
        assert_eq!(requests.len(), 1, "{requests:?}");
        0
    })
}
