//! A task to another loop and one back, one at a time: the cost of a wake-up.
//!
//! The baseline is two threads that wake each other with an eventfd each and nothing else. On two
//! CPUs the time is mostly that of a CPU leaving its idle state; on one CPU it is that of the
//! system calls and the context switch, which is repeatable. The cost of a queue is shown by two
//! threads with a vector under a mutex each, without a loop.
//!
//! By default a loop spins adaptively before it sleeps; spinning can be forced on or off.

use std::cell::RefCell;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reveille::{EventLoop, EventLoopBuilder, LoopHandle};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::TIMEOUT;
use super::threads::start_on;
use crate::Result;
use crate::machine::Machine;
use crate::report::{Spread, Table, hundredths};

/// Number of turns in a sample of 20,000 round trips.
const TURNS: usize = 4;
const TRIPS: usize = 5_000;

/// Warm-up round trips of each turn.
const WARM_UP: usize = 500;

/// The spin of a loop with forced spinning: longer than any undisturbed round trip.
const BUSY_POLL: Duration = Duration::from_millis(10);

/// The CPUs of the two threads.
#[derive(Clone, Copy, Debug)]
struct Cpus {
    near: Option<usize>,
    far: Option<usize>,
}

/// A way to make a round trip.
struct Contender {
    name: &'static str,
    /// Times of `trips` round trips, after a warm-up.
    turn: fn(Cpus, trips: usize) -> Result<Vec<Duration>>,
}

/// The others are compared with the first.
const ON_ONE_CPU: &[Contender] = &[
    Contender { name: "eventfd", turn: eventfds },
    Contender { name: "eventfd and queue", turn: queues },
    Contender { name: "reveille", turn: |cpus, trips| loops(cpus, trips, None) },
    Contender { name: "reveille, sleeping", turn: |cpus, trips| loops(cpus, trips, Some(Duration::ZERO)) },
];

/// Forced spinning is for loops with a CPU each.
const ON_TWO_CPUS: &[Contender] = &[
    Contender { name: "eventfd", turn: eventfds },
    Contender { name: "eventfd and queue", turn: queues },
    Contender { name: "reveille", turn: |cpus, trips| loops(cpus, trips, None) },
    Contender { name: "reveille, sleeping", turn: |cpus, trips| loops(cpus, trips, Some(Duration::ZERO)) },
    Contender { name: "reveille, busy_poll", turn: |cpus, trips| loops(cpus, trips, Some(BUSY_POLL)) },
];

/// Percentiles of a peer's round trips in a round, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Sample {
    p50: f64,
    p99: f64,
}

/// Measures both cases and prints a table for each.
pub(super) fn run(machine: &Machine, rounds: usize) -> Result<()> {
    for (place, cpus, contenders) in cases(machine) {
        let samples: Vec<_> = (0..rounds).map(|_| round(cpus, contenders)).collect::<Result<_>>()?;
        print!("{}", table(&samples, contenders, place));
    }
    Ok(())
}

/// A few round trips of each kind.
pub(super) fn smoke(machine: &Machine) -> Result<()> {
    for (place, cpus, contenders) in cases(machine) {
        for contender in contenders {
            let trips = contender.turn(cpus, 100)?.len();
            println!("round trip, {}, {place}: {trips} made", contender.name);
        }
    }
    Ok(())
}

fn cases(machine: &Machine) -> impl Iterator<Item = (&'static str, Cpus, &'static [Contender])> {
    let one = Cpus { near: machine.server_cpu, far: machine.server_cpu };
    let two = Cpus { near: machine.generator_cpu, far: machine.server_cpu };
    let one_case = ("both threads on one CPU", one, ON_ONE_CPU);
    let two_case = ("a CPU for each thread", two, ON_TWO_CPUS);
    // With only one CPU there is one case.
    let two_case = machine.generator_cpu.map(|_| two_case);
    [Some(one_case), two_case].into_iter().flatten()
}

fn round(cpus: Cpus, contenders: &[Contender]) -> Result<Vec<Sample>> {
    let mut trips = vec![Vec::with_capacity(TURNS * TRIPS); contenders.len()];
    for turn in 0..TURNS {
        for place in 0..contenders.len() {
            // Rotates the order, so that none is always the first.
            let index = (turn + place) % contenders.len();
            trips[index].extend(contenders[index].turn(cpus, TRIPS)?);
        }
    }
    Ok(trips.into_iter().map(Sample::of).collect())
}

impl Contender {
    fn turn(&self, cpus: Cpus, trips: usize) -> Result<Vec<Duration>> {
        (self.turn)(cpus, trips).map_err(|error| format!("round trip, {}: {error}", self.name).into())
    }
}

impl Sample {
    fn of(mut trips: Vec<Duration>) -> Sample {
        trips.sort_unstable();
        let percentile = |percent: usize| trips[trips.len() * percent / 100].as_secs_f64() * 1e6;
        Sample { p50: percentile(50), p99: percentile(99) }
    }
}

/// The values added to a counter: a trip, or the end of all trips.
const TRIP: u64 = 1;
const STOP: u64 = 2;

/// Two threads with a blocking eventfd each.
fn eventfds(cpus: Cpus, trips: usize) -> Result<Vec<Duration>> {
    let there = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    let back = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    let far = {
        let (there, back) = (Arc::clone(&there), Arc::clone(&back));
        start_on(cpus.far, move || {
            while read(&there)? == TRIP {
                write(&back, TRIP)?;
            }
            Ok(())
        })?
    };
    let near = start_on(cpus.near, move || {
        let mut taken = Vec::with_capacity(trips);
        for trip in 0..WARM_UP + trips {
            let began = Instant::now();
            write(&there, TRIP)?;
            read(&back)?;
            if trip >= WARM_UP {
                taken.push(began.elapsed());
            }
        }
        write(&there, STOP)?;
        Ok(taken)
    })?;
    let taken = near.join()?;
    far.join()?;
    Ok(taken)
}

/// Two threads with a blocking eventfd and a queue each. The messages are as long as a task.
fn queues(cpus: Cpus, trips: usize) -> Result<Vec<Duration>> {
    type Queue = (OwnedFd, Mutex<Vec<[usize; 5]>>);
    let queue = || Ok::<_, Errno>(Arc::new((eventfd(0, EventfdFlags::CLOEXEC)?, Mutex::default())));
    let send = |(eventfd, queue): &Queue, task| {
        queue.lock().push(task);
        write(eventfd, TRIP)
    };
    let (there, back): (Arc<Queue>, Arc<Queue>) = (queue()?, queue()?);
    let far = {
        let (there, back) = (Arc::clone(&there), Arc::clone(&back));
        start_on(cpus.far, move || {
            let mut batch = Vec::new();
            while read(&there.0)? == TRIP {
                mem::swap(&mut batch, &mut *there.1.lock());
                batch.drain(..).try_for_each(|task| send(&back, task))?;
            }
            Ok(())
        })?
    };
    let near = start_on(cpus.near, move || {
        let mut batch = Vec::new();
        let mut taken = Vec::with_capacity(trips);
        for trip in 0..WARM_UP + trips {
            let began = Instant::now();
            send(&there, [trip; 5])?;
            read(&back.0)?;
            mem::swap(&mut batch, &mut *back.1.lock());
            if batch.pop() != Some([trip; 5]) {
                return Err("the returned task differs from the sent one".into());
            }
            if trip >= WARM_UP {
                taken.push(began.elapsed());
            }
        }
        write(&there.0, STOP)?;
        Ok(taken)
    })?;
    let taken = near.join()?;
    far.join()?;
    Ok(taken)
}

fn read(eventfd: &OwnedFd) -> Result<u64> {
    let mut counter = [0; 8];
    rustix::io::retry_on_intr(|| rustix::io::read(eventfd, &mut counter))?;
    Ok(u64::from_ne_bytes(counter))
}

fn write(eventfd: &OwnedFd, counter: u64) -> Result<()> {
    rustix::io::retry_on_intr(|| rustix::io::write(eventfd, &counter.to_ne_bytes()))?;
    Ok(())
}

/// Two loops that post to each other. Without `busy_poll` they spin adaptively.
fn loops(cpus: Cpus, trips: usize, busy_poll: Option<Duration>) -> Result<Vec<Duration>> {
    let (hand_out, handles) = mpsc::channel();
    let far_thread = start_on(cpus.far, move || {
        let event_loop = event_loop(busy_poll)?;
        hand_out.send(event_loop.handle())?;
        Ok(event_loop.run()?)
    })?;
    let far = match handles.recv_timeout(TIMEOUT) {
        Ok(far) => far,
        Err(error) => return Err(far_thread.join().err().unwrap_or_else(|| error.into())),
    };
    let near_thread = start_on(cpus.near, move || {
        let event_loop = event_loop(busy_poll)?;
        let taken = Vec::with_capacity(WARM_UP + trips);
        let traveller = Traveller { far, began: Instant::now(), trips: WARM_UP + trips, taken };
        TRAVELLER.set(Some(traveller));
        event_loop.queue_in_loop(Traveller::set_out);
        event_loop.run()?;
        let Traveller { far, taken, .. } = TRAVELLER.take().ok_or("the traveller is lost")?;
        far.quit();
        Ok(taken[WARM_UP..].to_vec())
    })?;
    let taken = near_thread.join()?;
    far_thread.join()?;
    Ok(taken)
}

fn event_loop(busy_poll: Option<Duration>) -> Result<EventLoop> {
    Ok(busy_poll.into_iter().fold(EventLoop::builder(), EventLoopBuilder::busy_poll).build()?)
}

thread_local! {
    /// State shared by the tasks of the near loop.
    static TRAVELLER: RefCell<Option<Traveller>> = const { RefCell::new(None) };
}

struct Traveller {
    far: LoopHandle,
    began: Instant,
    trips: usize,
    taken: Vec<Duration>,
}

impl Traveller {
    /// On the near loop: posts a task to the far loop, which posts one back.
    fn set_out(near: &EventLoop) {
        TRAVELLER.with_borrow_mut(|traveller| {
            let Some(Traveller { far, began, .. }) = traveller else { return };
            let home = near.handle();
            *began = Instant::now();
            // A loop that refuses has failed, and its thread reports the error; the missing trip is
            // detected.
            let _ = far.queue_in_loop(move |_| _ = home.queue_in_loop(Traveller::come_back));
        });
    }

    fn come_back(near: &EventLoop) {
        let finished = TRAVELLER.with_borrow_mut(|traveller| {
            let Some(Traveller { began, trips, taken, .. }) = traveller else { return true };
            taken.push(began.elapsed());
            taken.len() == *trips
        });
        if finished { near.quit() } else { Traveller::set_out(near) }
    }
}

/// One row per contender; `rounds` holds a sample of each per round.
fn table(rounds: &[Vec<Sample>], contenders: &[Contender], place: &str) -> Table {
    let title = format!(
        "round trip, {place}, {} of them: median (min-max) of {} rounds",
        TURNS * TRIPS,
        rounds.len()
    );
    let mut table = Table::new(title, &["what", "p50 us", "p99 us", "x eventfd (p50)"]);
    for (index, contender) in contenders.iter().enumerate() {
        let spread = |figure: &dyn Fn(&[Sample]) -> f64| {
            Spread::of(rounds.iter().map(|round| figure(round))).show(hundredths)
        };
        table.row([
            contender.name.into(),
            spread(&|round| round[index].p50),
            spread(&|round| round[index].p99),
            spread(&|round| round[index].p50 / round[0].p50),
        ]);
    }
    table
}
