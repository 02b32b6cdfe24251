//! Lookups with a test resolver that waits for a permit of the test.

use super::*;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);

/// The resolvers of the tests, which must be `'static`. Kept here so that leak checkers do not
/// report them.
static KEPT: Mutex<Vec<&'static Resolver>> = Mutex::new(Vec::new());

/// A resolver for names of the form `127.0.0.N`. Each lookup waits for a permit. The names `fail`
/// and `panic` do what they say.
struct Held {
    resolver: &'static Resolver,
    /// Receives each name when its lookup starts.
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

/// The responses that clients received, each with its port.
#[derive(Clone, Default)]
struct Responses(Rc<RefCell<Vec<String>>>);

impl Responses {
    fn look_up(&self, event_loop: &EventLoop, held: &Held, name: &str, port: u16) -> ChannelId {
        let responses = Rc::clone(&self.0);
        let then = move |_: &EventLoop, response: Response| {
            responses.borrow_mut().push(match response {
                Ok(addresses) => format!("{}", addresses[0]),
                Err(error) => format!("{port}: {error}"),
            });
        };
        look_up_by(held.resolver, event_loop, name, port, then).unwrap()
    }

    /// Runs the loop until there are `n` responses, and returns them sorted.
    #[track_caller]
    fn wait_for(&self, event_loop: &EventLoop, n: usize) -> Vec<String> {
        let start = Instant::now();
        while self.0.borrow().len() < n {
            assert!(start.elapsed() < LIMIT, "{:?}", self.0.borrow());
            event_loop.run_once(LIMIT).unwrap();
        }
        let mut responses = self.0.take();
        responses.sort();
        responses
    }
}

#[track_caller]
fn wait_until_no_thread_runs(held: &Held) {
    let start = Instant::now();
    while held.resolver.threads() > 0 {
        assert!(start.elapsed() < LIMIT, "{} threads are left", held.resolver.threads());
        thread::yield_now();
    }
}

#[test]
fn concurrent_requests_for_a_name_share_one_lookup() {
    let event_loop = EventLoop::new().unwrap();
    let (held, responses) = (Held::new(4), Responses::default());
    responses.look_up(&event_loop, &held, "127.0.0.1", 1);
    assert_eq!(held.begun(), "127.0.0.1");
    (2..=5).for_each(|port| _ = responses.look_up(&event_loop, &held, "127.0.0.1", port));
    held.permit(1);
    let expected: Vec<_> = (1..=5).map(|port| format!("127.0.0.1:{port}")).collect();
    assert_eq!(responses.wait_for(&event_loop, 5), expected);
    // The response is not cached.
    responses.look_up(&event_loop, &held, "127.0.0.1", 6);
    held.permit(1);
    assert_eq!(responses.wait_for(&event_loop, 1), ["127.0.0.1:6"]);
}

#[test]
fn names_that_differ_in_case_share_a_lookup() {
    let event_loop = EventLoop::new().unwrap();
    let (held, responses) = (Held::new(4), Responses::default());
    responses.look_up(&event_loop, &held, "FAIL", 1);
    responses.look_up(&event_loop, &held, "Fail", 2);
    held.permit(1);
    assert_eq!(responses.wait_for(&event_loop, 2), ["1: no such name", "2: no such name"]);
    wait_until_no_thread_runs(&held);
    assert_eq!(held.begun.try_iter().count(), 1);
}

#[test]
fn lookups_are_fifo_with_a_bounded_number_of_threads() {
    let event_loop = EventLoop::new().unwrap();
    let (held, responses) = (Held::new(2), Responses::default());
    let names: Vec<String> = (1..=9).map(|n| format!("127.0.0.{n}")).collect();
    names.iter().for_each(|name| _ = responses.look_up(&event_loop, &held, name, 9));
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
    responses.wait_for(&event_loop, 9);
    wait_until_no_thread_runs(&held);
}

#[test]
fn a_lookup_cancelled_while_it_waits_never_runs() {
    let event_loop = EventLoop::new().unwrap();
    let (held, responses) = (Held::new(1), Responses::default());
    responses.look_up(&event_loop, &held, "127.0.0.1", 1);
    held.begun();
    let cancelled = responses.look_up(&event_loop, &held, "127.0.0.2", 2);
    let shared = responses.look_up(&event_loop, &held, "127.0.0.3", 3);
    responses.look_up(&event_loop, &held, "127.0.0.3", 4);
    event_loop.remove(cancelled);
    event_loop.remove(shared);
    held.permit(2);
    assert_eq!(held.begun(), "127.0.0.3");
    assert_eq!(responses.wait_for(&event_loop, 2), ["127.0.0.1:1", "127.0.0.3:4"]);
    wait_until_no_thread_runs(&held);
    assert!(held.begun.try_recv().is_err(), "the cancelled name is not looked up");
}

#[test]
fn the_thread_of_a_cancelled_lookup_takes_the_next_name() {
    let event_loop = EventLoop::new().unwrap();
    let (held, responses) = (Held::new(1), Responses::default());
    let cancelled = responses.look_up(&event_loop, &held, "127.0.0.1", 1);
    held.begun();
    event_loop.remove(cancelled);
    responses.look_up(&event_loop, &held, "127.0.0.2", 2);
    held.permit(1);
    assert_eq!(held.begun(), "127.0.0.2");
    assert_eq!(held.resolver.threads(), 1);
    held.permit(1);
    assert_eq!(responses.wait_for(&event_loop, 1), ["127.0.0.2:2"]);
}

#[test]
fn cancelled_lookups_leave_no_thread_and_no_name() {
    let event_loop = EventLoop::new().unwrap();
    let (held, responses) = (Held::new(3), Responses::default());
    let clients = (0..1500).map(|n| responses.look_up(&event_loop, &held, &format!("name-{n}"), 9));
    // At most four at a time, to stay below the descriptor limit of any machine.
    for (n, client) in clients.enumerate() {
        if n >= 3 {
            event_loop.remove(client);
        }
    }
    (0..3).for_each(|_| _ = held.begun());
    assert_eq!(held.resolver.threads(), 3);
    held.permit(3);
    // The test resolver panics for these names.
    assert_eq!(responses.wait_for(&event_loop, 3).len(), 3);
    wait_until_no_thread_runs(&held);
    assert!(held.begun.try_recv().is_err());
}

#[test]
fn a_panic_of_the_resolver_fails_only_its_name() {
    let event_loop = EventLoop::new().unwrap();
    let (held, responses) = (Held::new(1), Responses::default());
    responses.look_up(&event_loop, &held, "panic", 1);
    responses.look_up(&event_loop, &held, "127.0.0.2", 2);
    held.permit(2);
    let all = responses.wait_for(&event_loop, 2);
    assert_eq!(all, ["127.0.0.2:2", "1: the lookup of panic panicked"]);
    wait_until_no_thread_runs(&held);
}
