//! `Connector`: resolves, connects, backs off and retries.
//!
//! The client is a state machine over the phases of [`Phase`]. Each step runs directly on the loop
//! (in an internal task, a timer or a source), while no callback is running. So every step may call
//! user code.
//!
//! Only [`Connector::stop`] is called from inside callbacks. It enters the last phase and removes
//! every source and timer that could call back; nothing happens after it. For that, the connector
//! keeps the ids of its sources and timers. Each step that has called user code checks the phase
//! again.

mod idle;
mod race;
mod waiting;

use std::any::TypeId;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::race::Race;
pub(in crate::net) use self::waiting::QueueLimits;
use self::waiting::WaitingQueue;
use super::attempt::{ConnectAttempt, ConnectError, ConnectFailure};
use super::backoff::{self, Backoff};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::{EventLoop, TimerId};
use crate::net::address::{Address, AddressError};
use crate::net::connection::driver::{Dialer, Waiting};
use crate::net::connection::{ConnectionHandle, PendingConnection, TcpConnection};
use crate::net::group::{Group, Stage};
use crate::net::names::Service;
use crate::net::options::SocketOptions;
use crate::net::resolver::{Lookup, Resolver};
use crate::net::result::CloseReason;
use crate::net::target::{ConnectTarget, Endpoint, with_zone};

/// Creates a connection from a connecting socket. Hides the type of the handler.
pub(in crate::net) type Dial = dyn Fn(&EventLoop, PendingConnection, Rc<dyn Dialer>) -> io::Result<ChannelId>;

pub(in crate::net) type OnAttempt = Contained<Box<dyn FnMut(&EventLoop, &ConnectAttempt<'_>)>>;
pub(in crate::net) type OnFailure = Contained<Box<dyn FnOnce(&EventLoop, ConnectError)>>;

#[derive(Debug)]
pub(in crate::net) struct Settings {
    /// The time limit of a round.
    pub(in crate::net) timeout: Duration,
    /// The delay between the starts of two attempts.
    pub(in crate::net) attempt_delay: Duration,
    /// `None` for that of the process.
    pub(in crate::net) resolver: Option<Resolver>,
    pub(in crate::net) retry: Option<Backoff>,
    pub(in crate::net) reconnect: bool,
    pub(in crate::net) local: Option<SocketAddr>,
    pub(in crate::net) options: SocketOptions,
    pub(in crate::net) queue: QueueLimits,
}

/// The target of a client, or why there is none. The client then fails with its first attempt.
pub(in crate::net) type Target = Result<ConnectTarget, AddressError>;

/// The state of a client.
enum Phase {
    /// Between two steps: an internal task for the next one is queued or about to be.
    Between,
    LookingUp,
    /// At least one attempt is in progress.
    Connecting,
    Open {
        id: ChannelId,
        handle: ConnectionHandle,
        since: Instant,
    },
    /// Backing off until the next round.
    Waiting {
        timer: TimerId,
    },
    /// Stopped, failed finally, or ended with its session.
    Ended,
}

pub(in crate::net) struct Connector {
    target: Target,
    settings: Settings,
    group: Arc<Group>,
    phase: RefCell<Phase>,
    /// Sends and calls that wait for the next session.
    waiting: WaitingQueue,
    /// The client does not keep a loop running that runs until it is idle.
    excluded_from_idle: Cell<bool>,
    /// Whether the handler of a session is, or contains, a handler of a type.
    has_handler: fn(TypeId) -> bool,
    /// The end of the time limit of this round.
    limit: Cell<Option<TimerId>>,
    lookup: Cell<Option<Lookup>>,
    /// The addresses of this round.
    race: Race,
    /// The failures of this round.
    failures: RefCell<Vec<ConnectFailure>>,
    /// The number of rounds since the start or the last session.
    rounds: Cell<u32>,
    /// The number of delays since the start or the last session that lasted long enough
    /// ([`Backoff::reset_after`]).
    delays: Cell<u32>,
    /// This and the following fields own user code. They are dropped when the client has ended.
    dial: RefCell<Option<Rc<Dial>>>,
    on_attempt: Cell<Option<OnAttempt>>,
    on_failure: Cell<Option<OnFailure>>,
}

impl Connector {
    pub(in crate::net) fn new(
        target: Target,
        settings: Settings,
        group: Arc<Group>,
        has_handler: fn(TypeId) -> bool,
        dial: Rc<Dial>,
        on_attempt: Option<OnAttempt>,
        on_failure: Option<OnFailure>,
    ) -> Rc<Connector> {
        let waiting = WaitingQueue::new(settings.queue);
        Rc::new(Connector {
            target,
            settings,
            group,
            phase: RefCell::new(Phase::Between),
            waiting,
            excluded_from_idle: Cell::new(false),
            has_handler,
            limit: Cell::new(None),
            lookup: Cell::new(None),
            race: Race::default(),
            failures: RefCell::default(),
            rounds: Cell::new(0),
            delays: Cell::new(0),
            dial: RefCell::new(Some(dial)),
            on_attempt: Cell::new(on_attempt),
            on_failure: Cell::new(on_failure),
        })
    }

    /// Starts the first round. May be called from inside a callback.
    pub(in crate::net) fn start(self: &Rc<Self>, event_loop: &EventLoop) {
        self.queue_step(event_loop, Connector::begin_round);
    }

    /// Aborts the client in any phase. An open session is closed with its `on_close`; no other
    /// callback is called from then on.
    pub(in crate::net) fn stop(&self, event_loop: &EventLoop) {
        match self.phase.replace(Phase::Ended) {
            Phase::Between | Phase::LookingUp | Phase::Connecting | Phase::Ended => {}
            Phase::Waiting { timer } => _ = event_loop.cancel(timer),
            Phase::Open { .. } => self.group.advance(Stage::Aborting),
        }
        self.end_limit(event_loop);
        self.abandon(event_loop);
        self.release();
    }

    /// The handle of the open session.
    pub(in crate::net) fn handle(&self) -> Option<ConnectionHandle> {
        match &*self.phase.borrow() {
            Phase::Open { handle, .. } if handle.is_open() => Some(handle.clone()),
            _ => None,
        }
    }

    pub(in crate::net) fn target(&self) -> &str {
        target_text(&self.target)
    }

    pub(in crate::net) fn phase_name(&self) -> &'static str {
        match *self.phase.borrow() {
            Phase::Between | Phase::Connecting => "connecting",
            Phase::LookingUp => "looking up",
            Phase::Open { .. } => "open",
            Phase::Waiting { .. } => "waiting",
            Phase::Ended => "ended",
        }
    }

    fn enter(&self, phase: Phase) {
        *self.phase.borrow_mut() = phase;
    }

    fn has_ended(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Ended)
    }

    /// Whether a session can still be given what waits.
    fn expects_session(&self) -> bool {
        match &*self.phase.borrow() {
            Phase::Ended => false,
            Phase::Open { handle, .. } => handle.is_open() || self.settings.reconnect,
            _ => true,
        }
    }

    /// Queues `step` for phase 5 of the turn, when the descriptors of the previous step are closed.
    /// The step is skipped if the client has ended by then.
    fn queue_step(self: &Rc<Self>, event_loop: &EventLoop, step: fn(&Rc<Self>, &EventLoop)) {
        let this = Rc::clone(self);
        event_loop.queue_internal(move |event_loop| {
            if !this.has_ended() {
                step(&this, event_loop);
            }
        });
    }

    fn begin_round(self: &Rc<Self>, event_loop: &EventLoop) {
        self.enter(Phase::Between);
        self.rounds.set(self.rounds.get().saturating_add(1));
        self.failures.borrow_mut().clear();
        let this = Rc::clone(self);
        let limit =
            self.run_after(event_loop, self.settings.timeout, move |event_loop| this.on_limit(event_loop));
        self.limit.set(Some(limit));
        let target = match &self.target {
            Ok(target) => target,
            Err(error) => return self.fail(event_loop, None, error.reason()),
        };
        match target.endpoint() {
            Endpoint::Host(host, service) => self.look_up(event_loop, host, service),
            Endpoint::Addresses(addresses) => self.try_all(event_loop, addresses.iter().cloned()),
            Endpoint::Zoned(address, zone, port) => match with_zone(*address, zone, *port) {
                Ok(address) => self.try_all(event_loop, [address]),
                Err(error) => self.fail(event_loop, None, error),
            },
        }
    }

    fn look_up(self: &Rc<Self>, event_loop: &EventLoop, host: &str, service: &Service) {
        let this = Rc::clone(self);
        let then = move |event_loop: &EventLoop, found| this.looked_up(event_loop, found);
        let started = match &self.settings.resolver {
            Some(resolver) => resolver.lookup_host(host, service, then),
            None => Resolver::of_process(event_loop).lookup_host(host, service, then),
        };
        match started {
            Ok(lookup) => {
                self.count_lookup(&lookup);
                self.lookup.set(Some(lookup));
                self.enter(Phase::LookingUp);
            }
            Err(refused) => self.fail(event_loop, None, refused.into()),
        }
    }

    fn looked_up(self: &Rc<Self>, event_loop: &EventLoop, found: io::Result<Vec<SocketAddr>>) {
        self.lookup.take();
        self.enter(Phase::Between);
        match found {
            Ok(addresses) => {
                let addresses = race::interleave(addresses);
                self.try_all(event_loop, addresses.into_iter().map(Address::Inet));
            }
            Err(error) => self.fail(event_loop, None, error),
        }
    }

    /// The time limit of the round has passed.
    fn on_limit(self: &Rc<Self>, event_loop: &EventLoop) {
        self.limit.take();
        if self.lookup.take().is_some() {
            let error = self.timed_out("the name could not be looked up");
            return self.fail(event_loop, None, error);
        }
        for address in self.abandon(event_loop) {
            if self.has_ended() {
                return;
            }
            self.fail(event_loop, Some(address), self.timed_out("not connected"));
        }
    }

    fn end_limit(&self, event_loop: &EventLoop) {
        if let Some(limit) = self.limit.take() {
            event_loop.cancel(limit);
        }
    }

    fn timed_out(&self, what: &str) -> io::Error {
        let message = format!("{what} within {:?}", self.settings.timeout);
        io::Error::new(io::ErrorKind::TimedOut, message)
    }

    /// Records a failed attempt, whose source has been removed already. The next attempt starts at
    /// once.
    fn fail(self: &Rc<Self>, event_loop: &EventLoop, address: Option<Address>, error: io::Error) {
        self.enter(Phase::Between);
        self.report(event_loop, address.as_ref(), Err(&error));
        self.failures.borrow_mut().push(ConnectFailure { address, error });
        self.queue_attempt(event_loop);
    }

    fn report(&self, event_loop: &EventLoop, address: Option<&Address>, result: Result<(), &io::Error>) {
        let attempt = ConnectAttempt { address, round: self.rounds.get(), result };
        logger::call(|| match result {
            Ok(()) => log::debug!("connected to {}", self.name_of(address)),
            Err(error) => log::debug!("cannot connect to {}: {error}", self.name_of(address)),
        });
        let Some(mut on_attempt) = self.on_attempt.take() else { return };
        event_loop.catch("a client's on_attempt", || on_attempt(event_loop, &attempt));
        self.on_attempt.set(Some(on_attempt));
        if self.has_ended() {
            self.release();
        }
    }

    /// The target, with the address that was tried if they differ.
    fn name_of(&self, address: Option<&Address>) -> String {
        let target = self.target();
        match address.map(Address::to_string).filter(|address| address != target) {
            None => target.to_owned(),
            Some(address) => format!("{target} ({address})"),
        }
    }

    /// Backs off, or ends the client, after all addresses have failed.
    fn end_round(self: &Rc<Self>, event_loop: &EventLoop) {
        self.end_limit(event_loop);
        match self.settings.retry {
            // No attempt can succeed.
            Some(_) if self.target.is_err() => self.give_up(event_loop),
            Some(backoff) if backoff.allows(self.rounds.get() - 1) => self.back_off(event_loop, backoff),
            _ => self.give_up(event_loop),
        }
    }

    fn back_off(self: &Rc<Self>, event_loop: &EventLoop, backoff: Backoff) {
        let delay = backoff.delay(self.delays.get(), backoff::random());
        self.delays.set(self.delays.get().saturating_add(1));
        let this = Rc::clone(self);
        let timer = self.run_after(event_loop, delay, move |event_loop| this.begin_round(event_loop));
        self.enter(Phase::Waiting { timer });
        logger::call(|| log::debug!("{}: retrying in {delay:?}", self.target()));
    }

    fn give_up(&self, event_loop: &EventLoop) {
        self.enter(Phase::Ended);
        let (rounds, failures) = (self.rounds.get(), self.failures.take());
        let error = ConnectError::new(self.target().to_owned(), rounds, failures, self.waiting.len());
        match self.on_failure.take() {
            None => logger::recurring("a client that has failed", |left_out| log::warn!("{error}{left_out}")),
            Some(on_failure) => {
                event_loop.catch("a client's on_failure", || on_failure.into_inner()(event_loop, error));
            }
        }
        self.release();
    }

    fn session_ended(self: &Rc<Self>, event_loop: &EventLoop, lasted: Duration) {
        if !self.settings.reconnect {
            self.enter(Phase::Ended);
            return self.release();
        }
        let backoff = self.settings.retry.unwrap_or_default();
        // A server that accepts connections and closes them at once is as bad as an unreachable
        // one.
        if lasted >= backoff.reset_after() {
            self.delays.set(0);
        }
        self.rounds.set(0);
        self.back_off(event_loop, backoff);
    }

    /// Drops the user's closures, which may own the client itself.
    fn release(&self) {
        let lookup = self.lookup.take();
        let released = (self.dial.take(), self.on_attempt.take(), self.on_failure.take(), lookup);
        drop(released);
        self.waiting.release();
    }
}

impl Dialer for Connector {
    fn on_connected(&self, conn: &TcpConnection<'_>, id: ChannelId) {
        let event_loop = conn.event_loop();
        let Some(address) = self.race.take(id) else { return conn.close() };
        self.end_limit(event_loop);
        self.abandon(event_loop);
        self.enter(Phase::Open { id, handle: conn.handle(), since: event_loop.now() });
        self.report(event_loop, Some(&address), Ok(()));
    }

    fn reports_failures(&self) -> bool {
        true
    }

    fn on_opened(&self) -> VecDeque<Waiting> {
        self.waiting.is_session_ready.set(true);
        self.waiting.take()
    }

    fn on_end(self: Rc<Self>, event_loop: &EventLoop, ended: ChannelId, reason: Contained<CloseReason>) {
        self.waiting.is_session_ready.set(false);
        // A client whose loop ends reports nothing itself.
        if matches!(*reason, CloseReason::LoopEnded) {
            self.enter(Phase::Between);
            return self.stop(event_loop);
        }
        if let Some(address) = self.race.take(ended) {
            let error = match reason.into_inner() {
                CloseReason::Error(error) => error,
                reason => io::Error::other(reason.to_string()),
            };
            return self.fail(event_loop, Some(address), error);
        }
        let since = match &*self.phase.borrow() {
            Phase::Open { id, since, .. } if *id == ended => *since,
            // The session was open when the client was stopped.
            _ => return,
        };
        self.session_ended(event_loop, event_loop.now().saturating_duration_since(since));
    }
}

fn target_text(target: &Target) -> &str {
    match target {
        Ok(target) => target.text(),
        Err(error) => error.text(),
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
