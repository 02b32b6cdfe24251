use super::*;

impl Wheel {
    /// The number of buckets that have a list, independent of the bits. Slow.
    pub(in crate::event_loop::timers::timer_queue) fn lists(&self) -> usize {
        self.heads.iter().filter(|&&head| head != END).count()
    }

    pub(in crate::event_loop::timers::timer_queue) fn capacity(&self) -> usize {
        self.chunks.capacity()
    }

    /// Settles. Checks the lists, the bits, and that no timer is in a bucket that is too late for
    /// it. Returns the number of timers.
    pub(in crate::event_loop::timers::timer_queue) fn assert_sound<C>(&mut self, nodes: &Nodes<C>) -> usize {
        self.settle();
        let mut found = 0;
        let mut last = self.cursor;
        for bucket in self.buckets() {
            assert!(
                bucket.first_tick > last,
                "buckets in order, ahead of the cursor, and none overlaps another"
            );
            last = bucket.last_tick;
            let before = found;
            for index in self.nodes_in(bucket) {
                let node = &nodes[index];
                assert_eq!(node.state(), State::InWheel);
                let (chunk, position) = (node.at >> CHUNK_BITS, node.at as usize % 16);
                assert_eq!(self.chunks[chunk as usize].bucket, bucket.number);
                assert_eq!(self.chunks[chunk as usize].indices[position], index);
                assert!(tick_of(node.deadline) >= bucket.first_tick);
                found += 1;
            }
            assert_ne!(found, before, "an empty bucket's bit is set");
        }
        for (summary, words) in self.summary.iter().zip(&self.occupied) {
            assert!(words.iter().enumerate().all(|(i, &word)| (summary >> i & 1 != 0) == (word != 0)));
        }
        found
    }
}

/// A wheel with a timer for each of these ticks, in nodes from 0 on.
fn wheel_of(cursor: u64, ticks: &[u64]) -> (Wheel, Nodes<()>) {
    let (mut wheel, mut nodes) = (Wheel::new(), Nodes::new());
    wheel.prepare();
    wheel.set_cursor(cursor);
    for &tick in ticks {
        let index = nodes.grow().index;
        nodes[index].deadline = tick << TICK_BITS;
        wheel.add(index, tick, &mut nodes);
    }
    wheel.assert_sound(&nodes);
    assert_eq!(wheel.lists(), wheel.buckets().count());
    (wheel, nodes)
}

const LAST_TICK: u64 = u64::MAX >> TICK_BITS;

#[test]
fn the_length_of_a_bucket_grows_with_its_distance() {
    let cursor = 5 << 33 | 7 << 22 | 2047 << 11 | 100;
    let spans = [
        (cursor + 1, cursor + 1, cursor + 1),
        (cursor + 1947, cursor + 1947, cursor + 1947),
        // The end of the cursor's round of level 0, which is also that of level 1.
        (cursor + 1948, 5 << 33 | 8 << 22, (5 << 33 | 9 << 22) - 1),
        (6 << 33, 6 << 33, (7 << 33) - 1),
        (LAST_TICK, 2047 << 33, LAST_TICK),
    ];
    for (tick, first_tick, last_tick) in spans {
        let (wheel, nodes) = wheel_of(cursor, &[tick]);
        let bucket = wheel.first().unwrap();
        assert_eq!((bucket.first_tick, bucket.last_tick), (first_tick, last_tick));
        assert_eq!(wheel.first_tick_around(0, &nodes), first_tick);
    }
}

#[test]
fn the_first_bucket_is_the_first_in_time() {
    // The first tick of each bucket; 64 and 2047 are at the ends of a word.
    let ticks = [1, 63, 64, 2047, 2048, 5 << 11, 2047 << 11, 1 << 22, 3 << 22, 1 << 33, 2047 << 33];
    let (mut wheel, mut nodes) = wheel_of(0, &ticks);
    for (index, tick) in (0..).zip(ticks) {
        assert_eq!(wheel.first().map(|bucket| bucket.first_tick), Some(tick));
        wheel.remove(index, &nodes);
        nodes[index].set_state(State::Vacant);
        wheel.assert_sound(&nodes);
    }
    assert!(wheel.first().is_none());
}

#[test]
fn a_timer_can_be_removed_from_any_bucket_position() {
    // More than two full chunks.
    let ticks = [20; 2 * CHUNK + 5];
    for step in 1..ticks.len() as u32 {
        let (mut wheel, mut nodes) = wheel_of(10, &ticks);
        let last = nodes.grow().index;
        nodes[last].deadline = 21 << TICK_BITS;
        wheel.add(last, 21, &mut nodes);
        // 31 is a prime number, so every step visits every index.
        let order = (0..ticks.len() as u32).map(|i| i * step % 31);
        for (taken, index) in (1..).zip(order) {
            wheel.remove(index, &nodes);
            assert_eq!(wheel.assert_sound(&nodes), 1 + ticks.len() - taken);
        }
        assert_eq!(wheel.lists(), 1);
        assert_eq!(wheel.first().map(|bucket| bucket.first_tick), Some(21));
        assert_eq!(wheel.chunks.len(), 5, "three, one for the other, and the end of lists");
    }
}

#[test]
fn taking_a_bucket_empties_it_and_returns_its_timers() {
    let ticks: Vec<u64> = (4000..4150).collect();
    let (mut wheel, nodes) = wheel_of(2047, &ticks);
    for expected in [(0..96), (96..150)] {
        let bucket = wheel.first().unwrap();
        let listed: Vec<u32> = wheel.nodes_in(bucket).collect();
        let mut taken = wheel.take(bucket);
        let mut found = Vec::new();
        while let Some(some) = wheel.take_chunk(&mut taken) {
            found.extend(some);
        }
        assert_eq!(found, listed);
        found.sort_unstable();
        assert!(found.into_iter().eq(expected));
        wheel.assert_sound(&nodes);
    }
    assert!(wheel.first().is_none());
}

/// A remaining timer keeps its chunk. Adding and removing another beside it must not allocate more
/// and more chunks.
#[test]
fn a_bucket_with_gaps_does_not_grow_without_bound() {
    let (mut wheel, mut nodes) = wheel_of(10, &[20; 2]);
    for _ in 0..1000 {
        wheel.remove(1, &nodes);
        wheel.add(1, 20, &mut nodes);
        assert_eq!(wheel.assert_sound(&nodes), 2);
    }
    assert!(wheel.chunks.len() <= 4, "{} chunks", wheel.chunks.len());
}

#[test]
fn vacant_chunks_are_reused() {
    let (mut wheel, mut nodes) = wheel_of(10, &[20, 21, 22]);
    for tick in 23..1000 {
        let index = (tick % 3) as u32;
        wheel.remove(index, &nodes);
        nodes[index].deadline = tick << TICK_BITS;
        wheel.add(index, tick, &mut nodes);
        wheel.assert_sound(&nodes);
    }
    assert_eq!(
        wheel.chunks.len(),
        5,
        "three, one for a timer that is removed and not settled, and the end of lists"
    );
}

#[test]
fn a_cleared_wheel_can_be_reused() {
    let (mut wheel, mut nodes) = wheel_of(10, &[20, 5000, LAST_TICK]);
    wheel.clear();
    assert!(wheel.first().is_none() && wheel.buckets().next().is_none());
    wheel.add(2, 5000, &mut nodes);
    assert_eq!(wheel.assert_sound(&nodes), 1);
}

#[test]
fn a_chunk_fills_a_cache_line() {
    assert_eq!((size_of::<Chunk>(), align_of::<Chunk>()), (64, 64));
}
