//! The clients. Each client thread runs one scenario after another, selected at random.

mod misbehaving;
mod pattern;
mod socket;
mod verifying;

use std::time::Instant;

use fastrand::Rng;

use crate::server::Services;
use crate::tally::Tally;

/// The result of a scenario: the number of verified bytes, or a description of the failure.
pub(crate) type Verdict = Result<u64, String>;

type Scenario = fn(&mut Rng, &Services) -> Verdict;

/// Scenarios that verify the bytes that they receive. Half of the runs select one of these, and
/// half one of [`MISBEHAVING`].
const VERIFYING: &[(&str, Scenario)] = &[
    ("echo", verifying::echo),
    ("echo, slow reader", verifying::slow_reader),
    ("echo, byte by byte", verifying::byte_by_byte),
    ("echo, late reader", verifying::late_reader),
    ("lines, pipelined", verifying::lines),
    ("relay", verifying::relay),
    ("Unix socket", verifying::unix_socket),
    ("early reply", verifying::early_reply),
    ("datagrams", verifying::datagrams),
];

const MISBEHAVING: &[(&str, Scenario)] = &[
    ("resets during a transfer", misbehaving::resets),
    ("resets during a relayed transfer", misbehaving::resets_a_relay),
    ("sends and never reads", misbehaving::never_reads),
    ("half-closes and never reads", misbehaving::half_closes_and_never_reads),
    ("connects and closes", misbehaving::connects_and_closes),
    ("opens many connections", misbehaving::opens_many_connections),
    ("sends nothing", misbehaving::sends_nothing),
    ("sends urgent data", misbehaving::sends_urgent_data),
    ("makes the handler panic", misbehaving::panics_the_handler),
    ("sends a line that is too long", misbehaving::sends_a_line_that_is_too_long),
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
