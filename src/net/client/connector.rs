//! `Connector`: resolves, connects to one address after another, backs off and retries.
//!
//! The client is a state machine over the phases of [`Phase`]. Each step runs directly on the loop
//! (in an internal task, a timer or a source), while no callback is running. So every step may call
//! user code.
//!
//! Only [`Connector::stop`] is called from inside callbacks. It enters the last phase and removes
//! every source and timer that could call back; nothing happens after it. For that, each phase
//! keeps the ids of its source and timers. Each step that has called user code checks the phase
//! again.

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

pub(in crate::net) use self::waiting::QueueLimits;
use self::waiting::WaitingQueue;
use super::attempt::{ConnectAttempt, ConnectError, ConnectFailure};
use super::backoff::{self, Backoff};
use super::lookup::look_up;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::{Contained, logger};
use crate::event_loop::{EventLoop, TimerId};
use crate::net::address::{Address, AddressError};
use crate::net::connection::driver::{Dialer, Waiting};
use crate::net::connection::{ConnectionHandle, PendingConnection, TcpConnection};
use crate::net::group::admission::AdmissionGuard;
use crate::net::group::{Group, Stage};
use crate::net::options::SocketOptions;
use crate::net::result::CloseReason;
use crate::net::sys::stream;
use crate::net::target::{ConnectTarget, Endpoint, with_zone};

/// Creates a connection from a connecting socket. Hides the type of the handler.
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
    pub(in crate::net) queue: QueueLimits,
}

/// The target of a client, or why there is none. The client then fails with its first attempt.
pub(in crate::net) type Target = Result<ConnectTarget, AddressError>;

/// The state of a client.
enum Phase {
    /// Between two steps: an internal task for the next one is queued or about to be.
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
    /// Whether the handler of a session is, or contains, a handler of a type.
    has_handler: fn(TypeId) -> bool,
    /// The pending lookup. It is kept after its time-out, so that a slow lookup is not started
    /// twice.
    lookup: Cell<Option<ChannelId>>,
    /// The addresses that this round has not tried yet, in order.
    untried: RefCell<VecDeque<Address>>,
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
            has_handler,
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

    /// Starts the first round. May be called from inside a callback.
    pub(in crate::net) fn start(self: &Rc<Self>, event_loop: &EventLoop) {
        self.queue_step(event_loop, Connector::begin_round);
    }

    /// Aborts the client in any phase. An open session is closed with its `on_close`; no other
    /// callback is called from then on.
    pub(in crate::net) fn stop(&self, event_loop: &EventLoop) {
        match self.phase.replace(Phase::Ended) {
            Phase::Between | Phase::Ended => {}
            Phase::LookingUp { timer } | Phase::Waiting { timer } => _ = event_loop.cancel(timer),
            Phase::Connecting { id, timer, .. } => {
                event_loop.cancel(timer);
                event_loop.remove(id);
            }
            Phase::Open { .. } => self.group.advance(Stage::Aborting),
        }
        self.release(event_loop);
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
            Phase::Between | Phase::Connecting { .. } => "connecting",
            Phase::LookingUp { .. } => "looking up",
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
        self.rounds.set(self.rounds.get().saturating_add(1));
        self.failures.borrow_mut().clear();
        // A round that led to a session may have left untried addresses.
        self.untried.borrow_mut().clear();
        let target = match &self.target {
            Ok(target) => target,
            Err(error) => return self.fail(event_loop, None, error.reason()),
        };
        match target.endpoint() {
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
        }
    }

    fn look_up(self: &Rc<Self>, event_loop: &EventLoop, host: &str, port: u16) {
        if self.lookup.get().is_none() {
            let this = Rc::clone(self);
            match look_up(event_loop, host, port, move |event_loop, response| {
                this.looked_up(event_loop, response)
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

    fn looked_up(self: &Rc<Self>, event_loop: &EventLoop, response: io::Result<Vec<SocketAddr>>) {
        self.lookup.set(None);
        let Phase::LookingUp { timer } = *self.phase.borrow() else {
            return; // The round that requested it has timed out.
        };
        event_loop.cancel(timer);
        self.enter(Phase::Between);
        match response {
            Ok(addresses) if addresses.is_empty() => {
                let error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
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
                let (this, target) = (Rc::clone(self), address.clone());
                let timer = event_loop.run_after(self.settings.timeout, move |event_loop| {
                    event_loop.remove(id);
                    this.fail(event_loop, Some(target), this.timed_out("not connected"));
                });
                self.enter(Phase::Connecting { id, address, timer });
            }
        }
    }

    fn dial(self: &Rc<Self>, event_loop: &EventLoop, address: &Address) -> io::Result<ChannelId> {
        let dial = self.dial.borrow().clone().expect("kept until the client has ended");
        let fd = stream::connect_to(address, self.settings.local, &self.settings.options)?;
        let membership = self.group.join(0, AdmissionGuard::default());
        let pending = PendingConnection { fd, peer: address.clone(), membership };
        dial(event_loop, pending, Rc::clone(self) as Rc<dyn Dialer>)
    }

    fn timed_out(&self, what: &str) -> io::Error {
        let message = format!("{what} within {:?}", self.settings.timeout);
        io::Error::new(io::ErrorKind::TimedOut, message)
    }

    /// Records a failed attempt, whose timer and source have been removed already, and continues
    /// with the next address.
    fn fail(self: &Rc<Self>, event_loop: &EventLoop, address: Option<Address>, error: io::Error) {
        self.enter(Phase::Between);
        self.report(event_loop, address.as_ref(), Err(&error));
        self.failures.borrow_mut().push(ConnectFailure { address, error });
        self.queue_step(event_loop, Connector::try_next);
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
            self.release(event_loop);
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
        let timer = event_loop.run_after(delay, move |event_loop| this.begin_round(event_loop));
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
        self.release(event_loop);
    }

    fn session_ended(self: &Rc<Self>, event_loop: &EventLoop, lasted: Duration) {
        if !self.settings.reconnect {
            self.enter(Phase::Ended);
            return self.release(event_loop);
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
    fn release(&self, event_loop: &EventLoop) {
        if let Some(lookup) = self.lookup.take() {
            event_loop.remove(lookup);
        }
        let released = (self.dial.take(), self.on_attempt.take(), self.on_failure.take());
        drop(released);
        self.waiting.release();
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

    fn on_opened(&self) -> VecDeque<Waiting> {
        self.waiting.is_session_ready.set(true);
        self.waiting.take()
    }

    fn on_end(self: Rc<Self>, event_loop: &EventLoop, reason: Contained<CloseReason>) {
        self.waiting.is_session_ready.set(false);
        match self.phase.replace(Phase::Between) {
            // A client whose loop ends reports nothing itself.
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
            // The session was open when the client was stopped.
            phase => self.enter(phase),
        }
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
