use super::*;

impl Wheel {
    /// How many buckets have a list, whatever the bits say. Slow.
    pub(in crate::timer_queue) fn lists(&self) -> usize {
        self.heads.iter().filter(|&&head| head != NONE).count()
    }

    /// Checks the lists, the bits, and that nothing stands in a bucket that is too late for it. Returns how many timers
    /// there are.
    pub(in crate::timer_queue) fn assert_sound(&self, nodes: &Nodes) -> usize {
        let mut found = 0;
        let mut last = self.cursor;
        for bucket in self.buckets() {
            assert!(
                bucket.first_tick > last,
                "buckets in order, ahead of the cursor, and none overlaps another"
            );
            last = bucket.last_tick;
            let mut before = NONE;
            for index in self.nodes_in(bucket, nodes) {
                let node = &nodes[index];
                assert_eq!((node.state, node.bucket, node.at), (State::InWheel, bucket.number, before));
                assert!(tick_of(node.deadline) >= bucket.first_tick);
                before = index;
                found += 1;
            }
            assert_ne!(before, NONE, "an empty bucket's bit is set");
        }
        for (summary, words) in self.summary.iter().zip(&self.occupied) {
            assert!(words.iter().enumerate().all(|(i, &word)| (summary >> i & 1 != 0) == (word != 0)));
        }
        found
    }
}

/// A wheel with one timer for each of these ticks, in nodes from 1 on.
fn wheel_of(cursor: u64, ticks: &[u64]) -> (Wheel, Nodes) {
    let (mut wheel, mut nodes) = (Wheel::new(), Nodes::new());
    wheel.prepare();
    wheel.set_cursor(cursor);
    for &tick in ticks {
        let index = nodes.grow();
        nodes[index].deadline = tick << TICK_BITS;
        wheel.link(index, tick, &mut nodes);
    }
    wheel.assert_sound(&nodes);
    assert_eq!(wheel.lists(), wheel.buckets().count());
    (wheel, nodes)
}

const LAST_TICK: u64 = u64::MAX >> TICK_BITS;

#[test]
fn a_bucket_is_as_long_as_its_distance_allows() {
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
        assert_eq!(wheel.first_tick_around(1, &nodes), first_tick);
    }
}

#[test]
fn the_first_bucket_is_the_first_in_time() {
    // Of each bucket its first tick; 64 and 2047 are at the ends of a word.
    let ticks = [1, 63, 64, 2047, 2048, 5 << 11, 2047 << 11, 1 << 22, 3 << 22, 1 << 33, 2047 << 33];
    let (mut wheel, mut nodes) = wheel_of(0, &ticks);
    for (index, tick) in (1..).zip(ticks) {
        assert_eq!(wheel.first().map(|bucket| bucket.first_tick), Some(tick));
        wheel.unlink(index, &mut nodes);
        nodes[index].state = State::Vacant;
        wheel.assert_sound(&nodes);
    }
    assert!(wheel.first().is_none());
}

#[test]
fn a_timer_can_be_taken_from_anywhere_in_its_bucket() {
    for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
        let (mut wheel, mut nodes) = wheel_of(10, &[20, 20, 20, 21]);
        for (taken, index) in (1..).zip(order) {
            wheel.unlink(index, &mut nodes);
            assert_eq!(wheel.assert_sound(&nodes), 4 - taken);
        }
        assert_eq!(wheel.first().map(|bucket| bucket.first_tick), Some(21));
    }
}

#[test]
fn a_bucket_that_is_taken_is_empty_and_its_list_whole() {
    let (mut wheel, nodes) = wheel_of(0, &[5000, 4096, 9000]);
    let bucket = wheel.first().unwrap();
    let listed: Vec<u32> = wheel.nodes_in(bucket, &nodes).collect();
    assert_eq!(listed, [2, 1]);
    assert_eq!(wheel.take(bucket), 2);
    assert_eq!(wheel.first().map(|bucket| bucket.first_tick), Some(8192));
    assert_eq!(wheel.assert_sound(&nodes), 1);
}

#[test]
fn a_wheel_that_is_cleared_can_be_used_again() {
    let (mut wheel, mut nodes) = wheel_of(10, &[20, 5000, LAST_TICK]);
    wheel.clear();
    assert!(wheel.first().is_none() && wheel.buckets().next().is_none());
    wheel.link(2, 5000, &mut nodes);
    assert_eq!(wheel.assert_sound(&nodes), 1);
}
