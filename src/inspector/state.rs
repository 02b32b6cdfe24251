//! What an inspector knows: the loops and servers that it watches, and what it has seen of them.
//! It belongs to the inspector's own loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::clients::Clients;
use super::descriptors::DescriptorCount;
use super::reply::Reply;
use super::routes::ListOrder;
use super::scan::Scan;
use super::slow_list::SlowList;
use super::watched_loop::WatchedLoop;
use crate::event_loop::LoopHandle;
use crate::net::ServerHandle;
use crate::net::connection::inspection::ConnectionSample;

/// The longest time between two ticks.
const MAX_TICK: Duration = Duration::from_millis(25);
const MIN_TICK: Duration = Duration::from_millis(1);

/// How many times a slow callback is looked at before it is slow.
const TICKS_PER_LIMIT: u32 = 4;

/// The time between two probes of a loop: while there are requests, and otherwise.
const PROBE_EVERY: Duration = Duration::from_millis(100);
const PROBE_UNUSED_EVERY: Duration = Duration::from_secs(1);

/// How long after a request the inspector counts as used.
const USED: Duration = Duration::from_secs(5);

/// How long a loop or server is shown after its end.
const SHOWN_AFTER_END: Duration = Duration::from_secs(60);

const SECOND: Duration = Duration::from_secs(1);

/// What the inspector is to watch, from any thread.
pub(super) enum Watch {
    Loop(LoopHandle),
    Server(String, ServerHandle),
}

pub(super) struct WatchedServer {
    /// The name that the program has given it, made unique.
    pub(super) label: String,
    pub(super) handle: ServerHandle,
    ended: Option<Instant>,
}

pub(super) struct State {
    pub(super) started: Instant,
    pub(super) slow_limit: Duration,
    pub(super) allowed_hosts: Vec<String>,
    pub(super) loops: Vec<WatchedLoop>,
    pub(super) servers: Vec<WatchedServer>,
    pub(super) slow: SlowList,
    pub(super) scan: Scan,
    pub(super) descriptors: DescriptorCount,
    pub(super) clients: Clients,
    /// The replies that wait for the scan, each with its deadline.
    pub(super) waiting: Vec<(Instant, WaitingList)>,
    requests: Arc<Mutex<Vec<Watch>>>,
    /// The number of loops that have been watched.
    numbers: u32,
    /// The number of seconds in the history.
    pub(super) seconds: u64,
    second_began: Instant,
    probed: Option<Instant>,
    last_request: Option<Instant>,
}

/// A reply with the list of connections.
pub(super) struct WaitingList {
    pub(super) reply: Reply,
    pub(super) order: ListOrder,
}

impl State {
    pub(super) fn new(
        slow_limit: Duration,
        allowed_hosts: Vec<String>,
        requests: Arc<Mutex<Vec<Watch>>>,
    ) -> State {
        let now = Instant::now();
        State {
            started: now,
            slow_limit,
            allowed_hosts,
            loops: Vec::new(),
            servers: Vec::new(),
            slow: SlowList::default(),
            scan: Scan::default(),
            descriptors: DescriptorCount::default(),
            clients: Clients::default(),
            waiting: Vec::new(),
            requests,
            numbers: 0,
            seconds: 0,
            second_began: now,
            probed: None,
            last_request: None,
        }
    }

    pub(super) fn tick_interval(&self) -> Duration {
        (self.slow_limit / TICKS_PER_LIMIT).clamp(MIN_TICK, MAX_TICK)
    }

    /// A client has sent a request.
    pub(super) fn note_request(&mut self, now: Instant) {
        self.last_request = Some(now);
        self.take_requests(now);
    }

    /// Starts to watch what has been requested.
    fn take_requests(&mut self, now: Instant) {
        let requests = std::mem::take(&mut *self.requests.lock());
        for request in requests {
            match request {
                Watch::Loop(handle) => self.watch_loop(&handle, now),
                Watch::Server(name, handle) => {
                    handle.all_loops().for_each(|handle| self.watch_loop(handle, now));
                    if self.servers.iter().all(|known| known.handle.group_id() != handle.group_id()) {
                        let label = unique(&name, self.servers.iter().map(|server| server.label.as_str()));
                        self.servers.push(WatchedServer { label, handle, ended: None });
                    }
                }
            }
        }
    }

    fn watch_loop(&mut self, handle: &LoopHandle, now: Instant) {
        let is_known = self.loops.iter().any(|known| known.handle.is_same_loop(handle));
        if is_known || handle.has_ended() || handle.is_inherited() {
            return;
        }
        let label = unique(handle.name(), self.loops.iter().map(|known| known.label.as_str()));
        let mut watched = WatchedLoop::new(self.numbers, label, handle.clone(), now);
        watched.probe();
        self.numbers += 1;
        self.loops.push(watched);
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.take_requests(now);
        for watched in &mut self.loops {
            watched.poll(now);
            for call in watched.slow_calls(self.slow_limit, now) {
                self.slow.add(&watched.label, call);
            }
        }
        let passed = |since: Option<Instant>| since.map(|since| now.saturating_duration_since(since));
        let is_used = passed(self.last_request).is_some_and(|passed| passed < USED);
        let interval = if is_used { PROBE_EVERY } else { PROBE_UNUSED_EVERY };
        if passed(self.probed).is_none_or(|passed| passed >= interval) {
            self.probed = Some(now);
            self.loops.iter_mut().for_each(WatchedLoop::probe);
        }
        if now.saturating_duration_since(self.second_began) >= SECOND {
            self.second_began = now;
            self.seconds += 1;
            self.loops.iter_mut().for_each(|watched| watched.end_second(self.seconds, now));
            self.forget_ended(now);
        }
        self.scan.advance(&self.loops, now);
        self.send_lists(now);
    }

    fn forget_ended(&mut self, now: Instant) {
        let is_shown = |ended: Option<Instant>| {
            ended.is_none_or(|ended| now.saturating_duration_since(ended) < SHOWN_AFTER_END)
        };
        for server in &mut self.servers {
            if server.handle.has_ended() {
                server.ended.get_or_insert(now);
            }
        }
        self.servers.retain(|server| is_shown(server.ended));
        self.loops.retain(|watched| is_shown(watched.ended()));
    }

    /// Replies to the requests for the list of connections, when it is complete or they have waited
    /// long enough.
    fn send_lists(&mut self, now: Instant) {
        if self.waiting.is_empty() {
            return;
        }
        let is_done = !self.scan.is_in_progress();
        let waiting = std::mem::take(&mut self.waiting);
        let (due, waiting) = waiting.into_iter().partition(|(deadline, _)| is_done || *deadline <= now);
        self.waiting = waiting;
        for (_, WaitingList { reply, order }) in due {
            reply.json(&self.connections_json(order, now));
        }
    }

    /// The name of the server that a connection belongs to, if it is watched.
    pub(super) fn server_of(&self, sample: &ConnectionSample) -> Option<&str> {
        let server = self.servers.iter().find(|server| server.handle.group_id() == sample.group);
        server.map(|server| server.label.as_str())
    }
}

/// Returns the name, with a number if another one has it.
fn unique<'a>(name: &str, taken: impl Iterator<Item = &'a str> + Clone) -> String {
    let name = if name.is_empty() { "unnamed" } else { name };
    let mut candidate = name.to_owned();
    let mut number = 2;
    while taken.clone().any(|taken| taken == candidate) {
        candidate = format!("{name} {number}");
        number += 1;
    }
    candidate
}

#[cfg(test)]
mod tests {
    use super::unique;

    #[test]
    fn names_are_unique() {
        let taken = ["main", "main 2", "worker"];
        assert_eq!(unique("main", taken.into_iter()), "main 3");
        assert_eq!(unique("other", taken.into_iter()), "other");
        assert_eq!(unique("", taken.into_iter()), "unnamed");
    }
}
