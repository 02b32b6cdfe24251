//! Channels: the slot table, and the dispatch of readiness.

use std::hint::black_box;
use std::rc::Rc;

use reveille::io::{Channel, ChannelEvent, Interest};
use reveille::{EventFd, EventLoop};

use crate::workload::{OPERATIONS, Round, in_turn, new_loop, turn};

/// The channel does not own its descriptor, so none is opened or closed.
pub(crate) fn register_and_remove() -> Round {
    let event_loop = new_loop(EventLoop::builder());
    let eventfd = Rc::new(EventFd::new(0).expect("an eventfd"));
    Box::new(move || {
        let eventfd = Rc::clone(&eventfd);
        in_turn(&event_loop, move |event_loop| {
            for _ in 0..OPERATIONS {
                let watched = Rc::clone(&eventfd);
                let channel = Channel::new(event_loop, watched, Interest::READABLE, |_| ());
                channel.expect("a channel").close();
            }
        });
    })
}

/// A hundred channels are readable in every turn.
pub(crate) fn dispatch_readiness() -> Round {
    const CHANNELS: usize = 100;
    let event_loop = new_loop(EventLoop::builder());
    for _ in 0..CHANNELS {
        let eventfd = EventFd::new(1).expect("an eventfd");
        let on_event = |event: &ChannelEvent<'_, EventFd>| _ = black_box(event.readiness());
        Channel::new(&event_loop, eventfd, Interest::READABLE, on_event).expect("a channel").detach();
    }
    Box::new(move || {
        for _ in 0..OPERATIONS / CHANNELS {
            turn(&event_loop);
        }
    })
}
