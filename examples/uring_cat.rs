//! cat(1) on a loop: prints files byte for byte, one after the other.
//!
//! Run it with `cargo run --release --features uring --example uring_cat -- -v /etc/passwd`.
//! Several pieces of a file are read concurrently and written in order, so reads overlap with the
//! output. With the feature `uring`, and a kernel that supports it, the reads use io_uring;
//! otherwise a few threads read. `-v` prints which one is used, and `RUST_LOG=info` the reason.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::rc::Rc;
use std::vec;

use reveille::EventLoop;
use reveille::fs::{File, FileIo, FileIoBackend, FileIoBuilder, Metadata, OpenOptions};

const USAGE: &str = "usage: uring_cat [-v] [--by io_uring|threads] [FILE...]

  FILE  the file to print; `-`, or no FILE at all, is the standard input
  -v    print the backend to stderr
  --by  the backend that reads; default: io_uring if available";

/// Size of one read.
const PIECE: usize = 128 << 10;

/// Maximum number of pieces that are being read or wait for an earlier piece.
const AHEAD: usize = 8;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let arguments = match Arguments::parse(env::args_os().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            let _ = writeln!(io::stdout(), "{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("uring_cat: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("uring_cat: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether everything has been printed.
fn run(arguments: Arguments) -> io::Result<bool> {
    let event_loop = EventLoop::new()?;
    let builder = arguments.by.into_iter().fold(FileIo::builder(), FileIoBuilder::backend);
    let files = builder.build(&event_loop)?;
    if arguments.verbose {
        let by = if files.backend() == FileIoBackend::IoUring { "io_uring" } else { "threads" };
        eprintln!("uring_cat: {by}");
    }
    // Not `io::stdout()`: its buffer has no benefit for large writes.
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let names = arguments.names.into_iter();
    let cat = Rc::new(Cat { files, output, state: RefCell::new(State { names, ..State::default() }) });
    let this = Rc::clone(&cat);
    cat.files.metadata(&cat.output, move |event_loop, status| {
        this.state.borrow_mut().output = status.ok().filter(Metadata::is_file);
        this.next(event_loop);
    });
    event_loop.run()?;
    Ok(!cat.state.borrow().failed)
}

struct Cat {
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

/// The input being printed.
struct Input {
    name: OsString,
    file: Rc<File>,
    /// The size, if the file is read at several offsets at a time. Otherwise reads are sequential.
    size: Option<u64>,
    /// Offset up to which reads have been issued.
    requested: u64,
    /// Offset up to which data has been written to the output.
    written: u64,
    /// Number of reads in flight.
    reading: usize,
    /// Pieces that have been read and not written, by file offset.
    pieces: BTreeMap<u64, Piece>,
    /// Set once one of the pieces is the end.
    has_end: bool,
}

enum Piece {
    Bytes(Vec<u8>),
    /// The end of the input, regular or because of an error.
    End(Option<io::Error>),
}

impl Cat {
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
        let pieces = BTreeMap::new();
        let input = Input { name, file, size, requested: 0, written: 0, reading: 0, pieces, has_end: false };
        self.state.borrow_mut().input = Some(input);
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

impl Input {
    /// Whether another read may be issued. Up to the reported size several are in flight; beyond
    /// it, or without a size, one at a time.
    fn may_read(&self) -> bool {
        let may_be_more = if self.size.is_some_and(|size| self.requested < size) {
            self.reading + self.pieces.len() < AHEAD
        } else {
            self.reading == 0 && self.pieces.len() < AHEAD
        };
        may_be_more && !self.has_end
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

struct Arguments {
    names: Vec<OsString>,
    verbose: bool,
    by: Option<FileIoBackend>,
}

impl Arguments {
    /// Returns `None` for `--help`.
    fn parse(mut given: impl Iterator<Item = OsString>) -> Result<Option<Arguments>, String> {
        let mut arguments = Arguments { names: Vec::new(), verbose: false, by: None };
        while let Some(argument) = given.next() {
            match argument.to_str() {
                Some("--help" | "-h") => return Ok(None),
                Some("-v") => arguments.verbose = true,
                Some("--by") => {
                    arguments.by = Some(match given.next().as_ref().and_then(|by| by.to_str()) {
                        Some("io_uring") => FileIoBackend::IoUring,
                        Some("threads") => FileIoBackend::ThreadPool,
                        _ => return Err("--by takes io_uring or threads".to_owned()),
                    });
                }
                Some("--") => {
                    arguments.names.extend(given);
                    break;
                }
                Some(option) if option.starts_with('-') && option != "-" => {
                    return Err(format!("unknown argument `{option}`"));
                }
                _ => arguments.names.push(argument),
            }
        }
        if arguments.names.is_empty() {
            arguments.names.push("-".into());
        }
        Ok(Some(arguments))
    }
}
