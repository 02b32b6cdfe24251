//! The phases of the load: all guests enter the room, the senders write, the last lines arrive.

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reveille::codec::{Framed, LineCodec};
use reveille::net::SocketOptions;
use reveille::signal::{Signal, Signals};
use reveille::{EventLoop, TcpClient};

use crate::Arguments;
use crate::guest::{Guest, Role};

/// The number of guests who connect at the same time.
const CONNECTING: usize = 50;

/// The receive buffer of a guest who does not read, so that the kernel keeps few bytes of it.
const SMALL_BUFFER: usize = 4 << 10;

/// The extension of the time, see the usage.
const EXTENSION: Duration = Duration::from_secs(60);

/// The last phases end when nothing has happened for this time.
const PATIENCE: Duration = Duration::from_secs(15);

const LONGEST_LINE: usize = 2000;

/// Lines that are longer on their way count with this latency.
const LONGEST_LATENCY: u64 = 3_600_000_000;

pub(crate) struct Load {
    /// A room without a history, which would be taken for lines of this load.
    pub(crate) room: String,
    pub(crate) senders: usize,
    start: Instant,
    clients: RefCell<Vec<TcpClient>>,
    entered: Cell<usize>,
    sent: Cell<u64>,
    delivered: Cell<u64>,
    /// Lines that were not the next one of their sender.
    disordered: Cell<u64>,
    /// Guests who read, and whose connection has ended.
    pub(crate) lost: Cell<usize>,
    /// Guests whom the server has removed.
    pub(crate) removed: Cell<usize>,
    pub(crate) is_ending: Cell<bool>,
    /// Why the load could not begin.
    failure: RefCell<Option<io::Error>>,
    /// In microseconds.
    latencies: RefCell<Histogram<u64>>,
    bar: ProgressBar,
    arguments: Arguments,
}

/// Returns whether all lines were delivered.
pub(crate) fn run(arguments: Arguments) -> io::Result<bool> {
    let event_loop = EventLoop::new()?;
    let bar = if io::stderr().is_terminal() {
        ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr())
    } else {
        ProgressBar::hidden()
    };
    let style = ProgressStyle::with_template("{msg:10} {wide_bar} {pos}/{len}").map_err(io::Error::other)?;
    bar.set_style(style);
    let latencies = Histogram::new_with_max(LONGEST_LATENCY, 3).map_err(io::Error::other)?;
    let load = Rc::new(Load {
        room: format!("load-{}", std::process::id()),
        senders: arguments.senders,
        start: Instant::now(),
        clients: RefCell::default(),
        entered: Cell::default(),
        sent: Cell::default(),
        delivered: Cell::default(),
        disordered: Cell::default(),
        lost: Cell::default(),
        removed: Cell::default(),
        is_ending: Cell::default(),
        failure: RefCell::default(),
        latencies: RefCell::new(latencies),
        bar,
        arguments,
    });
    let _signals = Signals::new(&event_loop, [Signal::INT, Signal::TERM], |event_loop, _| event_loop.quit())?;
    load.bar.set_message("entering");
    load.bar.set_length(load.all() as u64);
    for _ in 0..CONNECTING.min(load.all()) {
        load.connect_next(&event_loop)?;
    }
    load.await_progress(&event_loop, Phase::Entering);
    event_loop.run()?;
    load.is_ending.set(true);
    load.bar.finish_and_clear();
    let is_complete = match load.failure.take() {
        Some(error) => Err(error),
        None => load.report(),
    };
    load.clients.borrow_mut().clear();
    is_complete
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Entering,
    Draining,
}

impl Load {
    fn all(&self) -> usize {
        self.arguments.guests + self.arguments.silent
    }

    /// The time since the start, in microseconds.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Connects another guest. Those who do not read come last.
    fn connect_next(self: &Rc<Load>, event_loop: &EventLoop) -> io::Result<()> {
        let mut clients = self.clients.borrow_mut();
        let number = clients.len();
        if number == self.all() {
            return Ok(());
        }
        let role = if number < self.arguments.guests { Role::Reader } else { Role::Silent };
        let options = match role {
            Role::Reader => SocketOptions::new(),
            Role::Silent => SocketOptions::new().receive_buffer(SMALL_BUFFER),
        };
        let (load, failing) = (Rc::clone(self), Rc::clone(self));
        let client = TcpClient::connect(event_loop, self.arguments.connect)
            .socket_options(options)
            .on_failure(move |event_loop, error| {
                failing.failure.replace(Some(io::Error::other(error)));
                event_loop.quit();
            })
            .serve(move |_| {
                Framed::new(LineCodec::new(LONGEST_LINE), Guest::new(&load, role, number == 0))
            })?;
        clients.push(client);
        Ok(())
    }

    /// A guest is in the room.
    pub(crate) fn on_entered(self: &Rc<Load>, event_loop: &EventLoop) {
        self.entered.set(self.entered.get() + 1);
        self.bar.inc(1);
        if let Err(error) = self.connect_next(event_loop) {
            self.failure.replace(Some(error));
            event_loop.quit();
        }
        if self.entered.get() == self.all() {
            self.start_sending(event_loop);
        }
    }

    fn start_sending(self: &Rc<Load>, event_loop: &EventLoop) {
        self.bar.reset();
        self.bar.set_message("sending");
        self.bar.set_length(self.arguments.time.as_millis() as u64);
        let (end, last_end) =
            (Instant::now() + self.arguments.time, Instant::now() + self.arguments.time + EXTENSION);
        let is_over = Rc::new(Cell::new(false));
        for sender in 0..self.senders {
            let (load, is_over, mut number) = (Rc::clone(self), Rc::clone(&is_over), 0);
            // The senders take turns.
            let delay = self.arguments.every.mul_f64(sender as f64 / self.senders as f64);
            event_loop.run_after(delay, move |event_loop| {
                let every = load.arguments.every;
                event_loop.run_every(every, move |_| {
                    if !is_over.get() {
                        number += 1;
                        load.send(sender, number);
                    }
                });
            });
        }
        let load = Rc::clone(self);
        event_loop.run_every(Duration::from_millis(100), move |event_loop| {
            load.bar.set_position(
                load.bar
                    .length()
                    .unwrap_or(0)
                    .saturating_sub(end.saturating_duration_since(Instant::now()).as_millis() as u64),
            );
            let is_removed = load.removed.get() >= load.arguments.silent;
            let now = Instant::now();
            if !is_over.get() && ((now >= end && is_removed) || now >= last_end || load.lost.get() > 0) {
                is_over.set(true);
                load.bar.set_message("draining");
                load.await_progress(event_loop, Phase::Draining);
            }
        });
    }

    fn send(&self, sender: usize, number: u64) {
        let line = Guest::line(sender, number, self.now(), self.arguments.size - 1);
        if let Some(client) = self.clients.borrow().get(sender) {
            match client.send(format!("{line}\n")) {
                Ok(()) => self.sent.set(self.sent.get() + 1),
                Err(refused) => log::error!("a line was not sent: {}", refused.reason()),
            }
        }
    }

    /// A reader has received a line.
    pub(crate) fn record(&self, is_next: bool, sent_at: u64) {
        self.delivered.set(self.delivered.get() + 1);
        if !is_next {
            self.disordered.set(self.disordered.get() + 1);
        }
        self.latencies.borrow_mut().saturating_record(self.now().saturating_sub(sent_at));
    }

    fn expected(&self) -> u64 {
        self.sent.get() * self.arguments.guests as u64
    }

    /// Ends the load when the phase is complete, or when it makes no progress.
    fn await_progress(self: &Rc<Load>, event_loop: &EventLoop, phase: Phase) {
        let (load, mut last, mut since) = (Rc::clone(self), 0, Instant::now());
        event_loop.run_every(Duration::from_millis(20), move |event_loop| {
            let (progress, complete) = match phase {
                Phase::Entering => (load.entered.get() as u64, load.all() as u64),
                Phase::Draining => (load.delivered.get(), load.expected()),
            };
            if phase == Phase::Entering && progress == complete {
                return;
            }
            if progress != last {
                (last, since) = (progress, Instant::now());
            }
            if progress == complete || since.elapsed() > PATIENCE || load.lost.get() > 0 {
                event_loop.quit();
            }
        });
    }

    fn report(&self) -> io::Result<bool> {
        let (expected, delivered, lost) = (self.expected(), self.delivered.get(), self.lost.get());
        let Arguments { guests, silent, .. } = self.arguments;
        let mut output = io::stdout();
        if self.entered.get() < self.all() {
            writeln!(output, "only {} of {} guests are in the room", self.entered.get(), self.all())?;
            return Ok(false);
        }
        writeln!(
            output,
            "{guests} guests who read, {silent} who do not; {} senders; {} lines in {:.1} s",
            self.senders,
            self.sent.get(),
            self.start.elapsed().as_secs_f64()
        )?;
        writeln!(
            output,
            "{delivered} lines delivered, {} missing, {} out of order; {} guests removed, {lost} others lost",
            expected.saturating_sub(delivered),
            self.disordered.get(),
            self.removed.get()
        )?;
        let latencies = self.latencies.borrow();
        let percentile = |percent| latencies.value_at_percentile(percent);
        writeln!(
            output,
            "latency in microseconds: p50 {}, p90 {}, p99 {}, p99.9 {}, maximum {}",
            percentile(50.0),
            percentile(90.0),
            percentile(99.0),
            percentile(99.9),
            latencies.max()
        )?;
        Ok(delivered == expected && self.disordered.get() == 0 && lost == 0 && self.sent.get() > 0)
    }
}
