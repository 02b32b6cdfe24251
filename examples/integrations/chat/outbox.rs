//! What this process has for the others. Any thread adds to it; the loop of the backplane takes it.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use reveille::EventFd;

use crate::published::{Content, Origin, Published};

/// The maximum number of orders that wait. Further lines are not published; their numbers are
/// missing, so the other processes report them.
const MAX_WAITING: usize = 10_000;

/// Gets whether a name could be reserved.
pub(crate) type ClaimReply = Box<dyn FnOnce(bool) + Send>;

pub(crate) enum Order {
    Publish(String),
    /// Reserves a name.
    Claim(String, ClaimReply),
    Release(String),
}

pub(crate) struct Outbox {
    pub(crate) origin: Origin,
    queue: Mutex<Queue>,
    /// Signalled when the queue is no longer empty.
    eventfd: EventFd,
}

#[derive(Default)]
struct Queue {
    orders: Vec<Order>,
    is_connected: bool,
    /// There is no connection, and the guests know it.
    is_lost: bool,
    /// The number of the last line.
    number: u64,
}

impl Outbox {
    pub(crate) fn new(eventfd: EventFd) -> Outbox {
        // The hasher has random keys.
        let origin = Origin(RandomState::new().build_hasher().finish());
        Outbox { origin, queue: Mutex::default(), eventfd }
    }

    /// Makes the first names of guests different from those of other processes.
    pub(crate) fn suffix(&self) -> String {
        format!("x{:04x}", self.origin.0 & 0xffff)
    }

    /// Another descriptor of the eventfd that is signalled for new orders.
    pub(crate) fn eventfd(&self) -> io::Result<EventFd> {
        self.eventfd.try_clone()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process has a subscription.
    pub(crate) fn is_connected(&self) -> bool {
        self.queue().is_connected
    }

    /// Whether guests know that there is no connection, so one who enters is informed too.
    pub(crate) fn is_lost(&self) -> bool {
        self.queue().is_lost
    }

    /// The process has a subscription, so what waits can be published. Returns whether guests know
    /// that there was none.
    pub(crate) fn connect(&self) -> bool {
        let mut queue = self.queue();
        queue.is_connected = true;
        let was_lost = mem::take(&mut queue.is_lost);
        drop(queue);
        self.signal();
        was_lost
    }

    /// The time for the first subscription has passed. Returns whether there was none yet.
    pub(crate) fn give_up_waiting(&self) -> bool {
        let mut queue = self.queue();
        let is_first = !queue.is_connected && !queue.is_lost;
        queue.is_lost |= is_first;
        is_first
    }

    /// The process has no subscription any more. Returns the claims that wait, for which there is
    /// no reply.
    pub(crate) fn disconnect(&self) -> Vec<ClaimReply> {
        let mut queue = self.queue();
        queue.is_connected = false;
        queue.is_lost = true;
        let (claims, others) = mem::take(&mut queue.orders)
            .into_iter()
            .partition::<Vec<_>, _>(|order| matches!(order, Order::Claim(..)));
        queue.orders = others;
        let reply = |order| match order {
            Order::Claim(_, reply) => Some(reply),
            _ => None,
        };
        claims.into_iter().filter_map(reply).collect()
    }

    /// Publishes a line with the next number, or another message with the last one.
    pub(crate) fn publish(&self, content: Content) {
        let mut queue = self.queue();
        if matches!(content, Content::Said { .. } | Content::Notice { .. }) {
            queue.number += 1;
        }
        let message = Published { origin: self.origin, number: queue.number, content };
        self.add(&mut queue, Order::Publish(message.encode()));
    }

    /// Reserves a name. Returns `reply` if the other processes cannot be reached, and a name is
    /// unique in this one only.
    pub(crate) fn claim(&self, name: &str, reply: ClaimReply) -> Option<ClaimReply> {
        let mut queue = self.queue();
        if !queue.is_connected || queue.orders.len() >= MAX_WAITING {
            return Some(reply);
        }
        self.add(&mut queue, Order::Claim(name.to_owned(), reply));
        None
    }

    /// Ends the reservation of a name.
    pub(crate) fn release(&self, name: &str) {
        self.add(&mut self.queue(), Order::Release(name.to_owned()));
    }

    fn add(&self, queue: &mut Queue, order: Order) {
        if queue.orders.len() >= MAX_WAITING {
            return;
        }
        queue.orders.push(order);
        if queue.orders.len() == 1 {
            self.signal();
        }
    }

    fn signal(&self) {
        // Fails only if the descriptor is not an eventfd.
        self.eventfd.signal().unwrap_or_else(|error| log::error!("the backplane: {error}"));
    }

    pub(crate) fn take(&self) -> Vec<Order> {
        mem::take(&mut self.queue().orders)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Content {
        Content::Said { room: "lobby".to_owned(), text: "ann: hello".to_owned() }
    }

    fn numbers(orders: Vec<Order>) -> Vec<u64> {
        let number = |order| match order {
            Order::Publish(text) => Some(Published::decode(text.as_bytes()).expect("a message").number),
            _ => None,
        };
        orders.into_iter().filter_map(number).collect()
    }

    #[test]
    fn lines_are_numbered_and_other_messages_have_the_last_number() {
        let outbox = Outbox::new(EventFd::new(0).unwrap());
        for content in [Content::Hello, said(), said(), Content::Number, said()] {
            outbox.publish(content);
        }
        assert_eq!(numbers(outbox.take()), [0, 1, 2, 2, 3]);
        assert!(outbox.take().is_empty());
    }

    #[test]
    fn the_eventfd_is_signalled_once_until_the_orders_are_taken() {
        let outbox = Outbox::new(EventFd::new(0).unwrap());
        let eventfd = outbox.eventfd().unwrap();
        outbox.publish(said());
        outbox.release("ann");
        assert_eq!(eventfd.try_read().unwrap(), 1);
        outbox.take();
        outbox.publish(said());
        assert_eq!(eventfd.try_read().unwrap(), 1);
    }

    #[test]
    fn lines_beyond_the_limit_have_numbers_that_are_missing() {
        let outbox = Outbox::new(EventFd::new(0).unwrap());
        for _ in 0..MAX_WAITING + 5 {
            outbox.publish(said());
        }
        assert_eq!(numbers(outbox.take()).len(), MAX_WAITING);
        outbox.publish(said());
        assert_eq!(numbers(outbox.take()), [MAX_WAITING as u64 + 6]);
    }

    #[test]
    fn a_claim_without_a_connection_is_returned() {
        let outbox = Outbox::new(EventFd::new(0).unwrap());
        assert!(outbox.claim("ann", Box::new(|_| ())).is_some());
        assert!(!outbox.connect());
        assert!(outbox.claim("ann", Box::new(|_| ())).is_none());
        outbox.publish(said());
        assert_eq!(outbox.disconnect().len(), 1);
        assert!(outbox.claim("ann", Box::new(|_| ())).is_some());
        assert_eq!(numbers(outbox.take()), [1]);
    }

    #[test]
    fn a_connection_that_does_not_exist_is_reported_once() {
        let outbox = Outbox::new(EventFd::new(0).unwrap());
        assert!(!outbox.is_lost());
        assert!(outbox.give_up_waiting());
        assert!(outbox.is_lost() && !outbox.give_up_waiting());
        assert!(outbox.connect());
        assert!(!outbox.is_lost() && !outbox.give_up_waiting());
        outbox.disconnect();
        assert!(outbox.is_lost() && !outbox.give_up_waiting());
        assert!(outbox.connect());
        assert!(!outbox.connect());
    }
}
