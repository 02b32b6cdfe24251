//! Command-line arguments of an example: options with a value, then other arguments. Also the exit
//! status of the example.

use std::env;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;

/// The options that have two values.
const PAIRS: [&str; 1] = ["--tls"];

/// The arguments of an example. Options come first.
pub(crate) struct Options {
    name: &'static str,
    usage: &'static str,
    values: Vec<(String, String)>,
    /// The arguments from the first that is not an option.
    rest: Vec<String>,
}

impl Options {
    /// Parses the arguments; `names` are the permitted options. `name` is the prefix of error
    /// messages.
    ///
    /// # Errors
    /// The exit status, after the usage has been printed: 0 for `--help`, 2 for wrong arguments.
    #[allow(dead_code, reason = "each example uses a part of it")]
    pub(crate) fn parse(
        name: &'static str,
        usage: &'static str,
        names: &[&str],
    ) -> Result<Options, ExitCode> {
        Options::parse_with_flags(name, usage, names, &[])
    }

    /// Same as [`parse`](Options::parse), with options that have no value.
    pub(crate) fn parse_with_flags(
        name: &'static str,
        usage: &'static str,
        names: &[&str],
        flags: &[&str],
    ) -> Result<Options, ExitCode> {
        let mut options = Options { name, usage, values: Vec::new(), rest: Vec::new() };
        let mut given = env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
        while let Some(argument) = given.next() {
            if argument == "--help" || argument == "-h" {
                let _ = writeln!(io::stdout(), "{usage}");
                return Err(ExitCode::SUCCESS);
            }
            if names.contains(&argument.as_str()) {
                let mut value =
                    || given.next().ok_or_else(|| options.wrong(format!("{argument} wants a value")));
                let first = value()?;
                // Of a pair, the second value is stored under a name that no argument has.
                let second = if PAIRS.contains(&argument.as_str()) { Some(value()?) } else { None };
                options.values.extend(second.map(|second| (format!("second {argument}"), second)));
                options.values.push((argument, first));
            } else if flags.contains(&argument.as_str()) {
                options.values.push((argument, String::new()));
            } else if argument.starts_with('-') {
                return Err(options.wrong(format!("unknown argument `{argument}`")));
            } else {
                options.rest.push(argument);
                options.rest.extend(given.by_ref());
            }
        }
        Ok(options)
    }

    /// The value of an option, or its default. `meaning` completes the message "`value` is not".
    #[allow(dead_code, reason = "each example uses a part of it")]
    pub(crate) fn get<T: FromStr>(&self, option: &str, default: T, meaning: &str) -> Result<T, ExitCode> {
        match self.values.iter().rfind(|(name, _)| name == option) {
            Some((_, value)) => value.parse().map_err(|_| self.wrong(format!("`{value}` is not {meaning}"))),
            None => Ok(default),
        }
    }

    /// Whether an option was given.
    #[allow(dead_code, reason = "each example uses a part of it")]
    pub(crate) fn has(&self, option: &str) -> bool {
        self.values.iter().any(|(name, _)| name == option)
    }

    /// The value of an option that has no default.
    #[allow(dead_code, reason = "each example uses a part of it")]
    pub(crate) fn text(&self, option: &str) -> Option<String> {
        let (_, value) = self.values.iter().rfind(|(name, _)| name == option)?;
        Some(value.clone())
    }

    /// The values of an option that has two of them.
    #[allow(dead_code, reason = "each example uses a part of it")]
    pub(crate) fn pair(&self, option: &str) -> Option<(String, String)> {
        Some((self.text(option)?, self.text(&format!("second {option}"))?))
    }

    /// Returns the other arguments, of which there may be at most `max`.
    pub(crate) fn rest(&mut self, max: usize) -> Result<Vec<String>, ExitCode> {
        match self.rest.get(max) {
            Some(extra) => Err(self.wrong(format!("`{extra}` is an extra argument"))),
            None => Ok(std::mem::take(&mut self.rest)),
        }
    }

    /// Prints what is wrong with the arguments, and returns the exit status.
    pub(crate) fn wrong(&self, message: String) -> ExitCode {
        let _ = writeln!(io::stderr(), "{}: {message}\n{}", self.name, self.usage);
        ExitCode::from(2)
    }
}

/// The exit status of a program that has run. Prints an error in one line.
pub(crate) fn status_of(name: &str, result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{name}: {error}");
            ExitCode::FAILURE
        }
    }
}
