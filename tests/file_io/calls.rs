//! The number of system calls of file I/O with io_uring, counted by tracing the loop's thread.

// The system call numbers, and the register that holds them, depend on the architecture.
#![cfg(all(feature = "uring", target_arch = "x86_64"))]

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::mpsc;

use crate::support::alone::skipped;
use crate::support::folder::Folder;
use crate::support::net::{Child, role, send_to_parent};
use crate::support::tracer::Traced;
use crate::support::{LIMIT, with_watchdog};
use nix::libc;
use reveille::fs::{File, FileIo, FileIoBackend};
use reveille::{EventLoop, LoopThread};

const READS: u64 = 10_000;
const SIZE: u64 = 4096;
const IN_FLIGHT: u64 = 64;
/// The number of pieces of the file. Each piece is read several times.
const PIECES: u64 = 1024;

fn data() -> Vec<u8> {
    (0..PIECES * SIZE).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// A checksum that depends on the order of the bytes (FNV-1a), so it detects lost and misplaced
/// bytes.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

struct Reader {
    files: FileIo,
    file: File,
    started: Cell<u64>,
    completed: Cell<u64>,
    /// The sum of the checksums of all pieces. It does not depend on the order of completion.
    sum: Cell<u64>,
    /// Receives `sum` when all reads have completed.
    result: RefCell<Option<mpsc::Sender<u64>>>,
}

thread_local! {
    static READER: RefCell<Option<Rc<Reader>>> = const { RefCell::new(None) };
}

impl Reader {
    fn prepare(event_loop: &EventLoop, path: &str) -> io::Result<()> {
        let files = FileIo::builder().backend(FileIoBackend::IoUring).build(event_loop)?;
        let file = File::from(std::fs::File::open(path)?);
        let reader = Reader {
            files,
            file,
            started: Cell::new(0),
            completed: Cell::new(0),
            sum: Cell::new(0),
            result: RefCell::new(None),
        };
        READER.set(Some(Rc::new(reader)));
        Ok(())
    }

    fn start_read(self: &Rc<Reader>, buffer: Vec<u8>) {
        let piece = self.started.get() % PIECES;
        self.started.set(self.started.get() + 1);
        let this = Rc::clone(self);
        self.files.read_at(&self.file, piece * SIZE, buffer, move |_, read, buffer| {
            assert_eq!(read.expect("a file that can be read") as u64, SIZE);
            this.sum.set(this.sum.get().wrapping_add(checksum(&buffer)));
            this.completed.set(this.completed.get() + 1);
            if this.started.get() < READS {
                this.start_read(buffer);
            } else if this.completed.get() == READS {
                let result = this.result.take().expect("a sender");
                result.send(this.sum.get()).expect("a receiver");
            }
        });
    }
}

/// The child process: reports the thread id of its loop, then performs the reads at each request.
#[test]
#[ignore = "runs only in a child process of another test"]
fn child_role() {
    let Some(path) = role() else { return };
    let loop_thread = LoopThread::spawn("reads").expect("a thread");
    let prepared = loop_thread.handle().call(move |event_loop| {
        Reader::prepare(event_loop, &path).map(|()| rustix::thread::gettid().as_raw_nonzero().get())
    });
    match prepared.expect("a running loop") {
        Ok(thread) => send_to_parent(thread),
        Err(error) => return send_to_parent(error),
    }
    for line in io::stdin().lines() {
        assert_eq!(line.expect("a line from the parent"), "read");
        let (result, results) = mpsc::channel();
        let start = move |_: &EventLoop| {
            let reader = READER.with_borrow(|reader| Rc::clone(reader.as_ref().expect("a prepared reader")));
            reader.started.set(0);
            reader.completed.set(0);
            reader.sum.set(0);
            reader.result.replace(Some(result));
            (0..IN_FLIGHT).for_each(|_| reader.start_read(vec![0; SIZE as usize]));
        };
        loop_thread.handle().queue_in_loop(start).expect("a running loop");
        send_to_parent(results.recv().expect("a sum"));
    }
}

#[test]
fn ten_thousand_reads_take_under_600_system_calls() {
    with_watchdog(LIMIT, || {
        let folder = Folder::new();
        let data = data();
        std::fs::write(folder.join("file"), &data).unwrap();
        let mut child = Child::start(folder.join("file").to_str().unwrap());
        let reply = child.next_reply();
        let Ok(thread) = reply.parse() else { return skipped(reply) };
        let Some(traced) = Traced::attach(thread, &[libc::SYS_epoll_wait]) else { return };
        let sums: Vec<u64> = data.chunks(SIZE as usize).map(checksum).collect();
        let expected = (0..READS).map(|i| sums[(i % PIECES) as usize]).fold(0, u64::wrapping_add);
        for _ in 0..2 {
            let mut sum = String::new();
            let mut calls = traced.calls_of(|| sum = child.request("read"));
            assert_eq!(sum, expected.to_string());
            let rounds = READS.div_ceil(IN_FLIGHT);
            let all_calls = format!("{calls:?}");
            let [enters, waits, reads] =
                [libc::SYS_io_uring_enter, libc::SYS_epoll_wait, libc::SYS_read].map(|call| calls.take(call));
            let total = enters + waits + reads + calls.count(libc::SYS_futex);
            // Three calls for each 64 reads, and a few at the start and the end. A piece that is
            // not in the page cache may split a round in two.
            assert!(enters >= rounds, "{all_calls}");
            assert!(total <= 3 * rounds * 5 / 4, "{total}: {all_calls}");
            assert!(total * 5 < READS, "{total} system calls are at least 0.2 for each read");
            calls.take(libc::SYS_futex);
            let heap =
                [libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_madvise, libc::SYS_mprotect];
            let heap_calls: u64 = heap.into_iter().map(|call| calls.take(call)).sum();
            assert!(heap_calls < 100, "{all_calls}");
            assert_eq!(format!("{calls:?}"), "{}", "unexpected system calls in {all_calls}");
        }
    });
}
