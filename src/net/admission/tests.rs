use super::*;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicUsize;
use std::thread;

fn quota(connections: u64) -> Quota {
    Quota { connections: Some(connections), ..Quota::default() }
}

const HERE: Origin = Origin::Host(IpAddr::V4(Ipv4Addr::LOCALHOST));

#[test]
fn a_place_that_is_not_used_is_given_back() {
    let admission = Admission::new(quota(1));
    drop(admission.place().expect("the only one"));
    let place = admission.place().expect("the only one again");
    assert!(admission.place().is_none());
    let admitted = admission.admit(place, HERE).expect("let in");
    assert!(admission.place().is_none());
    admission.release(&admitted);
    assert!(admission.place().is_some());
}

#[test]
fn an_address_is_forgotten_when_its_last_connection_has_gone() {
    let admission = Admission::new(Quota { per_address: Some(2), ..Quota::default() });
    let admit = |address: &str| {
        let origin = Origin::host(address.parse().unwrap());
        admission.admit(admission.place().expect("no maximum"), origin)
    };
    let first = admit("10.0.0.1").expect("the first");
    // The same client, as a socket for IPv6 has it.
    let second = admit("::ffff:10.0.0.1").expect("the second");
    assert!(admit("10.0.0.1").is_none());
    assert_eq!(admission.counters().refused_by_address, 1);
    for admitted in [first, second] {
        admission.release(&admitted);
    }
    assert!(admission.addresses.lock().is_empty());
}

/// Two threads that go through each round together.
struct Rounds(AtomicUsize);

impl Rounds {
    fn meet(&self, number: usize) {
        self.0.fetch_add(1, SeqCst);
        let mut spins = 0;
        while self.0.load(SeqCst) < 2 * number {
            spins += 1;
            if spins > 1000 {
                thread::yield_now();
            }
        }
    }
}

/// At the moment in which the last place is asked for in vain, it is given up. Either it is had, or word is sent.
#[test]
fn who_finds_no_place_is_sent_word_however_close_the_two_are() {
    const ROUNDS: usize = 60_000;
    let admission = Admission::new(quota(1));
    let rounds = Rounds(AtomicUsize::new(0));
    // Told in the end, since the other thread is not to be left alone.
    let mut forgotten = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                let place = admission.place();
                rounds.meet(3 * round + 1);
                // A different distance each time.
                for step in 0..round % 100 {
                    std::hint::black_box(step);
                }
                drop(place);
                rounds.meet(3 * round + 2);
                rounds.meet(3 * round + 3);
            }
        });
        for round in 0..ROUNDS {
            rounds.meet(3 * round + 1);
            let place = admission.place();
            rounds.meet(3 * round + 2);
            forgotten += usize::from(place.is_none() && admission.awaited.load(SeqCst));
            drop(place);
            rounds.meet(3 * round + 3);
        }
    });
    assert_eq!(forgotten, 0, "of {ROUNDS}");
}
