//! The crate's own file I/O, by io_uring or by threads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use reveille::EventLoop;
use reveille::fs::{File, FileIo, FileIoBackend};

use super::workload::{Check, Data, offset};
use super::{BLOCK, IN_FLIGHT, Sample, THREADS, TIMEOUT, WARM_UP};
use crate::Result;

/// Returns the reason if the back end is not available.
pub(super) fn missing(backend: FileIoBackend) -> Option<String> {
    let made = EventLoop::new().and_then(|event_loop| files(&event_loop, backend).map(drop));
    made.err().map(|error| error.to_string())
}

fn files(event_loop: &EventLoop, backend: FileIoBackend) -> std::io::Result<FileIo> {
    FileIo::builder().backend(backend).threads(THREADS).build(event_loop)
}

pub(super) fn sample(data: &Data, backend: FileIoBackend, reads: usize) -> Result<Sample> {
    let event_loop = EventLoop::new()?;
    let reader = Rc::new(Reader {
        files: files(&event_loop, backend)?,
        file: File::from(data.file.try_clone()?),
        check: RefCell::default(),
        next: Cell::new(0),
        reads: Cell::new(0),
        error: Cell::new(None),
    });
    reader.pass(&event_loop, data, WARM_UP)?;
    Sample::of(reads, || reader.pass(&event_loop, data, reads))
}

struct Reader {
    files: FileIo,
    file: File,
    check: RefCell<Check>,
    /// The number of the next read, and the total.
    next: Cell<usize>,
    reads: Cell<usize>,
    error: Cell<Option<String>>,
}

impl Reader {
    fn pass(self: &Rc<Reader>, event_loop: &EventLoop, data: &Data, reads: usize) -> Result<()> {
        self.check.take();
        self.next.set(0);
        self.reads.set(reads);
        (0..reads.min(IN_FLIGHT)).for_each(|_| self.begin(vec![0; BLOCK]));
        let hanging = Rc::clone(self);
        let timeout = event_loop.run_after(TIMEOUT, move |event_loop| {
            hanging.fail(event_loop, "the reads do not come to an end".into());
        });
        event_loop.run()?;
        event_loop.cancel(timeout);
        match self.error.take() {
            Some(error) => Err(error.into()),
            None => self.check.borrow().compare(data, reads),
        }
    }

    /// Starts the next read, if there is one.
    fn begin(self: &Rc<Reader>, buffer: Vec<u8>) {
        let read = self.next.get();
        if read == self.reads.get() {
            return;
        }
        self.next.set(read + 1);
        let this = Rc::clone(self);
        self.files.read_at(
            &self.file,
            offset(read),
            buffer,
            move |event_loop, result, buffer| match result {
                Ok(BLOCK) => this.has_read(event_loop, read, buffer),
                Ok(n) => this.fail(event_loop, format!("a read of {n} bytes")),
                Err(error) => this.fail(event_loop, error.to_string()),
            },
        );
    }

    fn has_read(self: &Rc<Reader>, event_loop: &EventLoop, read: usize, buffer: Vec<u8>) {
        let check = self.check.borrow();
        check.add(read, &buffer);
        if check.count() == self.reads.get() {
            event_loop.quit();
        } else {
            self.begin(buffer);
        }
    }

    fn fail(&self, event_loop: &EventLoop, error: String) {
        self.error.set(Some(error));
        event_loop.quit();
    }
}
