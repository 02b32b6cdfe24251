//! Command-line arguments of an example, and its exit status.

#![allow(dead_code, reason = "each example uses a part of it")]

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use lexopt::Arg;

/// The options that have two values.
const PAIRS: [&str; 1] = ["--tls"];

/// Parses the arguments and calls `run`. `values` are the options that have a value, and `flags`
/// those that have none. The first line of `usage` is `usage: NAME`, followed by the arguments.
///
/// Returns the exit status: 0 also for `--help`, 1 for an error, 2 for wrong arguments.
pub(crate) fn main(
    usage: &'static str,
    values: &[&str],
    flags: &[&str],
    run: impl FnOnce(&mut Options) -> Result<(), Failure>,
) -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let name = usage.trim_start_matches("usage: ").split_whitespace().next().unwrap_or_default();
    let failure = match Options::parse(values, flags) {
        Ok(None) => {
            // Fails if the reader of the pipe has gone, which needs no usage.
            let _ = writeln!(io::stdout(), "{usage}");
            return ExitCode::SUCCESS;
        }
        Ok(Some(mut options)) => run(&mut options).err(),
        Err(error) => Some(Failure::Arguments(error.to_string())),
    };
    match failure {
        None => ExitCode::SUCCESS,
        Some(Failure::Arguments(message)) => {
            let _ = writeln!(io::stderr(), "{name}: {message}\n{usage}");
            ExitCode::from(2)
        }
        Some(Failure::Error(message)) => {
            let _ = writeln!(io::stderr(), "{name}: {message}");
            ExitCode::FAILURE
        }
        Some(Failure::Printed) => ExitCode::FAILURE,
    }
}

/// Why an example ends without success.
pub(crate) enum Failure {
    /// The arguments are wrong.
    Arguments(String),
    Error(String),
    /// An error that has been printed.
    Printed,
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Error(error.to_string())
    }
}

/// The arguments of an example. Options come before the other arguments.
pub(crate) struct Options {
    /// The names of all options and flags.
    known: Vec<String>,
    values: Vec<(String, OsString)>,
    /// The arguments from the first that is not an option.
    rest: Vec<OsString>,
}

impl Options {
    /// Returns `None` for `--help`.
    fn parse(values: &[&str], flags: &[&str]) -> Result<Option<Options>, lexopt::Error> {
        let known = values.iter().chain(flags).chain(&["--help"]).map(|&name| name.to_owned()).collect();
        let mut options = Options { known, values: Vec::new(), rest: Vec::new() };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            let name = match argument {
                Arg::Long("help") | Arg::Short('h') => return Ok(None),
                Arg::Long(name) => format!("--{name}"),
                Arg::Short(name) => format!("-{name}"),
                Arg::Value(value) => {
                    options.rest.push(value);
                    options.rest.extend(parser.raw_args()?);
                    break;
                }
            };
            if values.contains(&name.as_str()) {
                let first = parser.value()?;
                if PAIRS.contains(&name.as_str()) {
                    options.values.push((second(&name), parser.value()?));
                }
                options.values.push((name, first));
            } else if flags.contains(&name.as_str()) {
                options.values.push((name, OsString::new()));
            } else {
                return Err(format!("unknown argument `{name}`").into());
            }
        }
        Ok(Some(options))
    }

    /// The value of an option, or its default. `meaning` completes the message "`option`: `value`
    /// is not".
    pub(crate) fn get<T: FromStr>(&self, option: &str, default: T, meaning: &str) -> Result<T, Failure> {
        let Some(value) = self.value(option) else { return Ok(default) };
        let parsed = value.to_str().and_then(|text| text.parse().ok());
        parsed
            .ok_or_else(|| self.wrong(format!("`{option}`: `{}` is not {meaning}", value.to_string_lossy())))
    }

    /// The value of an option that is a number of seconds, which is not 0.
    pub(crate) fn seconds(&self, option: &str, default: u32) -> Result<Duration, Failure> {
        let default = NonZeroU32::new(default).unwrap_or(NonZeroU32::MIN);
        let seconds = self.get(option, default, "a number of seconds from 1")?;
        Ok(Duration::from_secs(seconds.get().into()))
    }

    /// Whether an option was given.
    pub(crate) fn has(&self, option: &str) -> bool {
        self.value(option).is_some()
    }

    /// The value of an option that has no default.
    pub(crate) fn text(&self, option: &str) -> Option<String> {
        self.value(option).map(|value| value.to_string_lossy().into_owned())
    }

    pub(crate) fn path(&self, option: &str) -> Option<PathBuf> {
        self.value(option).map(PathBuf::from)
    }

    /// The values of an option that has two of them.
    pub(crate) fn pair(&self, option: &str) -> Option<(PathBuf, PathBuf)> {
        Some((self.path(option)?, self.path(&second(option))?))
    }

    /// The last value that was given for an option.
    fn value(&self, option: &str) -> Option<&OsString> {
        self.values.iter().rfind(|(name, _)| name == option).map(|(_, value)| value)
    }

    /// Returns the other arguments, of which there may be at most `max`. None of them has the name
    /// of an option.
    pub(crate) fn rest(&mut self, max: usize) -> Result<Vec<OsString>, Failure> {
        for (at, argument) in self.rest.iter().enumerate() {
            let text = argument.to_string_lossy();
            if at > 0 && self.is_option(&text) {
                let first = self.rest[0].to_string_lossy();
                return Err(self.wrong(format!("options stand before `{first}`: `{text}`")));
            }
            if at >= max {
                return Err(self.wrong(format!("`{text}` is an extra argument")));
            }
        }
        Ok(self.words())
    }

    /// Returns the other arguments, which may have the names of options.
    pub(crate) fn words(&mut self) -> Vec<OsString> {
        std::mem::take(&mut self.rest)
    }

    /// Whether an argument is a long option of this program. The name of a file, for example, may
    /// begin with `--` too.
    fn is_option(&self, argument: &str) -> bool {
        let name = argument.split_once('=').map_or(argument, |(name, _)| name);
        name.starts_with("--") && self.known.iter().any(|known| known == name)
    }

    /// Returns the only other argument, which `meaning` describes.
    pub(crate) fn only(&mut self, meaning: &str) -> Result<OsString, Failure> {
        self.rest(1)?.pop().ok_or_else(|| self.wrong(format!("{meaning} is missing")))
    }

    pub(crate) fn wrong(&self, message: impl Into<String>) -> Failure {
        Failure::Arguments(message.into())
    }
}

/// Of a pair, the second value is stored under a name that no argument has.
fn second(option: &str) -> String {
    format!("second {option}")
}
