//! A ring of one's own on the loop: its completions announce themselves through an eventfd.
//!
//! Run it with `cargo run --release --example own_ring -- /etc/passwd`. Whoever has an io_uring already, for what
//! [`FileIo`](reveille::FileIo) does not do, needs nothing of the crate but an [`EventFd`]: the kernel raises it when something has
//! completed, and the loop calls back. Here a ring is given a few reads and other things, prints what comes of them, and ends.

#[path = "shared/arguments.rs"]
mod arguments;

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
use reveille::{EventFd, EventLoop};

/// How many operations there can be at a time.
const ENTRIES: u32 = 8;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let path = match arguments::positional("own_ring", "usage: own_ring FILE", 1..=1) {
        Ok(mut arguments) => arguments.remove(0),
        Err(status) => return status,
    };
    let named = |error| io::Error::other(format!("{}: {error}", path.to_string_lossy()));
    let done = match IoUring::new(ENTRIES) {
        Ok(ring) => File::open(&path).map_err(named).and_then(|file| run(ring, file)),
        // ENOSYS: a kernel without it; EPERM: it is switched off, by `kernel.io_uring_disabled` or a filter of system calls.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) =>
        {
            writeln!(io::stdout(), "There is no io_uring for this process: {error}.")
        }
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("own_ring: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(ring: IoUring, file: File) -> io::Result<()> {
    let event_loop = EventLoop::new()?;
    let eventfd = EventFd::new(0)?;
    // From now on the kernel raises it when something completes. It keeps the counter, whatever becomes of this descriptor.
    ring.submitter().register_eventfd(eventfd.as_raw_fd())?;

    let ring = Rc::new(RefCell::new(Ring { ring, under_way: HashMap::new(), next: 0 }));
    // The callback belongs to the loop, and what goes wrong in it to this function.
    let error = Rc::new(Cell::new(None));
    let (on_event, told) = (Rc::clone(&ring), Rc::clone(&error));
    let mut completed = 0;
    let _source = eventfd.watch(&event_loop, move |event_loop, count| {
        // The count says that something has completed, and not how much: one signal may stand for many, and what is found now may
        // have its signal still to come. So all that is there is taken, and nothing is no mistake.
        let completions = on_event.borrow_mut().take();
        completed += completions.len();
        let is_over = on_event.borrow().under_way.is_empty();
        let printed = print(count, &completions).and_then(|()| match is_over {
            true => writeln!(io::stdout(), "{completed} in all"),
            false => Ok(()),
        });
        if is_over || printed.is_err() {
            told.set(printed.err());
            event_loop.quit();
        }
    })?;

    let file = Rc::new(file);
    let give = |what| ring.borrow_mut().give(what);
    give(What::Nothing)?;
    for offset in [0, 16, 1 << 40] {
        give(What::Read { file: Rc::clone(&file), offset, buffer: vec![0; 16] })?;
    }
    give(What::Wait(Box::new(Timespec::new().nsec(20_000_000))))?;
    // All of them with one system call.
    ring.borrow().ring.submit()?;
    event_loop.run()?;
    error.take().map_or(Ok(()), Err)
}

fn print(count: u64, completions: &[(What, i32)]) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "the counter was at {count}, and {} had completed", completions.len())?;
    completions.iter().try_for_each(|(what, result)| writeln!(output, "{what}: {}", outcome(what, *result)))
}

/// The ring, and what it is working on.
struct Ring {
    ring: IoUring,
    /// What the kernel uses, by the number that comes back with its completion. Nothing leaves this before that.
    under_way: HashMap<u64, What>,
    next: u64,
}

/// An operation, with all that the kernel reads and writes for it on the heap, where it stays when this is moved.
enum What {
    Nothing,
    Read { file: Rc<File>, offset: u64, buffer: Vec<u8> },
    Wait(Box<Timespec>),
}

impl Ring {
    /// Puts an operation into the queue, for the next submit.
    fn give(&mut self, mut what: What) -> io::Result<()> {
        let number = self.next;
        let entry = what.entry().user_data(number);
        // SAFETY: the kernel uses the entry's descriptor, buffer and time until it has completed. They belong to `what`, which goes
        // to `under_way`, and from there only when its completion has been taken, or never.
        #[allow(unsafe_code)]
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| io::Error::other("the ring is full"))?;
        self.under_way.insert(number, what);
        self.next += 1;
        Ok(())
    }

    /// Takes all completions that are there.
    fn take(&mut self) -> Vec<(What, i32)> {
        let under_way = &mut self.under_way;
        let completions = self.ring.completion();
        completions
            .filter_map(|completion| Some((under_way.remove(&completion.user_data())?, completion.result())))
            .collect()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may still write into what has not completed, so after an error that is never freed.
        mem::forget(mem::take(&mut self.under_way));
    }
}

impl What {
    fn entry(&mut self) -> squeue::Entry {
        match self {
            What::Nothing => opcode::Nop::new().build(),
            What::Read { file, offset, buffer } => {
                let length = u32::try_from(buffer.len()).expect("a small buffer");
                opcode::Read::new(Fd(file.as_raw_fd()), buffer.as_mut_ptr(), length).offset(*offset).build()
            }
            What::Wait(time) => opcode::Timeout::new(&raw const **time).build(),
        }
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            What::Nothing => f.write_str("nothing"),
            What::Read { offset, .. } => write!(f, "a read from {offset} on"),
            What::Wait(_) => f.write_str("a wait"),
        }
    }
}

/// In words; a ring tells errors as negative numbers, and that a wait has come to its end as ETIME.
fn outcome(what: &What, result: i32) -> String {
    let is_error = |errno: rustix::io::Errno| result == -errno.raw_os_error();
    match what {
        What::Wait(_) if is_error(rustix::io::Errno::TIME) => "over".to_owned(),
        _ if result < 0 => io::Error::from_raw_os_error(-result).to_string(),
        What::Nothing | What::Wait(_) => "done".to_owned(),
        What::Read { buffer, .. } => {
            let n = usize::try_from(result).unwrap_or(0);
            format!("{n} bytes, {:?}", String::from_utf8_lossy(&buffer[..n]))
        }
    }
}
