//! Both ends of a shared ring, and looks at what goes on between them.

use std::os::fd::OwnedFd;

use reveille::ipc::{SharedRing, SharedRingSource};
use reveille::{EventFd, EventLoop};

use super::Recorder;

/// The largest ring that is taken.
pub(crate) const MOST: usize = 1 << 20;

/// Both ends, and descriptors of what they share: the memory, the maker's bell, the other one's.
pub(crate) fn pair(capacity: usize) -> (SharedRing, SharedRing, [OwnedFd; 3]) {
    let (here, descriptors) = SharedRing::create(capacity).unwrap();
    let copies = clones(&descriptors);
    let there = SharedRing::from_descriptors(descriptors, MOST).unwrap();
    (here, there, copies.try_into().unwrap())
}

pub(crate) fn clones(descriptors: &[OwnedFd]) -> Vec<OwnedFd> {
    descriptors.iter().map(|descriptor| descriptor.try_clone().unwrap()).collect()
}

/// How often a bell has been rung: each time takes 1 from its counter.
pub(crate) fn rings(bell: &OwnedFd) -> u64 {
    (1 << 63) - EventFd::from(bell.try_clone().unwrap()).counter().unwrap()
}

pub(crate) fn received(ring: &mut SharedRing) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    ring.receive(&mut message).unwrap().then_some(message)
}

/// Watches an end, and records its messages.
pub(crate) fn watch(event_loop: &EventLoop, ring: SharedRing) -> (SharedRingSource, Recorder<Vec<u8>>) {
    let messages = Recorder::new();
    let recording = messages.clone();
    let source = ring.watch(event_loop, move |_, message| recording.record(message.to_vec())).unwrap();
    (source, messages)
}
