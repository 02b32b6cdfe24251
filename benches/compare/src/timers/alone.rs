//! One timer on an otherwise idle loop: its lateness, and the kernel's share of it.

use std::time::Duration;

use super::loops::{Alone, Calloop, Reveille, Timerfd, Tokio};
use super::{Contender, chosen, round};
use crate::Result;
use crate::report::{Spread, Table, hundredths};
use crate::servers::Peer;

/// The delay of a timer, and the number of timers in a sample.
const CASES: [(&str, Duration, usize); 6] = [
    ("100 us", Duration::from_micros(100), 100),
    ("300 us", Duration::from_micros(300), 100),
    ("1 ms", Duration::from_millis(1), 60),
    ("3 ms", Duration::from_millis(3), 40),
    ("10 ms", Duration::from_millis(10), 20),
    ("50 ms", Duration::from_millis(50), 10),
];

/// The baseline, as an index in [`CONTENDERS`].
const TIMERFD: usize = 0;

type Measure = fn(delay: Duration, count: usize) -> Result<Vec<Duration>>;

const CONTENDERS: [Contender<Measure>; 4] = [
    Contender { name: "timerfd", peer: None, most: usize::MAX, sample: Timerfd::lateness },
    Contender { name: "reveille", peer: Some(Peer::Reveille), most: usize::MAX, sample: Reveille::lateness },
    Contender { name: "tokio", peer: Some(Peer::Tokio), most: usize::MAX, sample: Tokio::lateness },
    Contender { name: "calloop", peer: Some(Peer::Calloop), most: usize::MAX, sample: Calloop::lateness },
];

/// Measures every delay and prints the table.
pub(super) fn run(peers: &[Peer], rounds: usize) -> Result<()> {
    let contenders = chosen(&CONTENDERS, peers);
    let title = format!(
        "timers, one on an idle loop, how late it fires: median (min-max) of {rounds} rounds, p99 of all together"
    );
    let heading = ["delay, contender", "median us", "p99 us", "median minus timerfd's, us", "timers a round"];
    let mut table = Table::new(title, &heading);
    for (name, delay, count) in CASES {
        let each = |number| round(&contenders, number, |_, each| (each.sample)(delay, count));
        let samples: Vec<_> = (0..rounds).map(each).collect::<Result<_>>()?;
        for (index, contender) in contenders.iter().enumerate() {
            let median = |round: &Vec<Vec<Duration>>, index: usize| median(&round[index]);
            let own = Spread::of(samples.iter().map(|round| median(round, index)));
            let more = Spread::of(samples.iter().map(|round| median(round, index) - median(round, TIMERFD)));
            let all = samples.iter().flat_map(|round| round[index].iter().copied()).collect();
            table.row([
                format!("{name}, {}", contender.name),
                own.show(hundredths),
                hundredths(p99(all)),
                // May be negative.
                format!("{:+.2} ({:+.2} to {:+.2})", more.median, more.min, more.max),
                count.to_string(),
            ]);
        }
    }
    print!("{table}");
    Ok(())
}

/// A few timers for each contender.
pub(super) fn smoke(peers: &[Peer]) -> Result<()> {
    let contenders = chosen(&CONTENDERS, peers);
    round(&contenders, 0, |_, each| (each.sample)(Duration::from_micros(300), 10))?;
    for contender in &contenders {
        println!("timers, {}: one at a time fired, and none early", contender.name);
    }
    Ok(())
}

fn median(lateness: &[Duration]) -> f64 {
    Spread::of(lateness.iter().copied().map(micros)).median
}

fn p99(mut lateness: Vec<Duration>) -> f64 {
    lateness.sort_unstable();
    micros(lateness[lateness.len() * 99 / 100])
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
