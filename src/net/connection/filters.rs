//! The filters of a connection: received input passes through them before its handler gets it, and
//! output before it is sent.
//!
//! The output queue holds the handler's bytes. They are encoded in pieces, when the previous piece
//! has been sent. So back-pressure, limits and counts are those of a connection without filters,
//! and the memory for encoded bytes is bounded.
//!
//! A filter is user code, and may use the connection through a handle. So no borrow is held while
//! it runs, and it is taken out of the connection for that time. Output that is sent meanwhile is
//! queued, and encoded afterwards.

mod chain;
mod finish;
mod handshake;
mod upgrade;

use std::cell::Cell;
use std::io;

use self::chain::Filters;
pub(super) use self::handshake::Handshake;
use self::upgrade::Upgrade;
use super::read::ReadBlocks;
use super::{ConnectionCore, ConnectionState, OUTPUT};
use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
pub(super) use crate::net::filter::FilterWoken;
use crate::net::filter::{Filter, FilterContext};
use crate::net::result::CloseReason;
use crate::net::sys::transport::Transferred;
use crate::readiness::Readiness;

/// After this many bytes in one turn of the loop, other connections get their turn.
const BYTES_PER_TURN: usize = 1024 * 1024;

/// The filters of a connection and what belongs to them.
#[derive(Default)]
pub(super) struct Filtering {
    /// `None` until they are created, while a filter is called, and after one has panicked.
    filters: Cell<Option<Filters>>,
    handshake: Cell<Handshake>,
    /// The upgrade of the connection that is in progress.
    upgrade: Cell<Option<Upgrade>>,
    /// The memory of the input that the filters have left, as it was last reported.
    undecoded: Cell<usize>,
    end: Cell<EndOfInput>,
    /// Output was queued while the filters could not be called.
    has_deferred: Cell<bool>,
    has_finished: Cell<bool>,
    /// How many bytes of the handler were encoded, and to how many bytes.
    encoded_from: Cell<u64>,
    encoded_to: Cell<u64>,
    /// The number of bytes that [`Filter::finish`] has added after them.
    last_bytes: Cell<usize>,
}

/// Whether a filter has ended the input, and the handler does not know yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum EndOfInput {
    #[default]
    NotDue,
    Due,
    /// The input that the handler has left is to be delivered again before it.
    DueAfterUnread,
}

impl ConnectionCore {
    #[inline]
    pub(in crate::net) fn has_filters(&self) -> bool {
        self.filtering.get().is_some()
    }

    /// Calls `call` with the first filter of a type. `None` if there is none, or if a filter is
    /// being called.
    pub(super) fn with_filter<F: Filter, R>(&self, call: impl FnOnce(&mut F) -> R) -> Option<R> {
        let filtering = self.filtering.get()?;
        let mut filters = filtering.filters.take()?;
        let returned = filters.find().map(call);
        filtering.filters.set(Some(filters));
        returned
    }

    /// Decodes `input`, and appends the result to `output`, which is empty. Returns whether the
    /// connection is still open.
    pub(in crate::net) fn decode(
        &self,
        event_loop: &EventLoop,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> bool {
        let is_open = self.run_filters(event_loop, |filters, event_loop, to_peer| {
            filters.decode(event_loop, input, output, to_peer)
        });
        is_open && self.note_end(event_loop)
    }

    /// Notes that a filter has ended the input. The handler gets the end in a later turn, after the
    /// input before it. Returns `true`.
    fn note_end(&self, event_loop: &EventLoop) -> bool {
        let Some(filtering) = self.filtering.get().filter(|_| !self.peer_finished.get()) else { return true };
        let Some(mut filters) = filtering.filters.take() else { return true };
        let has_ended = filters.has_ended();
        filtering.filters.set(Some(filters));
        if has_ended {
            filtering.end.set(EndOfInput::Due);
            self.deliver_again(event_loop);
        }
        true
    }

    /// Whether the end that a filter has found is to be delivered now. Nothing more is received
    /// then.
    pub(in crate::net) fn take_end(&self, event_loop: &EventLoop) -> bool {
        let Some(filtering) = self.filtering.get() else { return false };
        match filtering.end.get() {
            EndOfInput::NotDue => return false,
            EndOfInput::DueAfterUnread => {
                filtering.end.set(EndOfInput::Due);
                self.deliver_again(event_loop);
                return false;
            }
            EndOfInput::Due => {}
        }
        filtering.end.set(EndOfInput::NotDue);
        self.peer_finished.set(true);
        true
    }

    /// The input that the handler has left is delivered again. An end by a filter follows it.
    pub(super) fn end_after_unread(&self) {
        let due = self.filtering.get().filter(|filtering| filtering.end.get() == EndOfInput::Due);
        if let Some(filtering) = due {
            filtering.end.set(EndOfInput::DueAfterUnread);
        }
    }

    /// Makes the input that is held be delivered in the next turn, or when reading resumes. It
    /// raises no edge.
    fn deliver_again(&self, event_loop: &EventLoop) {
        self.redeliver.set(true);
        event_loop.add_ready(self.id, Readiness::READABLE);
        self.update_wanted(event_loop);
    }

    /// The end of the input was received. Decodes what the filters have left to `output`, which is
    /// empty. Returns whether the connection is still open. If there is output, or more to decode,
    /// the end of the input is to be received again after it.
    pub(in crate::net) fn decode_end(&self, event_loop: &EventLoop, output: &mut Buffer) -> bool {
        let is_open = self.run_filters(event_loop, |filters, event_loop, to_peer| {
            filters.decode_end(event_loop, output, to_peer)
        });
        if is_open && (!output.is_empty() || self.redeliver.get()) {
            self.peer_finished.set(false);
            event_loop.add_ready(self.id, Readiness::READABLE);
            self.update_wanted(event_loop);
        }
        is_open
    }

    /// Calls the filters for input. An error closes the connection. Returns whether it is still
    /// open.
    fn run_filters(
        &self,
        event_loop: &EventLoop,
        call: impl FnOnce(&mut Filters, &EventLoop, &mut Buffer) -> io::Result<()>,
    ) -> bool {
        let mut to_peer = event_loop.lend_spare();
        let Some(result) = self.with_filters(event_loop, |filters| call(filters, event_loop, &mut to_peer))
        else {
            return false;
        };
        self.send_encoded(event_loop, to_peer, 0);
        if let Err(error) = result {
            self.close(event_loop, CloseReason::Error(error));
        }
        self.note_ready(event_loop);
        self.note_undecoded(event_loop);
        self.send_deferred(event_loop);
        self.state.get() != ConnectionState::Closed
    }

    /// Calls the filters. `None` if one is being called already or has panicked; a panic closes the
    /// connection. Also `None` in a forked child, which leaves the socket to its parent: a filter
    /// may fork.
    fn with_filters<R>(&self, event_loop: &EventLoop, call: impl FnOnce(&mut Filters) -> R) -> Option<R> {
        let filtering = self.filtering.get()?;
        let mut filters = filtering.filters.take()?;
        let returned = event_loop.catch_described("a filter", || self.describe(), || call(&mut filters));
        if returned.is_none() {
            drop(filters);
            // The filter may hold output back, which is lost.
            self.reset(event_loop, CloseReason::Panicked);
            return None;
        }
        filtering.filters.set(Some(filters));
        returned.filter(|_| !self.membership.group().is_inherited())
    }

    /// Whether output can be encoded now.
    fn can_encode(&self) -> bool {
        let Some(filtering) = self.filtering.get().filter(|_| !self.is_in_handshake()) else { return false };
        let filters = filtering.filters.take();
        let is_free = filters.is_some();
        filtering.filters.set(filters);
        is_free
    }

    /// Accounts for the input that the filters have left, and arranges for the next decoding.
    fn note_undecoded(&self, event_loop: &EventLoop) {
        let Some(filtering) = self.filtering.get() else { return };
        let Some(filters) = filtering.filters.take() else { return };
        // A filter that decodes again is given nothing more before.
        let waiting = filters.undecoded().filter(|(_, decodes_again)| !decodes_again);
        let undecoded: usize = waiting.map(|(input, _)| input.len()).sum();
        let memory = filters.undecoded().map(|(input, _)| input.capacity()).sum();
        let (decodes_again, are_waiting) = (filters.decodes_again(), filters.are_waiting());
        filtering.filters.set(Some(filters));
        if filtering.undecoded.replace(memory) != memory {
            self.report_memory();
        }
        // No limit of unread input is so low that a record of TLS exceeds it.
        if undecoded > self.membership.group().limits.max_unread.max(FilterContext::PIECE) {
            let message = "a filter leaves more undecoded input than the limit of unread input allows";
            self.close(event_loop, CloseReason::Error(io::Error::new(io::ErrorKind::StorageFull, message)));
        } else if are_waiting {
            self.block_reading(ReadBlocks::FILTER);
            self.update_wanted(event_loop);
        } else if decodes_again && !self.is_draining() {
            self.deliver_again(event_loop);
        }
    }

    /// A filter no longer waits. It is called in the next turn.
    pub(super) fn on_filter_woken(&self, event_loop: &EventLoop) {
        if self.unblock_reading(ReadBlocks::FILTER) {
            self.deliver_again(event_loop);
        }
    }

    /// The memory of the input that the filters have left.
    pub(super) fn undecoded_memory(&self) -> usize {
        self.filtering.get().map_or(0, |filtering| filtering.undecoded.get())
    }

    /// Encodes and sends the output that was collected in a callback.
    #[cold]
    pub(super) fn send_collected_filtered(&self, event_loop: &EventLoop, mut output: Box<Buffer>) {
        let len = output.len();
        let mut bytes = event_loop.lend_spare();
        bytes.append_buffer(&mut output);
        event_loop.return_output(output);
        if !self.can_encode() {
            let mut unsent = self.unsent.borrow_mut();
            let queue = unsent.get_or_insert_default();
            queue.push(bytes.readable());
            self.count_reply(queue, len);
            drop(unsent);
            event_loop.return_spare(bytes);
            self.defer_output();
            return self.on_queue_grown(event_loop);
        }
        match self.with_filters(event_loop, |filters| filters.encode(event_loop, &mut bytes)) {
            Some(Ok(())) => {
                self.count_encoded(len, bytes.len());
                self.send_encoded(event_loop, bytes, len);
            }
            Some(Err(error)) => {
                self.count_lost(len);
                self.fail_output(event_loop, error);
            }
            // The panic has closed the connection.
            None => self.count_lost(len),
        }
        self.send_deferred(event_loop);
    }

    /// Sends encoded bytes, which stand for `len` bytes of the handler, and queues the rest.
    fn send_encoded(&self, event_loop: &EventLoop, mut bytes: Buffer, len: usize) {
        if self.state.get() == ConnectionState::Closed {
            return self.count_lost(len);
        }
        if bytes.is_empty() {
            return event_loop.return_spare(bytes);
        }
        let is_behind = self.unsent.borrow().as_ref().is_some_and(|queue| queue.has_encoded());
        let sent = match is_behind {
            true => Ok(Transferred::WouldBlock),
            false => self.transport.send(bytes.readable()),
        };
        match sent {
            Ok(Transferred::Bytes(n)) => {
                bytes.consume(n);
                self.record_activity(event_loop);
            }
            Ok(Transferred::WouldBlock) => {}
            Err(error) => {
                self.count_lost(len);
                return self.fail_output(event_loop, error);
            }
        }
        if bytes.is_empty() {
            return event_loop.return_spare(bytes);
        }
        // The kernel's buffer is full; a WRITABLE edge follows when it has space.
        event_loop.clear_ready(self.id, OUTPUT);
        let mut unsent = self.unsent.borrow_mut();
        let queue = unsent.get_or_insert_default();
        queue.push_encoded(&mut bytes, len);
        self.count_reply(queue, len);
        drop(unsent);
        event_loop.return_spare(bytes);
        self.on_queue_grown(event_loop);
    }

    /// Encodes and writes the queue, as far as the transport takes it.
    #[cold]
    pub(super) fn write_queue_filtered(&self, event_loop: &EventLoop) -> io::Result<()> {
        let mut budget = BYTES_PER_TURN;
        loop {
            if !self.write_encoded(event_loop)? || budget == 0 {
                return Ok(());
            }
            if !self.can_encode() {
                self.defer_output();
                return Ok(());
            }
            let mut piece = event_loop.lend_spare();
            if let Some(queue) = self.unsent.borrow_mut().as_mut() {
                queue.take_piece(&mut piece, FilterContext::PIECE)?;
            }
            if piece.is_empty() {
                event_loop.return_spare(piece);
                return Ok(());
            }
            let len = piece.len();
            budget = budget.saturating_sub(len);
            let encoded = self.with_filters(event_loop, |filters| filters.encode(event_loop, &mut piece));
            // `None`: the panic has closed the connection.
            let Some(encoded) = encoded else { return Ok(()) };
            encoded?;
            self.count_encoded(len, piece.len());
            // Before the rest is queued, so that the loop mostly gets its buffer back.
            if !piece.is_empty() {
                if let Transferred::Bytes(n) = self.transport.send(piece.readable())? {
                    piece.consume(n);
                    self.record_activity(event_loop);
                }
            }
            let is_blocked = !piece.is_empty();
            if let Some(queue) = self.unsent.borrow_mut().as_mut() {
                let before = queue.len();
                queue.finish_piece(&mut piece);
                self.count_sent(queue, before);
            }
            event_loop.return_spare(piece);
            if is_blocked {
                event_loop.clear_ready(self.id, OUTPUT);
                return Ok(());
            }
        }
    }

    /// Writes the encoded bytes at the front of the queue. Returns whether all were taken.
    fn write_encoded(&self, event_loop: &EventLoop) -> io::Result<bool> {
        let mut unsent = self.unsent.borrow_mut();
        let Some(queue) = unsent.as_mut() else { return Ok(false) };
        let before = queue.len();
        let has_encoded = queue.has_encoded();
        let wrote = queue.write_encoded(&self.transport);
        self.count_sent(queue, before);
        if has_encoded {
            self.record_activity(event_loop);
        }
        let is_written = wrote?;
        if !is_written {
            event_loop.clear_ready(self.id, OUTPUT);
        }
        if queue.is_empty() {
            *unsent = None;
            return Ok(false);
        }
        Ok(is_written)
    }

    /// Writes the queue as soon as output can be encoded.
    fn defer_output(&self) {
        if let Some(filtering) = self.filtering.get() {
            filtering.has_deferred.set(true);
        }
    }

    /// Writes the output that was queued while the filters could not be called, and shuts down if
    /// that was requested meanwhile.
    fn send_deferred(&self, event_loop: &EventLoop) {
        let Some(filtering) = self.filtering.get() else { return };
        if !self.can_encode() || !filtering.has_deferred.replace(false) {
            return;
        }
        if let Err(error) = self.write_queue_filtered(event_loop) {
            return self.fail_output(event_loop, error);
        }
        if self.unsent.borrow().is_some() {
            self.on_queue_grown(event_loop);
        } else if self.state.get() == ConnectionState::Closing {
            self.send_fin(event_loop);
        }
    }
}
