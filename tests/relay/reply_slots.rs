//! Reply slots that are open on a connection that is relayed.

use std::io::Write;
use std::net::Shutdown;

use crate::support::net::{self, End, Script};
use crate::support::relay::{FRONTS, Linked};
use crate::support::{LIMIT, with_watchdog};
use reveille::ConnectionHandle;
use reveille::net::ReplySlot;

/// Reserves a reply on the accepted connection of the relay.
fn reserve(linked: &Linked) -> (ConnectionHandle, ReplySlot) {
    linked.host.request(|event_loop, _| {
        let front = FRONTS.with_borrow(|fronts| fronts[0].clone());
        let (sender, slot) = std::sync::mpsc::channel();
        let reserve = move |_: &mut Script, conn: &reveille::TcpConnection<'_>| {
            sender.send(conn.reserve_reply().unwrap()).unwrap();
        };
        front.with_local(event_loop, reserve).unwrap();
        (front, slot.recv().unwrap())
    })
}

#[test]
fn relayed_bytes_and_their_end_wait_for_a_reserved_reply() {
    with_watchdog(LIMIT, || {
        let mut linked = Linked::new();
        let (front, slot) = reserve(&linked);
        linked.server.write_all(b"relayed").unwrap();
        linked.server.shutdown(Shutdown::Write).unwrap();
        net::until(|| front.unsent() == "relayed".len());
        // The other direction does not wait.
        assert_eq!(net::exchange_between(&mut linked.client, &mut linked.server, b"other"), b"other");
        slot.fill("reply, ").unwrap();
        assert_eq!(net::read_to_end(&mut linked.client), b"reply, relayed");
        drop(linked.client);
        assert_eq!(net::read_to_end(&mut linked.server), b"");
        assert_eq!(linked.fronts.end_of(0), End::Finished);
        assert_eq!(linked.backs.end_of(0), End::Finished);
    });
}

#[test]
fn a_dropped_slot_resets_the_relayed_connection_and_its_peer() {
    with_watchdog(LIMIT, || {
        let mut linked = Linked::new();
        let (front, slot) = reserve(&linked);
        linked.server.write_all(b"relayed").unwrap();
        net::until(|| front.unsent() == "relayed".len());
        drop(slot);
        assert_eq!(net::read_until_reset(&mut linked.client), b"");
        assert_eq!(net::read_until_reset(&mut linked.server), b"");
        assert_eq!(linked.fronts.end_of(0), End::ReplyDropped);
        assert_eq!(linked.backs.end_of(0), End::RelayEnded);
    });
}
