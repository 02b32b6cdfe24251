//! [`Filters`]: the chain of filters of a connection. Works on buffers only.

use std::io;
use std::mem;
use std::slice;

use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelId;
use crate::net::filter::{BoxedFilter, Filter, FilterContext};

/// As many new bytes are joined with those that a filter has left. More than the largest record of
/// TLS, so one call completes it.
const JOINED: usize = 17 * 1024;

/// In order from the transport to the handler.
#[derive(Default)]
pub(super) struct Filters(Vec<Stage>);

struct Stage {
    filter: BoxedFilter,
    connection: ChannelId,
    /// Input that the filter has left.
    undecoded: Buffer,
    /// The filter has more to decode, or waits.
    decodes_again: bool,
    is_waiting: bool,
    /// The filter has been given the end of the input, or has ended it.
    has_ended: bool,
}

impl Filters {
    /// Appends filters at the handler's end of a connection, and opens them.
    pub(super) fn add(
        &mut self,
        connection: ChannelId,
        filters: impl IntoIterator<Item = BoxedFilter>,
        event_loop: &EventLoop,
        to_peer: &mut Buffer,
    ) -> io::Result<()> {
        let first = self.0.len();
        self.0.extend(filters.into_iter().map(|filter| Stage::new(filter, connection)));
        self.for_each(first, event_loop, to_peer, |stage, context| stage.filter.on_open(context))
    }

    /// Whether all filters can pass on the bytes of the handler.
    pub(super) fn are_ready(&self) -> bool {
        self.0.iter().all(|stage| stage.filter.is_ready())
    }

    /// The first filter of a type.
    pub(super) fn find<F: Filter>(&mut self) -> Option<&mut F> {
        self.0.iter_mut().find_map(|stage| (**stage.filter).as_any().downcast_mut())
    }

    /// Decodes `input`, and appends the result to `output`, which is empty. Empties `input`, which
    /// keeps its storage unless that is moved to `output`.
    pub(super) fn decode(
        &mut self,
        event_loop: &EventLoop,
        input: &mut Buffer,
        output: &mut Buffer,
        to_peer: &mut Buffer,
    ) -> io::Result<()> {
        let capacity = input.capacity();
        let mut is_first = true;
        self.for_each(0, event_loop, to_peer, |stage, context| {
            if mem::take(&mut is_first) {
                return stage.pass(context, input, output);
            }
            let mut passed = event_loop.lend_spare();
            mem::swap(&mut passed, output);
            let result = stage.pass(context, &mut passed, output);
            if input.capacity() != capacity && passed.capacity() == capacity {
                // A filter before this one has moved the storage.
                mem::swap(input, &mut passed);
            }
            event_loop.return_spare(passed);
            result
        })
    }

    /// Same as [`decode`](Filters::decode), for the end of the input. Filters after one that has
    /// more to decode are not called.
    pub(super) fn decode_end(
        &mut self,
        event_loop: &EventLoop,
        output: &mut Buffer,
        to_peer: &mut Buffer,
    ) -> io::Result<()> {
        let mut is_complete = true;
        self.for_each(0, event_loop, to_peer, |stage, context| {
            if !is_complete || stage.has_ended {
                return Ok(());
            }
            // What the filters before this one have decoded at their end comes first.
            let mut passed = event_loop.lend_spare();
            mem::swap(&mut passed, output);
            let result = stage.pass(context, &mut passed, output);
            event_loop.return_spare(passed);
            result?;
            is_complete = !stage.decodes_again;
            if !is_complete || stage.has_ended {
                return Ok(());
            }
            stage.has_ended = true;
            let mut input = mem::take(&mut stage.undecoded);
            let mut last = context.event_loop.lend_spare();
            let result = stage.filter.on_peer_shutdown(context, &mut input, &mut last);
            output.append_buffer(&mut last);
            context.event_loop.return_spare(last);
            result
        })
    }

    /// Calls the filters from number `first` on, in the order of the input. What each sends to its
    /// peer passes through those before it.
    fn for_each(
        &mut self,
        first: usize,
        event_loop: &EventLoop,
        to_peer: &mut Buffer,
        mut call: impl FnMut(&mut Stage, &mut FilterContext<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        for n in first..self.0.len() {
            let (nearer, stage) = self.0.split_at_mut(n);
            let mut reply = event_loop.lend_spare();
            let connection = Some(stage[0].connection);
            let result = call(&mut stage[0], &mut FilterContext::new(event_loop, &mut reply, connection));
            if !reply.is_empty() {
                encode(nearer, event_loop, &mut reply)?;
                to_peer.append_buffer(&mut reply);
            }
            event_loop.return_spare(reply);
            result?;
        }
        Ok(())
    }

    /// Ends the output: appends the last bytes of all filters to `output`, which is empty.
    pub(super) fn finish(&mut self, event_loop: &EventLoop, output: &mut Buffer) -> io::Result<()> {
        for stage in self.0.iter_mut().rev() {
            encode(slice::from_mut(stage), event_loop, output)?;
            call_for_output(event_loop, output, |context, output| stage.filter.finish(context, output))?;
        }
        Ok(())
    }

    /// Replaces `bytes` by their encoded form.
    pub(super) fn encode(&mut self, event_loop: &EventLoop, bytes: &mut Buffer) -> io::Result<()> {
        encode(&mut self.0, event_loop, bytes)
    }

    /// Whether a filter has more to decode.
    pub(super) fn decodes_again(&self) -> bool {
        self.0.iter().any(|stage| stage.decodes_again)
    }

    /// Whether a filter waits for something that is not input.
    pub(super) fn are_waiting(&self) -> bool {
        self.0.iter().any(|stage| stage.is_waiting)
    }

    /// Whether a filter has ended the input, and the filters after it have no more to decode. The
    /// filters before it are given nothing more.
    pub(super) fn has_ended(&mut self) -> bool {
        let Some(last) = self.0.iter().rposition(|stage| stage.has_ended) else { return false };
        for stage in &mut self.0[..=last] {
            stage.has_ended = true;
            stage.decodes_again = false;
            stage.is_waiting = false;
            stage.undecoded = Buffer::new();
        }
        !self.decodes_again()
    }

    /// The input that each filter has left, and whether it has more to decode.
    pub(super) fn undecoded(&self) -> impl Iterator<Item = (&Buffer, bool)> {
        self.0.iter().map(|stage| (&stage.undecoded, stage.decodes_again))
    }
}

impl Stage {
    fn new(filter: BoxedFilter, connection: ChannelId) -> Stage {
        let undecoded = Buffer::new();
        Stage { filter, connection, undecoded, decodes_again: false, is_waiting: false, has_ended: false }
    }

    /// Decodes `bytes`, after those that were left before, to `decoded`. Empties `bytes`.
    fn pass(
        &mut self,
        context: &mut FilterContext<'_>,
        bytes: &mut Buffer,
        decoded: &mut Buffer,
    ) -> io::Result<()> {
        if self.has_ended {
            bytes.clear();
            return Ok(());
        }
        if self.undecoded.is_empty() && bytes.is_empty() && !self.decodes_again {
            return Ok(());
        }
        let result = self.decode(context, bytes, decoded);
        self.undecoded.release();
        if self.undecoded.is_empty() && !bytes.is_empty() {
            // Copied, as the storage is the loop's input buffer. `append` would zero it first.
            self.undecoded = Buffer::from(bytes.readable().to_vec());
        } else {
            self.undecoded.append(bytes.readable());
        }
        bytes.clear();
        result
    }

    /// Decodes the bytes that were left, and then `bytes`. What the filter leaves stays in one of
    /// the two, or in both.
    fn decode(
        &mut self,
        context: &mut FilterContext<'_>,
        bytes: &mut Buffer,
        decoded: &mut Buffer,
    ) -> io::Result<()> {
        if (1..=JOINED).contains(&self.undecoded.len()) && bytes.len() > JOINED {
            self.decode_joined(context, bytes, decoded)?;
            if self.decodes_again || self.has_ended {
                return Ok(());
            }
        }
        if self.undecoded.is_empty() {
            return self.call(context, bytes, decoded);
        }
        let mut input = mem::take(&mut self.undecoded);
        input.append(bytes.readable());
        bytes.clear();
        let result = self.call(context, &mut input, decoded);
        self.undecoded = input;
        result
    }

    /// Decodes the bytes that were left together with the first of `bytes`, which complete a unit
    /// of most filters. So the other bytes need not be copied behind the few that were left.
    fn decode_joined(
        &mut self,
        context: &mut FilterContext<'_>,
        bytes: &mut Buffer,
        decoded: &mut Buffer,
    ) -> io::Result<()> {
        let mut joined = context.event_loop.lend_spare();
        joined.append(self.undecoded.readable());
        joined.append(&bytes.readable()[..JOINED]);
        let result = self.call(context, &mut joined, decoded);
        self.undecoded.clear();
        if joined.len() <= JOINED {
            // All that is left is from `bytes`. It is copied back, as a filter may change it.
            bytes.consume(JOINED - joined.len());
            bytes.readable_mut()[..joined.len()].copy_from_slice(joined.readable());
        } else {
            bytes.consume(JOINED);
            self.undecoded.append(joined.readable());
        }
        context.event_loop.return_spare(joined);
        result
    }

    fn call(
        &mut self,
        context: &mut FilterContext<'_>,
        input: &mut Buffer,
        decoded: &mut Buffer,
    ) -> io::Result<()> {
        let result = self.filter.decode(context, input, decoded);
        self.is_waiting = mem::take(&mut context.is_waiting);
        self.decodes_again = mem::take(&mut context.decode_again) || self.is_waiting;
        self.has_ended = mem::take(&mut context.has_ended);
        result
    }
}

/// Replaces `bytes` by their encoded form.
fn encode(stages: &mut [Stage], event_loop: &EventLoop, bytes: &mut Buffer) -> io::Result<()> {
    for stage in stages.iter_mut().rev() {
        if bytes.is_empty() {
            continue;
        }
        let mut encoded = event_loop.lend_spare();
        call_for_output(event_loop, &mut encoded, |context, encoded| {
            stage.filter.encode(context, bytes, encoded)
        })?;
        if !bytes.is_empty() {
            let message = format!("a filter has left {} bytes of output", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        bytes.append_buffer(&mut encoded);
        event_loop.return_spare(encoded);
    }
    Ok(())
}

/// Calls a method whose result goes toward the peer, as everything in its context does.
fn call_for_output(
    event_loop: &EventLoop,
    output: &mut Buffer,
    call: impl FnOnce(&mut FilterContext<'_>, &mut Buffer) -> io::Result<()>,
) -> io::Result<()> {
    let mut more = event_loop.lend_spare();
    let result = call(&mut FilterContext::new(event_loop, &mut more, None), output);
    if !more.is_empty() {
        output.append_buffer(&mut more);
    }
    event_loop.return_spare(more);
    result
}
