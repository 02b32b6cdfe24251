//! For the tests of shared rings: both ends of a ring, and observation of its bells and messages.

use std::os::fd::OwnedFd;

use reveille::ipc::{SharedRing, SharedRingSource};
use reveille::{EventFd, EventLoop};

use super::Recorder;

/// The largest capacity that the tests accept from a peer.
pub(crate) const MAX_CAPACITY: usize = 1 << 20;

/// Both ends of a ring, and duplicates of the shared descriptors: the memory, the creator's bell
/// and the other end's bell.
pub(crate) fn pair(capacity: usize) -> (SharedRing, SharedRing, [OwnedFd; 3]) {
    let (creator, descriptors) = SharedRing::create(capacity).unwrap();
    let duplicates = clones(&descriptors);
    let other = SharedRing::from_descriptors(descriptors, MAX_CAPACITY).unwrap();
    (creator, other, duplicates.try_into().unwrap())
}

pub(crate) fn clones(descriptors: &[OwnedFd]) -> Vec<OwnedFd> {
    descriptors.iter().map(|descriptor| descriptor.try_clone().unwrap()).collect()
}

/// The number of rings of a bell. Each ring subtracts 1 from its counter.
pub(crate) fn rings(bell: &OwnedFd) -> u64 {
    (1 << 63) - EventFd::from(bell.try_clone().unwrap()).counter().unwrap()
}

pub(crate) fn received(ring: &mut SharedRing) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    ring.receive(&mut message).unwrap().then_some(message)
}

/// Watches one end and records the messages that it receives.
pub(crate) fn watch(event_loop: &EventLoop, ring: SharedRing) -> (SharedRingSource, Recorder<Vec<u8>>) {
    let messages = Recorder::new();
    let recording = messages.clone();
    let source = ring.watch(event_loop, move |_, message| recording.record(message.to_vec())).unwrap();
    (source, messages)
}
