use std::net::{IpAddr, Ipv4Addr};

use super::*;

fn address(n: usize) -> PeerKey {
    PeerKey::Host(IpAddr::V4(Ipv4Addr::from_bits(n as u32)))
}

/// How many of `attempts` handshakes of the address may begin.
fn taken(limiter: &mut RateLimiter, rate: Rate, of: usize, attempts: usize, now: Instant) -> usize {
    (0..attempts).filter(|_| limiter.take(rate, address(of), now)).count()
}

fn per_second(handshakes: u32) -> Rate {
    Rate::new(handshakes, Duration::from_secs(1))
}

#[test]
fn an_address_may_use_its_rate_at_once_and_then_evenly() {
    for handshakes in [1, 2, 3, 7, 1000] {
        let (mut limiter, rate, begin) = (RateLimiter::default(), per_second(handshakes), Instant::now());
        let all = handshakes as usize;
        assert_eq!(taken(&mut limiter, rate, 1, 2 * all, begin), all);
        assert_eq!(taken(&mut limiter, rate, 2, 2 * all, begin), all, "another address");
        let interval = rate.period / handshakes;
        let mut now = begin;
        for _ in 0..3 * handshakes {
            now += interval;
            assert_eq!(taken(&mut limiter, rate, 1, 3, now), 1);
        }
        // An interval is rounded down to a nanosecond.
        assert_eq!(taken(&mut limiter, rate, 1, 1, now + interval - Duration::from_micros(1)), 0);
        assert_eq!(taken(&mut limiter, rate, 1, 2 * all, now + rate.period), all);
    }
}

#[test]
fn a_rejected_handshake_takes_no_token() {
    let (mut limiter, rate, begin) = (RateLimiter::default(), per_second(2), Instant::now());
    assert_eq!(taken(&mut limiter, rate, 1, 100, begin), 2);
    assert_eq!(taken(&mut limiter, rate, 1, 100, begin + rate.period / 2), 1);
}

#[test]
fn no_period_has_more_than_twice_the_rate() {
    // A period can begin with a full bucket, which fills once in that time.
    let (mut limiter, rate, begin) = (RateLimiter::default(), per_second(10), Instant::now());
    let at = |n: u32| begin + Duration::from_millis(37) * n;
    let times: Vec<Instant> = (0..300).map(at).filter(|now| limiter.take(rate, address(1), *now)).collect();
    for first in &times {
        let within = times.iter().filter(|time| *time >= first && **time < *first + rate.period).count();
        assert!(within <= 20, "{within} in one second");
    }
    assert!(times.len() >= 110, "{}", times.len());
}

#[test]
fn addresses_are_forgotten_when_their_buckets_are_full() {
    let (mut limiter, rate, begin) = (RateLimiter::default(), per_second(1), Instant::now());
    for n in 0..1000 {
        assert!(limiter.take(rate, address(n), begin));
    }
    assert!(limiter.take(rate, address(1000), begin + rate.period));
    assert_eq!((limiter.newer.len(), limiter.older.len()), (1, 1000));
    assert!(limiter.take(rate, address(0), begin + rate.period), "its bucket is full again");
    assert!(!limiter.take(rate, address(0), begin + rate.period), "the newer entry counts");
    assert!(limiter.take(rate, address(1001), begin + 2 * rate.period));
    assert_eq!((limiter.newer.len(), limiter.older.len()), (1, 2));
    assert!(limiter.take(rate, address(1002), begin + 100 * rate.period));
    assert_eq!((limiter.newer.len(), limiter.older.len()), (1, 0));
}

#[test]
fn no_entry_is_forgotten_before_its_bucket_is_full() {
    let (mut limiter, rate, begin) = (RateLimiter::default(), per_second(1), Instant::now());
    assert!(limiter.take(rate, address(0), begin));
    // The table is replaced soon after the entry is added.
    let late = begin + rate.period - Duration::from_millis(1);
    assert!(limiter.take(rate, address(1), late));
    assert!(limiter.take(rate, address(2), begin + rate.period));
    assert!(limiter.older.contains_key(&address(1)));
    assert!(!limiter.take(rate, address(1), late + rate.period - Duration::from_millis(1)));
    assert!(limiter.take(rate, address(1), late + rate.period));
}

#[test]
fn any_number_of_addresses_takes_bounded_memory() {
    let (mut limiter, rate, begin) = (RateLimiter::default(), per_second(1), Instant::now());
    for n in 0..4 * MAX_ADDRESSES {
        assert!(limiter.take(rate, address(n), begin));
        assert!(limiter.newer.len() <= MAX_ADDRESSES && limiter.older.len() <= MAX_ADDRESSES);
    }
    // The last ones are still known.
    assert!((3 * MAX_ADDRESSES..4 * MAX_ADDRESSES).all(|n| !limiter.take(rate, address(n), begin)));
    // A table of 32,768 slots, each with a byte of its own.
    assert!(limiter.newer.capacity() <= MAX_ADDRESSES && limiter.older.capacity() <= MAX_ADDRESSES);
    assert!(size_of::<(PeerKey, Instant)>() <= 40);
}

#[test]
fn a_clock_that_goes_back_returns_no_token() {
    let (mut limiter, rate, begin) = (RateLimiter::default(), per_second(2), Instant::now());
    let ahead = begin + Duration::from_millis(400);
    assert_eq!(taken(&mut limiter, rate, 1, 5, ahead), 2);
    assert_eq!(taken(&mut limiter, rate, 1, 5, begin), 0);
    assert_eq!(taken(&mut limiter, rate, 1, 5, ahead + rate.period / 2), 1);
}

#[test]
fn extreme_rates_neither_overflow_nor_divide_by_zero() {
    let (mut limiter, now) = (RateLimiter::default(), Instant::now());
    assert_eq!(taken(&mut limiter, Rate::new(2, Duration::MAX), 1, 3, now), 2);
    assert_eq!(taken(&mut limiter, Rate::new(0, Duration::from_secs(1)), 2, 3, now), 0);
    assert_eq!(taken(&mut limiter, Rate::new(u32::MAX, Duration::from_nanos(1)), 3, 1000, now), 1000);
}
