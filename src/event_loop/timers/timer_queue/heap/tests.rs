use super::*;

impl Heap {
    pub(in crate::event_loop::timers::timer_queue) fn capacity(&self) -> usize {
        self.entries.capacity()
    }

    pub(in crate::event_loop::timers::timer_queue) fn assert_sound<C>(&self, nodes: &Nodes<C>) {
        for (i, entry) in self.entries.iter().enumerate() {
            let node = &nodes[entry.index];
            assert_eq!((node.state(), node.at as usize), (State::InHeap, i));
            assert!(node.deadline <= entry.deadline);
            assert!(i == 0 || !entry.sorts_before(&self.entries[(i - 1) / ARITY], nodes));
        }
    }
}

#[test]
fn removals_from_the_middle_keep_the_order() {
    let mut nodes = Nodes::<()>::new();
    let mut heap = Heap::new();
    // 7 has no factor in common with 100, so this is every number below 100 in pseudo-random order,
    // and ten timers per deadline.
    for i in 0..100 {
        let index = nodes.grow().index;
        nodes[index].set_sequence(i * 7 % 100);
        heap.push(Entry { deadline: i * 7 % 100 / 10, index }, &mut nodes);
        heap.assert_sound(&nodes);
    }
    for index in (0..100).step_by(3) {
        heap.remove(nodes[index].at as usize, &mut nodes);
        heap.assert_sound(&nodes);
    }
    let mut out = Vec::new();
    while let Some(first) = heap.first() {
        out.push(nodes[first.index].sequence());
        heap.remove(0, &mut nodes);
    }
    assert!(out.is_sorted());
    assert_eq!(out.len(), 66);
}

#[test]
fn an_entry_is_a_quarter_of_a_cache_line() {
    assert_eq!(size_of::<Entry>(), 16);
}
