//! File reads: 4 KiB at a time at random offsets of a file in the page cache, 64 reads in flight.
//!
//! No read waits for a disk, so the measurement covers the path of a read: through a ring, through
//! threads, or direct. All reads of a sample are checked by a sum over the data. Samples are taken
//! in this process, on a thread that may use the CPUs of the servers and of the load generator; so
//! may the pools' threads. Their CPU time is that of the whole process.

mod calls;
mod pool;
mod through_reveille;
mod workload;

use std::env;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use reveille::fs::FileIoBackend;
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::Result;
use crate::machine::Machine;
use crate::report::{Spread, Table, hundredths};
use workload::{Contents, Data};

/// Bytes per read, reads in flight, and reads per sample.
const BLOCK: usize = 4096;
const IN_FLIGHT: usize = 64;
const READS: usize = 10_000;

/// Reads before a sample, to start the threads and to grow data structures.
const WARM_UP: usize = 500;

/// The default number of threads of the crate.
const THREADS: usize = 4;

/// A sample that takes longer counts as hung.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The environment variable that passes the file to a child.
const FILE: &str = "REVEILLE_COMPARE_FILE";

/// The reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// One `pread` after the other, on the thread that needs the data.
    Pread,
    /// Threads of this program, with a queue and a channel.
    Pool,
    Reveille(FileIoBackend),
}

impl Reader {
    const ALL: [Reader; 4] = [
        Reader::Pread,
        Reader::Pool,
        Reader::Reveille(FileIoBackend::ThreadPool),
        Reader::Reveille(FileIoBackend::IoUring),
    ];

    fn name(self) -> &'static str {
        match self {
            Reader::Pread => "pread-loop",
            Reader::Pool => "pool-by-hand",
            Reader::Reveille(FileIoBackend::ThreadPool) => "reveille-threads",
            Reader::Reveille(_) => "reveille-ring",
        }
    }

    pub(crate) fn parse(name: &str) -> std::result::Result<Reader, String> {
        Reader::ALL
            .into_iter()
            .find(|reader| reader.name() == name)
            .ok_or(format!("no reader is named {name:?}"))
    }

    /// Returns the reason if it is not available here.
    fn missing(self) -> Option<String> {
        match self {
            Reader::Reveille(backend) => through_reveille::missing(backend),
            _ => None,
        }
    }

    /// Takes a sample of `reads` reads, after a warm-up.
    fn sample(self, data: &Data, reads: usize) -> Result<Sample> {
        let sample = match self {
            Reader::Pread => data.read_in_a_loop(reads),
            Reader::Pool => pool::sample(data, reads),
            Reader::Reveille(backend) => through_reveille::sample(data, backend, reads),
        };
        sample.map_err(|error| format!("files, {}: {error}", self.name()).into())
    }
}

/// The cost per read.
#[derive(Clone, Copy, Debug)]
struct Sample {
    time: Duration,
    cpu: Duration,
}

impl Sample {
    /// Measures the cost of `work`, which performs `reads` reads.
    fn of(reads: usize, work: impl FnOnce() -> Result<()>) -> Result<Sample> {
        let (began, cpu) = (Instant::now(), process_cpu_time());
        work()?;
        let (time, cpu) = (began.elapsed(), process_cpu_time() - cpu);
        let each = |all: Duration| all.div_f64(reads as f64);
        Ok(Sample { time: each(time), cpu: each(cpu) })
    }
}

fn process_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Measures and prints the table.
pub(crate) fn run(machine: &Machine, rounds: usize) -> Result<()> {
    let contents = Contents::new()?;
    let readers = present();
    let samples: Vec<Vec<Sample>> = on_all_cpus(machine, || {
        (0..rounds)
            .map(|number| round(&contents, &readers, number, READS))
            .collect::<std::result::Result<_, String>>()
    })?;
    let title = format!(
        "files, {READS} reads of {BLOCK} bytes at random offsets of a cached file, {IN_FLIGHT} in flight: median (min-max) of {rounds} rounds"
    );
    let heading = ["reader", "us/read", "x pread", "x pool", "CPU us/read", "system calls/read"];
    let mut table = Table::new(title, &heading);
    for (index, reader) in readers.iter().enumerate() {
        let spread = |figure: &dyn Fn(&[Sample]) -> f64| {
            Spread::of(samples.iter().map(|round| figure(round))).show(hundredths)
        };
        let to = |other: Reader| {
            let other = readers.iter().position(|reader| *reader == other).expect("it is always there");
            spread(&|round| round[index].time.as_secs_f64() / round[other].time.as_secs_f64())
        };
        table.row([
            reader.name().into(),
            spread(&|round| round[index].time.as_secs_f64() * 1e6),
            to(Reader::Pread),
            to(Reader::Pool),
            spread(&|round| round[index].cpu.as_secs_f64() * 1e6),
            calls::each(*reader, contents.path())?.map_or("-".into(), |calls| format!("{calls:.3}")),
        ]);
    }
    print!("{table}");
    println!(
        "  (system calls are counted in separate runs by strace, which slows them down; -: not available)"
    );
    Ok(())
}

/// Checks a few reads of each reader.
pub(crate) fn smoke(machine: &Machine) -> Result<()> {
    let contents = Contents::new()?;
    let readers = present();
    on_all_cpus(machine, || round(&contents, &readers, 0, 1000).map(drop))?;
    for reader in readers {
        println!("files, {}: all reads correct", reader.name());
    }
    Ok(())
}

/// For a child whose system calls are counted: reads from the file named by the environment.
pub(crate) fn read(reader: Reader, reads: usize) -> Result<()> {
    let path = PathBuf::from(env::var_os(FILE).ok_or("no file is named")?);
    reader.sample(&Data::of(&path)?, reads).map(drop)
}

/// The readers available here.
fn present() -> Vec<Reader> {
    let mut readers = Reader::ALL.to_vec();
    readers.retain(|reader| match reader.missing() {
        None => true,
        Some(why) => {
            println!("files, {}: skipped: {why}", reader.name());
            false
        }
    });
    readers
}

/// Takes a sample of each reader. Rotates the order, so that none is always the first.
fn round(
    contents: &Contents,
    readers: &[Reader],
    number: usize,
    reads: usize,
) -> std::result::Result<Vec<Sample>, String> {
    let count = readers.len();
    let mut samples: Vec<Option<Sample>> = vec![None; count];
    for place in 0..count {
        let index = (number + place) % count;
        let sample = readers[index].sample(contents.data(), reads).map_err(|error| error.to_string())?;
        samples[index] = Some(sample);
    }
    Ok(samples.into_iter().flatten().collect())
}

/// Runs `work` on a thread that is not pinned; neither are the threads that it starts.
fn on_all_cpus<T: Send>(
    machine: &Machine,
    work: impl FnOnce() -> std::result::Result<T, String> + Send,
) -> Result<T> {
    let cpus = [machine.server_cpu, machine.generator_cpu];
    let free = move || {
        let mut set = CpuSet::new();
        cpus.into_iter().flatten().for_each(|cpu| set.set(cpu));
        if set.count() > 0 {
            sched_setaffinity(None, &set).map_err(|error| format!("using two CPUs: {error}"))?;
        }
        work()
    };
    let outcome = thread::scope(|scope| scope.spawn(free).join());
    Ok(outcome.map_err(|_| "the thread that reads files has panicked")??)
}
