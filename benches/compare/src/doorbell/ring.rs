//! Messages through a shared ring: on a loop at both ends, or with two ends that never sleep.

use std::cell::RefCell;
use std::hint::spin_loop;
use std::io::stdin;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use reveille::EventLoop;
use reveille::io::{Channel, Interest};
use reveille::ipc::{Doorbell, RingHandler, RingRef, RingSendError, SharedRing};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::passing::{Peer, pass, take};
use super::{CAPACITY, MESSAGE, Task, Trips};
use crate::Result;

/// Control message: ends the stream, and reports that the peer is ready.
const CONTROL: [u8; 1] = [1];

/// A peer that takes longer counts as hung.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the child until the socket is closed.
pub(super) fn be_peer(doorbell: Doorbell, task: Task) -> Result<()> {
    let ring = SharedRing::from_descriptors_with(take(stdin().as_fd())?, CAPACITY, doorbell)?;
    let event_loop = EventLoop::new()?;
    let mut count = 0_u64;
    let source = ring.watch(&event_loop, move |ring, message| {
        let sent = match (task, message.len()) {
            (Task::Count, MESSAGE) => {
                count += 1;
                Ok(())
            }
            (Task::Count, _) => ring.send(count.to_ne_bytes()),
            (Task::Echo, _) => ring.send(message),
        };
        sent.expect("capacity for all messages in flight");
    })?;
    source.send(CONTROL)?;
    let _channel =
        Channel::new(&event_loop, stdin().as_fd().try_clone_to_owned()?, Interest::READABLE, |event| {
            event.event_loop().quit();
        })?;
    Ok(event_loop.run()?)
}

/// Runs the child that never sleeps.
pub(super) fn be_peer_awake(task: Task) -> Result<()> {
    let mut ring = SharedRing::from_descriptors(take(stdin().as_fd())?, CAPACITY)?;
    ring.send(CONTROL)?;
    let mut message = Vec::new();
    let (mut count, mut looks) = (0_u64, 0_u64);
    loop {
        if !ring.receive(&mut message)? {
            spin_loop();
            looks += 1;
            if looks % 10_000 == 0 && is_readable(stdin())? {
                return Ok(());
            }
        } else if task == Task::Echo {
            ring.send(&message)?;
        } else if message.len() == MESSAGE {
            count += 1;
        } else {
            ring.send(count.to_ne_bytes())?;
        }
    }
}

fn is_readable(fd: impl AsFd) -> Result<bool> {
    const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&NOW))? > 0)
}

/// Creates this end, and sends the peer's end to it.
fn offer(peer: &Peer, doorbell: Doorbell) -> Result<SharedRing> {
    let (ring, descriptors) = SharedRing::create_with(CAPACITY, doorbell)?;
    pass(peer.socket(), &descriptors)?;
    Ok(ring)
}

/// Serves the ring with `handler` until it quits the loop, or until the timeout.
fn serve(peer: &Peer, doorbell: Doorbell, handler: impl RingHandler) -> Result<()> {
    let event_loop = EventLoop::new()?;
    let _source = offer(peer, doorbell)?.serve(&event_loop, handler)?;
    Ok(event_loop.run_for(TIMEOUT)?)
}

/// Sends until the time is up, then requests the count of received messages.
struct Flood {
    window: Duration,
    began: Option<Instant>,
    sent: u64,
    has_requested: bool,
    result: Rc<RefCell<Option<(u64, u64, Duration)>>>,
}

impl RingHandler for Flood {
    fn on_message(&mut self, ring: &RingRef<'_>, message: &[u8]) {
        match (self.began, message.try_into()) {
            (Some(began), Ok(count)) => {
                *self.result.borrow_mut() = Some((self.sent, u64::from_ne_bytes(count), began.elapsed()));
                ring.event_loop().quit();
            }
            _ => {
                self.began = Some(Instant::now());
                self.on_room(ring);
            }
        }
    }

    fn on_room(&mut self, ring: &RingRef<'_>) {
        let Some(began) = self.began.filter(|_| !self.has_requested) else { return };
        while self.sent % 64 != 0 || began.elapsed() < self.window {
            if ring.send([7; MESSAGE]).is_err() {
                return;
            }
            self.sent += 1;
        }
        self.has_requested = ring.send(CONTROL).is_ok();
    }
}

pub(super) fn flood(peer: &Peer, doorbell: Doorbell, window: Duration) -> Result<(u64, Duration)> {
    let result = Rc::default();
    let flood = Flood { window, began: None, sent: 0, has_requested: false, result: Rc::clone(&result) };
    serve(peer, doorbell, flood)?;
    counted(result.take().ok_or("the peer does not reply")?)
}

fn counted((sent, count, took): (u64, u64, Duration)) -> Result<(u64, Duration)> {
    if sent != count {
        return Err(format!("{sent} messages were sent, and {count} counted").into());
    }
    Ok((sent, took))
}

/// Keeps a fixed number of messages in flight.
struct Echo {
    in_flight: usize,
    window: Duration,
    out: usize,
    trips: Rc<RefCell<Option<Trips>>>,
}

impl RingHandler for Echo {
    fn on_message(&mut self, ring: &RingRef<'_>, message: &[u8]) {
        let mut trips = self.trips.borrow_mut();
        let Some(trips) = &mut *trips else {
            *trips = Some(Trips::begin(self.in_flight, self.window));
            for _ in 0..self.in_flight {
                ring.send([7; MESSAGE]).expect("capacity for all messages in flight");
            }
            self.out = self.in_flight;
            return;
        };
        assert!(message == [7; MESSAGE], "a returned message was altered");
        if trips.returned() {
            ring.send(message).expect("the space of the returned message");
        } else {
            self.out -= 1;
            if self.out == 0 {
                ring.event_loop().quit();
            }
        }
    }
}

pub(super) fn echo(peer: &Peer, doorbell: Doorbell, in_flight: usize, window: Duration) -> Result<Trips> {
    let trips = Rc::default();
    serve(peer, doorbell, Echo { in_flight, window, out: 0, trips: Rc::clone(&trips) })?;
    let trips: Option<Trips> = trips.take();
    Ok(trips.filter(|trips| !trips.took.is_zero()).ok_or("the peer does not reply")?)
}

/// Polls until there is a message.
fn receive(ring: &mut SharedRing, message: &mut Vec<u8>) -> Result<()> {
    let mut looks = 0_u64;
    while !ring.receive(message)? {
        spin_loop();
        looks += 1;
        if looks % 1_000_000_000 == 0 {
            return Err("the peer does not reply".into());
        }
    }
    Ok(())
}

pub(super) fn flood_awake(peer: &Peer, window: Duration) -> Result<(u64, Duration)> {
    let mut ring = offer(peer, Doorbell::default())?;
    let mut reply = Vec::new();
    receive(&mut ring, &mut reply)?;
    let began = Instant::now();
    let mut sent = 0_u64;
    while sent % 64 != 0 || began.elapsed() < window {
        send(&mut ring, &[7; MESSAGE])?;
        sent += 1;
    }
    send(&mut ring, &CONTROL)?;
    receive(&mut ring, &mut reply)?;
    let count = reply.as_slice().try_into().map_err(|_| "the reply is not a count")?;
    counted((sent, u64::from_ne_bytes(count), began.elapsed()))
}

/// Retries until there is space.
fn send(ring: &mut SharedRing, message: &[u8]) -> Result<()> {
    loop {
        match ring.send(message) {
            Err(RingSendError::Full) => spin_loop(),
            sent => return Ok(sent?),
        }
    }
}

pub(super) fn echo_awake(peer: &Peer, in_flight: usize, window: Duration) -> Result<Trips> {
    let mut ring = offer(peer, Doorbell::default())?;
    let mut message = Vec::new();
    receive(&mut ring, &mut message)?;
    let mut trips = Trips::begin(in_flight, window);
    for _ in 0..in_flight {
        ring.send([7; MESSAGE])?;
    }
    let mut out = in_flight;
    while out > 0 {
        receive(&mut ring, &mut message)?;
        if message != [7; MESSAGE] {
            return Err("a returned message was altered".into());
        }
        if trips.returned() {
            ring.send(&message)?;
        } else {
            out -= 1;
        }
    }
    Ok(trips)
}
