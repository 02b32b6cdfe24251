//! Connects the processes of a chat through the publish/subscribe of a Redis server.
//!
//! Each process publishes the lines of its guests, and subscribes to those of all others. A guest
//! gets the lines of the own process at once, whatever the state of the backplane. Redis does not
//! repeat what was published while a process had no subscription, so the processes compare the
//! numbers of lines, and report to their guests how many were missed.
//!
//! A chosen name is a key with an expiry, which its process renews. While the server cannot be
//! reached, names are unique in each process only.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use reveille::io::EventFdSource;
use reveille::{EventLoop, LoopHandle, TimerId};

use crate::hub::{Hub, NOT_CONNECTED};
use crate::outbox::{Order, Outbox};
use crate::published::{Content, Numbers, Published};
use crate::redis::session::Redis;
use crate::redis::subscription::{Event, Subscription};

const CHANNEL: &str = "reveille-chat";

/// The time for a reply, and for a sign of the subscription.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The time without a connection after the start of the process that is not reported.
const FIRST_TIME: Duration = Duration::from_secs(1);

/// The time between two messages with the number of the last line.
const NUMBER_EVERY: Duration = Duration::from_secs(2);

/// The time between two renewals of the names, and their expiry in seconds.
const RENEW_EVERY: Duration = Duration::from_secs(20);
const EXPIRY: &str = "60";

/// The time for the last lines to be published.
const LAST_TIME: Duration = Duration::from_secs(2);

/// The maximum number of requests without a reply. Further lines are not published, and missed.
const MAX_IN_FLIGHT: usize = 20_000;

/// Belongs to one loop.
pub(crate) struct Backplane {
    shared: Rc<Shared>,
    _subscription: Subscription,
    _orders: EventFdSource,
    timers: [TimerId; 3],
}

struct Shared {
    hub: Arc<Hub>,
    redis: Redis,
    event_loop: LoopHandle,
    in_flight: Cell<usize>,
    /// The loop quits when nothing is in flight.
    is_ending: Cell<bool>,
}

impl Backplane {
    /// Connects in the background, for as long as it takes. `hub` must have an outbox.
    pub(crate) fn new(event_loop: &EventLoop, target: &str, hub: &Arc<Hub>) -> io::Result<Backplane> {
        let outbox = hub.outbox().ok_or(io::ErrorKind::InvalidInput)?;
        let eventfd = outbox.eventfd()?;
        let shared = Rc::new(Shared {
            hub: Arc::clone(hub),
            redis: Redis::connect(event_loop, target, u32::MAX, TIMEOUT, |_, _| ())?,
            event_loop: event_loop.handle(),
            in_flight: Cell::default(),
            is_ending: Cell::default(),
        });
        let mut receiver = Receiver { hub: Arc::clone(hub), numbers: Numbers::default() };
        let renewing = Rc::clone(&shared);
        let on_event = move |_: &EventLoop, event: Event<'_>| {
            let is_new = matches!(event, Event::Subscribed);
            receiver.on_event(event);
            if is_new {
                // A server that was restarted has no names.
                renewing.renew_names(true);
            }
        };
        let subscription =
            Subscription::new(event_loop, target, CHANNEL, u32::MAX, TIMEOUT, on_event, |_, _| ())?;
        let taking = Rc::clone(&shared);
        let orders = eventfd.watch(event_loop, move |_, _| taking.take_orders())?;
        let (numbering, waiting, renewing) = (Arc::clone(hub), Arc::clone(hub), Rc::clone(&shared));
        let server = target.to_owned();
        let timers = [
            event_loop.run_every(NUMBER_EVERY, move |_| {
                if let Some(outbox) = numbering.outbox().filter(|outbox| outbox.is_connected()) {
                    outbox.publish(Content::Number);
                }
            }),
            event_loop.run_every(RENEW_EVERY, move |_| renewing.renew_names(false)),
            event_loop.run_after(FIRST_TIME, move |_| {
                if waiting.outbox().is_some_and(Outbox::give_up_waiting) {
                    log::warn!("the backplane: there is no connection to {server} yet");
                    waiting.announce(NOT_CONNECTED);
                }
            }),
        ];
        Ok(Backplane { shared, _subscription: subscription, _orders: orders, timers })
    }

    /// Quits the loop when all lines have been published, or after a time.
    pub(crate) fn finish(&self, event_loop: &EventLoop) {
        for timer in self.timers {
            event_loop.cancel(timer);
        }
        self.shared.is_ending.set(true);
        self.shared.take_orders();
        self.shared.quit_if_done();
        event_loop.run_after(LAST_TIME, EventLoop::quit);
    }
}

impl Shared {
    fn outbox(&self) -> &Outbox {
        self.hub.outbox().expect("checked when the backplane was created")
    }

    /// Sends what waits. Without a subscription it stays in the outbox: the other processes are
    /// likely to be without one too.
    fn take_orders(self: &Rc<Shared>) {
        if !self.outbox().is_connected() {
            return;
        }
        for order in self.outbox().take() {
            match order {
                Order::Publish(message) => self.request(&["PUBLISH", CHANNEL, &message], |_| ()),
                Order::Release(name) => self.request(&["DEL", &key(&name)], |_| ()),
                Order::Claim(name, reply) => {
                    let owner = self.owner();
                    // The reply to a key that exists is not a status. An error leaves the name to
                    // the guest: the server cannot be reached.
                    let command = ["SET", &key(&name), &owner, "NX", "EX", EXPIRY];
                    self.request(&command, move |result| reply(result.is_none_or(|reply| reply == "OK")));
                }
            }
        }
    }

    /// `callback` gets the text of the reply, unless the request has failed.
    fn request(self: &Rc<Shared>, command: &[&str], callback: impl FnOnce(Option<String>) + 'static) {
        if self.in_flight.get() >= MAX_IN_FLIGHT {
            callback(None);
            return;
        }
        self.in_flight.set(self.in_flight.get() + 1);
        let this = Rc::clone(self);
        self.redis.request(command, move |result| {
            this.in_flight.set(this.in_flight.get() - 1);
            match result {
                Ok(reply) if !reply.is_error() => callback(Some(reply.to_string())),
                Ok(reply) => {
                    log::error!("the backplane: {reply}");
                    callback(None);
                }
                Err(error) => {
                    log::warn!("the backplane: {error}");
                    callback(None);
                }
            }
            this.quit_if_done();
        });
    }

    fn quit_if_done(&self) {
        if self.is_ending.get() && self.in_flight.get() == 0 {
            self.event_loop.quit();
        }
    }

    /// Reports names that another process uses too, if the connection is new: there was none to
    /// reserve them.
    fn renew_names(self: &Rc<Shared>, is_new: bool) {
        if !self.outbox().is_connected() {
            return;
        }
        let owner = self.owner();
        for name in self.hub.names() {
            let key = key(&name);
            let command = ["SET", &key, &owner, "EX", EXPIRY, "GET"];
            if !is_new {
                self.request(&command[..5], |_| ());
                continue;
            }
            // The reply is the previous value.
            let (hub, own) = (Arc::clone(&self.hub), format!("\"{owner}\""));
            self.request(&command, move |previous| {
                if previous.is_some_and(|previous| previous != "nil" && previous != own) {
                    hub.announce(&format!("* the name {name} is in use on another server too"));
                }
            });
        }
    }

    /// The value of the keys of this process.
    fn owner(&self) -> String {
        format!("{:016x}", self.outbox().origin.0)
    }
}

fn key(name: &str) -> String {
    format!("{CHANNEL}:name:{name}")
}

/// Passes the lines of the other processes on.
struct Receiver {
    hub: Arc<Hub>,
    numbers: Numbers,
}

impl Receiver {
    fn on_event(&mut self, event: Event<'_>) {
        let hub = Arc::clone(&self.hub);
        let Some(outbox) = hub.outbox() else { return };
        match event {
            Event::Subscribed => {
                let was_lost = outbox.connect();
                // The others reply with their numbers, which shows what was missed.
                outbox.publish(Content::Hello);
                if was_lost {
                    self.hub.announce("* connected with the other servers");
                }
            }
            Event::Lost => {
                outbox.disconnect().into_iter().for_each(|reply| reply(true));
                self.hub.announce("* the connection with the other servers is lost");
            }
            Event::Refused(error) => log::error!("the Redis server refuses the subscription: {error}"),
            Event::Message(bytes) => match Published::decode(bytes) {
                Some(message) if message.origin == outbox.origin => {}
                Some(message) => self.on_message(outbox, message),
                None => log::warn!("an unknown message on {CHANNEL}: {}", bytes.escape_ascii()),
            },
        }
    }

    fn on_message(&mut self, outbox: &Outbox, message: Published) {
        let observed = self.numbers.observe(&message);
        match observed.missed {
            0 => {}
            1 => self.hub.announce("* 1 line of another server was missed"),
            missed => self.hub.announce(&format!("* {missed} lines of another server were missed")),
        }
        if message.content == Content::Hello {
            outbox.publish(Content::Number);
        } else if !observed.is_repeated {
            if let Err(error) = self.hub.receive(message.content) {
                log::warn!("a line of another server was not sent to all: {error}");
            }
        }
    }
}
