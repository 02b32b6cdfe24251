//! Sends from another thread: many lines to each of many connections, and many small sends to one.
//!
//! All ways run in this process. The loops run on the servers' CPU; the sender, which also reads as
//! all peers, is this thread. A turn lasts from the first send until the peers have received all
//! bytes, and begins when the loops are idle. As in the other comparisons, the ways take turns, and
//! are compared within a round.

mod setup;

use std::time::{Duration, Instant};

use reveille::net::{ConnectionGroup, FullPolicy};
use rustix::time::{ClockId, clock_gettime};

use crate::Result;
use crate::machine::Machine;
use crate::report::{Spread, Table, hundredths};
use setup::Connections;

/// Number of turns in a sample.
const TURNS: usize = 10;

/// The members of a group, the loops that they are on, and the lines of a turn.
const MEMBERS: usize = 40;
const LOOPS: usize = 2;
const LINES: usize = 1_500;

/// The small sends of a turn, and the bytes of each.
const SENDS: usize = 20_000;
const SIZE: usize = 100;

/// A way to send the bytes of a turn.
struct Way {
    name: &'static str,
    send: fn(&Connections, &ConnectionGroup, pieces: &[Vec<u8>]) -> Result<()>,
}

/// The other way of a case is compared with the first.
struct Case {
    title: &'static str,
    connections: usize,
    loops: usize,
    pieces: usize,
    ways: [Way; 2],
}

const FAN_OUT: Case = Case {
    title: "fan-out, 1,500 lines to 40 members on 2 loops",
    connections: MEMBERS,
    loops: LOOPS,
    pieces: LINES,
    ways: [
        Way {
            name: "handle of each member",
            send: |connections, _, lines| {
                for line in lines {
                    connections.handles.iter().try_for_each(|handle| handle.send(&line[..]))?;
                }
                Ok(())
            },
        },
        Way {
            name: "group",
            send: |_, group, lines| {
                lines.iter().try_for_each(|line| group.send(&line[..]))?;
                Ok(())
            },
        },
    ],
};

const SMALL_SENDS: Case = Case {
    title: "20,000 sends of 100 B through a handle",
    connections: 1,
    loops: 1,
    pieces: SENDS,
    ways: [
        Way {
            name: "one send of all bytes",
            send: |connections, _, pieces| Ok(connections.handles[0].send(pieces.concat())?),
        },
        Way {
            name: "a send for each piece",
            send: |connections, _, pieces| {
                pieces.iter().try_for_each(|piece| connections.handles[0].send(&piece[..]))?;
                Ok(())
            },
        },
    ],
};

/// The results of a way in one or more turns.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    /// From the first send until it has returned from the last.
    sending: Duration,
    /// From the first send until the peers have received all bytes.
    time: Duration,
    /// CPU time of the process, with the loops and the peers.
    cpu: Duration,
}

/// Measures both cases and prints a table for each.
pub(crate) fn run(machine: &Machine, rounds: usize) -> Result<()> {
    for case in [FAN_OUT, SMALL_SENDS] {
        let connections = Connections::open(machine, case.loops, case.connections)?;
        case.round(&connections, 1, case.pieces)?;
        let samples: Vec<_> =
            (0..rounds).map(|_| case.round(&connections, TURNS, case.pieces)).collect::<Result<_>>()?;
        print!("{}", case.table(&samples));
    }
    Ok(())
}

/// A few sends of each way, and a check of the received bytes.
pub(crate) fn smoke(machine: &Machine) -> Result<()> {
    for case in [FAN_OUT, SMALL_SENDS] {
        let connections = Connections::open(machine, case.loops, case.connections)?;
        case.round(&connections, 2, 200)?;
        println!("sends, {}: every byte received", case.title);
    }
    Ok(())
}

impl Case {
    /// Takes a sample of each way.
    fn round(&self, connections: &Connections, turns: usize, pieces: usize) -> Result<[Sample; 2]> {
        let pieces: Vec<Vec<u8>> = (0..pieces).map(piece).collect();
        let expected = pieces.concat();
        let group = ConnectionGroup::new(FullPolicy::Close);
        connections.handles.iter().for_each(|handle| group.join(handle));
        let mut samples = [Sample::default(); 2];
        for turn in 0..turns {
            for place in 0..self.ways.len() {
                // Rotates the order, so that none is always the first.
                let index = (turn + place) % self.ways.len();
                let way = &self.ways[index];
                let taken = way.turn(connections, &group, &pieces, &expected);
                let taken = taken.map_err(|error| format!("sends, {}: {error}", way.name))?;
                samples[index].sending += taken.sending;
                samples[index].time += taken.time;
                samples[index].cpu += taken.cpu;
            }
        }
        Ok(samples)
    }

    fn table(&self, rounds: &[[Sample; 2]]) -> Table {
        let title = format!("{}: median (min-max) of {} rounds", self.title, rounds.len());
        let heading = ["way", "ms sending", "ms", "x first", "CPU ms", "CPU x first"];
        let mut table = Table::new(title, &heading);
        let millis = |time: Duration| time.as_secs_f64() * 1e3 / TURNS as f64;
        for (index, way) in self.ways.iter().enumerate() {
            let figure = |of: fn(&Sample) -> Duration| {
                Spread::of(rounds.iter().map(|round| millis(of(&round[index])))).show(hundredths)
            };
            let ratio = |of: fn(&Sample) -> Duration| {
                let ratio = |round: &[Sample; 2]| millis(of(&round[index])) / millis(of(&round[0]));
                Spread::of(rounds.iter().map(ratio)).show(hundredths)
            };
            table.row([
                way.name.into(),
                figure(|sample| sample.sending),
                figure(|sample| sample.time),
                ratio(|sample| sample.time),
                figure(|sample| sample.cpu),
                ratio(|sample| sample.cpu),
            ]);
        }
        table
    }
}

impl Way {
    fn turn(
        &self,
        connections: &Connections,
        group: &ConnectionGroup,
        pieces: &[Vec<u8>],
        expected: &[u8],
    ) -> Result<Sample> {
        connections.wait_until_idle()?;
        let (began, cpu) = (Instant::now(), process_cpu_time());
        (self.send)(connections, group, pieces)?;
        let sending = began.elapsed();
        let received = connections.receive(expected.len())?;
        let (time, cpu) = (began.elapsed(), process_cpu_time() - cpu);
        match received.iter().all(|received| received == expected) {
            true => Ok(Sample { sending, time, cpu }),
            false => Err("a peer received other bytes".into()),
        }
    }
}

/// The bytes of a line or a small send.
fn piece(number: usize) -> Vec<u8> {
    let mut piece = format!("{number:06} ").into_bytes();
    piece.resize(SIZE - 1, b'-');
    piece.push(b'\n');
    piece
}

fn process_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
