//! Lookups with a test resolver that waits for a permit of the test.

use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;

use super::*;
use crate::time::VirtualClock;

const LIMIT: Duration = Duration::from_secs(30);

/// A resolver for names of the form `host-N`, which have the address 127.0.0.N, and for these
/// addresses. Each query waits for a permit. The names `fail` and `panic` do what they say.
struct Held {
    resolver: Resolver,
    /// Receives each question when its query starts.
    begun: Receiver<String>,
    permits: Sender<()>,
}

fn respond(question: &Question) -> io::Result<Found> {
    let (host, service) = match question {
        Question::Name(IpAddr::V4(address)) => {
            return Ok(Found::Name(format!("host-{}", address.octets()[3])));
        }
        Question::Name(_) => panic!("an address of IPv6"),
        Question::Addresses { host, service } => (host, service),
    };
    match host.as_str() {
        "fail" => return Err(io::Error::new(ErrorKind::NotFound, "no such name")),
        "panic" => panic!("the resolver panics, as the test wants it to"),
        _ => {}
    }
    let number: u8 = host.strip_prefix("host-").and_then(|number| number.parse().ok()).expect("a number");
    let port = if service.is_some() { 7 } else { 0 };
    Ok(Found::Addresses(vec![SocketAddr::from(([127, 0, 0, number], port))]))
}

impl Held {
    fn new(event_loop: &EventLoop, threads: usize) -> Held {
        Held::with(event_loop, threads, 10_000, Cache::new(Duration::ZERO, 0))
    }

    fn with(event_loop: &EventLoop, threads: usize, limit: usize, cache: Cache) -> Held {
        let (begin, begun) = channel();
        let (permits, permitted) = channel::<()>();
        let permitted = Mutex::new(permitted);
        let threads = Threads::with(threads, move |question| {
            begin.send(question.to_string()).expect("a test that listens");
            permitted.lock().recv().expect("a permit");
            respond(question)
        });
        Held { resolver: Resolver::with_threads(event_loop, threads, limit, cache), begun, permits }
    }

    #[track_caller]
    fn begun(&self) -> String {
        self.begun.recv_timeout(LIMIT).expect("another query that begins")
    }

    fn permit(&self, queries: usize) {
        (0..queries).for_each(|_| self.permits.send(()).expect("a resolver"));
    }

    fn running(&self) -> usize {
        self.resolver.core.threads.running()
    }

    #[track_caller]
    fn wait_until_no_thread_runs(&self) {
        let start = Instant::now();
        while self.running() > 0 {
            assert!(start.elapsed() < LIMIT, "{} threads are left", self.running());
            thread::yield_now();
        }
    }
}

/// The results that were delivered.
#[derive(Clone, Default)]
struct Results(Rc<RefCell<Vec<String>>>);

impl Results {
    fn lookup(&self, held: &Held, target: &str) -> Lookup {
        let results = Rc::clone(&self.0);
        let name = target.to_owned();
        let then = move |_: &EventLoop, found: io::Result<Vec<SocketAddr>>| {
            results.borrow_mut().push(match found {
                Ok(addresses) => addresses[0].to_string(),
                Err(error) => format!("{name}: {error}"),
            });
        };
        held.resolver.lookup(target, then).expect("a resolver with capacity")
    }

    fn reverse(&self, held: &Held, address: &str) -> Lookup {
        let results = Rc::clone(&self.0);
        let then = move |_: &EventLoop, found: io::Result<String>| results.borrow_mut().push(found.unwrap());
        held.resolver.reverse(address.parse().unwrap(), then).expect("a resolver with capacity")
    }

    /// Runs the loop until there are `n` results, and returns them sorted.
    #[track_caller]
    fn wait_for(&self, event_loop: &EventLoop, n: usize) -> Vec<String> {
        let start = Instant::now();
        while self.0.borrow().len() < n {
            assert!(start.elapsed() < LIMIT, "{:?}", self.0.borrow());
            event_loop.run_once(LIMIT).unwrap();
        }
        let mut results = self.0.take();
        results.sort();
        results
    }
}

// --- Queries -------------------------------------------------------------------------------------

#[test]
fn concurrent_requests_for_a_name_share_one_lookup() {
    let event_loop = EventLoop::new().unwrap();
    let (held, results) = (Held::new(&event_loop, 4), Results::default());
    let _first = results.lookup(&held, "host-1:1");
    assert_eq!(held.begun(), "host-1");
    let _others: Vec<_> = (2..=5).map(|port| results.lookup(&held, &format!("HOST-1:{port}"))).collect();
    held.permit(1);
    let expected: Vec<_> = (1..=5).map(|port| format!("127.0.0.1:{port}")).collect();
    assert_eq!(results.wait_for(&event_loop, 5), expected);
    held.wait_until_no_thread_runs();
    assert_eq!(held.begun.try_iter().count(), 0);
    // The result is not cached.
    let _later = results.lookup(&held, "host-1:6");
    held.permit(1);
    assert_eq!(results.wait_for(&event_loop, 1), ["127.0.0.1:6"]);
}

#[test]
fn names_services_and_addresses_are_separate_queries() {
    let event_loop = EventLoop::new().unwrap();
    let (held, results) = (Held::new(&event_loop, 4), Results::default());
    let _lookups = [
        results.lookup(&held, "host-1:80"),
        results.lookup(&held, "host-1:echo"),
        results.reverse(&held, "127.0.0.1"),
        results.reverse(&held, "127.0.0.1"),
    ];
    held.permit(3);
    let expected = ["127.0.0.1:7", "127.0.0.1:80", "host-1", "host-1"];
    assert_eq!(results.wait_for(&event_loop, 4), expected);
    let mut begun: Vec<_> = held.begun.try_iter().collect();
    begun.sort();
    assert_eq!(begun, ["127.0.0.1", "host-1", "host-1:echo"]);
}

#[test]
fn a_failure_is_shared_and_not_cached() {
    let event_loop = EventLoop::new().unwrap();
    let held = Held::with(&event_loop, 4, 8, Cache::new(LIMIT, 8));
    let results = Results::default();
    for _ in 0..2 {
        let _lookups = [results.lookup(&held, "FAIL:1"), results.lookup(&held, "Fail:2")];
        held.permit(1);
        assert_eq!(results.wait_for(&event_loop, 2), ["FAIL:1: no such name", "Fail:2: no such name"]);
        held.wait_until_no_thread_runs();
        assert_eq!(held.begun.try_iter().count(), 1);
    }
}

#[test]
fn lookups_are_fifo_with_a_bounded_number_of_threads() {
    let event_loop = EventLoop::new().unwrap();
    let (held, results) = (Held::new(&event_loop, 2), Results::default());
    let names: Vec<String> = (1..=9).map(|n| format!("host-{n}")).collect();
    let _lookups: Vec<_> = names.iter().map(|name| results.lookup(&held, &format!("{name}:9"))).collect();
    let mut first = [held.begun(), held.begun()];
    first.sort();
    assert_eq!(first[..], names[..2]);
    for name in &names[2..] {
        assert_eq!(held.running(), 2);
        assert!(held.begun.try_recv().is_err(), "a third thread has begun");
        held.permit(1);
        assert_eq!(held.begun(), *name);
    }
    held.permit(2);
    results.wait_for(&event_loop, 9);
    held.wait_until_no_thread_runs();
}

#[test]
fn a_panic_of_the_resolver_fails_only_its_name() {
    let event_loop = EventLoop::new().unwrap();
    let (held, results) = (Held::new(&event_loop, 1), Results::default());
    let _lookups = [results.lookup(&held, "panic:1"), results.lookup(&held, "host-2:2")];
    held.permit(2);
    let all = results.wait_for(&event_loop, 2);
    assert_eq!(all, ["127.0.0.2:2", "panic:1: the lookup of panic panicked"]);
    held.wait_until_no_thread_runs();
}

// --- The cache -----------------------------------------------------------------------------------

#[test]
fn a_cached_result_needs_no_query_until_it_expires() {
    let clock = VirtualClock::new();
    let event_loop = EventLoop::builder().virtual_clock(clock.clone()).build().unwrap();
    let held = Held::with(&event_loop, 1, 8, Cache::new(Duration::from_secs(10), 8));
    let results = Results::default();
    held.permit(1);
    let _first = results.lookup(&held, "host-1:1");
    assert_eq!(results.wait_for(&event_loop, 1), ["127.0.0.1:1"]);
    assert_eq!(held.begun(), "host-1");
    clock.advance(Duration::from_secs(9));
    let cached = results.lookup(&held, "Host-1:2");
    assert_eq!(results.0.borrow().len(), 0, "called back within the call");
    assert!(cached.is_pending());
    assert_eq!(results.wait_for(&event_loop, 1), ["127.0.0.1:2"]);
    assert!(!cached.is_pending());
    clock.advance(Duration::from_secs(1));
    held.permit(1);
    let _expired = results.lookup(&held, "host-1:3");
    assert_eq!(held.begun(), "host-1");
    assert_eq!(results.wait_for(&event_loop, 1), ["127.0.0.1:3"]);
}

// --- Cancelling ----------------------------------------------------------------------------------

#[test]
fn a_lookup_cancelled_while_it_waits_never_runs() {
    let event_loop = EventLoop::new().unwrap();
    let (held, results) = (Held::new(&event_loop, 1), Results::default());
    let _first = results.lookup(&held, "host-1:1");
    held.begun();
    let cancelled = results.lookup(&held, "host-2:2");
    let shared = results.lookup(&held, "host-3:3");
    results.lookup(&held, "host-3:4").detach();
    drop((cancelled, shared));
    assert_eq!(held.resolver.unfinished(), 2);
    held.permit(2);
    assert_eq!(held.begun(), "host-3");
    assert_eq!(results.wait_for(&event_loop, 2), ["127.0.0.1:1", "127.0.0.3:4"]);
    held.wait_until_no_thread_runs();
    assert!(held.begun.try_recv().is_err(), "the cancelled name is not looked up");
}

#[test]
fn a_cancelled_query_that_runs_occupies_only_its_thread() {
    let event_loop = EventLoop::new().unwrap();
    let held = Held::with(&event_loop, 1, 1, Cache::new(LIMIT, 8));
    let results = Results::default();
    let cancelled = results.lookup(&held, "host-1:1");
    held.begun();
    drop(cancelled);
    assert_eq!(held.resolver.unfinished(), 0);
    let _next = results.lookup(&held, "host-2:2");
    assert_eq!(held.running(), 1);
    held.permit(2);
    assert_eq!(held.begun(), "host-2");
    assert_eq!(results.wait_for(&event_loop, 1), ["127.0.0.2:2"]);
    held.wait_until_no_thread_runs();
}

#[test]
fn a_later_lookup_joins_a_cancelled_query_that_runs() {
    let event_loop = EventLoop::new().unwrap();
    let (held, results) = (Held::new(&event_loop, 2), Results::default());
    let cancelled = results.lookup(&held, "host-1:1");
    held.begun();
    drop(cancelled);
    let _joining = results.lookup(&held, "host-1:2");
    held.permit(1);
    assert_eq!(results.wait_for(&event_loop, 1), ["127.0.0.1:2"]);
    held.wait_until_no_thread_runs();
    assert!(held.begun.try_recv().is_err(), "a second query was made");
}

#[test]
fn cancelled_lookups_leave_no_thread_and_no_name() {
    let event_loop = EventLoop::new().unwrap();
    let (held, results) = (Held::new(&event_loop, 3), Results::default());
    let lookups: Vec<_> = (0..1500).map(|n| results.lookup(&held, &format!("name-{n}:9"))).collect();
    let kept: Vec<_> = lookups.into_iter().take(3).collect();
    (0..3).for_each(|_| _ = held.begun());
    assert_eq!((held.running(), held.resolver.unfinished()), (3, 3));
    held.permit(3);
    // The test resolver panics for these names.
    assert_eq!(results.wait_for(&event_loop, 3).len(), 3);
    held.wait_until_no_thread_runs();
    assert!(held.begun.try_recv().is_err());
    drop(kept);
}

#[test]
fn a_loop_and_its_resolver_end_without_their_queries() {
    let event_loop = EventLoop::new().unwrap();
    let (held, results) = (Held::new(&event_loop, 1), Results::default());
    results.lookup(&held, "host-1:1").detach();
    results.lookup(&held, "host-2:2").detach();
    held.begun();
    drop(event_loop);
    assert_eq!(held.resolver.unfinished(), 0);
    let refused = held.resolver.lookup("host-3:3", |_, _| ()).unwrap_err();
    assert_eq!(refused.reason(), ResolverError::LoopEnded);
    let Held { resolver, begun, permits } = held;
    let threads = Arc::downgrade(&resolver.core.threads);
    drop(resolver);
    assert_eq!(threads.strong_count(), 1, "that of the thread which still runs");
    permits.send(()).unwrap();
    assert!(begun.recv_timeout(LIMIT).is_err(), "the waiting lookup has run");
    assert_eq!(Rc::strong_count(&results.0), 1, "a callback is left");
}

// --- Limits --------------------------------------------------------------------------------------

#[test]
fn a_full_resolver_returns_the_callback() {
    let event_loop = EventLoop::new().unwrap();
    let held = Held::with(&event_loop, 1, 2, Cache::new(Duration::ZERO, 0));
    let results = Results::default();
    let lookups = [results.lookup(&held, "host-1:1"), results.lookup(&held, "host-1:2")];
    let called = Rc::new(Cell::new(0));
    let calling = Rc::clone(&called);
    let then = move |_: &EventLoop, found: io::Result<Vec<SocketAddr>>| {
        assert_eq!(found.unwrap(), ["127.0.0.1:3".parse().unwrap()]);
        calling.set(calling.get() + 1);
    };
    let refused = held.resolver.lookup("host-1:3", then).unwrap_err();
    assert_eq!(refused.reason(), ResolverError::Full);
    drop(lookups);
    let _again = held.resolver.lookup("host-1:3", refused.into_inner()).unwrap();
    held.permit(1);
    let start = Instant::now();
    while called.get() == 0 {
        assert!(start.elapsed() < LIMIT);
        event_loop.run_once(LIMIT).unwrap();
    }
    assert_eq!((called.get(), results.0.borrow().len()), (1, 0));
}

#[test]
fn a_callback_may_start_the_next_lookup_of_a_full_resolver() {
    let event_loop = EventLoop::new().unwrap();
    let held = Held::with(&event_loop, 1, 1, Cache::new(Duration::ZERO, 0));
    let (resolver, results) = (held.resolver.clone(), Results::default());
    let recording = Rc::clone(&results.0);
    let then = move |_: &EventLoop, _: io::Result<String>| {
        let then = move |_: &EventLoop, name: io::Result<String>| recording.borrow_mut().push(name.unwrap());
        resolver.reverse("127.0.0.2".parse().unwrap(), then).expect("a free place").detach();
    };
    held.resolver.reverse("127.0.0.1".parse().unwrap(), then).unwrap().detach();
    held.permit(2);
    assert_eq!(results.wait_for(&event_loop, 1), ["host-2"]);
}
