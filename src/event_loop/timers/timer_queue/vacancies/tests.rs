use super::*;

impl Vacancies {
    pub(in crate::event_loop::timers::timer_queue) fn capacity(&self) -> usize {
        self.recent.capacity() + self.earlier.capacity()
    }

    /// All vacant nodes, sorted.
    pub(in crate::event_loop::timers::timer_queue) fn all(&self) -> Vec<u32> {
        let bits = (0..).zip(&self.earlier).flat_map(|(word, bits)| {
            (0..64).filter(move |bit| bits >> bit & 1 != 0).map(move |bit| word * 64 + bit)
        });
        let mut all: Vec<u32> = bits.chain(self.recent.iter().copied()).collect();
        let end = self.end.saturating_mul(64);
        let before = all.iter().filter(|&&index| (index as usize) < end).count();
        assert_eq!(before, self.count + self.recent.len());
        all.sort_unstable();
        all
    }
}

/// The numbers below 1009, each once, in pseudo-random order.
fn shuffled() -> impl Iterator<Item = u32> {
    (0..1009).map(|number| number * 463 % 1009)
}

fn take_all(vacancies: &mut Vacancies) -> Vec<u32> {
    std::iter::from_fn(|| vacancies.take()).collect()
}

#[test]
fn the_last_vacated_node_is_used_first() {
    let mut vacancies = Vacancies::new();
    assert_eq!(vacancies.take(), None);
    [7, 3, 900].into_iter().for_each(|index| vacancies.put(index));
    assert_eq!(take_all(&mut vacancies), [900, 3, 7]);
}

#[test]
fn many_vacant_nodes_are_used_in_index_order_once() {
    let mut vacancies = Vacancies::new();
    shuffled().for_each(|index| vacancies.put(index));
    let latest: Vec<u32> = shuffled().collect();
    let taken = take_all(&mut vacancies);
    let recent = taken.iter().zip(latest.iter().rev()).take_while(|(taken, put)| taken == put).count();
    assert!((RECENT / 2..=RECENT).contains(&recent), "{recent} in reverse order of vacation");
    assert!(taken[recent..].is_sorted());
    let mut all = taken;
    all.sort_unstable();
    assert!(all.into_iter().eq(0..1009));
}

#[test]
fn the_bitmap_search_wraps_around() {
    let mut vacancies = Vacancies::new();
    let mut out: Vec<u32> = Vec::new();
    shuffled().for_each(|index| vacancies.put(index));
    for round in 0..50 {
        out.extend((0..100 + round).filter_map(|_| vacancies.take()));
        // Half of them are put back, the oldest first.
        out.drain(..out.len() / 2).for_each(|index| vacancies.put(index));
        let mut all = [vacancies.all(), out.clone()].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1009), "each is here or out");
    }
    out.extend(take_all(&mut vacancies));
    assert_eq!((out.len(), vacancies.count), (1009, 0));
    assert_eq!(vacancies.take(), None);
}

#[test]
fn nodes_behind_the_end_are_used_when_no_others_are_left() {
    let mut vacancies = Vacancies::new();
    shuffled().for_each(|index| vacancies.put(index));
    vacancies.prefer_before(128);
    assert!(vacancies.all().into_iter().eq(0..1009));
    let taken: Vec<u32> = (0..128).filter_map(|_| vacancies.take()).collect();
    assert!(taken.iter().all(|&index| index < 128), "{taken:?}");
    vacancies.put(5);
    vacancies.put(700);
    assert_eq!(vacancies.take(), Some(5));
    let mut rest = take_all(&mut vacancies);
    rest.sort_unstable();
    assert!(rest.into_iter().eq(128..1009));
    assert_eq!(vacancies.take(), None);
}

#[test]
fn nodes_that_are_removed_are_not_used_again() {
    for len in [0, 1, 63, 64, 65, 500, 1008] {
        let mut vacancies = Vacancies::new();
        shuffled().for_each(|index| vacancies.put(index));
        if len == 500 {
            vacancies.prefer_before(128);
        }
        vacancies.truncate(len);
        assert!(vacancies.all().into_iter().eq(0..len as u32));
        let mut all = take_all(&mut vacancies);
        all.sort_unstable();
        assert!(all.into_iter().eq(0..len as u32));
        vacancies.put(2000);
        assert_eq!(vacancies.take(), Some(2000));
    }
}
