//! The commands. Without I/O: they change the database and append replies.

mod generic;
mod hashes;
mod lists;
mod server;
mod sets;
mod sorted_sets;
mod strings;

use std::time::Duration;

use super::database::Database;
use super::reply::{Failure, NOT_AN_INTEGER, Reply};

/// A connection, as commands see it.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) name: Vec<u8>,
}

/// What the session has to do after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Continue,
    Close,
    /// A reply of zero is due after this time; never without one.
    Wait(Option<Duration>),
}

/// Facts about the server, for INFO.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) connections: u64,
    pub(crate) accepted: u64,
    pub(crate) executed: u64,
    pub(crate) port: u16,
    pub(crate) uptime: Duration,
}

/// What a command can use.
pub(crate) struct Context<'a> {
    pub(crate) database: &'a mut Database,
    pub(crate) reply: &'a mut Reply,
    pub(crate) client: &'a mut Client,
    pub(crate) facts: &'a dyn Fn() -> Facts,
    pub(crate) after: After,
}

type Done = Result<(), Failure>;

type Execute = fn(&mut Context, &[&[u8]]) -> Done;

const OUT_OF_MEMORY: Failure = Failure::new("OOM command not allowed when used memory > 'maxmemory'.");

/// A command.
#[derive(Clone, Copy)]
struct Command {
    name: &'static str,
    /// The number of arguments with the name; negative if it is the minimum.
    arity: i32,
    /// Whether it is refused when the memory is used up.
    adds: bool,
    /// Gets the arguments without the name.
    execute: Execute,
}

const fn reads(name: &'static str, arity: i32, execute: Execute) -> Command {
    Command { name, arity, adds: false, execute }
}

const fn adds(name: &'static str, arity: i32, execute: Execute) -> Command {
    Command { name, arity, adds: true, execute }
}

/// The longest name of a command.
const LONGEST_NAME: usize = 16;

/// The commands by their names.
pub(crate) struct CommandTable {
    /// In the order of the names, each of which is a number: its bytes in upper case.
    sorted: Vec<(u128, Command)>,
}

impl CommandTable {
    pub(crate) fn new() -> CommandTable {
        let all = [
            generic::COMMANDS,
            hashes::COMMANDS,
            lists::COMMANDS,
            server::COMMANDS,
            sets::COMMANDS,
            sorted_sets::COMMANDS,
            strings::COMMANDS,
        ];
        let mut sorted: Vec<_> = all
            .concat()
            .into_iter()
            .filter_map(|command| Some((packed(command.name.as_bytes())?, command)))
            .collect();
        sorted.sort_by_key(|(name, _)| *name);
        CommandTable { sorted }
    }

    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }

    fn get(&self, name: &[u8]) -> Option<&Command> {
        let name = packed(name)?;
        let index = self.sorted.binary_search_by_key(&name, |(name, _)| *name).ok()?;
        Some(&self.sorted[index].1)
    }

    /// Executes a command: its name and its arguments.
    pub(crate) fn execute(&self, context: &mut Context, name: &[u8], arguments: &[&[u8]]) {
        let result = match self.get(name) {
            None => Err(unknown(name, arguments)),
            Some(command) => {
                let given = arguments.len() as i32 + 1;
                if given != command.arity && (command.arity > 0 || given < -command.arity) {
                    Err(wrong_arity(command.name))
                } else if command.adds && !context.database.has_room(length_of(arguments)) {
                    Err(OUT_OF_MEMORY)
                } else {
                    (command.execute)(context, arguments)
                }
            }
        };
        if let Err(failure) = result {
            context.reply.error(&failure);
        }
    }
}

fn packed(name: &[u8]) -> Option<u128> {
    let mut bytes = [0; LONGEST_NAME];
    bytes.get_mut(..name.len())?.copy_from_slice(name);
    bytes.make_ascii_uppercase();
    Some(u128::from_be_bytes(bytes))
}

fn length_of(arguments: &[&[u8]]) -> usize {
    arguments.iter().map(|argument| argument.len()).sum()
}

// --- What the commands have in common ------------------------------------------------------------

fn wrong_arity(command: &str) -> Failure {
    Failure::of(&[b"ERR wrong number of arguments for '", command.as_bytes(), b"' command"])
}

/// Redis shows the name and the first arguments, up to 128 bytes of each.
fn unknown(name: &[u8], arguments: &[&[u8]]) -> Failure {
    let mut shown_arguments = Vec::new();
    for argument in arguments {
        let used = shown_arguments.len();
        if used >= 128 {
            break;
        }
        shown_arguments.extend([b"'", shown(argument, 128 - used), b"' "].concat());
    }
    let name = shown(name, 128);
    Failure::of(&[b"ERR unknown command '", name, b"', with args beginning with: ", &shown_arguments])
}

/// The part of an argument that an error reply shows: up to a zero byte.
fn shown(argument: &[u8], limit: usize) -> &[u8] {
    let end = argument.iter().position(|&byte| byte == 0).unwrap_or(argument.len()).min(limit);
    &argument[..end]
}

fn unknown_subcommand(command: &str, given: &[u8]) -> Failure {
    let given = shown(given, 128);
    Failure::of(&[b"ERR unknown subcommand '", given, b"'. Try ", command.as_bytes(), b" HELP."])
}

fn integer(text: &[u8]) -> Result<i64, Failure> {
    super::numbers::integer(text).ok_or(NOT_AN_INTEGER)
}

/// The optional last argument of POP commands.
fn positive(text: &[u8]) -> Result<usize, Failure> {
    let number = super::numbers::integer(text).and_then(|number| usize::try_from(number).ok());
    number.ok_or(Failure::new("ERR value is out of range, must be positive"))
}

fn is(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}

/// The indices from `first` to `last`, of a sequence with this length. Negative numbers count from
/// the end. `None` if there are none.
fn range(first: i64, last: i64, length: usize) -> Option<(usize, usize)> {
    let length = length as i64;
    let from_end = |index: i64| if index < 0 { index.saturating_add(length) } else { index };
    let (first, last) = (from_end(first).max(0), from_end(last).min(length - 1));
    (first <= last && first < length).then_some((first as usize, last as usize))
}
