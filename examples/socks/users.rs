//! The users that may use the proxy: a file with a line `name:password` for each.

use std::collections::HashMap;
use std::fmt;

/// The users with their passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Users(HashMap<Vec<u8>, Vec<u8>>);

/// The length of a name or a password is one byte on the wire (RFC 1929).
const LONGEST: usize = 255;

impl Users {
    /// Parses one user a line. Empty lines and lines that begin with `#` are ignored. A password
    /// may contain any character but the end of a line.
    ///
    /// # Errors
    /// A message with the number of the line. It contains no part of the line.
    pub(crate) fn parse(text: &str) -> Result<Users, String> {
        let mut users = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = number + 1;
            let (name, password) =
                line.split_once(':').ok_or(format!("line {at}: no colon after the name"))?;
            if name.is_empty() || password.is_empty() {
                return Err(format!("line {at}: the name or the password is empty"));
            }
            if name.len() > LONGEST || password.len() > LONGEST {
                return Err(format!("line {at}: the name or the password has more than {LONGEST} bytes"));
            }
            if users.insert(name.as_bytes().to_vec(), password.as_bytes().to_vec()).is_some() {
                return Err(format!("line {at}: the name occurs twice"));
            }
        }
        Ok(Users(users))
    }

    /// Whether the user exists and has this password. The time does not depend on where the
    /// passwords differ, so it reveals no prefix of the right one.
    pub(crate) fn admit(&self, name: &[u8], password: &[u8]) -> bool {
        let expected = self.0.get(name).map_or(&[][..], Vec::as_slice);
        let differing = expected.iter().zip(password).fold(0, |all, (a, b)| all | (a ^ b));
        !expected.is_empty() && expected.len() == password.len() && differing == 0
    }
}

impl fmt::Debug for Users {
    /// Without the passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} users", self.0.len())
    }
}
