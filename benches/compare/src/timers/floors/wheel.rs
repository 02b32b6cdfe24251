//! A hashed wheel of one level (Varghese and Lauck: "Hashed and hierarchical timing wheels", 1987,
//! scheme 6): one bucket for each of 65,536 milliseconds, which holds all timers due then, in this
//! rotation of the wheel or in a later one.

use std::mem;

/// Time per bucket, in nanoseconds.
pub(in crate::timers) const TICK: u64 = 1_000_000;

/// Slightly over a minute. A power of two, so that the bucket is given by the low bits of the tick.
const BUCKETS: usize = 1 << 16;

/// The link of a timer or of a bucket. Both are in one array, with the buckets first, so that their
/// circular list needs no special end.
#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
    deadline: u64,
}

#[derive(Debug)]
pub(in crate::timers) struct Wheel {
    links: Vec<Link>,
    /// The first of the unused links, in a list that ends with 0, which is a bucket.
    free: u32,
    len: usize,
}

impl Wheel {
    pub(in crate::timers) fn new() -> Wheel {
        let alone = |bucket| Link { previous: bucket, next: bucket, deadline: 0 };
        Wheel { links: (0..BUCKETS as u32).map(alone).collect(), free: 0, len: 0 }
    }

    pub(in crate::timers) fn len(&self) -> usize {
        self.len
    }

    pub(in crate::timers) fn insert(&mut self, deadline: u64) -> u32 {
        let mut id = self.free;
        if id == 0 {
            id = self.links.len() as u32;
            self.links.push(Link { previous: id, next: id, deadline });
        } else {
            self.free = self.links[id as usize].next;
        }
        self.link(id, deadline);
        self.len += 1;
        id - BUCKETS as u32
    }

    pub(in crate::timers) fn remove(&mut self, id: u32) {
        let id = id + BUCKETS as u32;
        self.unlink(id);
        self.release(id);
    }

    /// Moves a pending timer to another deadline.
    pub(in crate::timers) fn reset(&mut self, id: u32, deadline: u64) {
        let id = id + BUCKETS as u32;
        self.unlink(id);
        self.link(id, deadline);
    }

    /// Removes the timers due at this tick, and passes each deadline and id to `due`. Must be
    /// called for each tick in order.
    pub(in crate::timers) fn advance(&mut self, tick: u64, mut due: impl FnMut(u64, u32)) {
        let bucket = (tick % BUCKETS as u64) as u32;
        let mut id = self.links[bucket as usize].next;
        while id != bucket {
            let Link { next, deadline, .. } = self.links[id as usize];
            if deadline <= tick * TICK {
                self.unlink(id);
                self.release(id);
                due(deadline, id - BUCKETS as u32);
            }
            id = next;
        }
    }

    /// Appends a link to the list of its deadline's bucket.
    fn link(&mut self, id: u32, deadline: u64) {
        let bucket = (deadline.div_ceil(TICK) % BUCKETS as u64) as u32;
        let previous = mem::replace(&mut self.links[bucket as usize].previous, id);
        self.links[previous as usize].next = id;
        self.links[id as usize] = Link { previous, next: bucket, deadline };
    }

    fn unlink(&mut self, id: u32) {
        let Link { previous, next, .. } = self.links[id as usize];
        self.links[previous as usize].next = next;
        self.links[next as usize].previous = previous;
    }

    fn release(&mut self, id: u32) {
        self.links[id as usize].next = self.free;
        self.free = id;
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::timers::workload::Random;

    #[test]
    fn a_tick_gives_out_what_is_due_by_then_and_nothing_else() {
        /// Longer than one rotation of the wheel.
        const SPAN: u64 = 100_000;
        let (mut wheel, mut model, mut random) = (Wheel::new(), BTreeSet::new(), Random::new(3));
        for tick in 1..3 * SPAN {
            let after = tick * TICK + random.below(SPAN * TICK);
            match random.below(4) {
                0..2 => _ = model.insert((after, wheel.insert(after))),
                choice => {
                    let some = model.range((after, 0)..).next().copied();
                    if let Some((old, id)) = some {
                        model.remove(&(old, id));
                        if choice == 2 {
                            wheel.remove(id);
                        } else {
                            wheel.reset(id, after);
                            model.insert((after, id));
                        }
                    }
                }
            }
            wheel.advance(tick, |deadline, id| {
                assert!(deadline <= tick * TICK && deadline + TICK > tick * TICK);
                assert!(model.remove(&(deadline, id)));
            });
            assert_eq!(wheel.len(), model.len());
            assert!(model.first().is_none_or(|first| first.0 > tick * TICK));
        }
        assert!(model.len() > 1000, "it was never full enough to show anything");
    }
}
