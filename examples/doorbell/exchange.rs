//! Messages that make round trips to the other process, by the ring or by the socket.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use reveille::EventLoop;
use reveille::io::{Channel, Interest};
use reveille::ipc::SharedRing;

use super::socket::{receive, send};
use super::{MESSAGE, TIMEOUT};

/// Messages in flight in the throughput measurement. A socket can buffer more than that; otherwise
/// both processes could block in a send.
const IN_FLIGHT: usize = 64;

/// Each measurement ends when it reaches one of these limits.
const MAX_TRIPS: u64 = 500_000;
const MAX_TIME: Duration = Duration::from_millis(800);

/// The results of one transport: with many messages in flight, and with one.
pub(crate) struct Exchange {
    pub(crate) many: Trips,
    pub(crate) one: Trips,
}

/// Round trips, with a given number of messages in flight.
pub(crate) struct Trips {
    in_flight: usize,
    /// Messages currently in flight.
    out: usize,
    pub(crate) count: u64,
    began: Instant,
    took: Duration,
    /// Duration of each round trip, if one message is in flight at a time.
    times: Vec<Duration>,
    sent_at: Instant,
}

impl Trips {
    fn begin(in_flight: usize) -> Trips {
        let now = Instant::now();
        let (took, times) = (Duration::ZERO, Vec::new());
        Trips { in_flight, out: in_flight, count: 0, began: now, took, times, sent_at: now }
    }

    /// Records a returned message. Returns whether to send it again.
    fn returned(&mut self, message: &[u8]) -> bool {
        assert!(message == MESSAGE, "a returned message was altered");
        self.count += 1;
        // Reading the clock costs as much as a message.
        if self.in_flight == 1 || self.count % 64 == 0 || !self.took.is_zero() {
            let now = Instant::now();
            if self.in_flight == 1 {
                self.times.push(now - self.sent_at);
                self.sent_at = now;
            }
            let enough = self.count >= MAX_TRIPS || now - self.began >= MAX_TIME;
            if enough || !self.took.is_zero() {
                self.took = now - self.began;
                self.out -= 1;
                return false;
            }
        }
        true
    }

    pub(crate) fn messages_per_second(&self) -> f64 {
        2.0 * self.count as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }
}

pub(crate) fn by_ring(ring: SharedRing, socket: &OwnedFd) -> io::Result<Exchange> {
    let event_loop = EventLoop::new()?;
    let trips = Rc::new(RefCell::new(Trips::begin(0)));
    let returning = Rc::clone(&trips);
    let source = ring.watch(&event_loop, move |ring, message| {
        let mut trips = returning.borrow_mut();
        if trips.returned(message) {
            ring.send(message).expect("space of the returned message");
        } else if trips.out == 0 {
            ring.event_loop().quit();
        }
    })?;
    // The other process sends nothing over the socket in this phase, so readiness means that it has
    // ended. The loop then stops before all messages are back.
    let _socket = Channel::new(&event_loop, socket.try_clone()?, Interest::READABLE, |event| {
        event.event_loop().quit();
    })?;
    let exchange = |in_flight| {
        *trips.borrow_mut() = Trips::begin(in_flight);
        for _ in 0..in_flight {
            source.send(MESSAGE)?;
        }
        event_loop.run_for(TIMEOUT)?;
        let trips = trips.replace(Trips::begin(0));
        match trips.out {
            0 => Ok(trips),
            _ => Err(io::Error::other("the other process has ended or does not respond")),
        }
    };
    Ok(Exchange { many: exchange(IN_FLIGHT)?, one: exchange(1)? })
}

pub(crate) fn by_socket(socket: &OwnedFd) -> io::Result<Exchange> {
    let exchange = |in_flight| {
        let mut trips = Trips::begin(in_flight);
        for _ in 0..in_flight {
            send(socket, &MESSAGE)?;
        }
        let mut message = MESSAGE;
        while trips.out > 0 {
            let length = receive(socket, &mut message)?;
            if trips.returned(&message[..length]) {
                send(socket, &message)?;
            }
        }
        Ok::<_, io::Error>(trips)
    };
    Ok(Exchange { many: exchange(IN_FLIGHT)?, one: exchange(1)? })
}
