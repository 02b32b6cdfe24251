//! The watchdog names the callback that blocks a loop. Each such callback blocks until its report
//! has arrived, so the tests hold on every machine.

use std::cell::Cell;
use std::io::{self, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::channels::pair;
use crate::support::{Count, LIMIT as TEST_LIMIT, OnDrop, turn, with_loop, with_watchdog};
use reveille::io::{Channel, Interest};
use reveille::observe::{Blocked, Watchdog};
use reveille::{Buffer, ConnectionHandler, EventLoop, LoopPool, TcpConnection, TcpServer, UdpSocket};

const LIMIT: Duration = Duration::from_millis(20);

/// A limit that no test exceeds.
const HOUR: Duration = Duration::from_secs(3600);

/// Starts a watchdog that sends its reports.
fn watchdog(limit: Duration) -> (Watchdog, Receiver<Blocked>) {
    let (reports, received) = mpsc::channel();
    let report = move |blocked: &Blocked| {
        // The test may have ended.
        let _ = reports.send(blocked.clone());
    };
    (Watchdog::with_report(limit, report).unwrap(), received)
}

/// Runs a watched loop until its [`Block`] has been called, which blocks until that is reported.
/// Returns the text of the report, which begins with `what`. On a busy machine any callback may
/// take long and be reported before.
fn report_of(what: &'static str, prepare: impl FnOnce(&EventLoop, Block)) -> String {
    let event_loop = EventLoop::builder().name("under test").propagate_panics().build().unwrap();
    let (watchdog, reports) = watchdog(LIMIT);
    watchdog.watch(&event_loop.handle());
    let text = Rc::new(Cell::default());
    prepare(&event_loop, Block { what, reports: Rc::new(reports), text: Rc::clone(&text) });
    event_loop.run().unwrap();
    text.take()
}

/// Blocks its caller until that is reported.
#[derive(Clone)]
struct Block {
    what: &'static str,
    reports: Rc<Receiver<Blocked>>,
    text: Rc<Cell<String>>,
}

impl Block {
    fn now(&self, event_loop: &EventLoop) {
        let is_this = |blocked: &Blocked| !blocked.is_over() && blocked.callback().starts_with(self.what);
        let blocked = self.reports.iter().find(is_this).expect("a watchdog");
        assert_eq!(blocked.loop_name(), "under test");
        assert!(blocked.duration() >= LIMIT);
        self.text.set(blocked.callback().to_owned());
        event_loop.quit();
    }
}

#[track_caller]
fn assert_names(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[test]
fn a_blocked_task_is_named_by_its_closure() {
    with_watchdog(TEST_LIMIT, || {
        let text = report_of("a task (", |event_loop, block| {
            event_loop.queue_in_loop(move |event_loop| block.now(event_loop));
        });
        assert_names(&text, &["blocked::a_blocked_task_is_named_by_its_closure"]);
    });
}

#[test]
fn a_blocked_task_of_another_thread_is_named() {
    with_watchdog(TEST_LIMIT, || {
        let (watchdog, reports) = watchdog(LIMIT);
        let pool = LoopPool::new(2, "numbered").unwrap();
        let gates: Vec<_> = pool
            .handles()
            .map(|handle| {
                watchdog.watch(handle);
                let (open, gate) = mpsc::channel::<()>();
                handle.queue_in_loop(move |_| _ = gate.recv()).unwrap();
                open
            })
            .collect();
        let mut names: Vec<String> = Vec::new();
        while names.len() < 2 {
            let blocked = reports.recv().unwrap();
            let is_task = blocked.callback().contains("blocked::a_blocked_task_of_another_thread_is_named");
            if is_task && !names.iter().any(|name| name == blocked.loop_name()) {
                names.push(blocked.loop_name().to_owned());
            }
        }
        names.sort();
        assert_eq!(names, ["numbered-0", "numbered-1"]);
        drop(gates);
    });
}

#[test]
fn a_blocked_timer_is_named_by_its_closure() {
    with_watchdog(TEST_LIMIT, || {
        let once = |event_loop: &EventLoop, block: Block| {
            event_loop.run_after(Duration::ZERO, move |event_loop| block.now(event_loop));
        };
        let every = |event_loop: &EventLoop, block: Block| {
            event_loop.run_every(Duration::from_millis(1), move |event_loop| block.now(event_loop));
        };
        let what = "a timer's callback (";
        for text in [report_of(what, once), report_of(what, every)] {
            let closure = "blocked::a_blocked_timer_is_named_by_its_closure";
            assert_names(&text, &[closure]);
            assert!(!text.contains("reveille::"), "only the name of the closure: {text}");
        }
    });
}

#[test]
fn a_blocked_timer_of_a_handle_is_named_by_its_closure() {
    thread_local!(static BLOCK: Cell<Option<Block>> = const { Cell::new(None) });
    fn block(event_loop: &EventLoop) {
        if let Some(block) = BLOCK.take() {
            block.now(event_loop);
        }
    }
    with_watchdog(TEST_LIMIT, || {
        for repeats in [false, true] {
            let text = report_of("a timer's callback (", |event_loop, waiting| {
                BLOCK.set(Some(waiting));
                let handle = event_loop.handle();
                if repeats {
                    handle.run_every(Duration::from_millis(1), block).unwrap();
                } else {
                    handle.run_after(Duration::ZERO, block).unwrap();
                }
            });
            let name = "blocked::a_blocked_timer_of_a_handle_is_named_by_its_closure::block";
            assert_names(&text, &[name]);
        }
    });
}

#[test]
fn a_blocked_channel_is_named_by_its_callback() {
    with_watchdog(TEST_LIMIT, || {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"x").unwrap();
        let text = report_of("a callback of a channel (", move |event_loop, block| {
            let channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
                block.now(event.event_loop());
            });
            channel.unwrap().detach();
        });
        let name = "blocked::a_blocked_channel_is_named_by_its_callback";
        assert_names(&text, &[name]);
    });
}

struct Blocking(Block);

impl ConnectionHandler for Blocking {
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        input.take_all();
        self.0.now(conn.event_loop());
        Ok(())
    }
}

#[test]
fn a_blocked_connection_is_named_by_its_handler_and_peer() {
    with_watchdog(TEST_LIMIT, || {
        let peer = Rc::new(Cell::new(None));
        let connected = Rc::clone(&peer);
        let text = report_of("a callback of a connection", move |event_loop, block| {
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
            let server = server.serve(move |_| Blocking(block.clone())).unwrap();
            let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            client.write_all(b"x").unwrap();
            server.detach();
            connected.set(Some(client));
        });
        let peer = peer.take().unwrap().local_addr().unwrap();
        let expected = format!("a callback of a connection with {peer} (");
        assert_names(&text, &[&expected, "blocked::Blocking"]);
    });
}

/// Sleeps in its callback, and then waits for the report if the watchdog has had no core meanwhile.
struct Sleeping(Receiver<Blocked>);

impl ConnectionHandler for Sleeping {
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        input.take_all();
        thread::sleep(Duration::from_millis(200));
        let is_this = |blocked: &Blocked| blocked.callback().contains("blocked::Sleeping");
        let blocked = self.0.iter().find(is_this).expect("a watchdog");
        assert_eq!((blocked.loop_name(), blocked.is_over()), ("sleepy", false));
        assert!(blocked.callback().starts_with("a callback of a connection"), "{blocked}");
        assert!(blocked.duration() >= Duration::from_millis(50), "{blocked}");
        conn.event_loop().quit();
        Ok(())
    }
}

#[test]
fn a_callback_that_sleeps_200_ms_is_named() {
    with_watchdog(TEST_LIMIT, || {
        let event_loop = EventLoop::builder().name("sleepy").propagate_panics().build().unwrap();
        let (watchdog, reports) = watchdog(Duration::from_millis(50));
        watchdog.watch(&event_loop.handle());
        let reports = Cell::new(Some(reports));
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve(move |_| Sleeping(reports.take().expect("one connection"))).unwrap();
        let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        client.write_all(b"x").unwrap();
        event_loop.run().unwrap();
    });
}

#[test]
fn a_blocked_udp_socket_is_named_by_its_address() {
    with_watchdog(TEST_LIMIT, || {
        let address = Rc::new(Cell::new(None));
        let bound = Rc::clone(&address);
        let text = report_of("a callback of a UDP socket", move |event_loop, block| {
            let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap();
            let socket = socket.serve_fn(move |socket, _, _| block.now(socket.event_loop())).unwrap();
            let address = socket.local_addr().unwrap();
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", address).unwrap();
            bound.set(Some((address, socket)));
        });
        let (address, _socket) = address.take().unwrap();
        let expected = format!("a callback of a UDP socket at {address} (");
        assert_names(&text, &[&expected, "blocked::a_blocked_udp_socket_is_named_by_its_address"]);
    });
}

#[test]
fn a_blocked_hook_is_named() {
    with_watchdog(TEST_LIMIT, || {
        let text = report_of("a call of a hook before the wait (", |event_loop, block| {
            let hook = event_loop.before_wait(move |event_loop| block.now(event_loop));
            hook.unwrap().detach();
        });
        assert_names(&text, &["blocked::a_blocked_hook_is_named"]);
    });
}

#[test]
fn a_callback_inside_another_is_named_while_it_runs() {
    with_watchdog(TEST_LIMIT, || {
        let inner = Rc::new(Cell::default());
        let seen = Rc::clone(&inner);
        let outer = report_of("a task (", move |event_loop, block| {
            event_loop.queue_in_loop(move |event_loop| {
                let text = Rc::new(Cell::default());
                let reports = Rc::clone(&block.reports);
                let nested = Block { what: "a called task", reports, text: Rc::clone(&text) };
                thread_local!(static NESTED: Cell<Option<Block>> = const { Cell::new(None) });
                NESTED.set(Some(nested));
                let call = |event_loop: &EventLoop| NESTED.take().unwrap().now(event_loop);
                event_loop.handle().call(call).unwrap();
                seen.set(text.take());
                block.now(event_loop);
            });
        });
        assert_eq!(inner.take(), "a called task");
        assert_names(&outer, &["a task ("]);
    });
}

#[test]
fn reports_follow_at_growing_intervals_and_at_the_end() {
    with_watchdog(TEST_LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (watchdog, reports) = watchdog(LIMIT);
        watchdog.watch(&event_loop.handle());
        let reports = Rc::new(reports);
        let (received, start) = (Rc::clone(&reports), Instant::now());
        event_loop.queue_in_loop(move |_| {
            let mut last = Duration::ZERO;
            for blocked in received.iter().take(3) {
                assert!(!blocked.is_over() && blocked.duration() >= 2 * last);
                last = blocked.duration();
            }
            assert!(last >= 4 * LIMIT && last <= start.elapsed());
        });
        turn(&event_loop);
        // Further reports may have followed before the task returned.
        let over = reports.iter().find(Blocked::is_over).unwrap();
        assert!(over.duration() >= 4 * LIMIT);
        assert!(over.to_string().contains("was blocked for") && over.to_string().contains("by a task"));
        assert_eq!(event_loop.handle().counters().panics, 0);
    });
}

#[test]
fn callbacks_below_the_limit_are_not_reported() {
    with_loop(|event_loop| {
        let (watchdog, reports) = watchdog(HOUR);
        watchdog.watch(&event_loop.handle());
        event_loop.queue_in_loop(|_| ());
        event_loop.run_after(LIMIT, |event_loop| event_loop.quit());
        event_loop.run().unwrap();
        drop(watchdog);
        assert_eq!(reports.iter().count(), 0);
    });
}

#[test]
fn dropping_a_watchdog_ends_its_thread() {
    with_loop(|event_loop| {
        let dropped = Count::default();
        let token = dropped.drop_token();
        let watchdog = Watchdog::with_report(LIMIT, move |_| token.keep()).unwrap();
        watchdog.watch(&event_loop.handle());
        turn(event_loop);
        drop(watchdog);
        assert_eq!(dropped.get(), 1);
        turn(event_loop);
    });
}

#[test]
fn a_report_may_drop_its_watchdog() {
    with_loop(|event_loop| {
        let (give, taken) = mpsc::channel::<Watchdog>();
        let (ended, has_ended) = mpsc::channel();
        let token = OnDrop::new(move || ended.send(()).unwrap());
        let watchdog = Watchdog::with_report(LIMIT, move |_| {
            token.keep();
            drop(taken.recv());
        });
        let watchdog = watchdog.unwrap();
        watchdog.watch(&event_loop.handle());
        give.send(watchdog).unwrap();
        event_loop.queue_in_loop(move |_| has_ended.recv().unwrap());
        turn(event_loop);
    });
}

#[test]
fn a_panic_in_a_report_does_not_end_the_watchdog() {
    with_loop(|event_loop| {
        let (reports, received) = mpsc::channel();
        let watchdog = Watchdog::with_report(LIMIT, move |_| {
            let _ = reports.send(());
            panic!("on purpose");
        });
        watchdog.as_ref().unwrap().watch(&event_loop.handle());
        event_loop.queue_in_loop(move |_| assert_eq!(received.iter().take(2).count(), 2));
        turn(event_loop);
        assert_eq!(event_loop.handle().counters().panics, 0);
    });
}

#[test]
fn a_loop_that_is_dropped_in_a_block_is_reported_until_its_end() {
    with_watchdog(TEST_LIMIT, || {
        let event_loop = EventLoop::builder().name("ending").build().unwrap();
        let (watchdog, reports) = watchdog(LIMIT);
        watchdog.watch(&event_loop.handle());
        let reports = Rc::new(reports);
        let received = Rc::clone(&reports);
        event_loop.at_end(move |_| _ = received.recv().unwrap()).unwrap().detach();
        drop(event_loop);
        let over = reports.iter().find(Blocked::is_over).unwrap();
        assert_eq!(over.loop_name(), "ending");
        assert_names(over.callback(), &["a hook at the end of a loop ("]);
        drop(watchdog);
    });
}
