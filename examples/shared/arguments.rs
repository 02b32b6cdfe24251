//! Command-line arguments of an example whose only option is `--help`.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::process::ExitCode;

/// Returns the arguments if their count is in `number`. Otherwise prints the usage, and returns the
/// exit status: 0 for `--help`, 2 for a wrong argument. `name` is the prefix of the error message.
pub(crate) fn positional(
    name: &str,
    usage: &str,
    number: RangeInclusive<usize>,
) -> Result<Vec<OsString>, ExitCode> {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        let _ = writeln!(io::stdout(), "{usage}");
        return Err(ExitCode::SUCCESS);
    }
    let option = arguments.iter().find(|argument| argument.as_encoded_bytes().starts_with(b"-"));
    if let Some(option) = option {
        return Err(wrong(name, usage, &format!("unknown argument `{}`", option.to_string_lossy())));
    }
    if arguments.len() < *number.start() {
        return Err(wrong(name, usage, "an argument is missing"));
    }
    if let Some(extra) = arguments.get(*number.end()) {
        return Err(wrong(name, usage, &format!("`{}` is an extra argument", extra.to_string_lossy())));
    }
    Ok(arguments)
}

/// Prints what is wrong with the arguments, and the usage.
pub(crate) fn wrong(name: &str, usage: &str, message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{name}: {message}\n{usage}");
    ExitCode::from(2)
}

/// Checks that `address` is an address with a port.
#[allow(dead_code, reason = "each example uses a part of it")]
pub(crate) fn check_address(address: &str) -> Result<(), String> {
    let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(()),
        _ => Err(format!("`{address}` is not an address with a port")),
    }
}
