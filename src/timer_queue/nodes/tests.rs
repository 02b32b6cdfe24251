use super::*;

impl Nodes {
    pub(in crate::timer_queue) fn capacity(&self) -> usize {
        self.nodes.capacity() + self.free.capacity()
    }

    /// The nodes that are vacant and can be used again, sorted.
    pub(in crate::timer_queue) fn vacant(&self) -> Vec<u32> {
        let mut found = self.free.clone();
        found.sort_unstable();
        found
    }
}

#[test]
fn two_nodes_fill_a_cache_line() {
    assert_eq!((size_of::<Node>(), align_of::<Node>()), (32, 32));
}

#[test]
fn a_vacant_node_is_used_before_a_new_one_is_made() {
    let mut nodes = Nodes::new();
    assert_eq!(nodes.take_vacant(), None);
    assert_eq!([nodes.grow(), nodes.grow(), nodes.grow()], [1, 2, 3]);
    nodes.vacate(1);
    nodes.vacate(3);
    assert_eq!(nodes.vacant(), [1, 3]);
    assert_eq!([nodes.take_vacant(), nodes.take_vacant(), nodes.take_vacant()], [Some(3), Some(1), None]);
    assert_eq!(nodes.len(), 4);
}
