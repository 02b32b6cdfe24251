//! Loops, their delays, and slow callbacks.

use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;

use reveille::observe::{Inspector, Watchdog};
use reveille::{EventLoop, LoopThread, TcpServer};

use crate::support::{LIMIT, with_watchdog};
use crate::{Echo, await_body, block, body, builder, get, strict_builder, value, values};

#[test]
fn the_counts_of_a_loop_are_shown() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("worker").expect("a thread");
        let inspector = builder().watch_loop(thread.handle()).start().expect("an inspector");
        let set_up = |event_loop: &EventLoop| {
            for _ in 0..3 {
                event_loop.run_after(Duration::from_secs(3600), |_| ());
            }
            for _ in 0..2 {
                drop(event_loop.spawn_local(std::future::pending::<()>()));
            }
        };
        thread.handle().call(set_up).expect("the loop runs");
        for _ in 0..9 {
            thread.handle().call(|_| ()).expect("the loop runs");
        }
        let overview = await_body(&inspector, "/api/overview", |json| value(json, "timers") == "3");
        assert_eq!(value(&overview, "name"), "worker");
        assert_eq!(value(&overview, "state"), "running");
        assert_eq!((value(&overview, "futures"), value(&overview, "run")), ("2", "10"));
        assert_eq!((value(&overview, "posted"), value(&overview, "pending")), ("10", "0"));
        let next: f64 = value(&overview, "next_timer").parse().expect("a time");
        assert!(next > 3000.0 && next <= 3600.0, "{next}");
        let count = |json: &str| value(json, "count").parse::<u64>().expect("a number");
        await_body(&inspector, "/api/overview", |json| count(json) >= count(&overview) + 3);
    });
}

#[test]
fn the_history_has_a_point_for_each_second_and_starts_after_the_one_requested() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("worker").expect("a thread");
        let inspector = builder().watch_loop(thread.handle()).start().expect("an inspector");
        let overview = await_body(&inspector, "/api/overview", |json| values(json, "second").len() >= 3);
        let seconds: Vec<u64> =
            values(&overview, "second").iter().map(|s| s.parse().expect("a number")).collect();
        // The first one is that of the inspector.
        assert_eq!(seconds[1..], (1..=seconds[0]).collect::<Vec<_>>()[..]);
        let latest = seconds[0];
        let later = await_body(&inspector, &format!("/api/overview?since={latest}"), |json| {
            values(json, "second").len() == 2
        });
        assert_eq!(values(&later, "second")[1], (latest + 1).to_string());
        // The share of a thread that only waits.
        let loads = values(&later, "load");
        assert!(loads.iter().all(|load| *load == "null" || load.parse::<f64>().expect("a number") <= 1.0));
        assert!(!overview.contains("task_delays"), "without metrics: {overview}");
    });
}

#[test]
fn delays_of_tasks_and_timers_are_shown_of_a_loop_with_metrics() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("worker").expect("a thread");
        thread.handle().enable_metrics();
        let inspector = builder().watch_loop(thread.handle()).start().expect("an inspector");
        let set_up = |event_loop: &EventLoop| _ = event_loop.run_after(Duration::from_millis(1), |_| ());
        for _ in 0..50 {
            thread.handle().call(set_up).expect("the loop runs");
        }
        for key in ["task_delays", "timer_delays"] {
            // At least one second has counts.
            let array = format!("\"{key}\":[");
            let is_counted = |json: &str| {
                json.split(&array).skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            };
            await_body(&inspector, "/api/overview", is_counted);
        }
        let text = body(&inspector, "/metrics");
        let count = text
            .lines()
            .find_map(|line| line.strip_prefix("reveille_loop_task_delay_seconds_count{loop=\"worker\"} "));
        assert!(count.expect("the count").parse::<u64>().expect("a number") >= 50, "{text}");
        assert!(
            text.contains("reveille_loop_phase_seconds_total{loop=\"worker\",phase=\"tasks\"}"),
            "{text}"
        );
    });
}

#[test]
fn a_blocked_loop_is_not_responding_and_delays_no_request() {
    with_watchdog(LIMIT, || {
        let echo = Echo::new();
        let _client = echo.exchange(10);
        let inspector = builder().watch_server("echo", &echo.server).start().expect("an inspector");
        let list = await_body(&inspector, "/api/connections", |json| value(json, "total") == "1");
        let details = format!("/api/connections/{}", value(&list, "path"));
        let gate = block(&echo.thread);
        let overview =
            await_body(&inspector, "/api/overview", |json| value(json, "state") == "not responding");
        assert!(value(&overview, "unresponsive").parse::<f64>().expect("a time") >= 1.0);
        assert!(body(&inspector, "/metrics").contains("reveille_loop_up{loop=\"echo\"} 0"));
        let list = await_body(&inspector, "/api/connections", |json| value(json, "complete") == "false");
        assert!(list.contains("\"missing\":[\"echo\"]"), "{list}");
        assert_eq!(get(&inspector, &details).0, 503);
        drop(gate);
        let overview = await_body(&inspector, "/api/overview", |json| value(json, "state") == "running");
        assert_eq!(value(&overview, "unresponsive"), "null");
        let longest: f64 = value(&overview, "max").parse().expect("a time");
        assert!(longest >= 1.0, "the delay of the probe is {longest} s");
        await_body(&inspector, "/api/connections", |json| value(json, "complete") == "true");
        assert_eq!(get(&inspector, &details).0, 200);
    });
}

#[test]
fn an_ended_loop_is_shown_as_ended() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("worker").expect("a thread");
        let inspector = builder().watch_loop(thread.handle()).start().expect("an inspector");
        await_body(&inspector, "/api/overview", |json| value(json, "state") == "running");
        drop(thread);
        await_body(&inspector, "/api/overview", |json| value(json, "state") == "ended");
        assert!(body(&inspector, "/metrics").contains("reveille_loop_up{loop=\"worker\"} 0"));
        await_body(&inspector, "/api/connections", |json| value(json, "complete") == "true");
    });
}

#[test]
fn loops_of_one_name_have_different_labels() {
    with_watchdog(LIMIT, || {
        let threads = [(); 3].map(|()| LoopThread::spawn("same").expect("a thread"));
        let inspector = builder().watch_loop(threads[0].handle()).start().expect("an inspector");
        inspector.watch_loop(threads[1].handle());
        inspector.watch_loop(threads[2].handle());
        inspector.watch_loop(threads[0].handle());
        let overview = await_body(&inspector, "/api/overview", |json| values(json, "state").len() == 3);
        assert_eq!(values(&overview, "name"), ["same", "same 2", "same 3"]);
    });
}

/// Waits until the loop has been in a callback for at least 30 ms.
fn await_slow(inspector: &Inspector) {
    await_body(inspector, "/api/overview", |json| {
        value(json, "in_callback").parse::<f64>().is_ok_and(|time| time >= 0.03)
    });
}

/// The entry of the slow callback whose name contains `name`.
fn slow_entry<'a>(overview: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = overview.split_once("\"slow\":").expect("slow callbacks");
    let mut entries = rest.split_once("\"servers\":").expect("servers").0.split("{\"loop\":").skip(1);
    entries.find(|entry| value(entry, "name").contains(name))
}

/// Waits until a callback with this name has been slow `count` times, and returns its entry.
#[track_caller]
fn await_entry(inspector: &Inspector, name: &str, count: usize) -> String {
    let is_counted =
        |json: &str| slow_entry(json, name).is_some_and(|entry| value(entry, "count") == count.to_string());
    let overview = await_body(inspector, "/api/overview", is_counted);
    slow_entry(&overview, name).expect("as before").to_owned()
}

#[test]
fn a_slow_task_is_named_when_it_returns() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("worker").expect("a thread");
        let inspector = strict_builder().watch_loop(thread.handle()).start().expect("an inspector");
        for count in 1..=2 {
            let gate = block(&thread);
            await_slow(&inspector);
            drop(gate);
            let slow = await_entry(&inspector, "inspector::block", count);
            assert!(slow.starts_with("\"worker\""), "{slow}");
            assert!(value(&slow, "name").starts_with("a task ("), "{slow}");
            assert!(value(&slow, "longest").parse::<f64>().expect("a time") >= 0.03, "{slow}");
        }
        let text = body(&inspector, "/metrics");
        let is_counted = |line: &&str| {
            line.starts_with("reveille_slow_callbacks_total{loop=\"worker\"")
                && line.contains("inspector::block")
        };
        let counted = text.lines().find(is_counted);
        assert!(counted.is_some_and(|line| line.ends_with(" 2")), "{text}");
    });
}

#[test]
fn a_slow_callback_of_a_connection_is_named_by_its_handler_and_peer() {
    with_watchdog(LIMIT, || {
        let (gate, opened) = mpsc::channel::<()>();
        let (has_begun, begun) = mpsc::channel();
        let (sender, server) = mpsc::channel();
        let _thread = LoopThread::spawn_with("server", move |event_loop| {
            let server = TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(move |_, input| {
                input.clear();
                let _ = has_begun.send(());
                let _ = opened.recv();
            })?;
            sender.send(server.handle()).expect("the test waits");
            Ok(server)
        })
        .expect("a server");
        let server = server.recv().expect("a handle");
        let inspector = strict_builder().watch_server("gate", &server).start().expect("an inspector");
        await_body(&inspector, "/api/overview", |json| values(json, "state") == ["running"]);
        let address = server.local_addr().expect("an IP address");
        let mut client = std::net::TcpStream::connect(address).expect("a connection");
        client.write_all(b"x").expect("sent");
        begun.recv().expect("a callback");
        await_slow(&inspector);
        drop(gate);
        let slow = await_entry(&inspector, "a callback of a connection (", 1);
        let local = client.local_addr().expect("an address");
        assert_eq!(value(&slow, "object"), format!("a connection with {local}"));
    });
}

#[test]
fn an_inspector_and_a_watchdog_both_name_a_callback() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("worker").expect("a thread");
        let (reports, reported) = mpsc::channel();
        let watchdog = Watchdog::with_report(Duration::from_millis(20), move |blocked| {
            let _ = reports.send(blocked.callback().to_owned());
        });
        let watchdog = watchdog.expect("a watchdog");
        let inspector = strict_builder().watch_loop(thread.handle()).start().expect("an inspector");
        await_body(&inspector, "/api/overview", |json| values(json, "state") == ["running"]);
        watchdog.watch(thread.handle());
        let gate = block(&thread);
        let mut reports = reported.iter();
        let reported = reports.find(|name| name.contains("inspector::block")).expect("a report");
        await_slow(&inspector);
        drop(gate);
        let slow = await_entry(&inspector, "inspector::block", 1);
        assert_eq!(value(&slow, "name"), reported);
    });
}

#[test]
fn a_short_callback_is_not_slow() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("worker").expect("a thread");
        let inspector = builder().watch_loop(thread.handle()).start().expect("an inspector");
        let gate = block(&thread);
        await_slow(&inspector);
        drop(gate);
        await_body(&inspector, "/api/overview", |json| value(json, "in_callback") == "null");
        let overview = body(&inspector, "/api/overview");
        assert!(overview.contains("\"slow\":[]"), "{overview}");
    });
}
