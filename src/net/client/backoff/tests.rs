use std::collections::HashSet;
use std::time::Duration;

use super::{Backoff, random};

const MIN: u64 = 0;
const MAX: u64 = u64::MAX;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn delays_double_from_the_start_to_the_cap() {
    let backoff = Backoff::new().start(ms(100)).cap(ms(1000));
    let delays: Vec<Duration> = (0..6).map(|earlier| backoff.delay(earlier, MAX)).collect();
    assert_eq!(delays, [100, 200, 400, 800, 1000, 1000].map(ms));
}

#[test]
fn a_delay_lies_in_the_upper_half_of_its_range() {
    let backoff = Backoff::new().start(ms(100)).cap(ms(1000));
    assert_eq!(backoff.delay(0, MIN), ms(50));
    assert_eq!(backoff.delay(2, MIN), ms(200));
    assert_eq!(backoff.delay(9, MIN), ms(500));
    for n in 0..1000 {
        let delay = backoff.delay(n % 40, random());
        let longest = backoff.delay(n % 40, MAX);
        assert!(longest / 2 <= delay && delay <= longest, "{delay:?} of {longest:?}");
    }
}

#[test]
fn very_long_delays_do_not_overflow() {
    let backoff = Backoff::new().start(Duration::from_secs(1 << 40)).cap(Duration::MAX);
    for earlier in [0, 1, 31, 32, 33, 63, 64, u32::MAX] {
        for random in [MIN, 1, MAX / 2, MAX] {
            assert!(backoff.delay(earlier, random) >= Duration::from_secs(1 << 39));
        }
    }
    let default = Backoff::new();
    assert_eq!(default.delay(u32::MAX, MAX), default.cap);
}

#[test]
fn a_delay_is_never_zero() {
    let backoff = Backoff::new().start(Duration::ZERO).cap(Duration::ZERO);
    assert_eq!(backoff.delay(0, MAX), ms(1));
    assert!(backoff.delay(7, MIN) > Duration::ZERO);
}

#[test]
fn a_cap_below_the_start_limits_the_start() {
    let backoff = Backoff::new().start(ms(500)).cap(ms(20));
    assert_eq!(backoff.delay(0, MAX), ms(20));
}

#[test]
fn the_number_of_retries_is_limited() {
    assert!(Backoff::new().allows(u32::MAX));
    let backoff = Backoff::new().max_retries(2);
    assert_eq!([0, 1, 2, 3].map(|retries| backoff.allows(retries)), [true, true, false, false]);
    assert!(!Backoff::new().max_retries(0).allows(0));
}

#[test]
fn random_numbers_differ() {
    let drawn: HashSet<u64> = (0..1000).map(|_| random()).collect();
    assert_eq!(drawn.len(), 1000);
    let high = drawn.iter().filter(|number| **number > MAX / 2).count();
    assert!((300..700).contains(&high), "{high} of 1000 are in the upper half");
}
