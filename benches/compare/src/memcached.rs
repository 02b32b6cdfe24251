//! The example memcached and the real one: server CPU time per request, and requests per second.
//!
//! Each has one thread that serves connections. The servers take turns of a few milliseconds at the
//! same load, as in [`turns`](crate::turns). The programs are those that users start: the example
//! as it was built in the directory of this program, and `memcached` of the system.

mod load;
mod server;

use std::time::{Duration, Instant};

use crate::Result;
use crate::machine::Machine;
use crate::report::{Spread, Table, hundredths, thousands, whole};
use load::Load;
use server::Server;

/// Length of the values, number of connections, and requests of a connection at a time.
const CASES: [(usize, usize, usize); 4] = [(100, 100, 1), (100, 100, 16), (4096, 100, 1), (100, 1000, 1)];

/// Duration of a turn, and number of turns in a sample.
const TURN: Duration = Duration::from_millis(20);
const TURNS: usize = 30;

const WARM_UP: Duration = Duration::from_millis(150);

/// Time for a server to go to sleep after its last reply, see [`turns`](crate::turns).
const FALL_ASLEEP: Duration = Duration::from_micros(200);

const SMOKE: Duration = Duration::from_millis(20);

/// The results of one server in its turns.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    requests: u64,
    loaded: Duration,
    cpu: Duration,
}

impl Sample {
    fn per_second(&self) -> f64 {
        self.requests as f64 / self.loaded.as_secs_f64()
    }

    fn microseconds_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests as f64
    }
}

/// Measures all cases and prints a table for each.
pub(crate) fn run(machine: &Machine, rounds: usize) -> Result<()> {
    let programs = server::programs()?;
    for (value, connections, depth) in CASES {
        machine.need_connections(programs.len() * connections)?;
        let mut contenders = Vec::new();
        for program in &programs {
            let server = Server::start(program, machine)?;
            let mut load = Load::open(server.address(), connections, depth, value)?;
            load.run_for(WARM_UP)?;
            contenders.push((server, load));
        }
        let samples = (0..rounds).map(|_| round(&mut contenders)).collect::<Result<Vec<_>>>()?;
        let title = format!(
            "memcached, get:set 9:1, values of {value} B, {connections} connections, {depth} requests at a time: median (min-max) of {rounds} rounds"
        );
        print!("{}", table(title, &contenders, &samples));
        contenders.into_iter().try_for_each(|(server, _)| server.stop())?;
    }
    Ok(())
}

/// Runs each server through each case for a short time.
pub(crate) fn smoke(machine: &Machine) -> Result<()> {
    let programs = match server::programs() {
        Ok(programs) => programs,
        Err(missing) => {
            println!("memcached: skipped, {missing}");
            return Ok(());
        }
    };
    for program in programs {
        let server = Server::start(&program, machine)?;
        let mut requests = 0;
        for (value, connections, depth) in CASES {
            requests += Load::open(server.address(), connections, depth, value)?.run_for(SMOKE)?;
        }
        server.stop()?;
        println!("{}: {requests} requests, every reply correct", program.name);
    }
    Ok(())
}

/// A sample of each server.
fn round(contenders: &mut [(Server, Load)]) -> Result<Vec<Sample>> {
    let count = contenders.len();
    let mut samples = vec![Sample::default(); count];
    for turn in 0..TURNS {
        for place in 0..count {
            // Rotates the order, so that none is always the first.
            let index = (turn + place) % count;
            let (server, load) = &mut contenders[index];
            let (before, began) = (server.cpu_time()?, Instant::now());
            samples[index].requests += load.run_for(TURN)?;
            samples[index].loaded += began.elapsed();
            std::thread::sleep(FALL_ASLEEP);
            samples[index].cpu += server.cpu_time()?.saturating_sub(before);
        }
    }
    Ok(samples)
}

/// One row per server. Each is compared with the first.
fn table(title: String, contenders: &[(Server, Load)], rounds: &[Vec<Sample>]) -> Table {
    let heading = [
        "server",
        "requests/s",
        "server CPU us/request",
        "throughput x first",
        "cost x first",
        "server busy",
    ];
    let mut table = Table::new(title, &heading);
    for (index, (server, _)) in contenders.iter().enumerate() {
        let own = || rounds.iter().map(|round| &round[index]);
        let ratio = |of: fn(&Sample) -> f64| {
            Spread::of(rounds.iter().map(|round| of(&round[index]) / of(&round[0]))).show(hundredths)
        };
        let busy = own().map(|sample| sample.cpu.as_secs_f64() / sample.loaded.as_secs_f64() * 100.0);
        table.row([
            server.name().to_owned(),
            Spread::of(own().map(Sample::per_second)).show(thousands),
            Spread::of(own().map(Sample::microseconds_each)).show(hundredths),
            ratio(Sample::per_second),
            ratio(Sample::microseconds_each),
            format!("{}%", whole(Spread::of(busy).median)),
        ]);
    }
    table
}
