//! What the kernel is given through a ring (io_uring(7)), and what it gives back.
//!
//! The kernel has addresses of what an operation works on, until it says that the operation has ended. This file
//! keeps that alive: see the invariant of [`Ring`]. It is the only one of file I/O with `unsafe`.

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
use crate::file_io::metadata::Metadata;
use crate::file_io::operation::{Operation, Outcome, Position, Sync, Target};
use crate::file_io::slab::{Key, Table};
use crate::file_io::trouble::Trouble;

/// How long the end of a ring waits for what it has cancelled. All but a disk or a file system that does not answer
/// is faster.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most that one read or write takes (read(2), notes). A multiple of any page.
const MOST: usize = 0x7fff_f000;

/// The number of requests to cancel, which no operation has.
const CANCEL: Key = Key::MAX;

/// A ring and all that the kernel works on by it.
///
/// # Invariant
/// For each entry that has been pushed, and whose completion has not been seen, `held` has what it was made of, under
/// the number that the entry carries. All addresses in the entry are of heap memory that belongs to that, and stay
/// the same when it is moved. It is neither touched nor dropped before it leaves `held`, which it does by its
/// completion. What is still there when the ring is dropped is never freed.
pub(in crate::file_io) struct Ring {
    ring: ManuallyDrop<IoUring>,
    process: ProcessMark,
    /// The counter that the kernel signals for completions.
    done: Arc<EventFd>,
    held: Table<Held>,
    /// How many may be held, and requests to cancel be under way, before another operation is begun. Half of what the
    /// completion queue has room for: so there is room for each that is held, and for a request to cancel it as well.
    limit: usize,
    /// Requests to cancel that the kernel has been given, and has not answered.
    cancels: usize,
    /// The numbers of those that it is to be asked to cancel.
    to_cancel: Vec<Key>,
    /// What is to be begun again, since the kernel was interrupted in it, or for the rest of it.
    again: Vec<(Key, Operation)>,
    /// How often the kernel has found no room for a completion.
    overflows: u32,
    /// What has gone wrong and was not logged.
    troubles: Vec<Trouble>,
}

/// What rings have left behind that the kernel has not let go of. Kept in sight, so that it is no leak to those who
/// look for leaks.
static ABANDONED: Mutex<Vec<Held>> = Mutex::new(Vec::new());

/// What an entry was made of.
struct Held {
    key: Key,
    operation: Operation,
    /// Room for the answer to a question for the status; empty otherwise. A vector and no box, as a box claims that
    /// nobody else writes there.
    statx: Vec<MaybeUninit<Statx>>,
    /// The kernel is, or will be, asked to give it up.
    is_to_end: bool,
}

impl Ring {
    /// A ring for so many operations at a time, which signals `done`.
    ///
    /// # Errors
    /// Why there is none, as [`FileIoBuilder::build`](crate::file_io::FileIoBuilder::build) has it.
    pub(in crate::file_io) fn new(done: Arc<EventFd>, entries: u32) -> io::Result<Ring> {
        let ring = setup::set_up(entries, &done)?;
        let params = ring.params();
        let limit = params.sq_entries().min(params.cq_entries() / 2) as usize;
        Ok(Ring {
            ring: ManuallyDrop::new(ring),
            process: ProcessMark::current(),
            done,
            held: Table::new(),
            limit,
            cancels: 0,
            to_cancel: Vec::new(),
            again: Vec::new(),
            overflows: 0,
            troubles: Vec::new(),
        })
    }

    /// What has gone wrong since the last time.
    pub(in crate::file_io) fn troubles(&mut self) -> Vec<Trouble> {
        mem::take(&mut self.troubles)
    }

    /// Whether there is something for [`submit`](Ring::submit) to do, besides what waits elsewhere.
    pub(in crate::file_io) fn has_more(&self) -> bool {
        !self.again.is_empty() || !self.to_cancel.is_empty()
    }

    /// Gives the kernel as many of those that wait as there is room for, with one system call.
    ///
    /// # Errors
    /// That the kernel takes none at the moment. They are in the queue then, and go with the next submission.
    pub(in crate::file_io) fn submit(&mut self, waiting: &mut VecDeque<(Key, Operation)>) -> io::Result<()> {
        self.push_cancels()?;
        while self.held.len() + self.cancels < self.limit {
            self.make_room()?;
            let Some((key, operation)) = self.again.pop().or_else(|| waiting.pop_front()) else { break };
            self.push(key, operation);
        }
        self.enter()
    }

    /// Sees to it that the submission queue has room for one.
    fn make_room(&mut self) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.enter()?;
            if self.ring.submission().is_full() {
                return Err(io::Error::from(io::ErrorKind::ResourceBusy));
            }
        }
        Ok(())
    }

    fn push(&mut self, key: Key, operation: Operation) {
        let mut held = Held { key, operation, statx: Vec::new(), is_to_end: false };
        let entry = held.entry();
        let entry = entry.user_data(self.held.insert(held));
        // SAFETY: by the invariant, which this establishes: what the entry was made of is held under its number.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("room has been made");
    }

    fn push_cancels(&mut self) -> io::Result<()> {
        while let Some(&number) = self.to_cancel.last() {
            self.make_room()?;
            let entry = opcode::AsyncCancel::new(number).build().user_data(CANCEL);
            // SAFETY: the entry has no address in it.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            pushed.expect("room has been made");
            self.cancels += 1;
            self.to_cancel.pop();
        }
        Ok(())
    }

    /// Has the kernel asked, with the next submission, to give an operation up. What waits here to be begun again is
    /// answered as it is.
    pub(in crate::file_io) fn cancel(&mut self, key: Key) -> Option<Operation> {
        if let Some(at) = self.again.iter().position(|(again, _)| *again == key) {
            return Some(self.again.swap_remove(at).1);
        }
        let is_it =
            |held: &&mut Held| held.key == key && !held.is_to_end && held.operation.may_be_cancelled();
        if let Some((number, held)) = self.held.iter_mut().find(|(_, held)| is_it(held)) {
            held.is_to_end = true;
            self.to_cancel.push(number);
        }
        None
    }

    /// Has the kernel take what is in the submission queue, and say what it has not had room to say.
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
                // There must be room before the rest can be said.
                return Ok(());
            }
        }
    }

    /// Takes the outcomes of all operations that have ended.
    ///
    /// # Errors
    /// That the kernel does not tell all at the moment; to be called again later.
    pub(in crate::file_io) fn take(&mut self, outcomes: &mut Vec<(Key, Outcome)>) -> io::Result<()> {
        loop {
            self.take_completions(outcomes);
            let queue = self.ring.submission();
            let (is_overflown, has_work) = (queue.cq_overflow(), queue.taskrun());
            drop(queue);
            if is_overflown {
                // It cannot come to this, as there is room for all that is held. The kernel keeps what it has no room
                // for.
                self.overflows += 1;
                self.troubles.push(Trouble::Overflown);
            }
            if !is_overflown && !has_work {
                return Ok(());
            }
            self.enter()?;
        }
    }

    fn take_completions(&mut self, outcomes: &mut Vec<(Key, Outcome)>) {
        let Ring { ring, held, again, cancels, troubles, .. } = self;
        for completion in ring.completion() {
            if completion.user_data() == CANCEL {
                *cancels -= 1;
                continue;
            }
            // The kernel has done with it: by the invariant it may be touched again.
            let Some(Held { key, operation, statx, is_to_end }) = held.remove(completion.user_data()) else {
                troubles.push(Trouble::Unknown);
                continue;
            };
            let result = completion.result();
            match (operation, usize::try_from(result)) {
                (operation, Err(_)) if result == -libc::EINTR && operation.may_be_cancelled() => {
                    if is_to_end {
                        outcomes.push((key, operation.cancelled()));
                    } else {
                        again.push((key, operation));
                    }
                }
                (operation @ Operation::Write { .. }, Ok(n)) => match operation.written(n) {
                    Ok(outcome) => outcomes.push((key, outcome)),
                    Err(rest) if is_to_end => outcomes.push((key, rest.cancelled())),
                    Err(rest) => again.push((key, rest)),
                },
                (operation, _) => outcomes.push((key, outcome(operation, statx, result))),
            }
        }
    }

    /// Cancels all that the kernel has been given, and waits until it has let go of it, but not for ever.
    pub(in crate::file_io) fn close(&mut self) {
        self.again.clear();
        if self.held.len() > 0 {
            self.cancel_all();
            self.wait(PATIENCE);
        }
    }

    fn cancel_all(&mut self) {
        for (number, held) in self.held.iter_mut() {
            if !held.is_to_end && held.operation.may_be_cancelled() {
                held.is_to_end = true;
                self.to_cancel.push(number);
            }
        }
        if let Err(error) = self.push_cancels().and_then(|()| self.enter()) {
            self.troubles.push(Trouble::NotCancelled(error));
        }
    }

    /// Waits until nothing is held, for so long at most. What has come of it is dropped.
    fn wait(&mut self, patience: Duration) {
        let begin = Instant::now();
        loop {
            let mut outcomes = Vec::new();
            if let Err(error) = self.take(&mut outcomes) {
                self.troubles.push(Trouble::NotReported(error));
            }
            drop(outcomes);
            self.again.clear();
            let left = patience.saturating_sub(begin.elapsed());
            if self.held.len() == 0 || left.is_zero() {
                return;
            }
            let timeout = Timespec::try_from(left).expect("a short time");
            let mut fds = [PollFd::new(&*self.done, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => drop(self.done.read()),
                Err(error) => return self.troubles.push(Trouble::NotAwaited(error.into())),
            }
        }
    }

    /// Leaves what is still held to the kernel, which may still write there: it is never freed.
    fn abandon(&mut self) {
        let left = self.held.drain();
        if !left.is_empty() {
            self.troubles.push(Trouble::Abandoned(left.len()));
            ABANDONED.lock().extend(left);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.process.is_current() {
            self.close();
            self.abandon();
            self.troubles().into_iter().for_each(Trouble::log);
            // SAFETY: the ring is not used again.
            unsafe { ManuallyDrop::drop(&mut self.ring) };
        } else {
            // The queues are not mapped in a forked child, so that there is nothing to unmap, and the operations are the parent's. What
            // they work on is a copy here, in which the kernel does not write.
            // SAFETY: the ring, which is not dropped, owns the descriptor and is not used again.
            drop(unsafe { OwnedFd::from_raw_fd(self.ring.as_raw_fd()) });
        }
    }
}

impl Held {
    /// The entry for the operation. Its addresses are good for as long as this is kept, wherever it is moved.
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
                    // In a thread of the kernel's. At first it would try with O_NONBLOCK here, and so open a pipe
                    // that has nobody at its other end.
                    entry.flags(squeue::Flags::ASYNC)
                }
            }
            Operation::Read { file, from, buffer } => {
                let n = buffer.len().min(MOST) as u32;
                opcode::Read::new(fd(file), buffer.as_mut_ptr(), n).offset(offset(*from)).build()
            }
            Operation::Write { file, to, buffer, done, .. } => {
                let bytes = &buffer[*done..];
                let n = bytes.len().min(MOST) as u32;
                opcode::Write::new(fd(file), bytes.as_ptr(), n).offset(offset(*to)).build()
            }
            Operation::Sync { file, what } => {
                let flags = match what {
                    Sync::All => types::FsyncFlags::empty(),
                    Sync::Data => types::FsyncFlags::DATASYNC,
                };
                opcode::Fsync::new(fd(file)).flags(flags).build()
            }
            Operation::Status { of } => {
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

/// The position as the kernel has it: -1 stands for the current one, which [`Position::check`] keeps apart.
fn offset(position: Position) -> u64 {
    match position {
        Position::At(offset) => offset,
        Position::Current => u64::MAX,
    }
}

/// What the kernel's `result` means: a number, or an error below 0.
fn outcome(operation: Operation, mut statx: Vec<MaybeUninit<Statx>>, result: i32) -> Outcome {
    let result = u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
    match operation {
        Operation::Open { .. } => {
            // SAFETY: the kernel has opened this for us, and nobody else knows of it.
            Outcome::Opened(result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
        }
        Operation::Read { buffer, .. } | Operation::Write { buffer, .. } => {
            Outcome::Moved(result.map(|n| n as usize), buffer)
        }
        Operation::Sync { .. } => Outcome::Done(result.map(drop)),
        Operation::Status { .. } => Outcome::Status(result.map(|_| {
            let statx = statx.pop().expect("room was made for it");
            // SAFETY: it was zero, which is a value of each of the fields, integers all; the kernel has written
            // others.
            Box::new(unsafe { statx.assume_init() })
        })),
        Operation::Close { descriptor } => {
            // The kernel has closed it, whatever it says of what was written (close(2)), unless it has not begun.
            match &result {
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => drop(descriptor),
                _ => drop(descriptor.into_raw_fd()),
            }
            Outcome::Done(result.map(drop))
        }
    }
}

/// The kernel and this file have the same idea of the answer to a question for the status (statx(2)).
const _: () = assert!(size_of::<Statx>() == size_of::<libc::statx>());

#[cfg(test)]
mod tests;
