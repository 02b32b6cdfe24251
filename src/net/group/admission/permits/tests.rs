use super::*;

const BOTH: Share = Share(Share::CONNECTION.0 + Share::HANDSHAKE.0);

fn has_waiters(permits: &Permits) -> bool {
    permits.used.load(SeqCst) & HAS_WAITERS != 0
}

#[test]
fn releasing_a_permit_clears_the_waiters_flag() {
    let permits = Permits::new(Some(2), None, Share::CONNECTION);
    (0..2).for_each(|_| assert!(permits.acquire_before_accept().is_some()));
    assert!(!has_waiters(&permits));
    for _ in 0..2 {
        assert_eq!(permits.acquire_before_accept(), None);
        assert!(has_waiters(&permits));
    }
    assert!(permits.release(Share::CONNECTION));
    assert!(!has_waiters(&permits));
    assert!(permits.acquire_before_accept().is_some());
    assert!(!has_waiters(&permits) && permits.acquire_before_accept().is_none());
    assert!(permits.release(Share::CONNECTION));
    assert!(!permits.release(Share::CONNECTION));
    assert_eq!(permits.used.load(SeqCst), 0);
}

#[test]
fn listeners_are_woken_only_when_both_permits_are_free() {
    let permits = Permits::new(Some(2), Some(1), BOTH);
    assert_eq!(permits.acquire_before_accept(), Some(BOTH));
    assert_eq!(permits.acquire_before_accept(), None);
    assert!(permits.release(Share::HANDSHAKE));
    assert_eq!(permits.acquire_before_accept(), Some(BOTH));
    // At both maxima.
    assert_eq!(permits.acquire_before_accept(), None);
    assert!(!permits.release(Share::HANDSHAKE), "there is still no connection");
    assert!(has_waiters(&permits));
    assert!(permits.release(Share::CONNECTION));
    assert_eq!(permits.acquire_before_accept(), Some(BOTH));
    assert_eq!(permits.acquire_before_accept(), None);
    assert!(permits.release(BOTH));
    assert!(!permits.release(Share::CONNECTION));
    assert_eq!(permits.used.load(SeqCst), 0);
}

#[test]
fn a_refusal_without_waiting_sets_no_flag() {
    let permits = Permits::new(Some(1), Some(2), Share::HANDSHAKE);
    let share = permits.acquire_before_accept().expect("the first");
    assert!(permits.try_acquire(Share::CONNECTION));
    assert_eq!(permits.acquire_before_accept(), Some(share));
    assert!(!permits.try_acquire(Share::CONNECTION));
    assert!(!has_waiters(&permits) && !permits.release(share));
    // The connections are at their maximum, but no listener waits for that.
    assert_eq!(permits.acquire_before_accept(), Some(share));
    assert_eq!(permits.acquire_before_accept(), None);
    assert!(permits.release(share));
    assert!(!permits.release(BOTH));
    assert_eq!(permits.used.load(SeqCst), 0);
}

#[test]
fn nothing_is_counted_without_a_maximum() {
    let permits = Permits::new(None, None, Share::NONE);
    for _ in 0..3 {
        assert_eq!(permits.acquire_before_accept(), Some(Share::NONE));
        assert!(!permits.release(Share::NONE));
    }
    assert_eq!(permits.used.load(SeqCst), 0);
    assert_eq!(Share::HANDSHAKE.if_limited(None), Share::NONE);
}

#[test]
fn a_maximum_beyond_the_word_is_reduced() {
    for maximum in [GREATEST, GREATEST + 1, 1 << 32, u64::MAX] {
        let permits = Permits::new(Some(maximum), Some(maximum), BOTH);
        assert_eq!(permits.maximum, Share(GREATEST + (GREATEST << HALF)));
        permits.used.store(permits.maximum.0 - BOTH.0, SeqCst);
        assert_eq!(permits.acquire_before_accept(), Some(BOTH));
        assert_eq!(permits.acquire_before_accept(), None);
        assert!(permits.release(BOTH));
        assert_eq!(permits.used.load(SeqCst), permits.maximum.0 - BOTH.0);
    }
}

#[test]
fn a_maximum_of_zero_refuses_every_listener() {
    for permits in [Permits::new(Some(0), None, BOTH), Permits::new(None, Some(0), BOTH)] {
        assert_eq!(permits.acquire_before_accept(), None);
        assert_eq!(permits.used.load(SeqCst), HAS_WAITERS);
    }
}
