//! What the command `stats` counts.

/// A counter. Its name is at the same place in [`NAMES`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counter {
    CmdGet,
    CmdSet,
    CmdTouch,
    GetHits,
    GetMisses,
    GetExpired,
    GetFlushed,
    DeleteMisses,
    DeleteHits,
    IncrMisses,
    IncrHits,
    DecrMisses,
    DecrHits,
    CasMisses,
    CasHits,
    CasBadval,
    TouchHits,
    TouchMisses,
    TotalItems,
    Evictions,
    Reclaimed,
    CrawlerReclaimed,
    CrawlerChecked,
}

const NUMBER: usize = Counter::CrawlerChecked as usize + 1;

/// The names of the counters in the protocol.
const NAMES: [&str; NUMBER] = [
    "cmd_get",
    "cmd_set",
    "cmd_touch",
    "get_hits",
    "get_misses",
    "get_expired",
    "get_flushed",
    "delete_misses",
    "delete_hits",
    "incr_misses",
    "incr_hits",
    "decr_misses",
    "decr_hits",
    "cas_misses",
    "cas_hits",
    "cas_badval",
    "touch_hits",
    "touch_misses",
    "total_items",
    "evictions",
    "reclaimed",
    "crawler_reclaimed",
    "crawler_items_checked",
];

/// The counters of a shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters([u64; NUMBER]);

impl Counters {
    pub(crate) fn add(&mut self, counter: Counter) {
        self.0[counter as usize] += 1;
    }

    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    pub(crate) fn add_all(&mut self, other: &Counters) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, number)| *sum += number);
    }

    pub(crate) fn reset(&mut self) {
        self.0.fill(0);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.0)
    }
}
