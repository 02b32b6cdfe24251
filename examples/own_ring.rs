//! An application's own io_uring on the loop: completions are signalled through an eventfd.
//!
//! Run it with `cargo run --release --example own_ring -- /etc/passwd`. An application that has an
//! io_uring for operations that [`FileIo`](reveille::fs::FileIo) does not cover needs only an
//! [`EventFd`] of this crate: the kernel signals it when an operation completes, and the loop calls
//! a callback. The example submits a few reads and other operations, prints their results, and
//! ends.

#[path = "shared/options.rs"]
mod options;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::mem;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::rc::Rc;

use io_uring::types::{Fd, Timespec};
use io_uring::{IoUring, opcode, squeue};
use options::{Failure, Options};
use reveille::{EventFd, EventLoop};

/// Maximum number of concurrent operations.
const ENTRIES: u32 = 8;

const USAGE: &str = "usage: own_ring FILE

  FILE  the file whose first bytes are read";

fn main() -> ExitCode {
    options::main(USAGE, &[], &[], start)
}

fn start(options: &mut Options) -> Result<(), Failure> {
    let path = options.only("the file")?;
    let named = |error| Failure::Error(format!("{}: {error}", path.to_string_lossy()));
    match IoUring::new(ENTRIES) {
        Ok(ring) => Ok(run(ring, File::open(&path).map_err(named)?)?),
        // ENOSYS: the kernel does not support it. EPERM: it is disabled by
        // `kernel.io_uring_disabled` or a system call filter.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) =>
        {
            Ok(writeln!(io::stdout(), "io_uring is not available: {error}.")?)
        }
        Err(error) => Err(error.into()),
    }
}

fn run(ring: IoUring, file: File) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let eventfd = EventFd::new(0)?;
    // From now on the kernel signals it on each completion. The kernel holds a reference to the
    // counter, independent of this descriptor.
    ring.submitter().register_eventfd(eventfd.as_raw_fd())?;

    let ring = Rc::new(RefCell::new(Ring { ring, in_flight: HashMap::new(), next: 0 }));
    // The callback belongs to the loop; it passes its error to this function.
    let error = Rc::new(Cell::new(None));
    let (on_event, reported) = (Rc::clone(&ring), Rc::clone(&error));
    let mut completed = 0;
    let _source = eventfd.watch(&event_loop, move |event_loop, count| {
        // The count reports that operations have completed, not how many. One signal may cover
        // several completions, and the signal of a completion found now may arrive later. So all
        // completions are taken, and finding none is not an error.
        let completions = on_event.borrow_mut().take();
        completed += completions.len();
        let is_done = on_event.borrow().in_flight.is_empty();
        let printed = print(count, &completions).and_then(|()| match is_done {
            true => writeln!(io::stdout(), "{completed} operations completed"),
            false => Ok(()),
        });
        if is_done || printed.is_err() {
            reported.set(printed.err());
            event_loop.quit();
        }
    })?;

    let file = Rc::new(file);
    let push = |operation| ring.borrow_mut().push(operation);
    push(Operation::Nothing)?;
    for offset in [0, 16, 1 << 40] {
        push(Operation::Read { file: Rc::clone(&file), offset, buffer: vec![0; 16] })?;
    }
    push(Operation::Wait(Box::new(Timespec::new().nsec(20_000_000))))?;
    // Submits all of them with one system call.
    ring.borrow().ring.submit()?;
    event_loop.run()?;
    error.take().map_or(Ok(()), Err)
}

fn print(count: u64, completions: &[(Operation, i32)]) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "counter: {count}, completions: {}", completions.len())?;
    completions
        .iter()
        .try_for_each(|(operation, result)| writeln!(output, "{operation}: {}", outcome(operation, *result)))
}

/// The ring and its operations in flight.
struct Ring {
    ring: IoUring,
    /// The operations in flight, by the number that their completion carries. An entry is removed
    /// only on completion.
    in_flight: HashMap<u64, Operation>,
    next: u64,
}

/// An operation. All memory that the kernel accesses for it is on the heap, so it keeps its address
/// when this is moved.
enum Operation {
    Nothing,
    Read { file: Rc<File>, offset: u64, buffer: Vec<u8> },
    Wait(Box<Timespec>),
}

impl Ring {
    /// Pushes an operation to the submission queue.
    fn push(&mut self, mut operation: Operation) -> io::Result<()> {
        let number = self.next;
        let entry = operation.entry().user_data(number);
        // SAFETY: the kernel uses the entry's descriptor, buffer and time until the operation has
        // completed. They belong to `operation`, which moves to `in_flight`; it is removed from
        // there only after its completion has been taken, or never.
        #[allow(unsafe_code)]
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| io::Error::other("the ring is full"))?;
        self.in_flight.insert(number, operation);
        self.next += 1;
        Ok(())
    }

    /// Takes all available completions.
    fn take(&mut self) -> Vec<(Operation, i32)> {
        let in_flight = &mut self.in_flight;
        let completions = self.ring.completion();
        completions
            .filter_map(|completion| Some((in_flight.remove(&completion.user_data())?, completion.result())))
            .collect()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may still write to operations that have not completed, so after an error they
        // are never freed.
        mem::forget(mem::take(&mut self.in_flight));
    }
}

impl Operation {
    fn entry(&mut self) -> squeue::Entry {
        match self {
            Operation::Nothing => opcode::Nop::new().build(),
            Operation::Read { file, offset, buffer } => {
                let length = u32::try_from(buffer.len()).expect("a small buffer");
                opcode::Read::new(Fd(file.as_raw_fd()), buffer.as_mut_ptr(), length).offset(*offset).build()
            }
            Operation::Wait(time) => opcode::Timeout::new(&raw const **time).build(),
        }
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Operation::Nothing => f.write_str("no-op"),
            Operation::Read { offset, .. } => write!(f, "read at offset {offset}"),
            Operation::Wait(_) => f.write_str("timeout"),
        }
    }
}

/// Describes a result. A ring reports errors as negative numbers, and an expired timeout as ETIME.
fn outcome(operation: &Operation, result: i32) -> String {
    let is_error = |errno: rustix::io::Errno| result == -errno.raw_os_error();
    match operation {
        Operation::Wait(_) if is_error(rustix::io::Errno::TIME) => "expired".to_owned(),
        _ if result < 0 => io::Error::from_raw_os_error(-result).to_string(),
        Operation::Nothing | Operation::Wait(_) => "done".to_owned(),
        Operation::Read { buffer, .. } => {
            let n = usize::try_from(result).unwrap_or(0);
            format!("{n} bytes, {:?}", String::from_utf8_lossy(&buffer[..n]))
        }
    }
}
