//! [`TlsFilter`]: TLS between a connection's transport and its handler, as either side.

use std::fmt;
use std::io;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, CommonState, ServerConfig};

use super::certificates::take_last_name;
use super::error::TlsError;
use super::handshake_step::{Arrival, HandshakeStep, Stepped};
use super::info::TlsInfo;
use super::session::{Advanced, HEADER, Sinks, advance, begins_with_record, close_notify, encrypt};
use crate::buffer::Buffer;
use crate::net::filter::{Filter, FilterContext};
use crate::threads::workers::Workers;

/// A fatal alert before a cipher is negotiated: illegal_parameter, as OpenSSL sends it for messages
/// that are too long.
const ILLEGAL_PARAMETER: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 47];

pub struct TlsFilter {
    session: Session,
    settings: FilterSettings,
    stage: Stage,
    /// The first byte from the peer.
    first_byte: Option<u8>,
    /// Input that rustls has processed and does not discard yet, see [`begins_with_record`].
    partial: Buffer,
    server_name: Option<Box<str>>,
    early_data: u64,
    /// An error that followed bytes for the handler, which come first.
    failure: Option<TlsError>,
    /// The threads for the steps of the handshake, until it is done.
    workers: Option<Workers>,
}

enum Session {
    New(Start),
    /// On a thread of the workers.
    Away(Arrival),
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What a session begins with.
pub(super) enum Start {
    Server(Arc<ServerConfig>),
    Client(Arc<ClientConfig>, ServerName<'static>),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct FilterSettings {
    pub(super) allow_truncation: bool,
    pub(super) max_client_hello: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A server's session that has not processed the ClientHello.
    AwaitsHello,
    Handshake,
    Established,
}

/// Calls a function that is generic over the side.
macro_rules! with_session {
    ($filter:expr, $session:ident => $call:expr) => {
        match &mut $filter.session {
            Session::Server($session) => $call,
            Session::Client($session) => $call,
            Session::New(_) | Session::Away(_) => Err(rustls::Error::HandshakeNotComplete),
        }
    };
}

impl TlsFilter {
    pub(super) fn new(start: Start, settings: FilterSettings, workers: Option<Workers>) -> TlsFilter {
        let (stage, server_name) = match &start {
            Start::Server(_) => (Stage::AwaitsHello, None),
            Start::Client(_, name) => (Stage::Handshake, Some(name.to_str().into())),
        };
        TlsFilter {
            session: Session::New(start),
            settings,
            stage,
            first_byte: None,
            partial: Buffer::new(),
            server_name,
            early_data: 0,
            failure: None,
            workers,
        }
    }

    /// `None` before the handshake is done.
    pub(super) fn info(&self) -> Option<TlsInfo> {
        let state = self.state().filter(|_| self.stage == Stage::Established)?;
        TlsInfo::new(state, self.server_name.as_deref(), self.early_data)
    }

    fn state(&self) -> Option<&CommonState> {
        match &self.session {
            Session::Server(session) => Some(session),
            Session::Client(session) => Some(session),
            Session::New(_) | Session::Away(_) => None,
        }
    }

    /// Processes `input`, and leaves an incomplete record in it.
    fn process(
        &mut self,
        context: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> Result<(), TlsError> {
        if let Session::Away(arrival) = &self.session {
            let Some(result) = arrival.take() else {
                context.wait();
                return Ok(());
            };
            let stepped =
                result.map_err(|error| rustls::Error::General(format!("a handshake's job: {error}")));
            return self.take_back(context, input, output, stepped?);
        }
        self.check_hello(context, input)?;
        let mut partial = mem::take(&mut self.partial);
        if !partial.is_empty() {
            partial.append(input.readable());
            input.clear();
        }
        let source = if partial.is_empty() { &mut *input } else { &mut partial };
        if self.stage != Stage::Established && begins_with_record(source.readable()) {
            if let Some(workers) = self.workers.clone() {
                let mut taken = Buffer::new();
                taken.append(source.readable());
                input.clear();
                return self.send_away(context, input, output, taken, &workers);
            }
        }
        let early_data = &mut self.early_data;
        let sinks = Sinks { output, to_peer: context.to_peer(), early_data };
        let advanced = with_session!(self, session => advance(session, source, FilterContext::PIECE, sinks));
        self.conclude(context, input, partial, advanced)
    }

    /// Gives the session and `taken` to a worker.
    fn send_away(
        &mut self,
        context: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
        taken: Buffer,
        workers: &Workers,
    ) -> Result<(), TlsError> {
        let arrival = Arrival::default();
        let session = match mem::replace(&mut self.session, Session::Away(Rc::clone(&arrival))) {
            Session::Server(session) => session,
            other => {
                self.session = other;
                return Err(rustls::Error::HandshakeNotComplete.into());
            }
        };
        let step = HandshakeStep { session, input: taken };
        let waker = context.wait();
        match step.submit(workers, context.event_loop(), &arrival, waker) {
            None => Ok(()),
            Some(stepped) => {
                context.is_waiting = false;
                self.take_back(context, input, output, stepped)
            }
        }
    }

    /// A step of the handshake is done. Nothing was received meanwhile.
    fn take_back(
        &mut self,
        context: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
        stepped: Stepped,
    ) -> Result<(), TlsError> {
        let Stepped { session, input: mut left, output: mut decoded, mut to_peer, .. } = stepped;
        self.session = Session::Server(session);
        self.early_data += stepped.early_data;
        self.server_name = stepped.server_name.or(self.server_name.take());
        output.append_buffer(&mut decoded);
        context.to_peer().append_buffer(&mut to_peer);
        left.append(input.readable());
        input.clear();
        input.append(left.readable());
        self.conclude(context, input, Buffer::new(), stepped.advanced)
    }

    /// Acts on the result of a step, which has left its input in `partial`, or in `input` if that
    /// is empty.
    fn conclude(
        &mut self,
        context: &mut FilterContext<'_>,
        input: &mut Buffer,
        mut partial: Buffer,
        advanced: Result<Advanced, rustls::Error>,
    ) -> Result<(), TlsError> {
        self.note_progress(context);
        let source = if partial.is_empty() { &mut *input } else { &mut partial };
        match advanced.map_err(|error| self.explain(error))? {
            Advanced::Ended => {
                input.clear();
                context.end_input();
                return Ok(());
            }
            Advanced::IsFull => context.decode_again(),
            Advanced::NeedsInput if begins_with_record(source.readable()) => {
                self.partial.append(source.readable());
                source.clear();
            }
            Advanced::NeedsInput => {}
        }
        if !partial.is_empty() {
            input.append(partial.readable());
        }
        let undecoded = input.len() + self.partial.len();
        if self.stage == Stage::AwaitsHello && undecoded > self.settings.max_client_hello + HEADER {
            return Err(self.reject_hello(context));
        }
        Ok(())
    }

    fn note_progress(&mut self, context: &mut FilterContext<'_>) {
        if self.stage == Stage::AwaitsHello && !context.to_peer().is_empty() {
            self.stage = Stage::Handshake;
        }
        if self.stage == Stage::Established {
            return;
        }
        if let Session::Server(_) = self.session {
            // Also after a second ClientHello, which follows a HelloRetryRequest.
            self.server_name = take_last_name().or(self.server_name.take());
        }
        let is_established =
            self.state().is_some_and(|state| !state.is_handshaking() && !state.wants_write());
        if is_established {
            self.stage = Stage::Established;
            self.workers = None;
        }
    }

    /// Rejects a ClientHello whose header announces too many bytes, before they are received.
    fn check_hello(&mut self, context: &mut FilterContext<'_>, input: &Buffer) -> Result<(), TlsError> {
        self.first_byte = self.first_byte.or(input.readable().first().copied());
        if self.stage != Stage::AwaitsHello || !self.partial.is_empty() {
            return Ok(());
        }
        // A handshake record (22) that contains the whole header of a ClientHello (1).
        match *input.readable() {
            [22, _, _, record_high, record_low, 1, high, middle, low, ..]
                if u16::from_be_bytes([record_high, record_low]) >= 4
                    && u32::from_be_bytes([0, high, middle, low]) as usize
                        > self.settings.max_client_hello =>
            {
                Err(self.reject_hello(context))
            }
            _ => Ok(()),
        }
    }

    fn reject_hello(&self, context: &mut FilterContext<'_>) -> TlsError {
        context.to_peer().append(&ILLEGAL_PARAMETER);
        TlsError::HelloTooLong { limit: self.settings.max_client_hello }
    }

    fn explain(&self, error: rustls::Error) -> TlsError {
        // The content types of records are 20 to 24.
        let is_record = self.first_byte.is_none_or(|byte| (20..=24).contains(&byte));
        match error {
            rustls::Error::InvalidMessage(_) if !is_record => TlsError::NotTls,
            error => error.into(),
        }
    }
}

impl Filter for TlsFilter {
    fn on_open(&mut self, context: &mut FilterContext<'_>) -> io::Result<()> {
        if let Session::New(start) = &self.session {
            let session = match start {
                Start::Server(config) => {
                    UnbufferedServerConnection::new(Arc::clone(config)).map(Session::Server)
                }
                Start::Client(config, name) => {
                    UnbufferedClientConnection::new(Arc::clone(config), name.clone()).map(Session::Client)
                }
            };
            self.session = session.map_err(TlsError::from)?;
        }
        // The ClientHello of a client.
        Ok(self.process(context, &mut Buffer::new(), &mut Buffer::new())?)
    }

    fn is_ready(&self) -> bool {
        self.stage == Stage::Established
    }

    fn decode(
        &mut self,
        context: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        if let Some(failure) = self.failure.take() {
            return Err(failure.into());
        }
        let Err(error) = self.process(context, input, output) else { return Ok(()) };
        if self.stage == Stage::Established && !output.is_empty() {
            self.failure = Some(error);
            context.decode_again();
            return Ok(());
        }
        Err(error.into())
    }

    fn encode(
        &mut self,
        _context: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        let partial = &mut self.partial;
        let encrypted = with_session!(self, session => encrypt(session, partial, input, output));
        Ok(encrypted.map_err(TlsError::from)?)
    }

    fn on_peer_shutdown(
        &mut self,
        _context: &mut FilterContext<'_>,
        input: &mut Buffer,
        _output: &mut Buffer,
    ) -> io::Result<()> {
        let is_whole = input.is_empty() && self.partial.is_empty();
        let error = match self.stage {
            Stage::Established if self.settings.allow_truncation && is_whole => return Ok(()),
            Stage::Established => TlsError::Truncated,
            Stage::AwaitsHello | Stage::Handshake => TlsError::HandshakeEnded,
        };
        Err(error.into())
    }

    fn finish(&mut self, _context: &mut FilterContext<'_>, output: &mut Buffer) -> io::Result<()> {
        let partial = &mut self.partial;
        let finished = with_session!(self, session => close_notify(session, partial, output));
        Ok(finished.map_err(TlsError::from)?)
    }
}

impl fmt::Debug for TlsFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsFilter")
            .field("stage", &self.stage)
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}
