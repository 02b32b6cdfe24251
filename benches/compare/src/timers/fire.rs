//! A million timers that all fire within a second: the cost of a call, and the lateness.
//!
//! The loop runs from before the first deadline until the last timer has fired. The cost of adding
//! the timers is excluded. Every callback reads the clock, for all contenders.

use std::time::{Duration, Instant};

use super::clock::thread_cpu_time;
use super::loops::{Calloop, HeapLoop, Loop, Reveille, Tokio, WheelLoop};
use super::tally;
use super::workload::timers;
use super::{Contender, FEW, HEAP, WHEEL, chosen, ratio, round};
use crate::Result;
use crate::report::{Spread, Table, hundredths, whole};
use crate::servers::Peer;

const TIMERS: usize = 1_000_000;

/// Deadlines lie within this time.
const SPAN: Duration = Duration::from_secs(1);

/// The columns of the histogram, each with its maximum lateness in microseconds.
const COLUMNS: [(&str, u64); 5] =
    [("<=100 us", 100), ("<=1 ms", 1_000), ("<=10 ms", 10_000), ("<=100 ms", 100_000), ("<=1 s", 1_000_000)];

/// Returns `None` if the first deadline passed before all timers were added.
type Measure = fn(timers: usize, span: Duration, lead: Duration) -> Result<Option<Sample>>;

const CONTENDERS: [Contender<Measure>; 5] = [
    Contender { name: "wheel", peer: None, most: usize::MAX, sample: sample::<WheelLoop> },
    Contender { name: "heap", peer: None, most: usize::MAX, sample: sample::<HeapLoop> },
    Contender { name: "reveille", peer: Some(Peer::Reveille), most: usize::MAX, sample: sample::<Reveille> },
    Contender { name: "tokio", peer: Some(Peer::Tokio), most: usize::MAX, sample: sample::<Tokio> },
    Contender { name: "calloop", peer: Some(Peer::Calloop), most: FEW, sample: sample::<Calloop> },
];

/// The results of a contender in a round.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// CPU time per timer, in nanoseconds.
    nanos: f64,
    /// Timers by lateness: a count per column, and one for later timers.
    histogram: [usize; COLUMNS.len() + 1],
    /// In microseconds.
    median: f64,
    max: f64,
}

impl Sample {
    fn of(cpu_time: Duration, mut lateness: Vec<u64>) -> Sample {
        lateness.sort_unstable();
        let mut histogram = [0; COLUMNS.len() + 1];
        let mut before = 0;
        for (count, (_, micros)) in histogram.iter_mut().zip(COLUMNS) {
            let until = lateness.partition_point(|late| *late <= micros * 1_000);
            *count = until - before;
            before = until;
        }
        histogram[COLUMNS.len()] = lateness.len() - before;
        let micros = |place: usize| lateness[place] as f64 / 1e3;
        Sample {
            nanos: cpu_time.as_nanos() as f64 / lateness.len() as f64,
            histogram,
            median: micros(lateness.len() / 2),
            max: micros(lateness.len() - 1),
        }
    }
}

/// Measures, and prints a table of the costs and one of the lateness.
pub(super) fn run(peers: &[Peer], rounds: usize) -> Result<()> {
    let contenders = chosen(&CONTENDERS, peers);
    let samples = measure(&contenders, rounds, TIMERS, SPAN)?;
    print!("{}", costs(&contenders, &samples));
    print!("{}", lateness(&contenders, &samples));
    Ok(())
}

/// A few timers for each contender.
pub(super) fn smoke(peers: &[Peer]) -> Result<()> {
    let contenders = chosen(&CONTENDERS, peers);
    measure(&contenders, 1, 2_000, SPAN / 50)?;
    for contender in &contenders {
        println!("timers, {}: all fired, once, and none early", contender.name);
    }
    Ok(())
}

fn measure(
    contenders: &[Contender<Measure>],
    rounds: usize,
    timers: usize,
    span: Duration,
) -> Result<Vec<Vec<Sample>>> {
    /// Initial estimate of the time to add a timer.
    const GUESS: Duration = Duration::from_nanos(200);
    /// How often the estimate is doubled for a slower contender.
    const DOUBLINGS: usize = 10;
    let mut leads = vec![GUESS * timers as u32; contenders.len()];
    let one = |lead: &mut Duration, contender: &Contender<Measure>| {
        for _ in 0..DOUBLINGS {
            if let Some(sample) = (contender.sample)(timers.min(contender.most), span, *lead)? {
                return Ok(sample);
            }
            *lead *= 2;
        }
        Err("the timers could not be added before they were due".into())
    };
    (0..rounds)
        .map(|number| round(contenders, number, |index, contender| one(&mut leads[index], contender)))
        .collect()
}

fn sample<L: Loop>(count: usize, span: Duration, lead: Duration) -> Result<Option<Sample>> {
    let mut event_loop = L::new()?;
    let timers = timers(count, span);
    let beginning = Instant::now() + lead;
    tally::expect(count, beginning);
    event_loop.begin(beginning);
    event_loop.arm(&timers)?;
    if Instant::now() >= beginning {
        return Ok(None);
    }
    let began = thread_cpu_time();
    event_loop.run()?;
    let cpu_time = thread_cpu_time() - began;
    let lateness = tally::result(&timers)?;
    event_loop.check_empty()?;
    Ok(Some(Sample::of(cpu_time, lateness)))
}

/// One row per contender; `rounds` holds a sample of each per round.
fn costs(contenders: &[Contender<Measure>], rounds: &[Vec<Sample>]) -> Table {
    let title = format!(
        "timers, {TIMERS} that fire within {} s, CPU time of one: median (min-max) of {} rounds",
        SPAN.as_secs(),
        rounds.len()
    );
    let mut table = Table::new(title, &["contender", "timers", "fire ns", "x wheel", "x heap"]);
    for (index, contender) in contenders.iter().enumerate() {
        let to = |floor| ratio(contenders, rounds, (index, floor), TIMERS, |sample| sample.nanos);
        table.row([
            contender.name.into(),
            TIMERS.min(contender.most).to_string(),
            Spread::of(rounds.iter().map(|round| round[index].nanos)).show(whole),
            to(WHEEL),
            to(HEAP),
        ]);
    }
    table
}

fn lateness(contenders: &[Contender<Measure>], rounds: &[Vec<Sample>]) -> Table {
    let title = format!(
        "timers, the same: how late they fired, all {} rounds together, % of the timers in each column; median (min-max) of rounds",
        rounds.len()
    );
    let [a, b, c, d, e] = COLUMNS.map(|(name, _)| name);
    let mut table = Table::new(title, &["contender", a, b, c, d, e, "more", "median us", "max us"]);
    for (index, contender) in contenders.iter().enumerate() {
        let spread = |figure: &dyn Fn(&Sample) -> f64| {
            Spread::of(rounds.iter().map(|round| figure(&round[index]))).show(whole)
        };
        let timers = TIMERS.min(contender.most) * rounds.len();
        let share = |column: usize| {
            let count: usize = rounds.iter().map(|round| round[index].histogram[column]).sum();
            if count == 0 { "-".into() } else { hundredths(count as f64 * 100.0 / timers as f64) }
        };
        table.row([
            contender.name.into(),
            share(0),
            share(1),
            share(2),
            share(3),
            share(4),
            share(5),
            spread(&|sample| sample.median),
            spread(&|sample| sample.max),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_counted_in_the_first_column_it_is_not_too_late_for() {
        let micros = [0, 100, 101, 1_000, 5_000, 2_000_000];
        let sample = Sample::of(Duration::from_nanos(600), micros.map(|micros| micros * 1_000).to_vec());
        assert_eq!(sample.histogram, [2, 2, 1, 0, 0, 1]);
        assert_eq!((sample.nanos, sample.median, sample.max), (100.0, 1_000.0, 2_000_000.0));
    }
}
