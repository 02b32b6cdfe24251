//! Two processes share one counter: a child writes numbers to an eventfd, its parent reads the
//! sums.
//!
//! `cargo run --example eventfd -- 1 2 3 4 5` prints a sum for each read that finds the counter
//! above 0. With `-s` the counter is a semaphore, and there are fifteen reads of 1. The processes
//! share only the descriptor: the child is a program of its own (this one again), which receives
//! the eventfd as its standard input, so it need not know a descriptor number.

use std::env;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use reveille::{EventFd, EventLoop};

const USAGE: &str = "usage: eventfd [-s] [--write-every TIME] [--read-every TIME] NUMBER...

  -s             each read takes 1 from the counter instead of its value
  --write-every  the delay after each write, such as 50ms or 1s; default: 1s
  --read-every   the delay before each read; default: 2s";

/// Set in the environment of the child.
const IS_CHILD: &str = "EVENTFD_EXAMPLE_CHILD";

fn main() -> ExitCode {
    let arguments = match Arguments::parse(env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            let _ = writeln!(io::stdout(), "{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("eventfd: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let done = if env::var_os(IS_CHILD).is_some() { write_all(&arguments) } else { read_all(&arguments) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("eventfd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The child.
fn write_all(arguments: &Arguments) -> io::Result<()> {
    let eventfd = EventFd::from(io::stdin().as_fd().try_clone_to_owned()?);
    for number in &arguments.numbers {
        writeln!(io::stdout(), "Child writing {number} to efd")?;
        // The eventfd is blocking: if the counter is full, this sleeps until the parent has read.
        eventfd.write(*number)?;
        thread::sleep(arguments.write_every);
    }
    writeln!(io::stdout(), "Child completed write loop")
}

/// The parent.
fn read_all(arguments: &Arguments) -> io::Result<()> {
    let builder = EventFd::builder().blocking();
    let builder = if arguments.semaphore { builder.semaphore() } else { builder };
    let eventfd = builder.build()?;
    let mut child = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(IS_CHILD, "1")
        .stdin(Stdio::from(OwnedFd::from(eventfd.try_clone()?)))
        .spawn()?;

    let event_loop = EventLoop::new()?;
    // The timer's callback belongs to the loop; it passes its result to this function.
    let (sender, receiver) = std::sync::mpsc::channel();
    event_loop.run_every(arguments.read_every, move |event_loop| {
        if let Some(result) = read_once(&eventfd, &mut child).transpose() {
            // The receiver exists until the loop has ended.
            let _ = sender.send(result);
            event_loop.quit();
        }
    });
    event_loop.run()?;
    receiver.try_recv().unwrap_or(Ok(()))
}

/// Reads the counter once. Returns `Some` at the end.
fn read_once(eventfd: &EventFd, child: &mut Child) -> io::Result<Option<()>> {
    // Checked first: a child that has ended has completed its writes.
    let ended = child.try_wait()?;
    match (eventfd.try_read(), ended) {
        (Ok(count), _) => {
            writeln!(io::stdout(), "Parent read {count} ({count:#x}) from efd")?;
            Ok(None)
        }
        (Err(error), None) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        (Err(error), Some(status)) if error.kind() == io::ErrorKind::WouldBlock => match status.success() {
            true => Ok(Some(())),
            false => Err(io::Error::other(format!("the child has failed: {status}"))),
        },
        (Err(error), _) => Err(error),
    }
}

struct Arguments {
    semaphore: bool,
    write_every: Duration,
    read_every: Duration,
    numbers: Vec<u64>,
}

impl Arguments {
    fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
        let mut arguments = Arguments {
            semaphore: false,
            write_every: Duration::from_secs(1),
            read_every: Duration::from_secs(2),
            numbers: Vec::new(),
        };
        while let Some(argument) = given.next() {
            let mut time = || parse_time(&given.next().ok_or_else(|| format!("{argument} wants a time"))?);
            match argument.as_str() {
                "--help" | "-h" => return Ok(None),
                "-s" => arguments.semaphore = true,
                "--write-every" => arguments.write_every = time()?,
                "--read-every" => {
                    arguments.read_every = time()?;
                    if arguments.read_every.is_zero() {
                        return Err("--read-every wants a time above 0".to_owned());
                    }
                }
                _ if argument.starts_with('-') => return Err(format!("unknown argument `{argument}`")),
                number => match number.parse() {
                    Ok(number) if number <= EventFd::MAX => arguments.numbers.push(number),
                    _ => return Err(format!("`{number}` is not a number from 0 to {}", EventFd::MAX)),
                },
            }
        }
        if arguments.numbers.is_empty() {
            Err("there is no number to write".to_owned())
        } else {
            Ok(Some(arguments))
        }
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time such as 50ms or 2s");
    let (number, unit): (&str, fn(u64) -> Duration) = match (text.strip_suffix("ms"), text.strip_suffix('s'))
    {
        (Some(number), _) => (number, Duration::from_millis),
        (None, Some(number)) => (number, Duration::from_secs),
        (None, None) => return Err(wrong()),
    };
    number.parse().map(unit).map_err(|_| wrong())
}
