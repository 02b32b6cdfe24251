//! The list of connections: a scan of the loops' sources, in slices.
//!
//! A slice is an internal task that looks at a bounded number of slots for a bounded time. The
//! inspector posts the next slice of a loop at its next tick. So a scan of many connections takes
//! long, and takes only a small share of a loop's time.
//!
//! The list holds a bounded number of rows, and still contains the first rows in each order.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::watched_loop::WatchedLoop;
use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelId;
use crate::net::connection::inspection::{self, ConnectionSample};

/// The limits of a slice.
const CONNECTIONS_PER_SLICE: usize = 256;
const SLOTS_PER_SLICE: usize = 4096;
const TIME_PER_SLICE: Duration = Duration::from_micros(100);

/// The number of connections between two readings of the clock.
const CONNECTIONS_PER_READING: usize = 4;

/// A slice that has not run for this time makes the scan continue without its loop.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// How long a list is valid, and how long it is kept after the last request.
const VALID: Duration = Duration::from_secs(1);
const KEPT: Duration = Duration::from_secs(30);

/// The number of rows that a request can get.
pub(super) const MAX_ROWS: usize = 1000;

/// The number of rows at which all but the first [`MAX_ROWS`] in each order are dropped.
const MAX_HELD: usize = 40 * MAX_ROWS;

/// A connection in the list.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) event_loop: u32,
    pub(super) key: u64,
    pub(super) sample: ConnectionSample,
}

/// What the list is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SortBy {
    Received,
    Sent,
    Age,
    Unsent,
    Unread,
}

const ORDERS: [SortBy; 5] = [SortBy::Received, SortBy::Sent, SortBy::Age, SortBy::Unsent, SortBy::Unread];

impl SortBy {
    pub(super) fn parse(name: &str) -> Option<SortBy> {
        Some(match name {
            "received" => SortBy::Received,
            "sent" => SortBy::Sent,
            "age" => SortBy::Age,
            "unsent" => SortBy::Unsent,
            "unread" => SortBy::Unread,
            _ => return None,
        })
    }

    /// Rows without a value come last in both directions.
    fn compare(self, a: &Row, b: &Row, descending: bool) -> Ordering {
        let key = |row: &Row| -> Option<u128> {
            let sample = &row.sample;
            match self {
                SortBy::Received => sample.received.map(u128::from),
                SortBy::Sent => sample.sent.map(u128::from),
                SortBy::Age => Some(sample.age.as_nanos()),
                SortBy::Unsent => Some(sample.unsent as u128),
                SortBy::Unread => Some(sample.unread as u128),
            }
        };
        let ordered = match (key(a), key(b)) {
            (Some(a), Some(b)) if descending => b.cmp(&a),
            (Some(a), Some(b)) => a.cmp(&b),
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        // Ids are unique, so the order is the same in each list.
        ordered.then_with(|| a.sample.id.cmp(&b.sample.id))
    }
}

/// Returns the first rows.
pub(super) fn sorted(rows: &[Row], by: SortBy, descending: bool, limit: usize) -> Vec<&Row> {
    let mut rows: Vec<&Row> = rows.iter().collect();
    if limit < rows.len() {
        rows.select_nth_unstable_by(limit, |a, b| by.compare(a, b, descending));
        rows.truncate(limit);
    }
    rows.sort_unstable_by(|a, b| by.compare(a, b, descending));
    rows
}

/// Drops all rows but the first [`MAX_ROWS`] in each order.
fn prune(rows: &mut Vec<Row>) {
    let mut kept = vec![false; rows.len()];
    let mut order: Vec<usize> = (0..rows.len()).collect();
    for (by, descending) in ORDERS.into_iter().flat_map(|by| [(by, true), (by, false)]) {
        if MAX_ROWS < order.len() {
            order.select_nth_unstable_by(MAX_ROWS, |a, b| by.compare(&rows[*a], &rows[*b], descending));
        }
        order.iter().take(MAX_ROWS).for_each(|n| kept[*n] = true);
    }
    let mut kept = kept.into_iter();
    rows.retain(|_| kept.next().unwrap_or_default());
}

#[derive(Default)]
pub(super) struct Scan {
    list: List,
    progress: Option<Progress>,
    last_request: Option<Instant>,
}

/// The result of a scan.
#[derive(Default)]
pub(super) struct List {
    pub(super) rows: Vec<Row>,
    /// The number of connections, also of those that have no row.
    pub(super) total: u64,
    /// The loops that did not respond.
    pub(super) missing: Vec<u32>,
    pub(super) finished: Option<Instant>,
}

struct Progress {
    list: List,
    cursors: Vec<Cursor>,
}

/// How far a loop has been scanned.
struct Cursor {
    event_loop: u32,
    slot: u32,
    slice: Option<PostedSlice>,
    is_done: bool,
}

struct PostedSlice {
    at: Instant,
    result: Arc<Mutex<Option<Slice>>>,
}

/// What a slice has found.
struct Slice {
    samples: Vec<(u64, ConnectionSample)>,
    /// The slot to continue at; `None` at the end.
    next: Option<u32>,
}

impl Scan {
    /// Whether the list is so new that a request needs no scan. Otherwise starts one, unless one is
    /// in progress.
    pub(super) fn request(&mut self, loops: &[WatchedLoop], now: Instant) -> bool {
        self.last_request = Some(now);
        let age = self.list.finished.map(|finished| now.saturating_duration_since(finished));
        if age.is_some_and(|age| age < VALID) {
            return true;
        }
        if self.progress.is_none() {
            let cursor = |watched: &WatchedLoop| Cursor {
                event_loop: watched.number,
                slot: 0,
                slice: None,
                is_done: false,
            };
            let cursors = loops.iter().filter(|watched| watched.ended().is_none()).map(cursor).collect();
            self.progress = Some(Progress { list: List::default(), cursors });
            self.advance(loops, now);
        }
        false
    }

    /// The last complete list, or what the first scan has found so far.
    pub(super) fn list(&self) -> &List {
        match &self.progress {
            Some(progress) if self.list.finished.is_none() => &progress.list,
            _ => &self.list,
        }
    }

    pub(super) fn is_in_progress(&self) -> bool {
        self.progress.is_some()
    }

    /// Takes what the slices have found, and posts further ones.
    pub(super) fn advance(&mut self, loops: &[WatchedLoop], now: Instant) {
        let Some(progress) = &mut self.progress else {
            if self.last_request.is_some_and(|last| now.saturating_duration_since(last) > KEPT) {
                *self = Scan::default();
            }
            return;
        };
        let Progress { list, cursors } = progress;
        for cursor in cursors.iter_mut().filter(|cursor| !cursor.is_done) {
            let watched = loops.iter().find(|watched| watched.number == cursor.event_loop);
            cursor.advance(watched, list, now);
        }
        if cursors.iter().all(|cursor| cursor.is_done) {
            list.finished = Some(now);
            self.list = std::mem::take(list);
            self.progress = None;
        }
    }
}

impl Cursor {
    fn advance(&mut self, watched: Option<&WatchedLoop>, list: &mut List, now: Instant) {
        let Some(watched) = watched.filter(|watched| watched.ended().is_none()) else {
            // Its connections have ended with it.
            self.is_done = true;
            return;
        };
        if let Some(posted) = &self.slice {
            let Some(slice) = posted.result.lock().take() else {
                if now.saturating_duration_since(posted.at) >= MAX_WAIT {
                    list.missing.push(self.event_loop);
                    self.is_done = true;
                }
                return;
            };
            list.total += slice.samples.len() as u64;
            let event_loop = self.event_loop;
            list.rows.extend(slice.samples.into_iter().map(|(key, sample)| Row { event_loop, key, sample }));
            if list.rows.len() > MAX_HELD {
                prune(&mut list.rows);
            }
            match slice.next {
                Some(next) => self.slot = next,
                None => {
                    self.is_done = true;
                    return;
                }
            }
        }
        if watched.unresponsive(now).is_some() {
            // It has enough to do.
            list.missing.push(self.event_loop);
            self.is_done = true;
            return;
        }
        let result = Arc::<Mutex<Option<Slice>>>::default();
        let (slot, reply) = (self.slot, Arc::clone(&result));
        self.slice = Some(PostedSlice { at: now, result });
        watched.handle.post_internal(move |event_loop| {
            // The scan may have continued without this loop.
            if Arc::strong_count(&reply) > 1 {
                let slice = take_slice(event_loop, slot);
                *reply.lock() = Some(slice);
            }
        });
    }
}

/// Samples connections from a slot on.
fn take_slice(event_loop: &EventLoop, mut slot: u32) -> Slice {
    let (began, mut slots) = (Instant::now(), SLOTS_PER_SLICE);
    let mut samples = Vec::new();
    loop {
        let Some((id, source)) = event_loop.next_source(&mut slot, &mut slots) else {
            // Either all slots of this slice or all slots of the loop have been looked at.
            return Slice { samples, next: (slots == 0).then_some(slot) };
        };
        let Some(sample) = inspection::sample(&*source, began) else { continue };
        samples.push((id.to_key(), sample));
        let is_long = || began.elapsed() >= TIME_PER_SLICE;
        if samples.len() >= CONNECTIONS_PER_SLICE
            || (samples.len() % CONNECTIONS_PER_READING == 0 && is_long())
        {
            return Slice { samples, next: Some(slot) };
        }
    }
}

/// The connection with this key, if it exists.
pub(super) fn details(event_loop: &EventLoop, key: u64) -> Option<inspection::ConnectionDetails> {
    let (source, _) = event_loop.source(ChannelId::from_key(key))?;
    inspection::details(&*source, Instant::now())
}
