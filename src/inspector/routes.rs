//! The resources of an inspector, and their JSON.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::delays::{BOUNDS, DelayCounts};
use super::descriptors;
use super::http::{Request, Status, plain, response};
use super::json::Json;
use super::prometheus;
use super::reply::{JSON, Reply};
use super::scan::{self, MAX_ROWS, Row, SortBy};
use super::session::Session;
use super::state::{State, WaitingList};
use super::watched_loop::{Point, WatchedLoop};
use crate::net::connection::TcpConnection;
use crate::net::connection::inspection::{ConnectionDetails, ConnectionSample};
use crate::net::{ConnectionState, OverflowPolicy, SendError, TcpInfo};

const PAGE: &str = include_str!("page.html");

/// How long a request waits for a loop.
const MAX_WAIT: Duration = Duration::from_secs(1);

const UNRESPONSIVE: &str = "the loop of the connection does not respond";

/// The number of rows if the request has no limit.
const DEFAULT_ROWS: usize = 100;

/// Which connections a request lists.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListOrder {
    by: SortBy,
    is_descending: bool,
    limit: usize,
}

impl ListOrder {
    fn parse(request: &Request) -> Option<ListOrder> {
        let limit = request.parameter("limit").map_or(Ok(DEFAULT_ROWS), str::parse).ok()?;
        Some(ListOrder {
            by: SortBy::parse(request.parameter("sort").unwrap_or("received"))?,
            is_descending: match request.parameter("order") {
                None | Some("desc") => true,
                Some("asc") => false,
                Some(_) => return None,
            },
            limit: limit.min(MAX_ROWS),
        })
    }
}

/// Responds to a request, at once or later.
pub(super) fn respond(
    session: &mut Session,
    conn: &TcpConnection<'_>,
    request: &Request,
    now: Instant,
) -> Result<(), SendError> {
    let manner = request.manner;
    let bad_query = |session: &mut Session| {
        let reason = "a parameter of the query is not valid";
        session.send(conn, plain(Status::BAD_REQUEST, reason, manner), manner)
    };
    let (content_type, body) = match request.path.as_str() {
        "/" => ("text/html; charset=utf-8", PAGE.to_owned()),
        "/metrics" => (prometheus::CONTENT_TYPE, prometheus::text(&mut session.state.borrow_mut(), now)),
        "/api/overview" => {
            let Ok(since) = request.parameter("since").map_or(Ok(0), str::parse) else {
                return bad_query(session);
            };
            (JSON, session.state.borrow_mut().overview_json(since, now))
        }
        "/api/descriptors" => (JSON, session.state.borrow_mut().descriptors_json(now)),
        "/api/connections" => {
            let Some(order) = ListOrder::parse(request) else { return bad_query(session) };
            let shared = Rc::clone(&session.state);
            let state = &mut *shared.borrow_mut();
            if !state.scan.request(&state.loops, now) {
                let reply = Reply::new(conn.reserve_reply()?, manner);
                state.waiting.push((now + MAX_WAIT, WaitingList { reply, order }));
                session.end_response(conn, manner);
                return Ok(());
            }
            (JSON, state.connections_json(order, now))
        }
        path => match connection_of(path) {
            Some((number, key)) => return respond_with_details(session, conn, request, number, key),
            None => {
                return session.send(conn, plain(Status::NOT_FOUND, "no such resource", manner), manner);
            }
        },
    };
    session.send(conn, response(Status::OK, content_type, &body, manner), manner)
}

/// The number of the loop and the key in `/api/connections/LOOP/KEY`.
fn connection_of(path: &str) -> Option<(u32, u64)> {
    let (number, key) = path.strip_prefix("/api/connections/")?.split_once('/')?;
    Some((number.parse().ok()?, key.parse().ok()?))
}

/// Requests the details of a connection from its loop.
fn respond_with_details(
    session: &mut Session,
    conn: &TcpConnection<'_>,
    request: &Request,
    number: u32,
    key: u64,
) -> Result<(), SendError> {
    let manner = request.manner;
    let state = session.state.borrow();
    let known = state.loops.iter().find(|watched| watched.number == number && watched.ended().is_none());
    let Some(watched) = known else {
        drop(state);
        return session.send(conn, plain(Status::NOT_FOUND, "no such loop", manner), manner);
    };
    if watched.unresponsive(Instant::now()).is_some() {
        drop(state);
        return session.send(conn, plain(Status::UNAVAILABLE, UNRESPONSIVE, manner), manner);
    }
    let (handle, label) = (watched.handle.clone(), watched.label.clone());
    let servers: Vec<_> = state.servers.iter().map(|s| (s.handle.group_id(), s.label.clone())).collect();
    drop(state);
    // The first of the loop and the deadline takes the reply.
    let reply = Arc::new(Mutex::new(Some(Reply::new(conn.reserve_reply()?, manner))));
    let home = conn.event_loop().handle();
    let unanswered = Arc::clone(&reply);
    let deadline = conn.event_loop().run_after(MAX_WAIT, move |_| {
        if let Some(reply) = unanswered.lock().take() {
            reply.plain(Status::UNAVAILABLE, UNRESPONSIVE);
        }
    });
    let gone = Arc::clone(&reply);
    let posted = handle.post_internal(move |event_loop| {
        let details = scan::details(event_loop, key);
        home.post_internal(move |event_loop| {
            event_loop.cancel(deadline);
            let Some(reply) = reply.lock().take() else { return };
            match details {
                Some(details) => {
                    let server = servers.iter().find(|(group, _)| *group == details.sample.group);
                    let server = server.map(|(_, label)| label.as_str());
                    reply.json(&details_json(&details, &label, server));
                }
                None => reply.plain(Status::NOT_FOUND, "no such connection"),
            }
        });
    });
    if !posted {
        if let Some(reply) = gone.lock().take() {
            reply.plain(Status::NOT_FOUND, "the loop has ended");
        }
    }
    session.end_response(conn, manner);
    Ok(())
}

/// Four decimals are enough for shares and seconds.
fn rounded(value: f64) -> String {
    format!("{value:.4}")
}

fn seconds(time: Duration) -> String {
    format!("{:.6}", time.as_secs_f64())
}

impl State {
    /// The loops, with the points of their histories after the second `since`; the servers; the
    /// slow callbacks.
    pub(super) fn overview_json(&mut self, since: u64, now: Instant) -> String {
        let open = self.descriptors.get(now);
        Json::document(|json| {
            json.value("pid", std::process::id());
            json.value("uptime", seconds(now.saturating_duration_since(self.started)));
            json.value("second", self.seconds);
            json.value("slow_limit", seconds(self.slow_limit));
            json.key("bounds").array(|json| BOUNDS.iter().for_each(|bound| json.literal(bound)));
            json.key("descriptors").object(|json| {
                json.optional("open", open);
                json.optional("limit", descriptors::limit());
            });
            json.key("loops").array(|json| {
                for watched in &self.loops {
                    json.object(|json| loop_json(json, watched, since, now));
                }
            });
            json.key("slow").array(|json| {
                for entry in &self.slow.entries {
                    json.object(|json| {
                        json.text("loop", &entry.label);
                        json.text("name", &entry.name);
                        json.value("count", entry.count);
                        json.value("total", seconds(entry.total));
                        json.value("longest", seconds(entry.longest));
                        json.text("object", &entry.object);
                        json.value("ago", seconds(now.saturating_duration_since(entry.last)));
                    });
                }
            });
            json.key("servers").array(|json| self.servers_json(json));
        })
    }

    fn servers_json(&self, json: &mut Json) {
        for server in self.servers.iter().filter(|server| !server.handle.is_inherited()) {
            let sample = server.handle.sample();
            json.object(|json| {
                json.text("name", &server.label);
                json.key("addresses")
                    .array(|json| sample.addresses.iter().for_each(|address| json.string(address)));
                json.text("stage", sample.stage);
                json.value("paused", sample.is_paused);
                json.value("open", sample.open);
                json.value("handshakes", sample.handshakes);
                json.value("buffered", sample.buffered);
                json.value("loops", sample.loops);
                json.value("live_loops", sample.live_loops);
                json.value("accepted", sample.counters.accepted);
                json.key("rejected").object(|json| {
                    for (reason, count) in prometheus::rejections(&sample.counters) {
                        json.value(reason, count);
                    }
                });
                json.value("closed_for_memory", sample.counters.closed_for_memory);
                json.value("failed_handshakes", sample.counters.failed_handshakes);
                json.key("limits").object(|json| {
                    json.optional("connections", sample.max_connections);
                    json.optional("per_address", sample.max_per_address);
                    json.optional("handshakes", sample.max_handshakes);
                    let policy = match sample.overflow_policy {
                        OverflowPolicy::Queue => "queue",
                        OverflowPolicy::Reject => "reject",
                    };
                    json.text("overflow", policy);
                    // A number of this size is no limit.
                    json.optional("buffered", Some(sample.max_buffered).filter(|max| *max < usize::MAX));
                    json.value("unsent", sample.max_unsent);
                    json.value("unread", sample.max_unread);
                    json.optional("idle", sample.idle_timeout.map(seconds));
                });
            });
        }
    }

    pub(super) fn connections_json(&self, order: ListOrder, now: Instant) -> String {
        let list = self.scan.list();
        Json::document(|json| {
            json.value("total", list.total);
            json.value("complete", list.finished.is_some() && list.missing.is_empty());
            let age = list.finished.map(|finished| seconds(now.saturating_duration_since(finished)));
            json.optional("age", age);
            json.key("missing").array(|json| {
                list.missing.iter().for_each(|number| json.string(self.label_of(*number)));
            });
            json.key("connections").array(|json| {
                for row in scan::sorted(&list.rows, order.by, order.is_descending, order.limit) {
                    json.object(|json| self.row_json(json, row));
                }
            });
        })
    }

    fn label_of(&self, number: u32) -> &str {
        let watched = self.loops.iter().find(|watched| watched.number == number);
        watched.map_or("", |watched| &watched.label)
    }

    fn row_json(&self, json: &mut Json, row: &Row) {
        json.text("path", &format!("{}/{}", row.event_loop, row.key));
        sample_json(json, &row.sample, self.label_of(row.event_loop), self.server_of(&row.sample));
    }

    fn descriptors_json(&mut self, now: Instant) -> String {
        let open = self.descriptors.get(now);
        Json::document(|json| {
            json.optional("open", open);
            json.optional("limit", descriptors::limit());
            json.key("descriptors").array(|json| {
                for descriptor in descriptors::list() {
                    json.object(|json| {
                        json.value("number", descriptor.number);
                        json.text("kind", &descriptor.kind);
                        json.text("file", &descriptor.file);
                    });
                }
            });
        })
    }
}

fn loop_json(json: &mut Json, watched: &WatchedLoop, since: u64, now: Instant) {
    let unresponsive = watched.unresponsive(now);
    let state = match (watched.ended(), unresponsive, watched.sample) {
        (Some(_), ..) => "ended",
        (None, Some(_), _) => "not responding",
        (None, None, None) => "starting",
        (None, None, Some(_)) => "running",
    };
    json.value("number", watched.number);
    json.text("name", &watched.label);
    json.text("state", state);
    json.optional("unresponsive", unresponsive.map(seconds));
    json.optional("in_callback", watched.in_callback(now).map(seconds));
    json.optional("turns", watched.sample.map(|sample| sample.turns));
    json.optional("sources", watched.sample.map(|sample| sample.sources));
    json.optional("timers", watched.sample.map(|sample| sample.timers));
    json.optional("next_timer", watched.sample.and_then(|sample| sample.next_timer).map(seconds));
    json.optional("futures", watched.sample.map(|sample| sample.futures));
    let counters = watched.handle.counters();
    json.key("tasks").object(|json| {
        json.value("posted", counters.tasks_posted);
        json.value("run", counters.tasks_run);
        json.value("dropped", counters.tasks_dropped);
        json.value("refused", counters.tasks_refused);
        let done = counters.tasks_run + counters.tasks_dropped;
        json.value("pending", counters.tasks_posted.saturating_sub(done));
        json.value("longest_batch", counters.longest_batch);
    });
    json.value("wakes", counters.wakes);
    json.value("panics", counters.panics);
    json.value("cpu", seconds(watched.cpu.running));
    json.key("delay").object(|json| {
        json.value("count", watched.delays.count());
        for (name, fraction) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            json.optional(name, watched.delays.quantile(fraction).map(seconds));
        }
    });
    json.value("has_metrics", watched.handle.metrics().is_some());
    json.key("history").array(|json| {
        for point in watched.history.iter().filter(|point| point.number > since) {
            json.object(|json| point_json(json, point));
        }
    });
}

fn point_json(json: &mut Json, point: &Point) {
    json.value("second", point.number);
    json.optional("load", point.load.map(|(running, _)| rounded(running)));
    json.optional("waiting", point.load.map(|(_, waiting)| rounded(waiting)));
    json.value("tasks", rounded(point.tasks_per_second));
    counts_json(json, "probes", &point.probes);
    if let Some(measured) = &point.measured {
        json.value("busy", rounded(measured.busy));
        counts_json(json, "task_delays", &measured.tasks);
        counts_json(json, "timer_delays", &measured.timers);
    }
}

/// The counts up to the last one that is not zero.
fn counts_json(json: &mut Json, key: &str, counts: &DelayCounts) {
    let used = counts.counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
    json.key(key).array(|json| counts.counts[..used].iter().for_each(|count| json.literal(count)));
}

fn sample_json(json: &mut Json, sample: &ConnectionSample, label: &str, server: Option<&str>) {
    json.text("id", &sample.id.to_string());
    json.text("loop", label);
    json.optional_text("server", server);
    json.optional_text("peer", sample.peer.as_ref());
    json.text("handler", sample.handler);
    json.text(
        "state",
        match sample.state {
            ConnectionState::Connecting => "connecting",
            ConnectionState::Open => "open",
            ConnectionState::Closing => "closing",
            ConnectionState::Closed => "closed",
        },
    );
    json.value("age", seconds(sample.age));
    json.optional("received", sample.received);
    json.optional("sent", sample.sent);
    json.value("unsent", sample.unsent);
    json.value("unread", sample.unread);
}

fn details_json(details: &ConnectionDetails, label: &str, server: Option<&str>) -> String {
    Json::document(|json| {
        sample_json(json, &details.sample, label, server);
        json.optional_text("local", details.local.as_ref());
        json.optional("descriptor", details.descriptor);
        json.value("reading", details.is_reading);
        json.value("peer_has_finished", details.peer_has_finished);
        json.value("in_handshake", details.is_in_handshake);
        json.value("linked", details.is_linked);
        json.value("memory", details.memory);
        match &details.tcp {
            Some(tcp) => json.key("tcp").object(|json| tcp_json(json, tcp)),
            None => json.key("tcp").null(),
        }
    })
}

fn tcp_json(json: &mut Json, tcp: &TcpInfo) {
    json.text("state", &format!("{:?}", tcp.state));
    json.value("rtt", seconds(tcp.rtt));
    json.value("rtt_variation", seconds(tcp.rttvar));
    json.optional("min_rtt", tcp.min_rtt.map(seconds));
    json.value("retransmission_timeout", seconds(tcp.rto));
    json.value("congestion_window", tcp.snd_cwnd);
    json.value("unacknowledged_segments", tcp.unacked);
    json.value("lost_segments", tcp.lost);
    json.value("retransmitted_segments", tcp.total_retrans);
    json.optional("retransmitted_bytes", tcp.bytes_retrans);
    json.optional("unsent_in_kernel", tcp.notsent_bytes);
    json.optional("delivery_rate", tcp.delivery_rate);
    json.optional("peer_window", tcp.snd_wnd);
    json.value("mss", tcp.snd_mss);
    json.value("since_received", seconds(tcp.last_data_recv));
    json.value("since_sent", seconds(tcp.last_data_sent));
}
