//! Names of files, as paths and on the line.

use std::fmt::Write;

use super::ProtocolError;

/// The maximum length of a path, and of a component: those of Linux.
pub(super) const LONGEST: usize = 4000;
const LONGEST_COMPONENT: usize = 255;

/// The maximum number of components, so that no chain of directories is without an end.
const DEEPEST: usize = 200;

/// A path below a root: components separated by `/`. None is empty, `.` or `..`, so the path does
/// not lead out of the root, unless it passes a symbolic link.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(Vec<u8>);

/// Whether these bytes can name an entry of a directory.
pub(crate) fn is_component(bytes: &[u8]) -> bool {
    !matches!(bytes, b"" | b"." | b"..")
        && bytes.len() <= LONGEST_COMPONENT
        && !bytes.iter().any(|byte| matches!(byte, b'/' | 0))
}

impl Name {
    /// Checks a path. `.` is the root.
    pub(crate) fn new(path: &[u8]) -> Result<Name, ProtocolError> {
        if path == b"." {
            return Ok(Name::default());
        }
        let is_valid = path.len() <= LONGEST
            && path.split(|byte| *byte == b'/').all(is_component)
            && path.iter().filter(|byte| **byte == b'/').count() < DEEPEST;
        if is_valid { Ok(Name(path.to_vec())) } else { Err(ProtocolError("a name is not valid")) }
    }

    /// The name of an entry of this directory.
    pub(crate) fn join(&self, component: &[u8]) -> Result<Name, ProtocolError> {
        if !is_component(component) {
            return Err(ProtocolError("an entry has a name that is not valid"));
        }
        match self.0.is_empty() {
            true => Name::new(component),
            false => Name::new(&[&self.0, &b"/"[..], component].concat()),
        }
    }

    /// The path, which is empty for the root.
    pub(crate) fn path(&self) -> &[u8] {
        &self.0
    }

    /// The path of the directory that contains it, and the last component. `None` for the root.
    pub(crate) fn split(&self) -> Option<(&[u8], &[u8])> {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => Some((&self.0[..at], &self.0[at + 1..])),
            None if self.0.is_empty() => None,
            None => Some((b"", &self.0)),
        }
    }

    /// Whether a component begins with a dot.
    pub(crate) fn is_hidden(&self) -> bool {
        self.0.split(|byte| *byte == b'/').any(|component| component.starts_with(b"."))
    }

    /// The name on the line.
    pub(crate) fn encode(&self) -> String {
        if self.0.is_empty() { ".".to_owned() } else { encode(&self.0) }
    }

    pub(super) fn decode(text: &[u8]) -> Result<Name, ProtocolError> {
        Name::new(&decode(text)?)
    }
}

/// Returns bytes as printable text.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'!'..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => _ = write!(text, "%{byte:02x}"),
        }
    }
    text
}

/// The reverse of [`encode`]. Other bytes may be encoded too.
pub(super) fn decode(text: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    const INVALID: ProtocolError = ProtocolError("a name is not encoded correctly");
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.iter();
    while let Some(&byte) = left.next() {
        match byte {
            b'%' => {
                let mut digit = || char::from(*left.next()?).to_digit(16);
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(INVALID) };
                bytes.push((high * 16 + low) as u8);
            }
            b'!'..=b'~' => bytes.push(byte),
            _ => return Err(INVALID),
        }
    }
    Ok(bytes)
}
