//! Requests.

use super::name::Name;
use super::reply::{ProtocolError, number};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    List(Name),
    Get { name: Name, offset: u64 },
}

impl Request {
    /// Parses a line without its ending.
    pub(crate) fn parse(line: &[u8]) -> Result<Request, ProtocolError> {
        let words: Vec<&[u8]> = line.splitn(4, |byte| *byte == b' ').collect();
        match words[..] {
            [b"LIST", name] => Ok(Request::List(Name::decode(name)?)),
            [b"GET", name, offset] => Ok(Request::Get { name: Name::decode(name)?, offset: number(offset)? }),
            _ => Err(ProtocolError("the requests are LIST NAME and GET NAME OFFSET")),
        }
    }

    /// The line, with its ending.
    pub(crate) fn encode(&self) -> String {
        match self {
            Request::List(name) => format!("LIST {}\n", name.encode()),
            Request::Get { name, offset } => format!("GET {} {offset}\n", name.encode()),
        }
    }
}
