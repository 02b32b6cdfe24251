//! The clients: each thread runs one scenario after the other, drawn from its random numbers.

mod misbehaving;
mod pattern;
mod socket;
mod verifying;

use std::time::Instant;

use fastrand::Rng;

use crate::server::Services;
use crate::tally::Tally;

/// What a scenario returns: how many bytes it has verified, or what was wrong.
pub(crate) type Verdict = Result<u64, String>;

type Scenario = fn(&mut Rng, &Services) -> Verdict;

/// Half of the runs verify, and half misbehave.
const VERIFYING: &[(&str, Scenario)] = &[
    ("echo", verifying::echo),
    ("echo, slow reader", verifying::slow_reader),
    ("echo, byte by byte", verifying::byte_by_byte),
    ("echo, large requests first", verifying::late_reader),
    ("lines, pipelined", verifying::lines),
    ("relay", verifying::relay),
    ("Unix socket", verifying::unix_socket),
    ("early reply", verifying::early_reply),
    ("datagrams", verifying::datagrams),
];

const MISBEHAVING: &[(&str, Scenario)] = &[
    ("resets in mid-transfer", misbehaving::resets),
    ("resets a relay in mid-transfer", misbehaving::resets_a_relay),
    ("sends and never reads", misbehaving::never_reads),
    ("half-closes and never reads", misbehaving::half_closes_and_never_reads),
    ("connects and closes", misbehaving::connects_and_closes),
    ("connects many times at once", misbehaving::storms),
    ("says nothing", misbehaving::says_nothing),
    ("sends urgent data", misbehaving::sends_urgent_data),
    ("makes the handler panic", misbehaving::panics_the_handler),
    ("sends a line without an end", misbehaving::sends_an_endless_line),
    ("passes descriptors", misbehaving::passes_descriptors),
    ("passes a lingering socket", misbehaving::passes_a_lingering_socket),
    ("closes with unread replies", misbehaving::closes_with_unread_replies),
    ("sends odd datagrams", misbehaving::sends_odd_datagrams),
];

/// Runs scenarios until `end`.
pub(crate) fn run(mut random: Rng, services: &Services, end: Instant, tally: &Tally) {
    while Instant::now() < end {
        let scenarios = if random.bool() { VERIFYING } else { MISBEHAVING };
        let (name, scenario) = scenarios[random.usize(..scenarios.len())];
        tally.count(name, scenario(&mut random, services));
    }
}
