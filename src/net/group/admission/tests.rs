use super::*;
use std::net::{IpAddr, Ipv4Addr};

fn quota(connections: u64) -> Quota {
    Quota { connections: Some(connections), ..Quota::default() }
}

const HERE: PeerKey = PeerKey::Host(IpAddr::V4(Ipv4Addr::LOCALHOST));

#[test]
fn an_unused_permit_is_released_on_drop() {
    let admission = Admission::new(quota(1));
    drop(admission.try_acquire().expect("the only one"));
    let permit = admission.try_acquire().expect("the only one again");
    assert!(admission.try_acquire().is_none());
    let admitted = admission.admit(permit, HERE).expect("admitted");
    assert!(admission.try_acquire().is_none());
    admission.release(&admitted);
    assert!(admission.try_acquire().is_some());
}

#[test]
fn an_address_is_removed_with_its_last_connection() {
    let admission = Admission::new(Quota { per_address: Some(2), ..Quota::default() });
    let admit = |address: &str| {
        let key = PeerKey::host(address.parse().unwrap(), Ipv6Prefix::default());
        admission.admit(admission.try_acquire().expect("no maximum"), key)
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

#[test]
fn releasing_a_permit_clears_the_waiters_flag() {
    let admission = Admission::new(quota(2));
    let has_waiters = || admission.permits.load(SeqCst) & HAS_WAITERS != 0;
    let (first, second) =
        (admission.try_acquire().expect("the first"), admission.try_acquire().expect("the second"));
    assert!(!has_waiters());
    for _ in 0..2 {
        assert!(admission.try_acquire().is_none());
        assert!(has_waiters());
    }
    drop(first);
    assert!(!has_waiters());
    let again = admission.try_acquire().expect("the first again");
    assert!(!has_waiters() && admission.try_acquire().is_none());
    drop((second, again));
    assert_eq!(admission.permits.load(SeqCst), 0);
}
