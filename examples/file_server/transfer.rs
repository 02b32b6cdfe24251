//! A request, and a file on its way to a client.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use reveille::{ConnectionHandle, File, OpenOptions};

use super::Service;

/// How much of a file is read at once.
pub(crate) const PIECE: usize = 64 << 10;

/// How many pieces of a file are being read, or wait for those before them.
const AHEAD: usize = 2;

/// Whatever is read when the connection has gone comes here nevertheless, and is dropped.
pub(crate) struct Transfer {
    service: Rc<Service>,
    client: ConnectionHandle,
    state: RefCell<Progress>,
}

#[derive(Default)]
struct Progress {
    /// From when it is open until the end.
    file: Option<Rc<File>>,
    length: u64,
    /// Up to where the file has been asked for, and given to the connection.
    asked: u64,
    sent: u64,
    /// How many reads are under way.
    reading: usize,
    /// What waits for a piece before it, by where in the file it is.
    pieces: BTreeMap<u64, Vec<u8>>,
    /// The client does not read fast enough.
    is_held: bool,
    is_over: bool,
}

impl Transfer {
    pub(crate) fn begin(service: &Rc<Service>, client: ConnectionHandle, path: PathBuf) -> Rc<Transfer> {
        service.under_way.set(service.under_way.get() + 1);
        let transfer = Transfer { service: Rc::clone(service), client, state: RefCell::default() };
        let transfer = Rc::new(transfer);
        let this = Rc::clone(&transfer);
        // A pipe that somebody has put there must not be waited for.
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
            io::ErrorKind::NotFound => "there is no such file",
            io::ErrorKind::PermissionDenied => "this file is not for you",
            _ => "this cannot be read",
        };
        // If the client has gone there is nobody to be told.
        let _ = self.client.send(format!("ERR {reason}\n"));
        self.end();
    }

    fn send_all(self: &Rc<Transfer>, file: Rc<File>, length: u64) {
        {
            let mut state = self.state.borrow_mut();
            if state.is_over {
                return;
            }
            state.file = Some(file);
            state.length = length;
        }
        // What goes wrong here closes the connection, and that ends the transfer.
        let _ = self.client.send(format!("OK {length}\n"));
        if length == 0 {
            self.service.files_sent.set(self.service.files_sent.get() + 1);
            self.end();
        }
        self.read_on();
    }

    /// The client reads too slowly, or fast enough again.
    pub(crate) fn hold(self: &Rc<Transfer>, is_held: bool) {
        self.state.borrow_mut().is_held = is_held;
        self.read_on();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state.borrow().is_over
    }

    /// Asks for as many pieces as there may be at a time.
    fn read_on(self: &Rc<Transfer>) {
        let state = &mut *self.state.borrow_mut();
        let Some(file) = state.file.clone() else { return };
        while !state.is_held && state.asked < state.length && state.reading + state.pieces.len() < AHEAD {
            let (offset, left) = (state.asked, state.length - state.asked);
            let length = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            state.asked += length as u64;
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
                // The client has been promised more than there is by now.
                Ok(0) => this.give_up("it has become shorter"),
                Err(error) => this.give_up(&error.to_string()),
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
            // As above.
            let _ = self.client.send(bytes);
        }
        let is_all = state.sent == state.length;
        drop(guard);
        if is_all {
            self.service.files_sent.set(self.service.files_sent.get() + 1);
            self.end();
        } else {
            self.read_on();
        }
    }

    fn give_up(&self, why: &str) {
        if !self.state.borrow().is_over {
            log::warn!("a file could not be sent to its end: {why}");
            self.client.close();
            self.end();
        }
    }

    /// Ends it, if it has not ended: the file is closed when nothing of it is being read any longer, and the next request may come.
    pub(crate) fn end(&self) {
        {
            let mut state = self.state.borrow_mut();
            if state.is_over {
                return;
            }
            state.is_over = true;
            state.file = None;
            state.pieces.clear();
        }
        self.client.resume_reading();
        self.service.under_way.set(self.service.under_way.get() - 1);
        self.service.stop_if_idle();
    }
}
