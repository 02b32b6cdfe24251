use super::*;

impl Near {
    pub(in crate::event_loop::timers::timer_queue) fn capacity(&self) -> usize {
        self.run.capacity() + self.heap.capacity() + self.gathered.capacity()
    }

    pub(in crate::event_loop::timers::timer_queue) fn assert_sound<C>(&self, nodes: &Nodes<C>) {
        assert!(self.gathered.is_empty());
        assert!(self.run.last().is_none_or(|last| last.index != NONE));
        self.heap.assert_sound(nodes);
        let mut before: Option<&Entry> = None;
        for (i, entry) in self.run.iter().enumerate().filter(|(_, entry)| entry.index != NONE) {
            let node = &nodes[entry.index];
            assert_eq!((node.state(), node.at as usize, node.deadline), (State::InRun, i, entry.deadline));
            assert!(before.is_none_or(|before| entry.sorts_before(before, nodes)));
            before = Some(entry);
        }
    }
}

/// Gathers and settles timers with these deadlines, armed in this order.
fn settle(near: &mut Near, nodes: &mut Nodes<()>, deadlines: &[u64]) {
    for &deadline in deadlines {
        let index = nodes.grow().index;
        nodes[index].deadline = deadline;
        nodes[index].set_sequence(index.into());
        near.gather(Entry { deadline, index });
    }
    near.settle(nodes);
    near.assert_sound(nodes);
}

fn take_all(mut near: Near, mut nodes: Nodes<()>) -> Vec<u32> {
    let mut out = Vec::new();
    while let Some(first) = near.first(&nodes) {
        out.push(first.index);
        near.remove(first.index, &mut nodes);
        near.assert_sound(&nodes);
    }
    out
}

#[test]
fn run_and_heap_fire_in_one_common_order() {
    let (mut near, mut nodes) = (Near::new(), Nodes::new());
    settle(&mut near, &mut nodes, &[5, 3, 5, 1, 9]);
    assert_eq!(near.run.len(), 5);
    settle(&mut near, &mut nodes, &[5, 2, 9]);
    assert_eq!(near.run.len(), 5, "a small batch goes into the heap");
    assert_eq!(take_all(near, nodes), [3, 6, 1, 0, 2, 5, 4, 7]);
}

#[test]
fn a_large_batch_is_sorted_into_the_run_without_gaps() {
    let (mut near, mut nodes) = (Near::new(), Nodes::new());
    settle(&mut near, &mut nodes, &[5, 3, 7, 1]);
    near.remove(0, &mut nodes);
    near.remove(1, &mut nodes);
    near.assert_sound(&nodes);
    settle(&mut near, &mut nodes, &[6, 0, 7, 1]);
    assert_eq!(near.run.len(), 6);
    assert_eq!(take_all(near, nodes), [5, 3, 7, 4, 2, 6]);
}

#[test]
fn a_run_is_empty_after_all_timers_are_cancelled() {
    let (mut near, mut nodes) = (Near::new(), Nodes::new());
    settle(&mut near, &mut nodes, &[1, 2, 3, 4]);
    for index in [2, 1, 3, 0] {
        near.remove(index, &mut nodes);
        near.assert_sound(&nodes);
    }
    assert!(near.run.is_empty() && near.first(&nodes).is_none() && near.entries().next().is_none());
}
