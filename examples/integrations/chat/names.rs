//! The names of guests: each is in use once, in upper or lower case.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

/// The maximum number of characters of the name of a guest or a room.
pub(crate) const LONGEST_NAME: usize = 30;

/// The beginning of the names that guests have at first. They cannot be chosen.
pub(crate) const GUEST: &str = "guest";

/// Why a guest cannot have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Taken,
    Invalid,
    Reserved,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Taken => f.write_str("the name is taken"),
            Refused::Invalid => {
                write!(f, "a name has 1 to {LONGEST_NAME} letters and digits, `-` and `_`")
            }
            Refused::Reserved => write!(f, "names that begin with `{GUEST}` are reserved"),
        }
    }
}

/// The chosen names in use, in lower case.
#[derive(Debug, Default)]
pub(crate) struct Names {
    used: HashMap<String, Claim>,
    guests: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// Another process may have the name.
    Pending,
    Confirmed,
}

impl Names {
    /// The name of a new guest. `suffix` makes it different from the names of other processes.
    pub(crate) fn next_guest(&mut self, suffix: &str) -> String {
        self.guests += 1;
        format!("{GUEST}{}{suffix}", self.guests)
    }

    /// Reserves a name that a guest has chosen, until it is [confirmed](Names::confirm) or
    /// [released](Names::release).
    pub(crate) fn claim(&mut self, name: &str) -> Result<(), Refused> {
        if !is_name(name) {
            return Err(Refused::Invalid);
        }
        let name = name.to_lowercase();
        if name.starts_with(GUEST) {
            return Err(Refused::Reserved);
        }
        match self.used.entry(name) {
            Entry::Occupied(_) => Err(Refused::Taken),
            Entry::Vacant(entry) => {
                entry.insert(Claim::Pending);
                Ok(())
            }
        }
    }

    pub(crate) fn confirm(&mut self, name: &str) {
        if let Some(claim) = self.used.get_mut(&name.to_lowercase()) {
            *claim = Claim::Confirmed;
        }
    }

    /// Makes a name available. Without effect for the first name of a guest.
    pub(crate) fn release(&mut self, name: &str) {
        self.used.remove(&name.to_lowercase());
    }

    /// The confirmed names.
    pub(crate) fn confirmed(&self) -> impl Iterator<Item = &str> {
        let confirmed = self.used.iter().filter(|(_, claim)| **claim == Claim::Confirmed);
        confirmed.map(|(name, _)| name.as_str())
    }
}

/// Whether `text` can be the name of a guest or a room.
pub(crate) fn is_name(text: &str) -> bool {
    let is_permitted = |char: char| char.is_alphanumeric() || matches!(char, '-' | '_');
    (1..=LONGEST_NAME).contains(&text.chars().count()) && text.chars().all(is_permitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_in_use_once_whatever_its_case() {
        let mut names = Names::default();
        assert_eq!(names.claim("Ann"), Ok(()));
        assert_eq!(names.claim("Ann"), Err(Refused::Taken));
        assert_eq!(names.claim("aNN"), Err(Refused::Taken));
        assert_eq!(names.claim("Änn"), Ok(()));
        assert_eq!(names.claim("änn"), Err(Refused::Taken));
        names.release("ANN");
        assert_eq!(names.claim("ann"), Ok(()));
        names.confirm("ÄNN");
        assert_eq!(names.confirmed().collect::<Vec<_>>(), ["änn"]);
    }

    #[test]
    fn names_that_could_be_misread_are_refused() {
        let mut names = Names::default();
        let longest = "x".repeat(LONGEST_NAME);
        assert_eq!(names.claim(&longest), Ok(()));
        for name in ["", "two words", "a:", "a\x1b[31m", "*", &format!("{longest}x")] {
            assert_eq!(names.claim(name), Err(Refused::Invalid), "{name:?}");
        }
        for name in ["guest1", "Guest", "guests"] {
            assert_eq!(names.claim(name), Err(Refused::Reserved), "{name}");
        }
    }

    #[test]
    fn first_names_differ() {
        let mut names = Names::default();
        assert_eq!(names.next_guest(""), "guest1");
        assert_eq!(names.next_guest("x0a"), "guest2x0a");
    }
}
