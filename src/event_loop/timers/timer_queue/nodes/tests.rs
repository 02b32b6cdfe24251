use super::*;

impl<C> Nodes<C> {
    pub(in crate::event_loop::timers::timer_queue) fn capacity(&self) -> usize {
        self.blocks.iter().map(Vec::capacity).sum::<usize>() + self.vacancies.capacity()
    }

    /// Sets the generation of a vacant node, as if it had been used this often.
    pub(in crate::event_loop::timers::timer_queue) fn wear(&mut self, index: u32, generation: u32) {
        self[index].generation = generation;
    }

    /// The vacant nodes that can be used again, sorted.
    pub(in crate::event_loop::timers::timer_queue) fn vacant(&self) -> Vec<u32> {
        self.vacancies.all()
    }
}

#[test]
fn a_node_with_a_task_fills_a_cache_line() {
    type Task = (&'static str, [usize; 3]);
    assert_eq!((size_of::<Node<Task>>(), align_of::<Node<Task>>()), (64, 64));
}

#[test]
fn vacant_nodes_are_used_before_new_ones() {
    let mut nodes = Nodes::<()>::new();
    assert_eq!(nodes.take_vacant(), None);
    let keys = [(); 3].map(|()| nodes.grow());
    assert_eq!(keys.map(|key| (key.index, key.generation)), [(0, 0), (1, 0), (2, 0)]);
    nodes.vacate(0);
    nodes.vacate(2);
    assert_eq!(nodes.vacant(), [0, 2]);
    let keys = [(); 3].map(|()| nodes.take_vacant());
    assert_eq!(
        keys.map(|key| key.map(|key| (key.index, key.generation))),
        [Some((2, 1)), Some((0, 1)), None]
    );
    assert_eq!(nodes.len(), 3);
}
