//! Operations in an io_uring (io_uring(7)).
//!
//! The kernel has addresses of the data of an operation until it reports the completion. This file
//! keeps that data alive: see the invariant of [`Ring`]. It is the only file of file I/O with
//! `unsafe`.

#![allow(unsafe_code, reason = "the kernel is handed addresses, and hands back descriptors by number")]

mod setup;

use std::collections::VecDeque;
use std::io;
use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, OFlags, Statx};
use rustix::io::Errno;

use crate::event_loop::process_mark::ProcessMark;
use crate::eventfd::EventFd;
use crate::file_io::fault::Fault;
use crate::file_io::metadata::Metadata;
use crate::file_io::operation::{Operation, Outcome, Position, Sync, Target};
use crate::file_io::slab::{Key, Slab};

/// How long closing a ring waits for the operations that it has cancelled. Only a disk or a file
/// system that does not respond takes longer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The maximum length of one read or write (read(2), notes). A multiple of any page size.
const MAX_LEN: usize = 0x7fff_f000;

/// The user data of requests to cancel, which no operation has.
const CANCEL: Key = Key::MAX;

/// A ring, and all data that the kernel accesses through it.
///
/// # Invariant
/// For each entry that has been pushed and whose completion has not been seen, `held` has the
/// operation of the entry, under the key that is the user data of the entry. All addresses in the
/// entry point to heap memory that the operation owns, and stay the same when it is moved. The
/// operation is neither accessed nor dropped before its completion removes it from `held`.
/// Operations that are still there when the ring is dropped are never freed.
pub(in crate::file_io) struct Ring {
    ring: ManuallyDrop<IoUring>,
    process: ProcessMark,
    /// The eventfd that the kernel signals for completions.
    done: Arc<EventFd>,
    held: Slab<Held>,
    /// No operation is started while the operations in `held` and the pending requests to cancel
    /// reach this number. It is at most half the size of the completion queue, so that the queue
    /// has space for each held operation and for a request to cancel it.
    limit: usize,
    /// The number of requests to cancel that the kernel has not completed.
    cancels: usize,
    /// The keys of operations whose cancellation is to be requested.
    to_cancel: Vec<Key>,
    /// Operations to submit again: the kernel was interrupted in them, or they are the remainder of
    /// a write.
    retries: Vec<(Key, Operation)>,
    /// How often the completion queue has overflowed.
    overflows: u32,
    /// Errors that have not been logged.
    faults: Vec<Fault>,
}

/// Operations of dropped rings that the kernel has not completed. They stay reachable, so that leak
/// detectors do not report them.
static ABANDONED: Mutex<Vec<Held>> = Mutex::new(Vec::new());

/// The operation of an entry.
struct Held {
    key: Key,
    operation: Operation,
    /// The memory for the result of statx(2); empty for other operations. A vector and not a box,
    /// because a box asserts exclusive access.
    statx: Vec<MaybeUninit<Statx>>,
    /// Cancellation has been requested, or will be.
    is_cancelled: bool,
}

impl Ring {
    /// Creates a ring for at most `entries` operations at a time, which signals `done`.
    ///
    /// # Errors
    /// The reason why no ring can be created, as documented at
    /// [`FileIoBuilder::build`](crate::file_io::FileIoBuilder::build).
    pub(in crate::file_io) fn new(done: Arc<EventFd>, entries: u32) -> io::Result<Ring> {
        let ring = setup::set_up(entries, &done)?;
        let params = ring.params();
        let limit = params.sq_entries().min(params.cq_entries() / 2) as usize;
        Ok(Ring {
            ring: ManuallyDrop::new(ring),
            process: ProcessMark::current(),
            done,
            held: Slab::new(),
            limit,
            cancels: 0,
            to_cancel: Vec::new(),
            retries: Vec::new(),
            overflows: 0,
            faults: Vec::new(),
        })
    }

    /// Takes the errors since the last call.
    pub(in crate::file_io) fn faults(&mut self) -> Vec<Fault> {
        mem::take(&mut self.faults)
    }

    /// Whether [`submit`](Ring::submit) has work apart from waiting operations.
    pub(in crate::file_io) fn has_more(&self) -> bool {
        !self.retries.is_empty() || !self.to_cancel.is_empty()
    }

    /// Submits as many of the waiting operations as there is capacity for, with one system call.
    ///
    /// # Errors
    /// If the kernel accepts none at the moment. They stay in the queue, and go with the next
    /// submission.
    pub(in crate::file_io) fn submit(&mut self, waiting: &mut VecDeque<(Key, Operation)>) -> io::Result<()> {
        self.push_cancels()?;
        while self.held.len() + self.cancels < self.limit {
            self.reserve_entry()?;
            let Some((key, operation)) = self.retries.pop().or_else(|| waiting.pop_front()) else { break };
            self.push(key, operation);
        }
        self.enter()
    }

    /// Makes sure that the submission queue has space for an entry.
    fn reserve_entry(&mut self) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.enter()?;
            if self.ring.submission().is_full() {
                return Err(io::Error::from(io::ErrorKind::ResourceBusy));
            }
        }
        Ok(())
    }

    fn push(&mut self, key: Key, operation: Operation) {
        let mut held = Held { key, operation, statx: Vec::new(), is_cancelled: false };
        let entry = held.entry();
        let entry = entry.user_data(self.held.insert(held));
        // SAFETY: by the invariant, which this establishes: the operation of the entry is held
        // under its key.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("an entry was reserved");
    }

    fn push_cancels(&mut self) -> io::Result<()> {
        while let Some(&number) = self.to_cancel.last() {
            self.reserve_entry()?;
            let entry = opcode::AsyncCancel::new(number).build().user_data(CANCEL);
            // SAFETY: the entry contains no address.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            pushed.expect("an entry was reserved");
            self.cancels += 1;
            self.to_cancel.pop();
        }
        Ok(())
    }

    /// Requests the cancellation of an operation with the next submission. If the operation waits
    /// here to be submitted again, it is returned.
    pub(in crate::file_io) fn cancel(&mut self, key: Key) -> Option<Operation> {
        if let Some(at) = self.retries.iter().position(|(again, _)| *again == key) {
            return Some(self.retries.swap_remove(at).1);
        }
        let is_it =
            |held: &&mut Held| held.key == key && !held.is_cancelled && held.operation.may_be_cancelled();
        if let Some((number, held)) = self.held.iter_mut().find(|(_, held)| is_it(held)) {
            held.is_cancelled = true;
            self.to_cancel.push(number);
        }
        None
    }

    /// Makes the kernel accept the entries in the submission queue, and report completions that had
    /// no space.
    fn enter(&mut self) -> io::Result<()> {
        loop {
            let queue = self.ring.submission();
            if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
                return Ok(());
            }
            drop(queue);
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.ring.submission().cq_overflow() {
                // The completion queue must be drained before the kernel can report the others.
                return Ok(());
            }
        }
    }

    /// Takes the outcomes of all completed operations.
    ///
    /// # Errors
    /// If the kernel does not report all completions at the moment. To be called again later.
    pub(in crate::file_io) fn take(&mut self, outcomes: &mut Vec<(Key, Outcome)>) -> io::Result<()> {
        loop {
            self.take_completions(outcomes);
            let queue = self.ring.submission();
            let (is_overflowed, has_work) = (queue.cq_overflow(), queue.taskrun());
            drop(queue);
            if is_overflowed {
                // Cannot happen, as there is space for all held operations. The kernel keeps
                // completions that have no space.
                self.overflows += 1;
                self.faults.push(Fault::Overflowed);
            }
            if !is_overflowed && !has_work {
                return Ok(());
            }
            self.enter()?;
        }
    }

    fn take_completions(&mut self, outcomes: &mut Vec<(Key, Outcome)>) {
        let Ring { ring, held, retries, cancels, faults, .. } = self;
        for completion in ring.completion() {
            if completion.user_data() == CANCEL {
                *cancels -= 1;
                continue;
            }
            // The kernel has completed it: by the invariant it may be accessed again.
            let Some(Held { key, operation, statx, is_cancelled }) = held.remove(completion.user_data())
            else {
                faults.push(Fault::Unknown);
                continue;
            };
            let result = completion.result();
            match (operation, usize::try_from(result)) {
                (operation, Err(_)) if result == -libc::EINTR && operation.may_be_cancelled() => {
                    if is_cancelled {
                        outcomes.push((key, operation.cancelled()));
                    } else {
                        retries.push((key, operation));
                    }
                }
                (operation @ Operation::Write { .. }, Ok(n)) => match operation.written(n) {
                    Ok(outcome) => outcomes.push((key, outcome)),
                    Err(rest) if is_cancelled => outcomes.push((key, rest.cancelled())),
                    Err(rest) => retries.push((key, rest)),
                },
                (operation, _) => outcomes.push((key, outcome(operation, statx, result))),
            }
        }
    }

    /// Cancels all operations in the kernel, and waits for their completion, up to a limit.
    pub(in crate::file_io) fn close(&mut self) {
        self.retries.clear();
        if self.held.len() > 0 {
            self.cancel_all();
            self.wait(CLOSE_TIMEOUT);
        }
    }

    fn cancel_all(&mut self) {
        for (number, held) in self.held.iter_mut() {
            if !held.is_cancelled && held.operation.may_be_cancelled() {
                held.is_cancelled = true;
                self.to_cancel.push(number);
            }
        }
        if let Err(error) = self.push_cancels().and_then(|()| self.enter()) {
            self.faults.push(Fault::NotCancelled(error));
        }
    }

    /// Waits until nothing is held, at most for `timeout`. Outcomes are dropped.
    fn wait(&mut self, timeout: Duration) {
        let begin = Instant::now();
        loop {
            let mut outcomes = Vec::new();
            if let Err(error) = self.take(&mut outcomes) {
                self.faults.push(Fault::NotReported(error));
            }
            drop(outcomes);
            self.retries.clear();
            let left = timeout.saturating_sub(begin.elapsed());
            if self.held.len() == 0 || left.is_zero() {
                return;
            }
            let timeout = Timespec::try_from(left).expect("a short time");
            let mut fds = [PollFd::new(&*self.done, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => drop(self.done.read()),
                Err(error) => return self.faults.push(Fault::NotAwaited(error.into())),
            }
        }
    }

    /// Keeps the operations that are still held for ever, because the kernel may still access their
    /// memory.
    fn abandon(&mut self) {
        let left = self.held.drain();
        if !left.is_empty() {
            self.faults.push(Fault::Abandoned(left.len()));
            ABANDONED.lock().extend(left);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.process.is_current() {
            self.close();
            self.abandon();
            self.faults().into_iter().for_each(Fault::log);
            // SAFETY: the ring is not used again.
            unsafe { ManuallyDrop::drop(&mut self.ring) };
        } else {
            // A forked child has no mapping of the queues, so there is nothing to unmap, and the
            // operations belong to the parent. Their memory is a copy here, which the kernel does
            // not write to.
            // SAFETY: the ring, which is not dropped, owns the descriptor and is not used again.
            drop(unsafe { OwnedFd::from_raw_fd(self.ring.as_raw_fd()) });
        }
    }
}

impl Held {
    /// Returns the entry for the operation. Its addresses stay valid for as long as this value
    /// exists, wherever it is moved.
    fn entry(&mut self) -> squeue::Entry {
        let Held { operation, statx, .. } = self;
        match operation {
            Operation::Open { path, flags, mode } => {
                let entry = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr())
                    .flags(flags.bits() as i32)
                    .mode(mode.bits())
                    .build();
                if flags.contains(OFlags::NONBLOCK) {
                    entry
                } else {
                    // In a kernel thread. Otherwise the kernel would first try with O_NONBLOCK
                    // inline, and so open a pipe whose other end is not open.
                    entry.flags(squeue::Flags::ASYNC)
                }
            }
            Operation::Read { file, from, buffer } => {
                let n = buffer.len().min(MAX_LEN) as u32;
                opcode::Read::new(fd(file), buffer.as_mut_ptr(), n).offset(offset(*from)).build()
            }
            Operation::Write { file, to, buffer, done, .. } => {
                let bytes = &buffer[*done..];
                let n = bytes.len().min(MAX_LEN) as u32;
                opcode::Write::new(fd(file), bytes.as_ptr(), n).offset(offset(*to)).build()
            }
            Operation::Sync { file, what } => {
                let flags = match what {
                    Sync::All => types::FsyncFlags::empty(),
                    Sync::Data => types::FsyncFlags::DATASYNC,
                };
                opcode::Fsync::new(fd(file)).flags(flags).build()
            }
            Operation::Metadata { of } => {
                statx.push(MaybeUninit::zeroed());
                let (folder, path, flags) = match of {
                    Target::File(file) => (fd(file), c"".as_ptr(), AtFlags::EMPTY_PATH),
                    Target::Path(path) => (types::Fd(libc::AT_FDCWD), path.as_ptr(), AtFlags::empty()),
                };
                opcode::Statx::new(folder, path, statx.as_mut_ptr().cast())
                    .flags(flags.bits() as i32)
                    .mask(Metadata::MASK.bits())
                    .build()
            }
            Operation::Close { descriptor } => opcode::Close::new(fd(descriptor)).build(),
        }
    }
}

fn fd(file: &impl AsFd) -> types::Fd {
    types::Fd(file.as_fd().as_raw_fd())
}

/// Converts a position to the offset of an entry. -1 stands for the current position;
/// [`Position::check`] rejects it as an offset.
fn offset(position: Position) -> u64 {
    match position {
        Position::At(offset) => offset,
        Position::Current => u64::MAX,
    }
}

/// Converts the kernel's `result`, which is a number or a negated error, to an outcome.
fn outcome(operation: Operation, mut statx: Vec<MaybeUninit<Statx>>, result: i32) -> Outcome {
    let result = u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
    match operation {
        Operation::Open { .. } => {
            // SAFETY: the kernel has opened this descriptor for this operation, and it has no other
            // owner.
            Outcome::Opened(result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
        }
        Operation::Read { buffer, .. } | Operation::Write { buffer, .. } => {
            Outcome::Transferred(result.map(|n| n as usize), buffer)
        }
        Operation::Sync { .. } => Outcome::Done(result.map(drop)),
        Operation::Metadata { .. } => Outcome::Metadata(result.map(|_| {
            let statx = statx.pop().expect("memory was reserved for it");
            // SAFETY: the memory was zeroed, which is a valid value of each field, as all are
            // integers; the kernel has written other values.
            Box::new(unsafe { statx.assume_init() })
        })),
        Operation::Close { descriptor } => {
            // The kernel has closed it, even if it reports an error of earlier writes (close(2)),
            // unless the operation has not begun.
            match &result {
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => drop(descriptor),
                _ => drop(descriptor.into_raw_fd()),
            }
            Outcome::Done(result.map(drop))
        }
    }
}

/// The kernel and rustix have the same layout for the result of statx(2).
const _: () = assert!(size_of::<Statx>() == size_of::<libc::statx>());

#[cfg(test)]
mod tests;
