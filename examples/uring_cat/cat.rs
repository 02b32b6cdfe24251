//! Reads files in pieces, several at a time, and writes the pieces in order.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::vec;

use reveille::EventLoop;
use reveille::fs::{File, FileIo, Metadata, OpenOptions};

use super::input::{Input, Piece};

/// Size of one read.
const PIECE: usize = 128 << 10;

pub(crate) struct Cat {
    files: FileIo,
    output: File,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    names: vec::IntoIter<OsString>,
    /// The metadata of the output, if it is a regular file, which could also be an input.
    output: Option<Metadata>,
    input: Option<Input>,
    /// The number of the current input. Completions of earlier inputs are recognised by it.
    number: usize,
    is_writing: bool,
    failed: bool,
    spare: Vec<Vec<u8>>,
}

impl Cat {
    /// Prints the files with these names. The loop quits at the end.
    pub(crate) fn start(files: FileIo, names: vec::IntoIter<OsString>) -> io::Result<Rc<Cat>> {
        // Not `io::stdout()`: its buffer has no benefit for large writes.
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let cat = Rc::new(Cat { files, output, state: RefCell::new(State { names, ..State::default() }) });
        let this = Rc::clone(&cat);
        cat.files.metadata(&cat.output, move |event_loop, status| {
            this.state.borrow_mut().output = status.ok().filter(Metadata::is_file);
            this.next(event_loop);
        });
        Ok(cat)
    }

    /// Whether something could not be printed.
    pub(crate) fn has_failed(&self) -> bool {
        self.state.borrow().failed
    }

    /// Starts the next file, or ends.
    fn next(self: &Rc<Cat>, event_loop: &EventLoop) {
        let name = {
            let mut state = self.state.borrow_mut();
            state.number += 1;
            state.names.next()
        };
        let Some(name) = name else { return event_loop.quit() };
        if name == "-" {
            let input = io::stdin().as_fd().try_clone_to_owned();
            return self.opened(event_loop, name, input.map(File::from));
        }
        let this = Rc::clone(self);
        self.files.open(name.clone(), OpenOptions::reading(), move |event_loop, file| {
            this.opened(event_loop, name, file);
        });
    }

    fn opened(self: &Rc<Cat>, event_loop: &EventLoop, name: OsString, file: io::Result<File>) {
        let file = match file {
            Ok(file) => file,
            Err(error) => return self.fail(event_loop, &name, &message(&error)),
        };
        let file = Rc::new(file);
        let (this, opened) = (Rc::clone(self), Rc::clone(&file));
        self.files.metadata(&file, move |event_loop, status| match status {
            Ok(status) => this.begin(event_loop, name, opened, &status),
            Err(error) => this.fail(event_loop, &name, &message(&error)),
        });
    }

    fn begin(self: &Rc<Cat>, event_loop: &EventLoop, name: OsString, file: Rc<File>, status: &Metadata) {
        let is_output = self.state.borrow().output.as_ref().is_some_and(|output| is_same(output, status));
        if is_output {
            // It would never end, since each byte read appends another one.
            return self.fail(event_loop, &name, "input file is output file");
        }
        // The standard input may have been read by other processes, up to a position. Files in
        // /proc report a size of zero.
        let size = (name != "-" && status.is_file()).then(|| status.size()).filter(|size| *size > 0);
        self.state.borrow_mut().input = Some(Input::new(name, file, size));
        self.advance(event_loop);
    }

    /// Writes the pieces that are next in order, and issues reads for the free capacity.
    fn advance(self: &Rc<Cat>, event_loop: &EventLoop) {
        self.issue_reads();
        let ended = {
            let State { input, is_writing, .. } = &mut *self.state.borrow_mut();
            let (Some(now), false) = (&mut *input, *is_writing) else { return };
            match now.pieces.remove(&now.written) {
                None => return,
                Some(Piece::Bytes(bytes)) => {
                    now.written += bytes.len() as u64;
                    *is_writing = true;
                    let this = Rc::clone(self);
                    self.files.write_all(&self.output, bytes, move |event_loop, result, buffer| {
                        this.wrote(event_loop, result, buffer);
                    });
                    return;
                }
                Some(Piece::End(error)) => (input.take(), error),
            }
        };
        match ended {
            (Some(input), Some(error)) => self.fail(event_loop, &input.name, &message(&error)),
            _ => self.next(event_loop),
        }
    }

    fn issue_reads(self: &Rc<Cat>) {
        let State { input: Some(input), number, spare, .. } = &mut *self.state.borrow_mut() else { return };
        while input.may_read() {
            let offset = input.requested;
            input.requested += PIECE as u64;
            self.read(input, *number, offset, spare.pop().unwrap_or_default(), PIECE);
        }
    }

    fn read(
        self: &Rc<Cat>,
        input: &mut Input,
        number: usize,
        offset: u64,
        mut buffer: Vec<u8>,
        length: usize,
    ) {
        input.reading += 1;
        buffer.resize(length, 0);
        let this = Rc::clone(self);
        let then = move |event_loop: &EventLoop, result: io::Result<usize>, mut buffer: Vec<u8>| {
            buffer.truncate(*result.as_ref().unwrap_or(&0));
            this.has_read(event_loop, number, offset, length, result.map(|_| buffer));
        };
        match input.size {
            Some(_) => self.files.read_at(&input.file, offset, buffer, then),
            None => self.files.read(&input.file, buffer, then),
        };
    }

    fn has_read(
        self: &Rc<Cat>,
        event_loop: &EventLoop,
        number: usize,
        offset: u64,
        length: usize,
        result: io::Result<Vec<u8>>,
    ) {
        {
            let state = &mut *self.state.borrow_mut();
            // A read beyond the end of a file that was truncated may complete after the next file
            // has been started.
            let Some(input) = state.input.as_mut().filter(|_| number == state.number) else { return };
            input.reading -= 1;
            let piece = match result {
                Ok(bytes) if bytes.is_empty() => Piece::End(None),
                Ok(bytes) => Piece::Bytes(bytes),
                Err(error) => Piece::End(Some(error)),
            };
            match &piece {
                Piece::End(_) => input.has_end = true,
                Piece::Bytes(bytes) if input.size.is_none() => input.requested = offset + bytes.len() as u64,
                // Only an empty read is the end.
                Piece::Bytes(bytes) if bytes.len() < length => {
                    let behind = offset + bytes.len() as u64;
                    let buffer = state.spare.pop().unwrap_or_default();
                    self.read(input, number, behind, buffer, length - bytes.len());
                }
                Piece::Bytes(_) => {}
            }
            input.pieces.insert(offset, piece);
        }
        self.advance(event_loop);
    }

    fn wrote(self: &Rc<Cat>, event_loop: &EventLoop, result: io::Result<()>, buffer: Vec<u8>) {
        {
            let mut state = self.state.borrow_mut();
            state.is_writing = false;
            state.spare.push(buffer);
        }
        let Err(error) = result else { return self.advance(event_loop) };
        // A reader that closes the pipe has read all that it needs, so this is not reported.
        if error.kind() != io::ErrorKind::BrokenPipe {
            eprintln!("uring_cat: standard output: {}", message(&error));
        }
        self.state.borrow_mut().failed = true;
        event_loop.quit();
    }

    /// Reports the error and continues with the next file, as cat does.
    fn fail(self: &Rc<Cat>, event_loop: &EventLoop, name: &OsString, message: &str) {
        eprintln!("uring_cat: {}: {message}", name.to_string_lossy());
        self.state.borrow_mut().failed = true;
        self.next(event_loop);
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.device(), one.inode()) == (other.device(), other.inode())
}

/// The system's error message, without its number.
fn message(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.as_str(), |(message, _)| message).to_owned()
}
