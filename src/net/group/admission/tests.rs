use super::*;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

fn quota(connections: u64) -> Quota {
    Quota { connections: Some(connections), ..Quota::default() }
}

const HERE: PeerKey = PeerKey::Host(IpAddr::V4(Ipv4Addr::LOCALHOST));

#[test]
fn an_unused_permit_is_released_on_drop() {
    let admission = Admission::new(quota(1), false);
    drop(admission.try_acquire().expect("the only one"));
    let permit = admission.try_acquire().expect("the only one again");
    assert!(admission.try_acquire().is_none());
    let admitted = admission.admit(permit, HERE, Instant::now).expect("admitted");
    assert!(admission.try_acquire().is_none());
    admission.release(&admitted);
    assert!(admission.try_acquire().is_some());
}

#[test]
fn an_address_is_removed_with_its_last_connection() {
    let admission = Admission::new(Quota { per_address: Some(2), ..Quota::default() }, false);
    let admit = |address: &str| {
        let key = PeerKey::host(address.parse().unwrap(), Ipv6Prefix::default());
        admission.admit(admission.try_acquire().expect("no maximum"), key, Instant::now)
    };
    let first = admit("10.0.0.1").expect("the first");
    // The same client as seen by an IPv6 socket.
    let second = admit("::ffff:10.0.0.1").expect("the second");
    assert!(admit("10.0.0.1").is_none());
    let of_a_network =
        [admit("2001:db8::1").expect("its first"), admit("2001:db8::2:1").expect("its second")];
    assert!(admit("2001:db8::3").is_none());
    assert_eq!(admission.counters().rejected_by_address, 2);
    for admitted in [first, second].into_iter().chain(of_a_network) {
        admission.release(&admitted);
    }
    assert!(admission.addresses.lock().is_empty());
}

fn with_handshakes(handshakes: u64) -> Quota {
    Quota { handshakes: Some(handshakes), ..Quota::default() }
}

#[test]
fn a_completed_handshake_releases_its_permit_once() {
    let admission = Admission::new(Quota { connections: Some(3), ..with_handshakes(1) }, true);
    let permit = admission.try_acquire().expect("the first");
    let first = admission.admit(permit, HERE, Instant::now).expect("admitted");
    assert!(admission.try_acquire().is_none());
    assert_eq!(admission.handshakes(), 1);
    for _ in 0..2 {
        admission.end_handshake(&first);
        assert_eq!(admission.handshakes(), 0);
    }
    let permit = admission.try_acquire().expect("the second");
    let second = admission.admit(permit, HERE, Instant::now).expect("admitted");
    assert!(admission.try_acquire().is_none());
    admission.release(&first);
    assert!(admission.try_acquire().is_none());
    admission.release(&second);
    assert_eq!(admission.handshakes(), 0);
    assert_eq!(
        format!("{:?}", admission.permits),
        format!("{:?}", Admission::new(admission.quota, true).permits)
    );
}

#[test]
fn limits_of_handshakes_have_no_effect_without_filters() {
    let rate = Rate::new(0, Duration::from_secs(1));
    let admission = Admission::new(Quota { handshake_rate: Some(rate), ..with_handshakes(0) }, false);
    let admitted = admission.admit(admission.try_acquire().expect("a permit"), HERE, || unreachable!());
    assert!(!admitted.expect("admitted").is_in_handshake());
    assert_eq!(admission.handshakes(), 0);
}

#[test]
fn a_rejection_by_rate_takes_no_share_of_other_limits() {
    let rate = Rate::new(1, Duration::from_secs(1));
    for overflow_policy in [OverflowPolicy::Queue, OverflowPolicy::Reject] {
        let quota = Quota {
            connections: Some(2),
            overflow_policy,
            per_address: Some(2),
            handshake_rate: Some(rate),
            ..with_handshakes(2)
        };
        let admission = Admission::new(quota, true);
        let now = Instant::now();
        let admit = || admission.admit(admission.try_acquire().expect("a permit"), HERE, || now);
        let first = admit().expect("admitted");
        (0..5).for_each(|_| assert!(admit().is_none()));
        let counters = admission.counters();
        assert_eq!((counters.rejected_by_handshake_rate, counters.rejected_by_address), (5, 0));
        assert_eq!((counters.accepted, admission.handshakes()), (1, 1));
        assert_eq!(admission.addresses.lock().get(&HERE), Some(&1));
        admission.release(&first);
        assert!(admission.addresses.lock().is_empty());
    }
}

#[test]
fn a_rejection_by_address_takes_no_token() {
    let rate = Rate::new(2, Duration::from_secs(1));
    let quota = Quota { per_address: Some(1), handshake_rate: Some(rate), ..Quota::default() };
    let admission = Admission::new(quota, true);
    let now = Instant::now();
    let admit = || admission.admit(admission.try_acquire().expect("no maximum"), HERE, || now);
    let first = admit().expect("admitted");
    (0..5).for_each(|_| assert!(admit().is_none()));
    admission.release(&first);
    assert!(admit().is_some());
    assert_eq!(admission.counters().rejected_by_address, 5);
}
