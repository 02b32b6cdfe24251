//! The requests and replies: lines of text. No I/O.

use std::fmt;

use super::work;

/// The maximum length of a request without its line ending.
pub(crate) const LONGEST: usize = 64;

/// The largest numbers, so that no request occupies a worker for long.
pub(crate) const MAX_PRIMES: u64 = 20_000_000;
pub(crate) const MAX_FACTORED: u64 = 1_000_000_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Counts the primes up to a number.
    Primes(u64),
    /// The prime factors of a number.
    Factor(u64),
    /// A job that panics.
    Panic,
}

/// Why a line is not a request, or why a request has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    UnknownCommand,
    /// A number is needed.
    NotANumber,
    OutOfRange {
        least: u64,
        most: u64,
    },
    TooLong,
    Incomplete,
    Busy,
    Panicked,
}

impl Request {
    /// Parses a line without its ending. Spaces around its words are permitted.
    pub(crate) fn parse(line: &[u8]) -> Result<Request, Error> {
        let line = std::str::from_utf8(line).map_err(|_| Error::UnknownCommand)?;
        let mut words = line.split_ascii_whitespace();
        let command = words.next().ok_or(Error::UnknownCommand)?;
        let mut number = |least: u64, most: u64| {
            let word = words.next().ok_or(Error::NotANumber)?;
            if !word.bytes().all(|byte| byte.is_ascii_digit()) || words.next().is_some() {
                return Err(Error::NotANumber);
            }
            // A number of digits that does not fit is too large.
            let number = word.parse().unwrap_or(u64::MAX);
            if (least..=most).contains(&number) { Ok(number) } else { Err(Error::OutOfRange { least, most }) }
        };
        match command {
            "primes" => Ok(Request::Primes(number(0, MAX_PRIMES)?)),
            "factor" => Ok(Request::Factor(number(2, MAX_FACTORED)?)),
            "panic" if words.next().is_none() => Ok(Request::Panic),
            _ => Err(Error::UnknownCommand),
        }
    }

    /// Returns the reply, with its line ending.
    pub(crate) fn compute(self) -> String {
        match self {
            Request::Primes(limit) => format!("primes {limit}: {}\n", work::primes(limit)),
            Request::Factor(number) => {
                let factors: String =
                    work::factors(number).iter().map(|factor| format!(" {factor}")).collect();
                format!("factor {number}:{factors}\n")
            }
            Request::Panic => panic!("a request wants it"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::UnknownCommand => f.write_str("the commands are: primes N, factor N, panic"),
            Error::NotANumber => f.write_str("the command has one argument, a number"),
            Error::OutOfRange { least, most } => write!(f, "the number must be from {least} to {most}"),
            Error::TooLong => write!(f, "the line is longer than {LONGEST} bytes"),
            Error::Incomplete => f.write_str("the line is incomplete"),
            Error::Busy => f.write_str("busy"),
            Error::Panicked => f.write_str("the job has panicked"),
        }
    }
}

impl Error {
    /// The reply, with its line ending.
    pub(crate) fn reply(self) -> String {
        format!("error: {self}\n")
    }
}
