//! Lookups by a resolver of the test's own, which waits until the test lets it go on.

use super::*;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

/// The resolvers of the tests, which have to last for ever. Kept here, so that no checker takes them for leaks.
static KEPT: Mutex<Vec<&'static Resolver>> = Mutex::new(Vec::new());

/// A resolver for names of the form `127.0.0.N`, each of which waits for a permit; `fail` and `panic` do that.
struct Held {
    resolver: &'static Resolver,
    /// Names, as they begin to be looked up.
    begun: Receiver<String>,
    permits: Sender<()>,
}

impl Held {
    fn new(threads: usize) -> Held {
        let (begin, begun) = channel();
        let (permits, permitted) = channel::<()>();
        let permitted = Mutex::new(permitted);
        let resolve = move |name: &str| {
            begin.send(name.to_owned()).expect("a test that listens");
            permitted.lock().recv().expect("a permit");
            match name {
                "fail" => Err(io::Error::new(ErrorKind::NotFound, "no such name")),
                "panic" => panic!("the resolver panics, as the test wants it to"),
                _ => Ok(vec![SocketAddr::new(name.parse().expect("an address"), 0)]),
            }
        };
        let resolver: &'static Resolver = Box::leak(Box::new(Resolver::new(threads, resolve)));
        KEPT.lock().push(resolver);
        Held { resolver, begun, permits }
    }

    #[track_caller]
    fn begun(&self) -> String {
        self.begun.recv_timeout(LIMIT).expect("another lookup that begins")
    }

    fn permit(&self, lookups: usize) {
        (0..lookups).for_each(|_| self.permits.send(()).expect("a resolver"));
    }
}

/// What clients were answered, each with its port.
#[derive(Clone, Default)]
struct Answers(Rc<RefCell<Vec<String>>>);

impl Answers {
    fn look_up(&self, event_loop: &EventLoop, held: &Held, name: &str, port: u16) -> ChannelId {
        let answers = Rc::clone(&self.0);
        let then = move |_: &EventLoop, answer: Answer| {
            answers.borrow_mut().push(match answer {
                Ok(addresses) => format!("{}", addresses[0]),
                Err(error) => format!("{port}: {error}"),
            });
        };
        look_up_by(held.resolver, event_loop, name, port, then).unwrap()
    }

    /// Turns the loop until there are `n`, and returns them in order of their ports.
    #[track_caller]
    fn wait_for(&self, event_loop: &EventLoop, n: usize) -> Vec<String> {
        let start = Instant::now();
        while self.0.borrow().len() < n {
            assert!(start.elapsed() < LIMIT, "{:?}", self.0.borrow());
            event_loop.run_once(LIMIT).unwrap();
        }
        let mut answers = self.0.take();
        answers.sort();
        answers
    }
}

#[track_caller]
fn wait_for_the_end_of_threads(held: &Held) {
    let start = Instant::now();
    while held.resolver.threads() > 0 {
        assert!(start.elapsed() < LIMIT, "{} threads are left", held.resolver.threads());
        thread::yield_now();
    }
}

#[test]
fn a_name_that_several_ask_for_is_looked_up_once() {
    let event_loop = EventLoop::new().unwrap();
    let (held, answers) = (Held::new(4), Answers::default());
    answers.look_up(&event_loop, &held, "127.0.0.1", 1);
    assert_eq!(held.begun(), "127.0.0.1");
    (2..=5).for_each(|port| _ = answers.look_up(&event_loop, &held, "127.0.0.1", port));
    held.permit(1);
    let expected: Vec<_> = (1..=5).map(|port| format!("127.0.0.1:{port}")).collect();
    assert_eq!(answers.wait_for(&event_loop, 5), expected);
    // The answer is not kept for later.
    answers.look_up(&event_loop, &held, "127.0.0.1", 6);
    held.permit(1);
    assert_eq!(answers.wait_for(&event_loop, 1), ["127.0.0.1:6"]);
}

#[test]
fn names_that_differ_in_case_share_a_lookup() {
    let event_loop = EventLoop::new().unwrap();
    let (held, answers) = (Held::new(4), Answers::default());
    answers.look_up(&event_loop, &held, "FAIL", 1);
    answers.look_up(&event_loop, &held, "Fail", 2);
    held.permit(1);
    assert_eq!(answers.wait_for(&event_loop, 2), ["1: no such name", "2: no such name"]);
    wait_for_the_end_of_threads(&held);
    assert_eq!(held.begun.try_iter().count(), 1);
}

#[test]
fn no_more_threads_than_allowed_look_names_up_in_the_order_asked() {
    let event_loop = EventLoop::new().unwrap();
    let (held, answers) = (Held::new(2), Answers::default());
    let names: Vec<String> = (1..=9).map(|n| format!("127.0.0.{n}")).collect();
    names.iter().for_each(|name| _ = answers.look_up(&event_loop, &held, name, 9));
    let mut first = [held.begun(), held.begun()];
    first.sort();
    assert_eq!(first[..], names[..2]);
    for name in &names[2..] {
        assert_eq!(held.resolver.threads(), 2);
        assert!(held.begun.try_recv().is_err(), "a third thread has begun");
        held.permit(1);
        assert_eq!(held.begun(), *name);
    }
    held.permit(2);
    answers.wait_for(&event_loop, 9);
    wait_for_the_end_of_threads(&held);
}

#[test]
fn a_lookup_that_is_cancelled_before_it_begins_never_runs() {
    let event_loop = EventLoop::new().unwrap();
    let (held, answers) = (Held::new(1), Answers::default());
    answers.look_up(&event_loop, &held, "127.0.0.1", 1);
    held.begun();
    let cancelled = answers.look_up(&event_loop, &held, "127.0.0.2", 2);
    let shared = answers.look_up(&event_loop, &held, "127.0.0.3", 3);
    answers.look_up(&event_loop, &held, "127.0.0.3", 4);
    event_loop.remove(cancelled);
    event_loop.remove(shared);
    held.permit(2);
    assert_eq!(held.begun(), "127.0.0.3");
    assert_eq!(answers.wait_for(&event_loop, 2), ["127.0.0.1:1", "127.0.0.3:4"]);
    wait_for_the_end_of_threads(&held);
    assert!(held.begun.try_recv().is_err(), "nobody wants the name that was cancelled");
}

#[test]
fn the_thread_of_a_lookup_that_is_given_up_looks_up_the_next_name() {
    let event_loop = EventLoop::new().unwrap();
    let (held, answers) = (Held::new(1), Answers::default());
    let given_up = answers.look_up(&event_loop, &held, "127.0.0.1", 1);
    held.begun();
    event_loop.remove(given_up);
    answers.look_up(&event_loop, &held, "127.0.0.2", 2);
    held.permit(1);
    assert_eq!(held.begun(), "127.0.0.2");
    assert_eq!(held.resolver.threads(), 1);
    held.permit(1);
    assert_eq!(answers.wait_for(&event_loop, 1), ["127.0.0.2:2"]);
}

#[test]
fn many_clients_that_come_and_go_leave_no_thread_and_no_name() {
    let event_loop = EventLoop::new().unwrap();
    let (held, answers) = (Held::new(3), Answers::default());
    let clients = (0..1500).map(|n| answers.look_up(&event_loop, &held, &format!("name-{n}"), 9));
    // As many descriptors at a time as a process may have on every machine.
    for (n, client) in clients.enumerate() {
        if n >= 3 {
            event_loop.remove(client);
        }
    }
    (0..3).for_each(|_| _ = held.begun());
    assert_eq!(held.resolver.threads(), 3);
    held.permit(3);
    // They are none of the names that this resolver knows, so it panics.
    assert_eq!(answers.wait_for(&event_loop, 3).len(), 3);
    wait_for_the_end_of_threads(&held);
    assert!(held.begun.try_recv().is_err());
}

#[test]
fn a_resolver_that_panics_fails_its_name_and_looks_up_the_next() {
    let event_loop = EventLoop::new().unwrap();
    let (held, answers) = (Held::new(1), Answers::default());
    answers.look_up(&event_loop, &held, "panic", 1);
    answers.look_up(&event_loop, &held, "127.0.0.2", 2);
    held.permit(2);
    let all = answers.wait_for(&event_loop, 2);
    assert_eq!(all, ["127.0.0.2:2", "1: the lookup of panic panicked"]);
    wait_for_the_end_of_threads(&held);
}
