//! What a guest has written: a command, or a line for the room.

/// The commands, in one line.
pub(crate) const HELP: &str = "the commands are: /nick NAME, /join ROOM, /who, /quit, and /help";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    /// A line for all guests of the room, without control characters.
    Say(String),
    Nick(&'a str),
    Join(&'a str),
    Who,
    Help,
    Quit,
    /// A command without its argument; the text says which one it needs.
    Incomplete(&'static str),
    /// A command that does not exist, or with an argument that it does not have.
    Unknown,
    /// An empty line.
    Nothing,
}

impl<'a> Command<'a> {
    pub(crate) fn parse(line: &'a str) -> Command<'a> {
        let line = line.trim_end();
        if !line.starts_with('/') {
            return match printable(line) {
                text if text.trim().is_empty() => Command::Nothing,
                text => Command::Say(text),
            };
        }
        let (command, argument) = line.split_once(' ').unwrap_or((line, ""));
        match (command, argument.trim()) {
            ("/nick", "") => Command::Incomplete("/nick needs a name"),
            ("/nick", name) => Command::Nick(name),
            ("/join", "") => Command::Incomplete("/join needs a room"),
            ("/join", room) => Command::Join(room),
            ("/who", "") => Command::Who,
            ("/help", "") => Command::Help,
            ("/quit", "") => Command::Quit,
            _ => Command::Unknown,
        }
    }
}

/// Replaces control characters, which could change the terminal of a guest, and characters that
/// change the direction of text or are line ends elsewhere.
pub(crate) fn printable(text: &str) -> String {
    let is_harmful = |char: char| {
        char.is_control()
            || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.replace(is_harmful, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_commands_are_distinguished() {
        for (line, command) in [
            ("hello", Command::Say("hello".to_owned())),
            ("hello there \r", Command::Say("hello there".to_owned())),
            (" /nick ann", Command::Say(" /nick ann".to_owned())),
            ("", Command::Nothing),
            (" \t \x01", Command::Nothing),
            ("/nick ann", Command::Nick("ann")),
            ("/nick  ann \r", Command::Nick("ann")),
            ("/nick two words", Command::Nick("two words")),
            ("/nick", Command::Incomplete("/nick needs a name")),
            ("/nick ", Command::Incomplete("/nick needs a name")),
            ("/join garden", Command::Join("garden")),
            ("/join", Command::Incomplete("/join needs a room")),
            ("/who", Command::Who),
            ("/who else", Command::Unknown),
            ("/help", Command::Help),
            ("/quit", Command::Quit),
            ("/shout", Command::Unknown),
            ("/", Command::Unknown),
        ] {
            assert_eq!(Command::parse(line), command, "{line:?}");
        }
    }

    #[test]
    fn characters_that_control_a_terminal_are_replaced() {
        assert_eq!(printable("a\x1b[31mb"), "a [31mb");
        assert_eq!(printable("one\ntwo\u{85}three\u{2028}four\u{202e}five"), "one two three four five");
        assert_eq!(printable("grüße, 世界 👋"), "grüße, 世界 👋");
    }
}
