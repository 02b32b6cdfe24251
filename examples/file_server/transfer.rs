//! A request, and the transfer of a file to a client.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use reveille::ConnectionHandle;
use reveille::fs::{File, OpenOptions};

use super::service::Service;
use super::session::Session;

/// Size of one read.
pub(crate) const PIECE: usize = 64 << 10;

/// Maximum number of pieces that are being read or wait for an earlier piece.
const AHEAD: usize = 2;

/// The transfer of one file. Reads that complete after the connection has closed are dropped here.
pub(crate) struct Transfer {
    service: Rc<Service>,
    client: ConnectionHandle,
    state: RefCell<Progress>,
}

#[derive(Default)]
struct Progress {
    /// Set from the open until the end of the transfer.
    file: Option<Rc<File>>,
    length: u64,
    /// Offsets up to which reads have been issued, and data has been passed to the connection.
    requested: u64,
    sent: u64,
    /// Number of reads in flight.
    reading: usize,
    /// Pieces that wait for an earlier one, by file offset.
    pieces: BTreeMap<u64, Vec<u8>>,
    /// Set while the client reads too slowly.
    is_paused: bool,
    is_done: bool,
}

impl Transfer {
    pub(crate) fn begin(service: &Rc<Service>, client: ConnectionHandle, path: PathBuf) -> Rc<Transfer> {
        service.in_flight.set(service.in_flight.get() + 1);
        let transfer = Transfer { service: Rc::clone(service), client, state: RefCell::default() };
        let transfer = Rc::new(transfer);
        let this = Rc::clone(&transfer);
        // Non-blocking, since the open of a FIFO could block.
        let options = OpenOptions::reading().no_follow().nonblocking();
        service.files.open(path, options, move |_, file| match file {
            Ok(file) => this.opened(Rc::new(file)),
            Err(error) => this.refuse(&error),
        });
        transfer
    }

    fn opened(self: &Rc<Transfer>, file: Rc<File>) {
        let (this, opened) = (Rc::clone(self), Rc::clone(&file));
        self.service.files.metadata(&file, move |_, status| match status {
            Ok(status) if status.is_file() => this.send_all(opened, status.size()),
            Ok(_) => this.refuse(&io::Error::from(io::ErrorKind::InvalidInput)),
            Err(error) => this.refuse(&error),
        });
    }

    fn refuse(&self, error: &io::Error) {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => "no such file",
            io::ErrorKind::PermissionDenied => "permission denied",
            _ => "cannot be read",
        };
        // Fails if the connection has closed: the reply is dropped.
        let _ = self.client.send(format!("ERR {reason}\n"));
        self.end();
    }

    fn send_all(self: &Rc<Transfer>, file: Rc<File>, length: u64) {
        {
            let mut state = self.state.borrow_mut();
            if state.is_done {
                return;
            }
            state.file = Some(file);
            state.length = length;
        }
        // An error here closes the connection, which ends the transfer.
        let _ = self.client.send(format!("OK {length}\n"));
        // A client that reads a byte from time to time is not idle, but must not hold a connection.
        let within = self.service.timeout + Duration::from_secs(length / self.service.slowest);
        let _ = self.client.with(move |_: &mut Session, conn| conn.set_deadline(within));
        if length == 0 {
            self.service.files_sent.set(self.service.files_sent.get() + 1);
            self.end();
        }
        self.read_ahead();
    }

    /// Called when the client reads too slowly, and when it has caught up.
    pub(crate) fn set_paused(self: &Rc<Transfer>, is_paused: bool) {
        self.state.borrow_mut().is_paused = is_paused;
        self.read_ahead();
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state.borrow().is_done
    }

    /// Issues reads up to the maximum number of pieces.
    fn read_ahead(self: &Rc<Transfer>) {
        let state = &mut *self.state.borrow_mut();
        let Some(file) = state.file.clone() else { return };
        while !state.is_paused && state.requested < state.length && state.reading + state.pieces.len() < AHEAD
        {
            let (offset, left) = (state.requested, state.length - state.requested);
            let length = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            state.requested += length as u64;
            self.read(state, &file, offset, length);
        }
    }

    fn read(self: &Rc<Transfer>, state: &mut Progress, file: &File, offset: u64, length: usize) {
        state.reading += 1;
        let this = Rc::clone(self);
        self.service.files.read_at(file, offset, vec![0; length], move |_, result, mut bytes| {
            this.state.borrow_mut().reading -= 1;
            match result {
                Ok(n @ 1..) => {
                    bytes.truncate(n);
                    this.has_read(offset, bytes, length);
                }
                // The file is now shorter than the announced length.
                Ok(0) => this.fail("the file was truncated"),
                Err(error) => this.fail(&error.to_string()),
            }
        });
    }

    fn has_read(self: &Rc<Transfer>, offset: u64, bytes: Vec<u8>, length: usize) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        let Some(file) = state.file.clone() else { return };
        if bytes.len() < length {
            self.read(state, &file, offset + bytes.len() as u64, length - bytes.len());
        }
        state.pieces.insert(offset, bytes);
        while let Some(bytes) = state.pieces.remove(&state.sent) {
            state.sent += bytes.len() as u64;
            self.service.bytes.set(self.service.bytes.get() + bytes.len() as u64);
            // Same as above.
            let _ = self.client.send(bytes);
        }
        let is_all = state.sent == state.length;
        drop(guard);
        if is_all {
            self.service.files_sent.set(self.service.files_sent.get() + 1);
            self.end();
        } else {
            self.read_ahead();
        }
    }

    fn fail(&self, why: &str) {
        if !self.state.borrow().is_done {
            log::warn!("a file could not be sent completely: {why}");
            self.client.close();
            self.end();
        }
    }

    /// Ends the transfer, unless it has ended: the file is closed after its last read, and the next
    /// request may be processed.
    pub(crate) fn end(&self) {
        {
            let mut state = self.state.borrow_mut();
            if state.is_done {
                return;
            }
            state.is_done = true;
            state.file = None;
            state.pieces.clear();
        }
        self.client.resume_reading();
        self.service.in_flight.set(self.service.in_flight.get() - 1);
        self.service.stop_if_idle();
    }
}
