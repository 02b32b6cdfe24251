//! What file I/O through a ring costs in system calls, counted by tracing the loop's thread.

// The numbers of the calls, and where a stopped thread keeps them.
#![cfg(all(feature = "uring", target_arch = "x86_64"))]

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::mpsc;

use crate::support::alone::skipped;
use crate::support::folder::Folder;
use crate::support::net::{Child, answer, role};
use crate::support::tracer::Traced;
use crate::support::{LIMIT, with_watchdog};
use nix::libc;
use reveille::fs::{File, FileIo, FileIoBackend};
use reveille::{EventLoop, LoopThread};

const READS: u64 = 10_000;
const SIZE: u64 = 4096;
const IN_FLIGHT: u64 = 64;
/// The file has so many pieces, each of which is read several times.
const PIECES: u64 = 1024;

fn data() -> Vec<u8> {
    (0..PIECES * SIZE).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// A sum that knows the bytes' order (FNV-1a), so that a byte that is lost or in a wrong place
/// shows.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

struct Reader {
    files: FileIo,
    file: File,
    begun: Cell<u64>,
    ended: Cell<u64>,
    /// Of the checksums of all pieces, in whatever order they come.
    sum: Cell<u64>,
    done: RefCell<Option<mpsc::Sender<u64>>>,
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
            begun: Cell::new(0),
            ended: Cell::new(0),
            sum: Cell::new(0),
            done: RefCell::new(None),
        };
        READER.set(Some(Rc::new(reader)));
        Ok(())
    }

    fn begin(self: &Rc<Reader>, buffer: Vec<u8>) {
        let piece = self.begun.get() % PIECES;
        self.begun.set(self.begun.get() + 1);
        let this = Rc::clone(self);
        self.files.read_at(&self.file, piece * SIZE, buffer, move |_, read, buffer| {
            assert_eq!(read.expect("a file that can be read") as u64, SIZE);
            this.sum.set(this.sum.get().wrapping_add(checksum(&buffer)));
            this.ended.set(this.ended.get() + 1);
            if this.begun.get() < READS {
                this.begin(buffer);
            } else if this.ended.get() == READS {
                let done = this.done.take().expect("somebody waits");
                done.send(this.sum.get()).expect("somebody waits");
            }
        });
    }
}

/// The child: says its loop's thread, and reads when it is told to.
#[test]
#[ignore = "is run in a process of its own by the tests of this file"]
fn child_role() {
    let Some(path) = role() else { return };
    let reading = LoopThread::spawn("reads").expect("a thread");
    let prepared = reading.handle().call(move |event_loop| {
        Reader::prepare(event_loop, &path).map(|()| rustix::thread::gettid().as_raw_nonzero().get())
    });
    match prepared.expect("a loop that is there") {
        Ok(thread) => answer(thread),
        Err(error) => return answer(error),
    }
    for line in io::stdin().lines() {
        assert_eq!(line.expect("a parent that speaks"), "read");
        let (done, is_done) = mpsc::channel();
        let begin = move |_: &EventLoop| {
            let reader = READER.with_borrow(|reader| Rc::clone(reader.as_ref().expect("it is prepared")));
            reader.begun.set(0);
            reader.ended.set(0);
            reader.sum.set(0);
            reader.done.replace(Some(done));
            (0..IN_FLIGHT).for_each(|_| reader.begin(vec![0; SIZE as usize]));
        };
        reading.handle().queue_in_loop(begin).expect("a loop that is there");
        answer(is_done.recv().expect("a sum"));
    }
}

#[test]
fn ten_thousand_reads_cost_a_twentieth_of_a_system_call_each() {
    with_watchdog(LIMIT, || {
        let folder = Folder::new();
        let data = data();
        std::fs::write(folder.join("file"), &data).unwrap();
        let mut child = Child::start(folder.join("file").to_str().unwrap());
        let introduction = child.hear();
        let Ok(thread) = introduction.parse() else { return skipped(introduction) };
        let Some(traced) = Traced::attach(thread, &[libc::SYS_epoll_wait]) else { return };
        let sums: Vec<u64> = data.chunks(SIZE as usize).map(checksum).collect();
        let expected = (0..READS).map(|i| sums[(i % PIECES) as usize]).fold(0, u64::wrapping_add);
        for _ in 0..2 {
            let mut sum = String::new();
            let mut calls = traced.calls_of(|| sum = child.ask("read"));
            assert_eq!(sum, expected.to_string());
            let rounds = READS.div_ceil(IN_FLIGHT);
            let counted = format!("{calls:?}");
            let [enters, waits, reads] =
                [libc::SYS_io_uring_enter, libc::SYS_epoll_wait, libc::SYS_read].map(|call| calls.take(call));
            let all = enters + waits + reads + calls.count(libc::SYS_futex);
            // Three for each 64, and some to begin and to end with. A round may be cut in two by a
            // piece that the kernel has to look for.
            assert!(enters >= rounds, "{counted}");
            assert!(all <= 3 * rounds * 5 / 4, "{all}: {counted}");
            assert!(all * 5 < READS, "less than 0.2 for each read");
            calls.take(libc::SYS_futex);
            let heap =
                [libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_madvise, libc::SYS_mprotect];
            let of_the_heap: u64 = heap.into_iter().map(|call| calls.take(call)).sum();
            assert!(of_the_heap < 100, "{counted}");
            assert_eq!(format!("{calls:?}"), "{}", "of {counted}");
        }
    });
}
