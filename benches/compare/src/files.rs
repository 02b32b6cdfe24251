//! Reading files: 4 KiB at a time from random places of a file that is in the kernel's cache, 64 reads under way.
//!
//! Nothing waits for a disk here, so what is measured is the way of a read through whoever does it: a ring, threads, or nobody in
//! between. All of a sample's reads are checked by a sum over what they have read. Samples are taken in this process, on a thread that
//! may use the CPUs of the servers and of the load generator, and so may its pools'; their CPU time is that of the whole process.

mod calls;
mod pool;
mod through_reveille;
mod workload;

use std::env;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use reveille::FileIoBackend;
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::Result;
use crate::machine::Machine;
use crate::report::{Spread, Table, hundredths};
use workload::{Contents, Data};

/// How many bytes are read at once, how many reads are under way, and how many make a sample.
const BLOCK: usize = 4096;
const IN_FLIGHT: usize = 64;
const READS: usize = 10_000;

/// Reads before a sample, which start the threads and grow what grows.
const WARM_UP: usize = 500;

/// As many as the crate has unless it is told otherwise.
const THREADS: usize = 4;

/// How long a sample may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a child finds the file.
const FILE: &str = "REVEILLE_COMPARE_FILE";

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// One `pread` after the other, by the thread that wants the data.
    Pread,
    /// Threads of this program's, a queue and a channel.
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
            Reader::Reveille(FileIoBackend::IoUring) => "reveille-ring",
        }
    }

    pub(crate) fn parse(name: &str) -> std::result::Result<Reader, String> {
        Reader::ALL
            .into_iter()
            .find(|reader| reader.name() == name)
            .ok_or(format!("nobody who reads is {name:?}"))
    }

    /// Why it cannot take part here, if it cannot.
    fn missing(self) -> Option<String> {
        match self {
            Reader::Reveille(backend) => through_reveille::missing(backend),
            _ => None,
        }
    }

    /// Reads so often, warmed up.
    fn sample(self, data: &Data, reads: usize) -> Result<Sample> {
        let sample = match self {
            Reader::Pread => data.read_in_a_loop(reads),
            Reader::Pool => pool::sample(data, reads),
            Reader::Reveille(backend) => through_reveille::sample(data, backend, reads),
        };
        sample.map_err(|error| format!("files, {}: {error}", self.name()).into())
    }
}

/// What some reads have cost, each.
#[derive(Clone, Copy, Debug)]
struct Sample {
    time: Duration,
    cpu: Duration,
}

impl Sample {
    /// What `reads` reads cost, when `work` does them.
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
        "files, {READS} reads of {BLOCK} bytes at random places of a file in the cache, {IN_FLIGHT} under way: median (min-max) of {rounds} rounds"
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
        "  (system calls are counted in runs of their own, by strace, which slows each; - where there is none)"
    );
    Ok(())
}

/// A few reads by each: is what they read what is there?
pub(crate) fn smoke(machine: &Machine) -> Result<()> {
    let contents = Contents::new()?;
    let readers = present();
    on_all_cpus(machine, || round(&contents, &readers, 0, 1000).map(drop))?;
    for reader in readers {
        println!("files, {}: all reads right", reader.name());
    }
    Ok(())
}

/// For a child whose system calls are counted: reads from the file that it is told of.
pub(crate) fn read(reader: Reader, reads: usize) -> Result<()> {
    let path = PathBuf::from(env::var_os(FILE).ok_or("no file is named")?);
    reader.sample(&Data::of(&path)?, reads).map(drop)
}

/// Those who can take part here.
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

/// A sample of each. Another one begins each time, so that none is always the first.
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

/// Does it on a thread that is pinned to no CPU, nor are the threads that it starts.
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
