//! The example offload as a program, and its modules.

#[path = "../../examples/offload/fair_queue.rs"]
mod fair_queue;
#[path = "../../examples/offload/request.rs"]
mod request;
#[path = "../../examples/offload/work.rs"]
mod work;

use std::collections::VecDeque;
use std::io::Write;
use std::net::Shutdown;
use std::process::Command;

use crate::support::example::{self, Server};
use crate::support::random::Random;
use crate::support::{LIMIT, net, with_watchdog};
use rustix::process::Signal;

use fair_queue::{FairQueue, Limits};
use request::{Error, MAX_FACTORED, MAX_PRIMES, Request};

// --- Modules -----------------------------------------------------------------------------

#[test]
fn primes_are_counted_at_every_boundary() {
    let is_prime = |number: u64| (2..number).take_while(|d| d * d <= number).all(|d| number % d != 0);
    let mut count = 0;
    for limit in 0..2000 {
        count += u64::from(limit >= 2 && is_prime(limit));
        assert_eq!(work::primes(limit), count, "up to {limit}");
    }
    // Known values of the prime-counting function, with one segment and with several.
    assert_eq!(work::primes(100_000), 9_592);
    assert_eq!(work::primes(1_000_000), 78_498);
    let last_of_a_segment = 3 + 2 * 65_535;
    let between = work::primes(last_of_a_segment + 2) - work::primes(last_of_a_segment);
    assert_eq!(between, u64::from(is_prime(last_of_a_segment + 2)));
}

#[test]
fn factors_are_primes_whose_product_is_the_number() {
    assert_eq!(work::factors(2), [2]);
    assert_eq!(work::factors(49), [7, 7]);
    assert_eq!(work::factors(1 << 40), [2; 40]);
    assert_eq!(work::factors(999_999_000_001), [999_999_000_001]);
    for number in 2..3000 {
        let factors = work::factors(number);
        assert_eq!(factors.iter().product::<u64>(), number);
        assert!(factors.is_sorted() && factors.iter().all(|&factor| work::factors(factor) == [factor]));
    }
}

#[test]
fn requests_are_exactly_the_documented_lines() {
    assert_eq!(Request::parse(b"primes 0"), Ok(Request::Primes(0)));
    assert_eq!(Request::parse(b"  factor\t2 "), Ok(Request::Factor(2)));
    assert_eq!(Request::parse(b"panic"), Ok(Request::Panic));
    assert_eq!(Request::parse(format!("primes {MAX_PRIMES}").as_bytes()), Ok(Request::Primes(MAX_PRIMES)));
    for line in ["", " ", "prime 5", "PRIMES 5", "panic 1", "primes\u{a0}5", "\0"] {
        assert_eq!(Request::parse(line.as_bytes()), Err(Error::UnknownCommand), "{line:?}");
    }
    assert_eq!(Request::parse(b"primes \xff"), Err(Error::UnknownCommand));
    for line in ["primes", "primes x", "primes -1", "primes +1", "primes 1 2", "factor 0x10", "primes 1e3"] {
        assert_eq!(Request::parse(line.as_bytes()), Err(Error::NotANumber), "{line:?}");
    }
    let range = Err(Error::OutOfRange { least: 2, most: MAX_FACTORED });
    for number in ["0", "1", "1000000000000001", "99999999999999999999999999"] {
        assert_eq!(Request::parse(format!("factor {number}").as_bytes()), range);
    }
}

#[test]
fn replies_are_lines_that_repeat_the_request() {
    assert_eq!(Request::Primes(100).compute(), "primes 100: 25\n");
    assert_eq!(Request::Factor(1001).compute(), "factor 1001: 7 11 13\n");
    let range = Error::OutOfRange { least: 2, most: 9 };
    for (error, text) in [
        (Error::UnknownCommand, "the commands are: primes N, factor N, panic"),
        (Error::NotANumber, "the command has one argument, a number"),
        (range, "the number must be from 2 to 9"),
        (Error::TooLong, "the line is longer than 64 bytes"),
        (Error::Incomplete, "the line is incomplete"),
        (Error::Busy, "busy"),
        (Error::Panicked, "the job has panicked"),
    ] {
        assert_eq!(error.reply(), format!("error: {text}\n"));
    }
}

#[test]
fn clients_take_turns() {
    let mut queue = FairQueue::new(Limits { waiting: 100, running: 1, running_each: 1 });
    for job in 0..5 {
        queue.add('a', job).unwrap();
    }
    queue.add('b', 10).unwrap();
    queue.add('c', 20).unwrap();
    queue.add('b', 11).unwrap();
    let mut order = Vec::new();
    while let Some((client, job)) = queue.start() {
        order.push(job);
        assert!(queue.start().is_none(), "one job may run");
        queue.end(client);
    }
    assert_eq!(order, [0, 10, 20, 1, 11, 2, 3, 4]);
}

#[test]
fn one_client_never_runs_more_than_its_share() {
    let mut queue = FairQueue::new(Limits { waiting: 100, running: 3, running_each: 2 });
    for job in 0..4 {
        queue.add('a', job).unwrap();
    }
    assert_eq!((queue.start(), queue.start(), queue.start()), (Some(('a', 0)), Some(('a', 1)), None));
    queue.add('b', 9).unwrap();
    assert_eq!(queue.start(), Some(('b', 9)));
    queue.end('a');
    assert_eq!((queue.start(), queue.start()), (Some(('a', 2)), None));
}

#[test]
fn a_full_queue_returns_the_job_and_a_free_worker_takes_it() {
    let mut queue = FairQueue::new(Limits { waiting: 1, running: 1, running_each: 1 });
    queue.add('a', 0).unwrap();
    assert_eq!(queue.start(), Some(('a', 0)));
    queue.add('a', 1).unwrap();
    assert_eq!(queue.add('b', 2), Err(2));
    assert!(!queue.has('b'), "a refused job leaves nothing");
    assert_eq!(queue.remove('a'), [1]);
    queue.add('b', 2).unwrap();
    assert!(queue.has('a'), "its job runs");
    queue.end('a');
    assert!(!queue.has('a'));

    let mut without_waiting = FairQueue::new(Limits { waiting: 0, running: 1, running_each: 1 });
    without_waiting.add('a', 0).unwrap();
    assert_eq!(without_waiting.start(), Some(('a', 0)));
    assert_eq!(without_waiting.add('b', 1), Err(1));
}

/// Compares with a model that keeps all jobs in lists.
#[test]
fn random_operations_lose_no_job_and_starve_no_client() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let limits = Limits {
            waiting: random.below(20),
            running: 1 + random.below(4),
            running_each: 1 + random.below(3),
        };
        let (max_waiting, max_running, max_each) = (limits.waiting, limits.running, limits.running_each);
        let mut queue = FairQueue::new(limits);
        let mut waiting: [VecDeque<u64>; 5] = Default::default();
        let mut running: Vec<usize> = Vec::new();
        let mut passed_over = [0; 5];
        for job in 0..300 {
            let client = random.below(5);
            match random.below(10) {
                0..5 => match queue.add(client, job) {
                    Ok(()) => waiting[client].push_back(job),
                    Err(returned) => {
                        assert_eq!(returned, job);
                        assert!(waiting.iter().map(VecDeque::len).sum::<usize>() >= max_waiting);
                    }
                },
                5..9 => {
                    if !running.is_empty() {
                        let ended = running.swap_remove(random.below(running.len()));
                        queue.end(ended);
                    }
                }
                _ => {
                    assert_eq!(queue.remove(client), waiting[client]);
                    waiting[client].clear();
                    passed_over[client] = 0;
                }
            }
            while let Some((started, job)) = queue.start() {
                assert_eq!(waiting[started].pop_front(), Some(job), "the order of a client's jobs");
                running.push(started);
                passed_over[started] = 0;
                for other in (0..5).filter(|other| *other != started) {
                    let may_start = running.iter().filter(|of| **of == other).count() < max_each;
                    if waiting[other].is_empty() || !may_start {
                        passed_over[other] = 0;
                        continue;
                    }
                    passed_over[other] += 1;
                    assert!(passed_over[other] < 5, "a client has been passed over {passed_over:?} times");
                }
            }
            assert!(running.len() <= max_running);
            for (client, jobs) in waiting.iter().enumerate() {
                let runs = running.iter().filter(|of| **of == client).count();
                assert!(runs <= max_each);
                let may_start = runs < max_each && running.len() < max_running;
                assert!(jobs.is_empty() || !may_start, "a job waits beside a free worker");
                assert_eq!(queue.has(client), runs > 0 || !jobs.is_empty());
            }
        }
    }
}

// --- The program -----------------------------------------------------------------------------

fn start(arguments: &[&str]) -> Server {
    let mut command = Command::new(example::program("offload"));
    let common = ["--listen", "127.0.0.1:0", "--grace", "3600"];
    let mut server = Server::start(command.args(common).args(arguments));
    assert!(server.line().starts_with("try: echo 'primes 1000000' | nc -N 127.0.0.1 "));
    server
}

#[test]
fn wrong_numbers_are_refused() {
    for (arguments, message) in [
        (["--workers", "0"], "`0` is not a number of threads from 1"),
        (["--share", "0"], "`0` is not a number of workers from 1"),
        (["--pending", "x"], "`x` is not a number of requests from 1"),
        (["--queue", "-1"], "`-1` is not a number of requests"),
    ] {
        let outcome = example::outcome_of("offload", &arguments);
        let errors = String::from_utf8_lossy(&outcome.stderr).into_owned();
        assert_eq!(outcome.status.code(), Some(2), "{errors}");
        assert_eq!(errors.lines().next(), Some(&*format!("offload: `{}`: {message}", arguments[0])));
    }
}

#[test]
fn replies_have_the_order_of_requests_of_all_costs() {
    with_watchdog(LIMIT, || {
        let server = start(&["--workers", "3", "--share", "3", "--threads", "2"]);
        let mut client = net::connect(server.address);
        let requests = "primes 1000000\nfactor 12\nhello\nprimes 10\npanic\nfactor 97\nprimes x\n";
        let replies = "primes 1000000: 78498\nfactor 12: 2 2 3\nerror: the commands are: primes N, factor N, \
                       panic\nprimes 10: 4\nerror: the job has panicked\nfactor 97: 97\nerror: the command \
                       has one argument, a number\n";
        client.write_all(requests.repeat(20).as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(String::from_utf8_lossy(&net::read_to_end(&mut client)), replies.repeat(20));
    });
}

#[test]
fn a_stop_lets_accepted_requests_finish() {
    with_watchdog(LIMIT, || {
        let server = start(&["--workers", "1", "--pending", "4"]);
        let mut client = net::connect(server.address);
        // The first reply shows that the others, which have arrived with its request, are accepted.
        client.write_all(b"factor 6\nprimes 1000000\nfactor 35\nprimes 5\n").unwrap();
        assert_eq!(net::read_exact(&mut client, 14), b"factor 6: 2 3\n");
        server.signal(Signal::TERM);
        let replies = net::read_to_end(&mut client);
        assert_eq!(String::from_utf8_lossy(&replies), "primes 1000000: 78498\nfactor 35: 5 7\nprimes 5: 3\n");
        drop(client);
        let (status, totals) = server.end();
        assert_eq!(status.code(), Some(0));
        assert_eq!(totals, "1 connections, 4 computed, 0 panicked, 0 busy, 0 cancelled");
    });
}

#[test]
fn a_request_beyond_the_queue_is_refused_in_order() {
    with_watchdog(LIMIT, || {
        let server = start(&["--workers", "1", "--queue", "0"]);
        let mut client = net::connect(server.address);
        client.write_all(b"primes 3000000\nprimes 5\nprimes 5\nfactor x\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let replies = net::read_to_end(&mut client);
        let expected = "primes 3000000: 216816\nerror: busy\nerror: busy\nerror: the command has one argument, a \
                        number\n";
        assert_eq!(String::from_utf8_lossy(&replies), expected);
    });
}
