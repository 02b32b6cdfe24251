//! How operations on files and the files themselves end: each once, also if it is cancelled, if a
//! callback panics, and if what it was begun with goes first. The same tests with either back end.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use crate::support::alone::alone;
use crate::support::files::{bytes, open, outcome, pipe, read, settle, with_both};
use crate::support::folder::Folder;
use crate::support::{Count, Recorder, turn, with_catching_loop, with_loop};
use reveille::EventLoop;
use reveille::fs::{File, FileIo, FileIoBuilder, OpenOptions};

with_both! {
    a_file_may_be_closed_while_it_is_read
    thousands_of_reads_each_end_once_with_their_own_data
    callbacks_are_never_called_before_the_call_returns_and_do_not_nest
    an_operation_that_is_cancelled_ends_with_a_call_and_gives_the_buffer_back
    many_operations_may_be_cancelled_at_once
    a_callback_that_panics_costs_itself_only
    nothing_is_called_after_the_drop_and_all_is_dropped
    it_may_be_dropped_in_its_own_callback
    a_loop_that_is_dropped_first_drops_what_is_under_way
    files_may_outlive_what_they_were_opened_with
    no_descriptor_is_left_and_none_is_inherited
    an_embedded_loop_is_woken_for_what_is_begun_between_its_turns
}

fn a_file_may_be_closed_while_it_is_read(builder: FileIoBuilder) {
    alone(|| {
        with_loop(|event_loop| {
            let files = builder.build(event_loop).unwrap();
            let (reads, mut writes) = pipe();
            let number = reads.as_raw_fd();
            let reads = File::from(reads);
            let said = Recorder::new();
            let (reading, closing) = (said.clone(), said.clone());
            files.read(&reads, vec![0; 4], move |_, n, buffer| reading.record((n.unwrap(), buffer)));
            turn(event_loop);
            files.close(reads, move |_, closed| {
                closed.unwrap();
                closing.record((0, Vec::new()));
            });
            turn(event_loop);
            assert_eq!(said.take(), [(0, Vec::new())]);
            // Its number is not given to another file while the read lasts.
            let (other_reads, mut other_writes) = pipe();
            assert!(![other_reads.as_raw_fd(), other_writes.as_raw_fd()].contains(&number));
            other_writes.write_all(b"none").unwrap();
            writes.write_all(b"mine").unwrap();
            settle(event_loop, &files);
            assert_eq!(said.take(), [(4, b"mine".to_vec())]);
            turn(event_loop);
            assert_eq!(writes.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        });
    });
}

fn thousands_of_reads_each_end_once_with_their_own_data(builder: FileIoBuilder) {
    const READS: usize = 5000;
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.entries(16).threads(3).build(event_loop).unwrap());
        let data = Rc::new(bytes(64 * 1024));
        fs::write(folder.join("file"), &*data).unwrap();
        let file = open(event_loop, &files, folder.join("file"), OpenOptions::reading()).unwrap();
        let ended = Rc::new(RefCell::new(vec![0; READS]));
        for i in 0..READS {
            let (offset, n) = (i * 37 % data.len(), 1 + i % 700);
            let (data, ended) = (Rc::clone(&data), Rc::clone(&ended));
            files.read_at(&file, offset as u64, vec![0; n], move |_, read, buffer| {
                let expected = &data[offset..data.len().min(offset + n)];
                assert_eq!(read.unwrap(), expected.len());
                assert_eq!(&buffer[..expected.len()], expected);
                ended.borrow_mut()[i] += 1;
            });
        }
        assert_eq!(files.pending(), READS);
        settle(event_loop, &files);
        turn(event_loop);
        assert!(ended.borrow().iter().all(|times| *times == 1));
    });
}

fn callbacks_are_never_called_before_the_call_returns_and_do_not_nest(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = Rc::new(builder.build(event_loop).unwrap());
        let file = Rc::new(open(event_loop, &files, "/dev/zero", OpenOptions::reading()).unwrap());
        let (inside, calls) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        // One of each kind: what is answered by the back end, and what is answered without it.
        fn again(files: &Rc<FileIo>, file: &Rc<File>, inside: &Rc<Cell<bool>>, calls: &Rc<Cell<u32>>) {
            assert!(!inside.replace(true));
            calls.set(calls.get() + 1);
            if calls.get() < 100 {
                for n in [1, 0] {
                    let (files_2, file_2) = (Rc::clone(files), Rc::clone(file));
                    let (inside, calls) = (Rc::clone(inside), Rc::clone(calls));
                    files.read(file, vec![1; n], move |_, read, _| {
                        assert_eq!(read.is_ok(), n == 1);
                        again(&files_2, &file_2, &inside, &calls);
                    });
                }
            }
            inside.set(false);
        }
        again(&files, &file, &inside, &calls);
        settle(event_loop, &files);
        assert!(calls.get() >= 100);
    });
}

const CANCELLED: Option<i32> = Some(125);

fn an_operation_that_is_cancelled_ends_with_a_call_and_gives_the_buffer_back(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = builder.threads(1).build(event_loop).unwrap();
        let others = FileIo::new(event_loop).unwrap();
        let pipes = [pipe(), pipe(), pipe()];
        let said = Recorder::new();
        let read = |n: usize| {
            let recording = said.clone();
            let reads = File::from(pipes[n].0.try_clone().unwrap());
            files.read(&reads, vec![n as u8; 4], move |_, read, buffer| {
                recording.record((read.map_err(|error| error.raw_os_error()), buffer));
            })
        };
        // One that a thread begins, one that waits behind it, and one that has not been given to
        // anybody.
        let first = read(0);
        turn(event_loop);
        let second = read(1);
        turn(event_loop);
        let third = read(2);
        assert!(!others.cancel(third));
        assert!(files.cancel(third) && files.cancel(second));
        assert!(files.cancel(second), "it has not been called");
        assert_eq!(said.len(), 0);
        while said.len() < 2 {
            event_loop.run_once(None).unwrap();
        }
        let mut told = said.take();
        told.sort_by_key(|(_, buffer)| buffer.clone());
        assert_eq!(told, [(Err(CANCELLED), vec![1; 4]), (Err(CANCELLED), vec![2; 4])]);
        assert!(!files.cancel(second) && !files.cancel(third));
        assert!(files.cancel(first));
        if files.backend() == reveille::fs::FileIoBackend::ThreadPool {
            // One may have begun it, and goes on then.
            (&pipes[0].1).write_all(b"text").unwrap();
        }
        settle(event_loop, &files);
        let told = said.take();
        let by_a_thread =
            files.backend() == reveille::fs::FileIoBackend::ThreadPool && told == [(Ok(4), b"text".to_vec())];
        assert!(by_a_thread || told == [(Err(CANCELLED), vec![0; 4])], "{told:?}");

        // A close is done.
        let [.., (reads, writes)] = pipes;
        let closing = files.close(File::from(writes), |_, closed| closed.unwrap());
        assert!(files.cancel(closing));
        settle(event_loop, &files);
        assert_eq!((&reads).read(&mut [0; 4]).unwrap(), 0);
    });
}

fn many_operations_may_be_cancelled_at_once(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = builder.entries(8).threads(2).build(event_loop).unwrap();
        let (reads, mut writes) = pipe();
        let (reads, cancelled) = (File::from(reads), Count::default());
        for round in 0..5 {
            let begun: Vec<_> = (0..100)
                .map(|_| {
                    let cancelled = cancelled.clone();
                    files.read(&reads, vec![0; 1], move |_, read, _| {
                        if read.is_err_and(|error| error.raw_os_error() == CANCELLED) {
                            cancelled.add();
                        }
                    })
                })
                .collect();
            turn(event_loop);
            assert!(begun.into_iter().rev().all(|id| files.cancel(id)));
            // For those that threads have begun.
            writes.write_all(&[0; 2]).unwrap();
            settle(event_loop, &files);
            assert!(cancelled.get() >= 98 * (round + 1), "{} in round {round}", cancelled.get());
        }
    });
}

fn a_callback_that_panics_costs_itself_only(builder: FileIoBuilder) {
    with_catching_loop(|event_loop| {
        let files = builder.build(event_loop).unwrap();
        let file = open(event_loop, &files, "/dev/zero", OpenOptions::reading()).unwrap();
        let calls = Count::default();
        for i in 0..100 {
            let (reading, refused) = (calls.clone(), calls.clone());
            files.read(&file, vec![1; 10], move |_, _, _| {
                reading.add();
                assert!(i % 10 != 3, "as is meant to happen");
            });
            files.read(&file, Vec::new(), move |_, _, _| {
                refused.add();
                assert!(i % 10 != 3, "as is meant to happen");
            });
        }
        settle(event_loop, &files);
        assert_eq!(calls.get(), 200);
        assert_eq!(event_loop.handle().counters().panics, 20);
        assert_eq!(read(event_loop, &files, &file, 3).0.unwrap(), 3);
    });
}

fn nothing_is_called_after_the_drop_and_all_is_dropped(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = builder.entries(8).threads(2).build(event_loop).unwrap();
        let (reads, mut writes) = pipe();
        let reads = File::from(reads);
        let (dropped, zero) = (Count::default(), File::from(fs::File::open("/dev/zero").unwrap()));
        for _ in 0..100 {
            for file in [&reads, &zero] {
                let token = dropped.drop_token();
                files.read(file, vec![0; 100], move |_, _, _| {
                    token.keep();
                    panic!("called after the drop");
                });
            }
        }
        // A part of them has gone to the back end; with the ring, some are already done.
        event_loop.run_in_loop(|event_loop| {
            let files = files;
            event_loop.queue_in_loop(move |_| drop(files));
        });
        event_loop.queue_in_loop(|_| ());
        turn(event_loop);
        turn(event_loop);
        assert_eq!(dropped.get(), 200);
        drop(reads);
        // Whatever still reads has the pipe until it has read.
        let _ = writes.write_all(&[0; 1000]);
        turn(event_loop);
    });
}

fn it_may_be_dropped_in_its_own_callback(builder: FileIoBuilder) {
    with_loop(move |event_loop| {
        for n in [10, 0] {
            let files = Rc::new(RefCell::new(Some(builder.clone().build(event_loop).unwrap())));
            let (zero, dropped) = (File::from(fs::File::open("/dev/zero").unwrap()), Count::default());
            let called = Rc::new(Cell::new(0));
            for _ in 0..50 {
                let (dropping, called, token) = (Rc::clone(&files), Rc::clone(&called), dropped.drop_token());
                files.borrow().as_ref().unwrap().read(&zero, vec![0; n], move |_, _, _| {
                    token.keep();
                    called.set(called.get() + 1);
                    let files = dropping.borrow_mut().take();
                    drop(files);
                });
            }
            while called.get() == 0 {
                event_loop.run_once(None).unwrap();
            }
            turn(event_loop);
            assert_eq!(called.get(), 1);
            assert_eq!(dropped.get(), 50);
        }
    });
}

fn a_loop_that_is_dropped_first_drops_what_is_under_way(builder: FileIoBuilder) {
    crate::support::with_watchdog(crate::support::LIMIT, || {
        let event_loop = EventLoop::builder().propagate_panics().build().unwrap();
        let files = Rc::new(builder.build(&event_loop).unwrap());
        let (reads, _writes) = pipe();
        let (reads, dropped) = (File::from(reads), Count::default());
        for begun in [true, false] {
            for n in [10, 0] {
                let (token, kept) = (dropped.drop_token(), Rc::clone(&files));
                files.read(&reads, vec![0; n], move |_, read, _| {
                    token.keep();
                    let _ = &kept;
                    assert!(n == 0 && read.is_err(), "nothing comes");
                });
            }
            if begun {
                turn(&event_loop);
            }
        }
        drop(event_loop);
        assert_eq!(dropped.get(), 4);
        assert_eq!(Rc::strong_count(&files), 1);
        assert_eq!(files.pending(), 0);
        let token = dropped.drop_token();
        files.read(&reads, vec![0; 10], move |_, _, _| token.keep());
        assert_eq!(dropped.get(), 5, "what is begun without a loop is dropped");
    });
}

fn files_may_outlive_what_they_were_opened_with(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = builder.clone().build(event_loop).unwrap();
        let zero = open(event_loop, &files, "/dev/zero", OpenOptions::reading()).unwrap();
        drop(files);
        let files = builder.build(event_loop).unwrap();
        let (n, buffer) = read(event_loop, &files, &zero, 4);
        assert_eq!((n.unwrap(), buffer), (4, vec![0; 4]));
        let descriptor = zero.into_descriptor().expect("nobody uses it");
        let mut byte = [1];
        fs::File::from(descriptor).read_exact(&mut byte).unwrap();
        assert_eq!(byte, [0]);
        let (reads, _writes) = pipe();
        let reads = File::from(reads);
        files.read(&reads, vec![0], |_, _, _| ());
        turn(event_loop);
        let reads = reads.into_descriptor().expect_err("it is being read");
        assert!(rustix::io::fcntl_getfd(reads.as_fd()).is_ok());
    });
}

/// The descriptors of this process.
fn descriptors() -> Vec<i32> {
    let entries = fs::read_dir("/proc/self/fd").expect("a folder");
    let numbers = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // That of the folder itself has been closed again.
    let path = |number: &i32| fs::read_link(format!("/proc/self/fd/{number}"));
    numbers
        .map(|number| number.parse().unwrap())
        .collect::<Vec<i32>>()
        .into_iter()
        .filter(|n| path(n).is_ok())
        .collect()
}

fn no_descriptor_is_left_and_none_is_inherited(builder: FileIoBuilder) {
    alone(|| {
        let before = descriptors();
        let number_before = before.len();
        with_loop(move |event_loop| {
            let files = builder.build(event_loop).unwrap();
            let kept: Vec<_> = (0..10)
                .map(|_| open(event_loop, &files, "/dev/zero", OpenOptions::reading()).unwrap())
                .collect();
            let ours: Vec<_> = descriptors().into_iter().filter(|number| !before.contains(number)).collect();
            assert!(ours.len() > 10, "those that were opened, and those of the loop: {ours:?}");
            for number in ours {
                let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
                let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
                assert!(flags & 0o2_000_000 != 0, "descriptor {number} is inherited: {info}");
            }
            // Opened and never taken: given up while they are on their way.
            for _ in 0..100 {
                files.open("/dev/zero", OpenOptions::reading(), |_, file| drop(file));
            }
            turn(event_loop);
            for file in kept {
                outcome(event_loop, |tell| files.close(file, |_, closed| tell(closed))).unwrap();
            }
        });
        // Threads that were in the middle of an open close what they have opened.
        while descriptors().len() > number_before {
            std::thread::yield_now();
        }
    });
}

fn an_embedded_loop_is_woken_for_what_is_begun_between_its_turns(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = builder.build(event_loop).unwrap();
        let zero = File::from(fs::File::open("/dev/zero").unwrap());
        turn(event_loop);
        let read = Count::default();
        let reading = read.clone();
        files.read(&zero, vec![1; 10], move |_, _, _| reading.add());
        while read.get() == 0 {
            crate::support::wait_readable(event_loop);
            turn(event_loop);
        }
    });
}

/// A file may go to another thread with all that it is made of.
#[test]
fn files_go_to_other_threads_and_come_from_descriptors() {
    fn may_go<T: Send + Sync>(value: T) -> T {
        value
    }
    let file = may_go(File::from(OwnedFd::from(fs::File::open("/dev/zero").unwrap())));
    std::thread::spawn(move || drop(file)).join().unwrap();
}
