//! Two processes share one counter: a child writes numbers to an eventfd, its parent reads the
//! sums.
//!
//! `cargo run --example eventfd -- 1 2 3 4 5` prints a sum for each read that finds the counter
//! above 0. With `-s` the counter is a semaphore, and there are fifteen reads of 1. The processes
//! share only the descriptor: the child is a program of its own (this one again), which receives
//! the eventfd as its standard input, so it need not know a descriptor number.

#[path = "shared/options.rs"]
mod options;

use std::env;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitCode, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use options::{Failure, Options};
use reveille::{EventFd, EventLoop};

const USAGE: &str = "usage: eventfd [-s] [--write-every TIME] [--read-every TIME] NUMBER...

  -s             each read takes 1 from the counter instead of its value
  --write-every  the delay after each write, such as 50ms or 1s; default: 1s
  --read-every   the delay before each read; default: 2s";

/// Set in the environment of the child.
const IS_CHILD: &str = "EVENTFD_EXAMPLE_CHILD";

fn main() -> ExitCode {
    options::main(USAGE, &["--write-every", "--read-every"], &["-s"], |options| {
        let arguments = Arguments::parse(options)?;
        let done = if env::var_os(IS_CHILD).is_some() { write_all(&arguments) } else { read_all(&arguments) };
        Ok(done?)
    })
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
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        let numbers = options.rest(usize::MAX)?;
        let numbers = numbers.iter().map(|text| {
            let number = text.to_str().and_then(|text| text.parse().ok());
            number.filter(|number| *number <= EventFd::MAX).ok_or_else(|| {
                options.wrong(format!(
                    "`{}` is not a number from 0 to {}",
                    text.to_string_lossy(),
                    EventFd::MAX
                ))
            })
        });
        let numbers = numbers.collect::<Result<Vec<u64>, Failure>>()?;
        if numbers.is_empty() {
            return Err(options.wrong("there is no number to write"));
        }
        let time = |option, default| {
            let time = options.get(option, Time(default), "a time such as 50ms or 2s");
            time.map(|Time(time)| time)
        };
        let write_every = time("--write-every", Duration::from_secs(1))?;
        let read_every = time("--read-every", Duration::from_secs(2))?;
        if read_every.is_zero() {
            return Err(options.wrong("--read-every takes a time above 0"));
        }
        Ok(Arguments { semaphore: options.has("-s"), write_every, read_every, numbers })
    }
}

struct Time(Duration);

impl FromStr for Time {
    type Err = ();

    fn from_str(text: &str) -> Result<Time, ()> {
        let (number, unit): (&str, fn(u64) -> Duration) =
            match (text.strip_suffix("ms"), text.strip_suffix('s')) {
                (Some(number), _) => (number, Duration::from_millis),
                (None, Some(number)) => (number, Duration::from_secs),
                (None, None) => return Err(()),
            };
        number.parse().map(|number| Time(unit(number))).map_err(|_| ())
    }
}
