//! Tasks per second of one loop, from one and from two producers.
//!
//! The loop has one CPU, and the producers share the other. As in the echo comparison, a round
//! consists of short turns that the peers take one after the other, so that a longer slow-down of
//! the machine affects all of them.

use std::ops::AddAssign;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use super::TIMEOUT;
use super::posters::{Calloop, EventfdEach, Inline, MillIo, Poster, Reveille, TokioMpsc, TokioSpawn};
use super::tally::{Outcome, Progress, Reached, STEP, WINDOW, sum_of, words};
use super::threads::{Thread, start_on};
use crate::Result;
use crate::machine::Machine;
use crate::report::{Spread, Table, hundredths};

/// Number of turns in a sample.
const TURNS: usize = 5;

/// Tasks in a turn: about 10 million in a sample, or a million for peers that need a microsecond
/// per task.
const MANY: usize = 2_000 * STEP;
const FEW: usize = 200 * STEP;

/// Warm-up tasks: they fill the window twice, so that queues have grown to their size.
const WARM_UP: usize = 2 * WINDOW;

/// A way to post tasks.
struct Contender {
    name: &'static str,
    /// Tasks in a turn.
    tasks: usize,
    turn: fn(&Machine, producers: usize, tasks: usize) -> Result<Turn>,
}

const CONTENDERS: [Contender; 7] = [
    Contender { name: "inline", tasks: MANY, turn: turn::<Inline> },
    Contender { name: "eventfd-each", tasks: FEW, turn: turn::<EventfdEach> },
    Contender { name: "reveille", tasks: MANY, turn: turn::<Reveille> },
    Contender { name: "tokio-spawn", tasks: FEW, turn: turn::<TokioSpawn> },
    Contender { name: "tokio-mpsc", tasks: FEW, turn: turn::<TokioMpsc> },
    Contender { name: "calloop", tasks: FEW, turn: turn::<Calloop> },
    Contender { name: "mill-io", tasks: FEW, turn: turn::<MillIo> },
];

/// The baselines of all peers, as indices in [`CONTENDERS`].
const INLINE: usize = 0;
const EVENTFD_EACH: usize = 1;

/// The results of a peer in one or more turns.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    tasks: usize,
    /// From the first post to the end of the last task.
    time: Duration,
}

impl AddAssign for Turn {
    fn add_assign(&mut self, turn: Turn) {
        self.tasks += turn.tasks;
        self.time += turn.time;
    }
}

impl Turn {
    fn millions_a_second(&self) -> f64 {
        self.tasks as f64 / 1e6 / self.time.as_secs_f64()
    }
}

/// Measures both cases and prints a table for each.
pub(super) fn run(machine: &Machine, rounds: usize) -> Result<()> {
    for producers in [1, 2] {
        let samples: Vec<_> = (0..rounds).map(|_| round(machine, producers)).collect::<Result<_>>()?;
        print!("{}", table(&samples, producers));
    }
    Ok(())
}

/// A few tasks for each peer.
pub(super) fn smoke(machine: &Machine) -> Result<()> {
    for contender in &CONTENDERS {
        for producers in [1, 2] {
            contender.turn(machine, producers, 8 * STEP)?;
        }
        println!("post, {}: every task run, once", contender.name);
    }
    Ok(())
}

fn round(machine: &Machine, producers: usize) -> Result<Vec<Turn>> {
    let mut samples = vec![Turn::default(); CONTENDERS.len()];
    for turn in 0..TURNS {
        for place in 0..CONTENDERS.len() {
            // Rotates the order, so that none is always the first.
            let index = (turn + place) % CONTENDERS.len();
            let contender = &CONTENDERS[index];
            samples[index] += contender.turn(machine, producers, contender.tasks)?;
        }
    }
    Ok(samples)
}

impl Contender {
    fn turn(&self, machine: &Machine, producers: usize, tasks: usize) -> Result<Turn> {
        let turn = (self.turn)(machine, producers, tasks);
        turn.map_err(|error| format!("post, {}, {producers} producers: {error}", self.name).into())
    }
}

fn turn<P: Poster>(machine: &Machine, producers: usize, tasks: usize) -> Result<Turn> {
    let (outcome, outcomes) = mpsc::channel();
    let progress = Arc::new(Progress::new(outcome));
    let (poster, loop_thread) = start_loop::<P>(machine, Arc::clone(&progress))?;
    let drive = |tasks| drive(machine, producers, tasks, &poster, &progress, &outcomes);
    drive(WARM_UP)?;
    let (began, reached) = drive(tasks)?;
    poster.stop();
    loop_thread.join()?;
    if reached.sum != sum_of(WARM_UP + tasks) {
        return Err("the tasks that ran are not those that were posted".into());
    }
    Ok(Turn { tasks, time: reached.at.saturating_duration_since(began) })
}

fn start_loop<P: Poster>(machine: &Machine, progress: Arc<Progress>) -> Result<(P, Thread<()>)> {
    let (hand_out, posters) = mpsc::channel();
    let thread = start_on(machine.server_cpu, move || {
        progress.count_this_thread();
        P::serve(move |poster| _ = hand_out.send(poster))
    })?;
    match posters.recv_timeout(TIMEOUT) {
        Ok(poster) => Ok((poster, thread)),
        Err(error) => Err(thread.join().err().unwrap_or_else(|| error.into())),
    }
}

/// Posts `tasks` tasks and waits until all have run. Returns the times of the first post and of the
/// end of the last task.
fn drive<P: Poster>(
    machine: &Machine,
    producers: usize,
    tasks: usize,
    poster: &P,
    progress: &Arc<Progress>,
    outcomes: &Receiver<Outcome>,
) -> Result<(Instant, Reached)> {
    progress.set_goal(tasks);
    let start = Arc::new(Barrier::new(producers));
    let threads: Vec<_> = (0..producers)
        .map(|_| {
            let (poster, progress, start) = (poster.clone(), Arc::clone(progress), Arc::clone(&start));
            start_on(machine.generator_cpu, move || {
                start.wait();
                Ok(produce(&poster, &progress))
            })
        })
        .collect::<Result<_>>()?;
    let outcome = outcomes.recv_timeout(TIMEOUT);
    let reached = outcome.map_err(|_| format!("did not run all tasks within {TIMEOUT:?}"))??;
    let mut began = None;
    for thread in threads {
        began = [began, thread.join()?].into_iter().flatten().min();
    }
    Ok((began.ok_or("no producer has posted")?, reached))
}

/// Runs one producer. Returns the time of its first post, or `None` if no task was left for it.
fn produce<P: Poster>(poster: &P, progress: &Progress) -> Option<Instant> {
    let mut began = None;
    while let Some(tasks) = progress.claim() {
        began.get_or_insert_with(Instant::now);
        for task in tasks {
            if !poster.post(words(task)) {
                progress.report(Err("the loop refused a task"));
                return began;
            }
        }
    }
    began
}

/// One row per peer; `rounds` holds a sample of each peer per round.
fn table(rounds: &[Vec<Turn>], producers: usize) -> Table {
    let title = format!(
        "post, {producers} producer{}, at most {WINDOW} tasks in flight: median (min-max) of {} rounds",
        if producers == 1 { "" } else { "s" },
        rounds.len()
    );
    let heading = ["peer", "M tasks/s", "x inline", "x eventfd-each", "M tasks a round"];
    let mut table = Table::new(title, &heading);
    for (index, contender) in CONTENDERS.iter().enumerate() {
        let speed = |round: &Vec<Turn>, index: usize| round[index].millions_a_second();
        let to = |limit| Spread::of(rounds.iter().map(|round| speed(round, index) / speed(round, limit)));
        table.row([
            contender.name.into(),
            Spread::of(rounds.iter().map(|round| speed(round, index))).show(hundredths),
            to(INLINE).show(hundredths),
            to(EVENTFD_EACH).show(hundredths),
            hundredths((TURNS * contender.tasks) as f64 / 1e6),
        ]);
    }
    table
}
