//! One session of rustls, of either side: single steps on buffers.

use std::ops::DerefMut;

use rustls::Error;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, ReadEarlyData,
    UnbufferedConnectionCommon, UnbufferedStatus, WriteTraffic,
};

use crate::buffer::Buffer;

/// A step without an effect may follow another one, since rustls has states that only report
/// something. More of them in a row would be an endless loop (CVE-2024-32650).
const MAX_STALLED_STEPS: u32 = 8;

/// The largest record of plaintext (RFC 8446, section 5.1), and more than any suite adds to it.
const RECORD: usize = 16 * 1024;
const RECORD_OVERHEAD: usize = 64;

/// The length of a record's header.
pub(super) const HEADER: usize = 5;

/// One side of a session.
pub(super) trait Side: DerefMut<Target = UnbufferedConnectionCommon<Self::Data>> {
    type Data;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// Appends early data to `output`. Returns by how much the input to discard grows.
    fn read_early(data: ReadEarlyData<'_, '_, Self::Data>, output: &mut Buffer) -> Result<usize, Error>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn read_early(mut data: ReadEarlyData<'_, '_, Self::Data>, output: &mut Buffer) -> Result<usize, Error> {
        let mut discard = 0;
        while let Some(record) = data.next_record() {
            let record = record?;
            discard += record.discard;
            output.append(record.payload);
        }
        Ok(discard)
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    /// A server sends no early data.
    fn read_early(_: ReadEarlyData<'_, '_, Self::Data>, _: &mut Buffer) -> Result<usize, Error> {
        Ok(0)
    }
}

/// Where the bytes of a session go.
pub(super) struct Sinks<'a> {
    pub(super) output: &'a mut Buffer,
    pub(super) to_peer: &'a mut Buffer,
    pub(super) early_data: &'a mut u64,
}

/// How a call of [`advance`] has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Advanced {
    /// All complete records have been processed.
    NeedsInput,
    /// `output` has grown to its limit.
    IsFull,
    /// The peer has sent close_notify.
    Ended,
}

enum Step {
    Progress,
    /// All plaintext that the session holds has been taken.
    Read,
    NeedsInput,
    Ended,
}

/// Processes `input` until it holds no complete record, or `output` has `limit` bytes.
pub(super) fn advance(
    session: &mut impl Side,
    input: &mut Buffer,
    limit: usize,
    mut sinks: Sinks<'_>,
) -> Result<Advanced, Error> {
    let mut stalled = 0;
    loop {
        // An incomplete record waits for more input, not for another call.
        if sinks.output.len() >= limit && begins_with_record(input.readable()) {
            return Ok(Advanced::IsFull);
        }
        let before = (input.len(), sinks.output.len(), sinks.to_peer.len());
        let step = process(session, input, &mut sinks);
        match step {
            // Saves the call that would find nothing, of the two for a message.
            Ok(Step::Read) if input.is_empty() && !session.wants_write() => {
                return Ok(Advanced::NeedsInput);
            }
            Ok(Step::Progress | Step::Read) => {}
            Ok(Step::NeedsInput) => return Ok(Advanced::NeedsInput),
            Ok(Step::Ended) => return Ok(Advanced::Ended),
            Err(error) => {
                take_alert(session, &mut sinks);
                return Err(error);
            }
        }
        let is_stalled = before == (input.len(), sinks.output.len(), sinks.to_peer.len());
        stalled = if is_stalled { stalled + 1 } else { 0 };
        if stalled > MAX_STALLED_STEPS {
            return Err(no_progress());
        }
    }
}

fn process<S: Side>(session: &mut S, input: &mut Buffer, sinks: &mut Sinks<'_>) -> Result<Step, Error> {
    let UnbufferedStatus { mut discard, state } = session.process(input.readable_mut());
    let step = state.and_then(|state| match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record?;
                discard += record.discard;
                sinks.output.append(record.payload);
            }
            Ok(Step::Read)
        }
        ConnectionState::ReadEarlyData(data) => {
            let before = sinks.output.len();
            discard += S::read_early(data, sinks.output)?;
            *sinks.early_data += (sinks.output.len() - before) as u64;
            Ok(Step::Progress)
        }
        ConnectionState::EncodeTlsData(data) => encode(data, sinks.to_peer),
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Progress)
        }
        ConnectionState::PeerClosed | ConnectionState::Closed => Ok(Step::Ended),
        _ => Ok(Step::NeedsInput),
    });
    input.consume(discard.min(input.len()));
    step
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, to_peer: &mut Buffer) -> Result<Step, Error> {
    loop {
        match data.encode(to_peer.writable_mut()) {
            Ok(written) => {
                to_peer.commit(written);
                return Ok(Step::Progress);
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size }))
                if required_size > to_peer.writable_mut().len() =>
            {
                to_peer.reserve(required_size);
            }
            Err(_) => return Err(no_progress()),
        }
    }
}

/// Appends the alert that reports an error. It is the last that rustls has queued.
fn take_alert(session: &mut impl Side, sinks: &mut Sinks<'_>) {
    for _ in 0..MAX_STALLED_STEPS {
        // What is queued precedes everything else, so the missing input is not accessed.
        if !session.wants_write() || process(session, &mut Buffer::new(), sinks).is_err() {
            return;
        }
    }
}

/// Encrypts all of `input` and appends the records to `output`.
pub(super) fn encrypt(
    session: &mut impl Side,
    partial: &mut Buffer,
    input: &mut Buffer,
    output: &mut Buffer,
) -> Result<(), Error> {
    let records = input.len().div_ceil(RECORD);
    let estimate = input.len() + records * RECORD_OVERHEAD;
    write(session, partial, output, estimate, |traffic, space| traffic.encrypt(input.readable(), space))?;
    input.clear();
    Ok(())
}

/// Appends close_notify to `output`.
pub(super) fn close_notify(
    session: &mut impl Side,
    partial: &mut Buffer,
    output: &mut Buffer,
) -> Result<(), Error> {
    write(session, partial, output, RECORD_OVERHEAD, |traffic, space| traffic.queue_close_notify(space))
}

/// Calls `write` with space for `estimate` bytes, or for as many as it requires.
///
/// `partial` is the input that rustls has processed and does not discard yet: the beginning of a
/// handshake message whose end is in a later record. rustls panics if a call does not include it.
fn write<S: Side>(
    session: &mut S,
    partial: &mut Buffer,
    output: &mut Buffer,
    estimate: usize,
    mut write: impl FnMut(&mut WriteTraffic<'_, S::Data>, &mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), Error> {
    let mut space = estimate;
    for _ in 0..MAX_STALLED_STEPS {
        let UnbufferedStatus { discard, state } = session.process(partial.readable_mut());
        match state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                output.reserve(space);
                match write(&mut traffic, output.writable_mut()) {
                    Ok(written) => {
                        output.commit(written);
                        return Ok(());
                    }
                    Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                        space = required_size;
                    }
                    Err(EncryptError::EncryptExhausted) => {
                        return Err(Error::General("the keys of the session are exhausted".to_owned()));
                    }
                }
            }
            ConnectionState::EncodeTlsData(data) => {
                encode(data, output)?;
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => {}
            _ => break,
        }
        partial.consume(discard.min(partial.len()));
    }
    Err(no_progress())
}

fn no_progress() -> Error {
    Error::General("the TLS session makes no progress".to_owned())
}

/// Whether `input` begins with a complete record.
pub(super) fn begins_with_record(input: &[u8]) -> bool {
    match input {
        [_, _, _, high, low, rest @ ..] => rest.len() >= usize::from(u16::from_be_bytes([*high, *low])),
        _ => false,
    }
}
