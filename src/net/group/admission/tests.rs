use super::*;
use std::net::{IpAddr, Ipv4Addr};

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
        let origin = Origin::host(address.parse().unwrap(), Ipv6Prefix::default());
        admission.admit(admission.place().expect("no maximum"), origin)
    };
    let first = admit("10.0.0.1").expect("the first");
    // The same client, as a socket for IPv6 has it.
    let second = admit("::ffff:10.0.0.1").expect("the second");
    assert!(admit("10.0.0.1").is_none());
    let of_a_network =
        [admit("2001:db8::1").expect("its first"), admit("2001:db8::2:1").expect("its second")];
    assert!(admit("2001:db8::3").is_none());
    assert_eq!(admission.counters().refused_by_address, 2);
    for admitted in [first, second].into_iter().chain(of_a_network) {
        admission.release(&admitted);
    }
    assert!(admission.addresses.lock().is_empty());
}

#[test]
fn giving_a_place_back_ends_the_wait_for_one() {
    let admission = Admission::new(quota(2));
    let is_awaited = || admission.places.load(SeqCst) & AWAITED != 0;
    let (first, second) = (admission.place().expect("the first"), admission.place().expect("the second"));
    assert!(!is_awaited());
    for _ in 0..2 {
        assert!(admission.place().is_none());
        assert!(is_awaited());
    }
    drop(first);
    assert!(!is_awaited());
    let again = admission.place().expect("the first again");
    assert!(!is_awaited() && admission.place().is_none());
    drop((second, again));
    assert_eq!(admission.places.load(SeqCst), 0);
}
