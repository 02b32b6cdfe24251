//! Support for the tests of file I/O: a macro that runs a test with each back end, and operations
//! that wait for completion.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::{fs, io};

use reveille::EventLoop;
use reveille::fs::{File, FileIo, Metadata, OpenOptions};

#[cfg(feature = "uring")]
use super::{alone::skipped, with_loop};

/// Defines a test per back end for each function. The function receives a builder for that back
/// end.
#[allow(unused_macros, reason = "each test binary uses a part of this")]
macro_rules! with_both_backends {
    ($($(#[$doc:meta])* $name:ident)+) => {
        mod threads {
            $(#[test]
            fn $name() {
                super::$name(reveille::fs::FileIo::builder().backend(reveille::fs::FileIoBackend::ThreadPool));
            })+
        }

        #[cfg(feature = "uring")]
        mod ring {
            $(#[test]
            fn $name() {
                if let Some(builder) = crate::support::files::ring() {
                    super::$name(builder);
                }
            })+
        }
    };
}
#[allow(unused_imports, reason = "each test binary uses a part of this")]
pub(crate) use with_both_backends;

/// Returns a builder for the io_uring back end. Prints a message and returns `None` if io_uring is
/// not available.
#[cfg(feature = "uring")]
pub(crate) fn ring() -> Option<reveille::fs::FileIoBuilder> {
    let builder = FileIo::builder().backend(reveille::fs::FileIoBackend::IoUring);
    let probe = builder.clone();
    let probed = with_loop(move |event_loop| probe.build(event_loop).map(drop));
    probed.map(|()| builder).map_err(|error| skipped(format_args!("no io_uring: {error}"))).ok()
}

/// Turns the loop until no file operation is pending.
pub(crate) fn finish_operations(event_loop: &EventLoop, files: &FileIo) {
    while files.pending() > 0 {
        event_loop.run_once(None).expect("a turn");
    }
}

/// Calls `start` with a completion function, turns the loop until that is called, and returns its
/// argument.
pub(crate) fn outcome<T: 'static, R>(
    event_loop: &EventLoop,
    start: impl FnOnce(Box<dyn FnOnce(T)>) -> R,
) -> T {
    let result = Rc::new(RefCell::new(None));
    let completed = Rc::clone(&result);
    start(Box::new(move |value| *completed.borrow_mut() = Some(value)));
    while result.borrow().is_none() {
        event_loop.run_once(None).expect("a turn");
    }
    result.take().expect("checked above")
}

/// Opens a file and waits for completion.
pub(crate) fn open(
    event_loop: &EventLoop,
    files: &FileIo,
    path: impl AsRef<Path>,
    options: OpenOptions,
) -> io::Result<File> {
    outcome(event_loop, |complete| files.open(path, options, |_, file| complete(file)))
}

/// Reads at an offset and waits for completion.
pub(crate) fn read_at(
    event_loop: &EventLoop,
    files: &FileIo,
    file: &File,
    offset: u64,
    n: usize,
) -> (io::Result<usize>, Vec<u8>) {
    outcome(event_loop, |complete| {
        files.read_at(file, offset, vec![0; n], |_, read, buffer| complete((read, buffer)));
    })
}

/// Reads at the file position and waits for completion.
pub(crate) fn read(
    event_loop: &EventLoop,
    files: &FileIo,
    file: &File,
    n: usize,
) -> (io::Result<usize>, Vec<u8>) {
    outcome(event_loop, |complete| {
        files.read(file, vec![0; n], |_, read, buffer| complete((read, buffer)));
    })
}

/// Reads the metadata of a path and waits for completion.
pub(crate) fn status(event_loop: &EventLoop, files: &FileIo, path: impl AsRef<Path>) -> io::Result<Metadata> {
    outcome(event_loop, |complete| files.metadata_at(path, |_, status| complete(status)))
}

/// Returns `n` bytes of a pattern in which no section repeats.
pub(crate) fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

/// Returns the read end and the write end of a pipe.
pub(crate) fn pipe() -> (fs::File, fs::File) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    (fs::File::from(reader), fs::File::from(writer))
}
