//! A Redis client: sends a command, once or repeatedly, and prints the replies.
//!
//! Run it with `cargo run --release --example redis_client -- INCR visits`. It connects to a Redis
//! server or to the example `redis`, by default on port 6380. Without a command it demonstrates
//! pipelining, and with `SUBSCRIBE CHANNEL` it prints messages.
//!
//! It shows a client that sends requests before the replies to earlier ones have arrived, and keeps
//! their callbacks in the handler of its connection. Requests that are made while there is no
//! connection wait for the next one. A lost connection is re-established with a back-off. Every
//! callback is called once: the callback of a request that was lost or dropped gets an error.

#[path = "../shared/options.rs"]
mod options;
mod replies;
#[path = "../shared/resp.rs"]
mod resp;
mod session;
mod subscription;

use std::cell::Cell;
use std::fmt::Display;
use std::io::{self, Write};
use std::num::{NonZeroU32, NonZeroU64};
use std::process::ExitCode;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, LoopHandle};

use options::{Failure, Options};
use replies::Reply;
use session::Redis;
use subscription::{Event, Subscription};

const USAGE: &str = "usage: redis_client [OPTION VALUE]... [COMMAND ARGUMENT...]

  --connect  the address and port, or name and port, of the server; default: 127.0.0.1:6380
  --retries  how often a failed attempt to connect is repeated; default: 10
  --timeout  the time in milliseconds that the server has for a reply; default: 10000
  --repeat   how often the command is sent; default: 1
  --every    the time in milliseconds between repetitions; default: 1000

Without a command, several commands are sent as a demonstration. SUBSCRIBE has one channel, whose
messages are printed until a signal; --repeat and --every do not apply.
The exit status is 1 if a command has failed.";

const SUBSCRIBE: &str = "SUBSCRIBE";

/// Commands with replies without end.
const UNSUPPORTED: [&str; 3] = ["PSUBSCRIBE", "SSUBSCRIBE", "MONITOR"];

fn main() -> ExitCode {
    let names = ["--connect", "--retries", "--timeout", "--repeat", "--every"];
    options::main(USAGE, &names, &[], |options| match run(Arguments::parse(options)?)? {
        true => Ok(()),
        false => Err(Failure::Printed),
    })
}

struct Arguments {
    target: Target,
    retries: u32,
    /// In milliseconds.
    timeout: u64,
    repeat: NonZeroU32,
    /// In milliseconds.
    every: NonZeroU64,
    command: Vec<String>,
}

/// A name or an address, with a port.
struct Target(String);

impl FromStr for Target {
    type Err = ();

    fn from_str(text: &str) -> Result<Target, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(());
        }
        Ok(Target(text.to_owned()))
    }
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        let command = options.words();
        let command: Vec<_> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        if let Some(name) = command.first() {
            if name.eq_ignore_ascii_case(SUBSCRIBE) && command.len() != 2 {
                return Err(options.wrong("`SUBSCRIBE` has one channel"));
            }
            if UNSUPPORTED.iter().any(|unsupported| name.eq_ignore_ascii_case(unsupported)) {
                return Err(options.wrong(format!("`{name}` is not supported")));
            }
        }
        let second = NonZeroU64::MIN.saturating_add(999);
        let default = Target("127.0.0.1:6380".to_owned());
        Ok(Arguments {
            target: options.get("--connect", default, "an address with a port, such as 127.0.0.1:6380")?,
            retries: options.get("--retries", 10, "a number of retries")?,
            timeout: options.get("--timeout", 10_000, "a number of milliseconds")?,
            repeat: options.get("--repeat", NonZeroU32::MIN, "a number from 1")?,
            every: options.get("--every", second, "a number of milliseconds from 1")?,
            command,
        })
    }
}

/// Returns whether all commands have succeeded.
fn run(arguments: Arguments) -> io::Result<bool> {
    let Arguments { target: Target(target), retries, timeout, repeat, every, command } = arguments;
    let event_loop = EventLoop::new()?;
    let outcome = Rc::new(Outcome { has_failed: Cell::new(false), event_loop: event_loop.handle() });
    let timeout = Duration::from_millis(timeout);
    if let [name, channel] = &*command {
        if name.eq_ignore_ascii_case(SUBSCRIBE) {
            return subscribe(&event_loop, &target, channel, retries, timeout, outcome);
        }
    }
    let failed = Rc::clone(&outcome);
    let redis = Redis::connect(&event_loop, &target, retries, timeout, move |_, error| {
        // The requests that wait are dropped next, so their callbacks get an error too.
        failed.fail(&error);
    })?;
    let _signals = Signals::new(&event_loop, [Signal::INT, Signal::TERM], |event_loop, _| event_loop.quit())?;

    let (redis, reporting) = (Rc::new(redis), Rc::clone(&outcome));
    if command.is_empty() {
        demonstrate(&redis, &outcome);
    } else {
        let (redis, mut left) = (Rc::clone(&redis), repeat.get());
        let mut send = move || {
            if left > 0 {
                left -= 1;
                reporting.request(&redis, &command, left == 0);
            }
        };
        send();
        event_loop.run_every(Duration::from_millis(every.get()), move |_| send());
    }
    event_loop.run()?;
    // Requests without a reply fail here.
    drop((redis, event_loop));
    Ok(!outcome.has_failed.get())
}

/// Prints the messages of a channel until a signal. Returns whether nothing has failed.
fn subscribe(
    event_loop: &EventLoop,
    target: &str,
    channel: &str,
    retries: u32,
    timeout: Duration,
    outcome: Rc<Outcome>,
) -> io::Result<bool> {
    let (reporting, failed) = (Rc::clone(&outcome), Rc::clone(&outcome));
    let on_event = move |_: &EventLoop, event: Event<'_>| {
        let printed = match event {
            Event::Refused(error) => return reporting.fail(&error),
            Event::Subscribed => writeln!(io::stdout(), "subscribed"),
            Event::Message(message) => writeln!(io::stdout(), "\"{}\"", message.escape_ascii()),
            Event::Lost => writeln!(io::stdout(), "the connection is lost; messages may be missed"),
        };
        printed.unwrap_or_else(|error| reporting.fail(&error));
    };
    let _subscription =
        Subscription::new(event_loop, target, channel, retries, timeout, on_event, move |_, error| {
            failed.fail(&error);
        })?;
    let _signals = Signals::new(event_loop, [Signal::INT, Signal::TERM], |event_loop, _| event_loop.quit())?;
    event_loop.run()?;
    Ok(!outcome.has_failed.get())
}

/// None of these requests waits for the reply to an earlier one.
fn demonstrate(redis: &Redis, outcome: &Rc<Outcome>) {
    let commands = ["SET visits 10", "INCR visits", "INCR visits", "INCR visits", "GET visits", "DEL visits"];
    for (index, command) in commands.iter().enumerate() {
        let arguments: Vec<&str> = command.split(' ').collect();
        outcome.request(redis, &arguments, index + 1 == commands.len());
    }
}

struct Outcome {
    has_failed: Cell<bool>,
    event_loop: LoopHandle,
}

impl Outcome {
    /// Sends a command and prints its reply. Ends the loop after the last.
    fn request<A: AsRef<[u8]>>(self: &Rc<Outcome>, redis: &Redis, arguments: &[A], is_last: bool) {
        let this = Rc::clone(self);
        redis.request(arguments, move |result| {
            this.print(result);
            if is_last {
                this.event_loop.quit();
            }
        });
    }

    fn print(&self, result: Result<Reply<'_>, &str>) {
        self.has_failed.set(self.has_failed.get() || !result.is_ok_and(|reply| !reply.is_error()));
        let printed = match result {
            Ok(reply) => writeln!(io::stdout(), "{reply}"),
            Err(error) => writeln!(io::stdout(), "failed: {error}"),
        };
        if let Err(error) = printed {
            self.fail(&error);
        }
    }

    fn fail(&self, error: &dyn Display) {
        let _ = writeln!(io::stderr(), "redis_client: {error}");
        self.has_failed.set(true);
        self.event_loop.quit();
    }
}
