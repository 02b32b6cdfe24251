//! The text format 0.0.4 of Prometheus.

use std::fmt::{Display, Write};
use std::time::Instant;

use super::delays::{BOUNDS, DelayCounts};
use super::descriptors;
use super::state::State;
use super::watched_loop::WatchedLoop;
use crate::net::ServerCounters;
use crate::net::server::inspection::ServerSample;

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The counters of rejected connections, by reason.
pub(super) fn rejections(counters: &ServerCounters) -> [(&'static str, u64); 4] {
    [
        ("maximum", counters.rejected_at_maximum),
        ("per_address", counters.rejected_by_address),
        ("handshake_rate", counters.rejected_by_handshake_rate),
        ("no_descriptor", counters.rejected_without_descriptor),
    ]
}

/// Writes the metrics of all loops and servers.
pub(super) fn text(state: &mut State, now: Instant) -> String {
    let mut text = Text::default();
    let open = state.descriptors.get(now);
    text.family("process_open_fds", "gauge", "Open descriptors of the process.");
    text.optional("process_open_fds", &[], open);
    text.family("process_max_fds", "gauge", "The maximum number of open descriptors.");
    text.optional("process_max_fds", &[], descriptors::limit());
    loops(&mut text, &state.loops, now);
    slow_callbacks(&mut text, state);
    let servers = state.servers.iter().filter(|server| !server.handle.is_inherited());
    let samples: Vec<_> = servers.map(|server| (server.label.as_str(), server.handle.sample())).collect();
    servers_text(&mut text, &samples);
    text.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    /// Begins a family of samples.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (n, (label, value)) in labels.iter().enumerate() {
            self.0.push(if n == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    fn optional(&mut self, name: &str, labels: &[(&str, &str)], value: Option<impl Display>) {
        if let Some(value) = value {
            self.sample(name, labels, value);
        }
    }

    fn histogram(&mut self, name: &str, label: &str, delays: &DelayCounts) {
        let bucket = format!("{name}_bucket");
        let mut passed = 0;
        for (count, bound) in delays.counts.iter().zip(BOUNDS.iter().map(Some).chain([None])) {
            passed += count;
            let bound = bound.map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            self.sample(&bucket, &[("loop", label), ("le", &bound)], passed);
        }
        self.sample(&format!("{name}_sum"), &[("loop", label)], delays.sum);
        self.sample(&format!("{name}_count"), &[("loop", label)], passed);
    }
}

/// A family with a sample for each loop that has a value: its name, kind, help and value.
type LoopFamily = (&'static str, &'static str, &'static str, fn(&WatchedLoop) -> Option<f64>);

const LOOP_FAMILIES: [LoopFamily; 14] = [
    ("reveille_loop_cpu_seconds_total", "counter", "CPU time of the loop's thread.", |l| {
        l.sample.map(|_| l.cpu.running.as_secs_f64())
    }),
    (
        "reveille_loop_run_queue_seconds_total",
        "counter",
        "Time in which the loop's thread was ready to run and waited for a processor.",
        |l| l.sample.map(|_| l.cpu.waiting.as_secs_f64()),
    ),
    ("reveille_loop_turns_total", "counter", "Turns that have completed.", |l| {
        l.sample.map(|sample| sample.turns as f64)
    }),
    ("reveille_loop_sources", "gauge", "Connections, servers and other sources.", |l| {
        l.sample.map(|sample| sample.sources as f64)
    }),
    ("reveille_loop_timers", "gauge", "Timers, those of the crate included.", |l| {
        l.sample.map(|sample| sample.timers as f64)
    }),
    ("reveille_loop_futures", "gauge", "Spawned futures that have not completed.", |l| {
        l.sample.map(|sample| sample.futures as f64)
    }),
    ("reveille_loop_tasks_posted_total", "counter", "Tasks accepted.", |l| {
        Some(l.handle.counters().tasks_posted as f64)
    }),
    ("reveille_loop_tasks_run_total", "counter", "Tasks that have started.", |l| {
        Some(l.handle.counters().tasks_run as f64)
    }),
    ("reveille_loop_tasks_dropped_total", "counter", "Tasks accepted and not run.", |l| {
        Some(l.handle.counters().tasks_dropped as f64)
    }),
    ("reveille_loop_tasks_refused_total", "counter", "Tasks and timers refused.", |l| {
        Some(l.handle.counters().tasks_refused as f64)
    }),
    ("reveille_loop_wakes_total", "counter", "Writes to the eventfd of the loop.", |l| {
        Some(l.handle.counters().wakes as f64)
    }),
    ("reveille_loop_batches_total", "counter", "Batches of at least one task.", |l| {
        Some(l.handle.counters().batches as f64)
    }),
    ("reveille_loop_longest_batch_tasks", "gauge", "Tasks in the longest batch.", |l| {
        Some(l.handle.counters().longest_batch as f64)
    }),
    ("reveille_loop_panics_total", "counter", "Panics that were caught.", |l| {
        Some(l.handle.counters().panics as f64)
    }),
];

fn loops(text: &mut Text, loops: &[WatchedLoop], now: Instant) {
    text.family("reveille_loop_up", "gauge", "1 if the loop responds, 0 if it is blocked or has ended.");
    for watched in loops {
        let is_up = watched.ended().is_none() && watched.unresponsive(now).is_none();
        text.sample("reveille_loop_up", &[("loop", &watched.label)], u8::from(is_up));
    }
    for (name, kind, help, value) in LOOP_FAMILIES {
        text.family(name, kind, help);
        for watched in loops {
            text.optional(name, &[("loop", &watched.label)], value(watched));
        }
    }
    let name = "reveille_loop_probe_delay_seconds";
    text.family(name, "histogram", "Time from the post of the inspector's probe to its start.");
    for watched in loops {
        text.histogram(name, &watched.label, &watched.delays);
    }
    let measured: Vec<_> =
        loops.iter().filter_map(|l| Some((l.label.as_str(), l.handle.metrics()?))).collect();
    if measured.is_empty() {
        return;
    }
    let name = "reveille_loop_task_delay_seconds";
    text.family(name, "histogram", "Time from the post of a task to its start, up to a sixteenth too long.");
    for (label, metrics) in &measured {
        text.histogram(name, label, &DelayCounts::from(&metrics.task_delay));
    }
    let name = "reveille_loop_timer_delay_seconds";
    text.family(
        name,
        "histogram",
        "Time from the deadline of a timer to its start, up to a sixteenth too long.",
    );
    for (label, metrics) in &measured {
        text.histogram(name, label, &DelayCounts::from(&metrics.timer_delay));
    }
    let name = "reveille_loop_phase_seconds_total";
    text.family(name, "counter", "Time in each phase of the loop's turns.");
    for (label, metrics) in &measured {
        for (phase, time) in [
            ("waiting", metrics.waiting),
            ("hooks", metrics.in_hooks),
            ("channels", metrics.in_channels),
            ("timers", metrics.in_timers),
            ("tasks", metrics.in_tasks),
            ("closes", metrics.in_closes),
        ] {
            text.sample(name, &[("loop", label), ("phase", phase)], time.as_secs_f64());
        }
    }
}

fn slow_callbacks(text: &mut Text, state: &State) {
    let entries = &state.slow.entries;
    let name = "reveille_slow_callbacks_total";
    text.family(name, "counter", "Callbacks that have blocked a loop for longer than the limit.");
    for entry in entries {
        text.sample(name, &[("loop", &entry.label), ("callback", &entry.name)], entry.count);
    }
    let name = "reveille_slow_callback_seconds_total";
    text.family(name, "counter", "Time in callbacks that have blocked a loop for longer than the limit.");
    for entry in entries {
        text.sample(name, &[("loop", &entry.label), ("callback", &entry.name)], entry.total.as_secs_f64());
    }
}

/// A family with a sample for each server that has a value: its name, kind, help and value.
type ServerFamily = (&'static str, &'static str, &'static str, fn(&ServerSample) -> Option<u64>);

const SERVER_FAMILIES: [ServerFamily; 10] = [
    ("reveille_server_connections", "gauge", "Open connections.", |s| Some(s.open)),
    ("reveille_server_max_connections", "gauge", "The maximum number of connections.", |s| s.max_connections),
    ("reveille_server_handshakes", "gauge", "Connections in their handshake.", |s| Some(s.handshakes)),
    ("reveille_server_buffered_bytes", "gauge", "Memory of unsent output and unread input.", |s| {
        Some(s.buffered as u64)
    }),
    ("reveille_server_max_buffered_bytes", "gauge", "The limit of that memory.", |s| {
        Some(s.max_buffered as u64).filter(|max| *max < usize::MAX as u64)
    }),
    ("reveille_server_loops", "gauge", "Loops of the server that have not ended.", |s| {
        Some(s.live_loops as u64)
    }),
    ("reveille_server_accepting", "gauge", "1 if the server accepts connections.", |s| {
        Some(u64::from(s.stage == "serving" && !s.is_paused))
    }),
    ("reveille_server_accepted_total", "counter", "Connections that were accepted.", |s| {
        Some(s.counters.accepted)
    }),
    (
        "reveille_server_closed_for_memory_total",
        "counter",
        "Connections that were reset at the limit of memory.",
        |s| Some(s.counters.closed_for_memory),
    ),
    (
        "reveille_server_failed_handshakes_total",
        "counter",
        "Connections that ended before their handshakes were completed.",
        |s| Some(s.counters.failed_handshakes),
    ),
];

fn servers_text(text: &mut Text, servers: &[(&str, ServerSample)]) {
    for (name, kind, help, value) in SERVER_FAMILIES {
        text.family(name, kind, help);
        for (label, sample) in servers {
            text.optional(name, &[("server", label)], value(sample));
        }
    }
    let name = "reveille_server_rejected_total";
    text.family(name, "counter", "Connections that were closed without a handler, by reason.");
    for (label, sample) in servers {
        for (reason, count) in rejections(&sample.counters) {
            text.sample(name, &[("server", label), ("reason", reason)], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn labels_are_escaped_and_buckets_cumulative() {
        let mut text = Text::default();
        text.family("a", "gauge", "Help.");
        text.sample("a", &[("x", "back\\slash \"quoted\"\nline"), ("y", "z")], 1.5);
        text.sample("b", &[], 2);
        assert_eq!(
            text.0,
            "# HELP a Help.\n# TYPE a gauge\na{x=\"back\\\\slash \\\"quoted\\\"\\nline\",y=\"z\"} 1.5\nb 2\n"
        );
        let mut delays = DelayCounts::default();
        [1, 20, 20, 9_000_000].into_iter().for_each(|micros| delays.add(Duration::from_micros(micros)));
        let mut text = Text::default();
        text.histogram("h", "main", &delays);
        let lines: Vec<&str> = text.0.lines().collect();
        assert_eq!(lines[0], "h_bucket{loop=\"main\",le=\"0.00001\"} 1");
        assert_eq!(lines[1], "h_bucket{loop=\"main\",le=\"0.000025\"} 3");
        assert_eq!(lines[BOUNDS.len()], "h_bucket{loop=\"main\",le=\"+Inf\"} 4");
        assert_eq!(lines[BOUNDS.len() + 1], "h_sum{loop=\"main\"} 9.000041");
        assert_eq!(lines[BOUNDS.len() + 2], "h_count{loop=\"main\"} 4");
    }
}
