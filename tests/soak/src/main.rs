//! A soak test: a server process serves misbehaving clients and clients that verify every byte.
//!
//! Run with `cargo run --release -p reveille-soak -- --seconds 120 --seed 7`. The clients run in
//! this process and the servers in a child process, so the memory, descriptors and CPU time of the
//! child are those of the servers. The seed determines which scenarios each client thread runs, in
//! which order and with which sizes.
//!
//! The run passes if all verified bytes are correct and complete, and if the server process returns
//! to its initial state after the last client: the same number of descriptors, at most 16 MiB more
//! resident memory, and no CPU use.

mod clients;
mod process;
mod server;
mod tally;

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use process::Server;
use tally::Tally;

const USAGE: &str = "usage: reveille-soak [--seconds N] [--seed N] [--clients N]

  --seconds  how long the clients run; default: 120
  --seed     selects the scenarios; default: random, and printed
  --clients  number of client threads; default: 24";

/// By how much the server's resident memory may grow between the start and the end of the run.
const MEMORY_LIMIT: u64 = 16 << 20;

/// How long the server may take to close its connections and release its memory after the last
/// client.
const SETTLE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["serve"] {
        return report(server::run().map(|()| true));
    }
    match Settings::parse(&arguments) {
        Ok(Some(settings)) => report(soak(&settings)),
        Ok(None) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("reveille-soak: {message}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn report(result: io::Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("reveille-soak: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the soak test. Returns whether it has passed.
fn soak(settings: &Settings) -> io::Result<bool> {
    println!("seed {}, {} s, {} clients", settings.seed, settings.seconds, settings.clients);
    let mut server = Server::start()?;
    let before = server.usage()?;
    println!("at the start: {before}");

    let tally = Tally::default();
    let end = Instant::now() + Duration::from_secs(settings.seconds);
    std::thread::scope(|scope| {
        for number in 0..settings.clients {
            let (tally, services) = (&tally, server.services().clone());
            let random = fastrand::Rng::with_seed(settings.seed.wrapping_add(number));
            scope.spawn(move || clients::run(random, &services, end, tally));
        }
    });
    print!("{tally}");

    let deadline = Instant::now() + SETTLE;
    let after = loop {
        let (open, usage) = (server.open_connections()?, server.usage()?);
        let is_settled = open == 0
            && usage.descriptors == before.descriptors
            && usage.resident <= before.resident + MEMORY_LIMIT;
        if is_settled || Instant::now() > deadline {
            println!("at the end: {usage}, {open} connections");
            break (open, usage);
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    // The first seconds may include the release of memory, which takes some milliseconds once.
    let mut idle = server.cpu_when_idle()?;
    for _ in 0..2 {
        println!("CPU time and context switches of an idle second: {idle}");
        if idle.is_idle() {
            break;
        }
        idle = server.cpu_when_idle()?;
    }
    server.stop()?;

    let (open, after) = after;
    let mut passed = true;
    let mut require = |condition: bool, failure: &str| {
        if !condition {
            println!("FAILED: {failure}");
            passed = false;
        }
    };
    require(tally.failures() == 0, "verifying clients lost bytes or stalled");
    require(tally.verified() > 0, "no client verified any bytes");
    require(open == 0, "connections are still open");
    require(after.descriptors == before.descriptors, "the descriptor count has changed");
    require(after.resident <= before.resident + MEMORY_LIMIT, "the server has not released its memory");
    require(idle.is_idle(), "the idle server uses the CPU");
    println!("{}", if passed { "the soak passed" } else { "the soak failed" });
    Ok(passed)
}

struct Settings {
    seconds: u64,
    seed: u64,
    clients: u64,
}

impl Settings {
    /// Parses the arguments. `None` if they request help.
    fn parse(arguments: &[String]) -> Result<Option<Settings>, String> {
        let mut settings = Settings { seconds: 120, seed: fastrand::u64(..1 << 32), clients: 24 };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            let setting = match name.as_str() {
                "--help" | "-h" => return Ok(None),
                "--seconds" => &mut settings.seconds,
                "--seed" => &mut settings.seed,
                "--clients" => &mut settings.clients,
                _ => return Err(format!("unknown argument `{name}`")),
            };
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            *setting = value.parse().map_err(|_| format!("{name}: `{value}` is not a number"))?;
        }
        Ok(Some(settings))
    }
}
