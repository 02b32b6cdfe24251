//! What the tests of file I/O share: each test for either back end, and operations that are waited
//! for.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::{fs, io};

use reveille::EventLoop;
use reveille::fs::{File, FileIo, Metadata, OpenOptions};

#[cfg(feature = "uring")]
use super::{alone::skipped, with_loop};

/// Each function here is a test for either back end, which it gets a builder of.
#[allow(unused_macros, reason = "each test binary uses a part of this")]
macro_rules! with_both {
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
pub(crate) use with_both;

/// A ring, unless there is none here, which is said.
#[cfg(feature = "uring")]
pub(crate) fn ring() -> Option<reveille::fs::FileIoBuilder> {
    let builder = FileIo::builder().backend(reveille::fs::FileIoBackend::IoUring);
    let probing = builder.clone();
    let probed = with_loop(move |event_loop| probing.build(event_loop).map(drop));
    probed.map(|()| builder).map_err(|error| skipped(format_args!("no ring to test: {error}"))).ok()
}

/// Makes turns until nothing is under way.
pub(crate) fn settle(event_loop: &EventLoop, files: &FileIo) {
    while files.pending() > 0 {
        event_loop.run_once(None).expect("a turn");
    }
}

/// What `begin` is told in the end, by the function that it is given.
pub(crate) fn outcome<T: 'static, R>(
    event_loop: &EventLoop,
    begin: impl FnOnce(Box<dyn FnOnce(T)>) -> R,
) -> T {
    let place = Rc::new(RefCell::new(None));
    let result = Rc::clone(&place);
    begin(Box::new(move |value| *place.borrow_mut() = Some(value)));
    while result.borrow().is_none() {
        event_loop.run_once(None).expect("a turn");
    }
    result.take().expect("it is there")
}

/// Opens a file, and waits for it.
pub(crate) fn open(
    event_loop: &EventLoop,
    files: &FileIo,
    path: impl AsRef<Path>,
    how: OpenOptions,
) -> io::Result<File> {
    outcome(event_loop, |tell| files.open(path, how, |_, file| tell(file)))
}

/// Reads at an offset, and waits for it.
pub(crate) fn read_at(
    event_loop: &EventLoop,
    files: &FileIo,
    file: &File,
    offset: u64,
    n: usize,
) -> (io::Result<usize>, Vec<u8>) {
    outcome(event_loop, |tell| {
        files.read_at(file, offset, vec![0; n], |_, read, buffer| tell((read, buffer)));
    })
}

/// Reads from the position, and waits for it.
pub(crate) fn read(
    event_loop: &EventLoop,
    files: &FileIo,
    file: &File,
    n: usize,
) -> (io::Result<usize>, Vec<u8>) {
    outcome(event_loop, |tell| files.read(file, vec![0; n], |_, read, buffer| tell((read, buffer))))
}

/// Asks for the status of a path, and waits for it.
pub(crate) fn status(event_loop: &EventLoop, files: &FileIo, path: impl AsRef<Path>) -> io::Result<Metadata> {
    outcome(event_loop, |tell| files.metadata_at(path, |_, status| tell(status)))
}

/// Bytes that are not the same in two places.
pub(crate) fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

/// A pipe: the end to read from and the end to write to.
pub(crate) fn pipe() -> (fs::File, fs::File) {
    let (reads, writes) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    (fs::File::from(reads), fs::File::from(writes))
}
