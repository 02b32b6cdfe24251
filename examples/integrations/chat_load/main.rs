//! A load for the example `chat`: many guests in one room, some of whom write and some of whom do
//! not read.
//!
//! Run it with `cargo run --release -p integrations --bin chat_load`, beside `chat`. It measures
//! how long each line takes from its sender to each guest who reads, requires that each of them
//! gets each line once and in order, and reports percentiles.

mod guest;
mod load;
#[path = "../../shared/options.rs"]
mod options;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use options::{Failure, Options};

const USAGE: &str = "usage: chat_load [OPTION VALUE]...

  --connect  the address for lines of the server; default: 127.0.0.1:2011
  --guests   the number of guests who read; default: 990
  --silent   the number of guests who do not read; default: 10
  --senders  the number of guests who write, out of those who read; default: 10
  --rate     the number of lines that a sender writes in a second; default: 2
  --size     the length of a line in bytes, from 80 to 900; default: 100
  --seconds  the time for which lines are sent; it is extended by up to 60 s, until the guests who
             do not read have been removed; default: 10

The exit status is 1 if a guest who reads has missed a line, or was removed.";

const LEAST_SIZE: usize = 80;
const LARGEST_SIZE: usize = 900;

fn main() -> ExitCode {
    let names = ["--connect", "--guests", "--silent", "--senders", "--rate", "--size", "--seconds"];
    options::main(USAGE, &names, &[], |options| match load::run(Arguments::parse(options)?)? {
        true => Ok(()),
        false => Err(Failure::Printed),
    })
}

struct Arguments {
    connect: SocketAddr,
    guests: usize,
    silent: usize,
    senders: usize,
    /// The time between two lines of a sender.
    every: Duration,
    size: usize,
    time: Duration,
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        options.rest(0)?;
        let connect = SocketAddr::from(([127, 0, 0, 1], 2011));
        let number = |name, default: usize| {
            let default = NonZeroUsize::MIN.saturating_add(default - 1);
            options.get(name, default, "a number from 1").map(NonZeroUsize::get)
        };
        let (guests, senders) = (number("--guests", 990)?, number("--senders", 10)?);
        let rate: f64 = options.get("--rate", 2.0, "a number")?;
        let size = options.get("--size", 100, "a number of bytes")?;
        if !(0.001..=10_000.0).contains(&rate) {
            return Err(options.wrong(format!("`{rate}` is not a rate from 0.001 to 10000")));
        }
        if !(LEAST_SIZE..=LARGEST_SIZE).contains(&size) {
            return Err(options.wrong(format!("`{size}` is not a size from {LEAST_SIZE} to {LARGEST_SIZE}")));
        }
        if senders > guests {
            return Err(options.wrong("there are more senders than guests who read"));
        }
        Ok(Arguments {
            connect: options.get("--connect", connect, "an address with a port, such as 127.0.0.1:2011")?,
            guests,
            silent: options.get("--silent", 10, "a number")?,
            senders,
            every: Duration::from_secs_f64(1.0 / rate),
            size,
            time: options.get("--seconds", 10, "a number of seconds").map(Duration::from_secs)?,
        })
    }
}
