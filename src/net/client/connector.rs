//! Makes a client's connection: looks up, tries one address after the other, waits, tries again.
//!
//! All of it is a walk through the phases of [`Phase`]. Each step is taken from the loop itself (an errand, a timer, a source),
//! with no callback under way, so the user's code can be called from every one of them. Only [`Connector::stop`] comes from
//! inside callbacks; it moves to the last phase, takes away what would call back, and is then the last that happens. That is why
//! a phase keeps the names of what is under way in it, and why it is looked at again whenever the user's code has been called.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attempt::{ConnectAttempt, ConnectError, ConnectFailure};
use super::backoff::{self, Backoff};
use super::lookup::look_up;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::{EventLoop, TimerId};
use crate::net::address::Address;
use crate::net::connection::driver::Dialer;
use crate::net::connection::{ConnectionHandle, PendingConnection, TcpConnection};
use crate::net::group::admission::AdmissionGuard;
use crate::net::group::{Group, Stage};
use crate::net::options::SocketOptions;
use crate::net::result::CloseReason;
use crate::net::sys::stream;
use crate::net::target::{ConnectTarget, Endpoint, with_zone};

/// Makes a connection, of a handler's type that is not known here, of a socket that is being connected.
pub(in crate::net) type Dial = dyn Fn(&EventLoop, PendingConnection, Rc<dyn Dialer>) -> io::Result<ChannelId>;

pub(in crate::net) type OnAttempt = Contained<Box<dyn FnMut(&EventLoop, &ConnectAttempt<'_>)>>;
pub(in crate::net) type OnFailure = Contained<Box<dyn FnOnce(&EventLoop, ConnectError)>>;

#[derive(Debug)]
pub(in crate::net) struct Settings {
    pub(in crate::net) timeout: Duration,
    pub(in crate::net) retry: Option<Backoff>,
    pub(in crate::net) reconnect: bool,
    pub(in crate::net) local: Option<SocketAddr>,
    pub(in crate::net) options: SocketOptions,
}

/// What is under way.
enum Phase {
    /// A step has been taken, and an errand for the next one is on its way, or about to be.
    Between,
    LookingUp {
        timer: TimerId,
    },
    Connecting {
        id: ChannelId,
        address: Address,
        timer: TimerId,
    },
    Open {
        handle: ConnectionHandle,
        since: Instant,
    },
    /// Until the next round.
    Waiting {
        timer: TimerId,
    },
    /// Stopped, or failed for good, or the session is over and was to be the only one.
    Over,
}

pub(in crate::net) struct Connector {
    target: ConnectTarget,
    settings: Settings,
    group: Arc<Group>,
    phase: RefCell<Phase>,
    /// A lookup that has not been answered. It outlives its timeout, so that one which is slow is not begun twice.
    lookup: Cell<Option<ChannelId>>,
    /// The addresses that this round has not tried yet.
    untried: RefCell<VecDeque<Address>>,
    /// Of this round.
    failures: RefCell<Vec<ConnectFailure>>,
    /// Rounds since the beginning, or since the last session.
    rounds: Cell<u32>,
    /// Delays since the beginning, or since the last session that lasted.
    delays: Cell<u32>,
    /// What is the user's, given up when all is over.
    dial: RefCell<Option<Rc<Dial>>>,
    on_attempt: Cell<Option<OnAttempt>>,
    on_failure: Cell<Option<OnFailure>>,
}

impl Connector {
    pub(in crate::net) fn new(
        target: ConnectTarget,
        settings: Settings,
        group: Arc<Group>,
        dial: Rc<Dial>,
        on_attempt: Option<OnAttempt>,
        on_failure: Option<OnFailure>,
    ) -> Rc<Connector> {
        Rc::new(Connector {
            target,
            settings,
            group,
            phase: RefCell::new(Phase::Between),
            lookup: Cell::new(None),
            untried: RefCell::default(),
            failures: RefCell::default(),
            rounds: Cell::new(0),
            delays: Cell::new(0),
            dial: RefCell::new(Some(dial)),
            on_attempt: Cell::new(on_attempt),
            on_failure: Cell::new(on_failure),
        })
    }

    /// Begins, from inside a callback or not.
    pub(in crate::net) fn start(self: &Rc<Self>, event_loop: &EventLoop) {
        self.queue_step(event_loop, Connector::begin_round);
    }

    /// Ends whatever is under way. An open session is closed, and told so; apart from that nobody is called any more.
    pub(in crate::net) fn stop(&self, event_loop: &EventLoop) {
        match self.phase.replace(Phase::Over) {
            Phase::Between | Phase::Over => {}
            Phase::LookingUp { timer } | Phase::Waiting { timer } => _ = event_loop.cancel(timer),
            Phase::Connecting { id, timer, .. } => {
                event_loop.cancel(timer);
                event_loop.remove(id);
            }
            Phase::Open { .. } => self.group.advance(Stage::Aborting),
        }
        self.release(event_loop);
    }

    /// The handle of the session that is open.
    pub(in crate::net) fn handle(&self) -> Option<ConnectionHandle> {
        match &*self.phase.borrow() {
            Phase::Open { handle, .. } if handle.is_open() => Some(handle.clone()),
            _ => None,
        }
    }

    pub(in crate::net) fn target(&self) -> &str {
        self.target.text()
    }

    pub(in crate::net) fn phase_name(&self) -> &'static str {
        match *self.phase.borrow() {
            Phase::Between | Phase::Connecting { .. } => "connecting",
            Phase::LookingUp { .. } => "looking up",
            Phase::Open { .. } => "open",
            Phase::Waiting { .. } => "waiting",
            Phase::Over => "over",
        }
    }

    fn enter(&self, phase: Phase) {
        *self.phase.borrow_mut() = phase;
    }

    fn is_over(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Over)
    }

    /// Has `step` taken in phase 5, by when the descriptors of the last one are closed; unless all is over by then.
    fn queue_step(self: &Rc<Self>, event_loop: &EventLoop, step: fn(&Rc<Self>, &EventLoop)) {
        let this = Rc::clone(self);
        event_loop.queue_internal(move |event_loop| {
            if !this.is_over() {
                step(&this, event_loop);
            }
        });
    }

    fn begin_round(self: &Rc<Self>, event_loop: &EventLoop) {
        self.rounds.set(self.rounds.get().saturating_add(1));
        self.failures.borrow_mut().clear();
        // A round that has ended in a session has not come to the last of its addresses.
        self.untried.borrow_mut().clear();
        match self.target.endpoint() {
            Endpoint::Host(host, port) => self.look_up(event_loop, host, *port),
            Endpoint::Addresses(addresses) => {
                *self.untried.borrow_mut() = addresses.iter().cloned().collect();
                self.try_next(event_loop);
            }
            Endpoint::Zoned(address, zone, port) => match with_zone(*address, zone, *port) {
                Ok(address) => {
                    *self.untried.borrow_mut() = VecDeque::from([address]);
                    self.try_next(event_loop);
                }
                Err(error) => self.fail(event_loop, None, error),
            },
            // Refused by the builder.
            Endpoint::Invalid(_) => self.give_up(event_loop),
        }
    }

    fn look_up(self: &Rc<Self>, event_loop: &EventLoop, host: &str, port: u16) {
        if self.lookup.get().is_none() {
            let this = Rc::clone(self);
            match look_up(event_loop, host, port, move |event_loop, answer| {
                this.looked_up(event_loop, answer)
            }) {
                Ok(id) => self.lookup.set(Some(id)),
                Err(error) => return self.fail(event_loop, None, error),
            }
        }
        let this = Rc::clone(self);
        let timer = event_loop.run_after(self.settings.timeout, move |event_loop| {
            let error = this.timed_out("the name could not be looked up");
            this.fail(event_loop, None, error);
        });
        self.enter(Phase::LookingUp { timer });
    }

    fn looked_up(self: &Rc<Self>, event_loop: &EventLoop, answer: io::Result<Vec<SocketAddr>>) {
        self.lookup.set(None);
        let Phase::LookingUp { timer } = *self.phase.borrow() else {
            return; // Too late for the round that has asked.
        };
        event_loop.cancel(timer);
        self.enter(Phase::Between);
        match answer {
            Ok(addresses) if addresses.is_empty() => {
                let error = io::Error::new(io::ErrorKind::NotFound, "the name stands for no address");
                self.fail(event_loop, None, error);
            }
            Ok(addresses) => {
                *self.untried.borrow_mut() = addresses.into_iter().map(Address::Inet).collect();
                self.try_next(event_loop);
            }
            Err(error) => self.fail(event_loop, None, error),
        }
    }

    fn try_next(self: &Rc<Self>, event_loop: &EventLoop) {
        let address = self.untried.borrow_mut().pop_front();
        let Some(address) = address else { return self.end_round(event_loop) };
        match self.dial(event_loop, &address) {
            Err(error) => self.fail(event_loop, Some(address), error),
            Ok(id) => {
                let (this, silent) = (Rc::clone(self), address.clone());
                let timer = event_loop.run_after(self.settings.timeout, move |event_loop| {
                    event_loop.remove(id);
                    this.fail(event_loop, Some(silent), this.timed_out("no answer"));
                });
                self.enter(Phase::Connecting { id, address, timer });
            }
        }
    }

    fn dial(self: &Rc<Self>, event_loop: &EventLoop, address: &Address) -> io::Result<ChannelId> {
        let dial = self.dial.borrow().clone().expect("kept until all is over");
        let fd = stream::connect_to(address, self.settings.local, &self.settings.options)?;
        let membership = self.group.join(0, AdmissionGuard::default());
        let arrival = PendingConnection { fd, peer: address.clone(), membership };
        dial(event_loop, arrival, Rc::clone(self) as Rc<dyn Dialer>)
    }

    fn timed_out(&self, what: &str) -> io::Error {
        let message = format!("{what} within {:?}", self.settings.timeout);
        io::Error::new(io::ErrorKind::TimedOut, message)
    }

    /// An attempt has failed, and nothing of it is left.
    fn fail(self: &Rc<Self>, event_loop: &EventLoop, address: Option<Address>, error: io::Error) {
        self.enter(Phase::Between);
        self.report(event_loop, address.as_ref(), Err(&error));
        self.failures.borrow_mut().push(ConnectFailure { address, error });
        self.queue_step(event_loop, Connector::try_next);
    }

    fn report(&self, event_loop: &EventLoop, address: Option<&Address>, result: Result<(), &io::Error>) {
        let attempt = ConnectAttempt { address, round: self.rounds.get(), result };
        logger::call(|| log::debug!("{}: {attempt:?}", self.target.text()));
        let Some(mut on_attempt) = self.on_attempt.take() else { return };
        event_loop.catch("a client's on_attempt", || on_attempt(event_loop, &attempt));
        self.on_attempt.set(Some(on_attempt));
        if self.is_over() {
            self.release(event_loop);
        }
    }

    /// All addresses have been tried, in vain.
    fn end_round(self: &Rc<Self>, event_loop: &EventLoop) {
        match self.settings.retry {
            Some(backoff) if backoff.allows(self.rounds.get() - 1) => self.wait(event_loop, backoff),
            _ => self.give_up(event_loop),
        }
    }

    fn wait(self: &Rc<Self>, event_loop: &EventLoop, backoff: Backoff) {
        let delay = backoff.delay(self.delays.get(), backoff::random());
        self.delays.set(self.delays.get().saturating_add(1));
        let this = Rc::clone(self);
        let timer = event_loop.run_after(delay, move |event_loop| this.begin_round(event_loop));
        self.enter(Phase::Waiting { timer });
        logger::call(|| log::debug!("{}: trying again in {delay:?}", self.target.text()));
    }

    fn give_up(&self, event_loop: &EventLoop) {
        self.enter(Phase::Over);
        let error = ConnectError::new(self.target.text().to_owned(), self.rounds.get(), self.failures.take());
        match self.on_failure.take() {
            None => logger::recurring("a client that gives up", |left_out| log::warn!("{error}{left_out}")),
            Some(on_failure) => {
                event_loop.catch("a client's on_failure", || on_failure.into_inner()(event_loop, error));
            }
        }
        self.release(event_loop);
    }

    fn session_ended(self: &Rc<Self>, event_loop: &EventLoop, lasted: Duration) {
        if !self.settings.reconnect {
            self.enter(Phase::Over);
            return self.release(event_loop);
        }
        let backoff = self.settings.retry.unwrap_or_default();
        // A server that takes connections and closes them at once is no better than one that is not there.
        if lasted >= backoff.settled_after() {
            self.delays.set(0);
        }
        self.rounds.set(0);
        self.wait(event_loop, backoff);
    }

    /// Gives up what is the user's, which may well hold the client itself.
    fn release(&self, event_loop: &EventLoop) {
        if let Some(lookup) = self.lookup.take() {
            event_loop.remove(lookup);
        }
        let released = (self.dial.take(), self.on_attempt.take(), self.on_failure.take());
        drop(released);
    }
}

impl Dialer for Connector {
    fn on_connected(&self, conn: &TcpConnection<'_>) {
        let event_loop = conn.event_loop();
        let phase = self.phase.replace(Phase::Between);
        let Phase::Connecting { timer, address, .. } = phase else {
            self.enter(phase);
            return conn.close();
        };
        event_loop.cancel(timer);
        self.enter(Phase::Open { handle: conn.handle(), since: event_loop.now() });
        self.report(event_loop, Some(&address), Ok(()));
    }

    fn on_end(self: Rc<Self>, event_loop: &EventLoop, reason: Contained<CloseReason>) {
        match self.phase.replace(Phase::Between) {
            // A client ends with its loop, without a word of its own.
            _ if matches!(*reason, CloseReason::LoopEnded) => self.stop(event_loop),
            Phase::Connecting { address, timer, .. } => {
                event_loop.cancel(timer);
                let error = match reason.into_inner() {
                    CloseReason::Error(error) => error,
                    reason => io::Error::other(reason.to_string()),
                };
                self.fail(event_loop, Some(address), error);
            }
            Phase::Open { since, .. } => {
                self.session_ended(event_loop, event_loop.now().saturating_duration_since(since));
            }
            // The end of a session that was open when all was stopped.
            phase => self.enter(phase),
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("target", &self.target)
            .field("settings", &self.settings)
            .field("phase", &self.phase_name())
            .finish_non_exhaustive()
    }
}
