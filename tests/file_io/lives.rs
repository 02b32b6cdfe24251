//! The end of files and of operations on them. Each operation ends exactly once, also if it is
//! cancelled, if a callback panics, or if its `FileIo` or its loop is dropped first. Each test runs
//! with both back ends.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use crate::support::alone::alone;
use crate::support::files::{bytes, finish_operations, open, outcome, pipe, read, with_both_backends};
use crate::support::folder::Folder;
use crate::support::{Count, Recorder, turn, with_catching_loop, with_loop};
use reveille::EventLoop;
use reveille::fs::{File, FileIo, FileIoBuilder, OpenOptions};

with_both_backends! {
    a_file_may_be_closed_while_it_is_read
    thousands_of_reads_each_complete_once_with_their_data
    callbacks_are_deferred_and_do_not_nest
    a_cancelled_operation_calls_back_and_returns_its_buffer
    many_operations_may_be_cancelled_at_once
    a_panic_in_a_callback_affects_only_that_callback
    dropping_file_io_drops_its_callbacks_uncalled
    file_io_may_be_dropped_in_its_own_callback
    dropping_the_loop_drops_operations_in_progress
    files_may_outlive_the_file_io_that_opened_them
    no_descriptor_leaks_or_is_inherited
    an_operation_started_between_turns_wakes_an_embedded_loop
}

fn a_file_may_be_closed_while_it_is_read(builder: FileIoBuilder) {
    alone(|| {
        with_loop(|event_loop| {
            let files = builder.build(event_loop).unwrap();
            let (reader, mut writer) = pipe();
            let number = reader.as_raw_fd();
            let file = File::from(reader);
            let events = Recorder::new();
            let (reading, closing) = (events.clone(), events.clone());
            files.read(&file, vec![0; 4], move |_, n, buffer| reading.record((n.unwrap(), buffer)));
            turn(event_loop);
            files.close(file, move |_, closed| {
                closed.unwrap();
                closing.record((0, Vec::new()));
            });
            turn(event_loop);
            assert_eq!(events.take(), [(0, Vec::new())]);
            // The descriptor number is not reused while the read is in progress.
            let (other_reader, mut other_writer) = pipe();
            assert!(![other_reader.as_raw_fd(), other_writer.as_raw_fd()].contains(&number));
            other_writer.write_all(b"none").unwrap();
            writer.write_all(b"mine").unwrap();
            finish_operations(event_loop, &files);
            assert_eq!(events.take(), [(4, b"mine".to_vec())]);
            turn(event_loop);
            assert_eq!(writer.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
        });
    });
}

fn thousands_of_reads_each_complete_once_with_their_data(builder: FileIoBuilder) {
    const READS: usize = 5000;
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.entries(16).threads(3).build(event_loop).unwrap());
        let data = Rc::new(bytes(64 * 1024));
        fs::write(folder.join("file"), &*data).unwrap();
        let file = open(event_loop, &files, folder.join("file"), OpenOptions::reading()).unwrap();
        let calls = Rc::new(RefCell::new(vec![0; READS]));
        for i in 0..READS {
            let (offset, n) = (i * 37 % data.len(), 1 + i % 700);
            let (data, calls) = (Rc::clone(&data), Rc::clone(&calls));
            files.read_at(&file, offset as u64, vec![0; n], move |_, read, buffer| {
                let expected = &data[offset..data.len().min(offset + n)];
                assert_eq!(read.unwrap(), expected.len());
                assert_eq!(&buffer[..expected.len()], expected);
                calls.borrow_mut()[i] += 1;
            });
        }
        assert_eq!(files.pending(), READS);
        finish_operations(event_loop, &files);
        turn(event_loop);
        assert!(calls.borrow().iter().all(|n| *n == 1));
    });
}

fn callbacks_are_deferred_and_do_not_nest(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = Rc::new(builder.build(event_loop).unwrap());
        let file = Rc::new(open(event_loop, &files, "/dev/zero", OpenOptions::reading()).unwrap());
        let (inside, calls) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        // Starts one read that the back end performs, and one of 0 bytes, which is rejected without
        // the back end.
        fn read_both(files: &Rc<FileIo>, file: &Rc<File>, inside: &Rc<Cell<bool>>, calls: &Rc<Cell<u32>>) {
            assert!(!inside.replace(true));
            calls.set(calls.get() + 1);
            if calls.get() < 100 {
                for n in [1, 0] {
                    let (next_files, next_file) = (Rc::clone(files), Rc::clone(file));
                    let (inside, calls) = (Rc::clone(inside), Rc::clone(calls));
                    files.read(file, vec![1; n], move |_, read, _| {
                        assert_eq!(read.is_ok(), n == 1);
                        read_both(&next_files, &next_file, &inside, &calls);
                    });
                }
            }
            inside.set(false);
        }
        read_both(&files, &file, &inside, &calls);
        finish_operations(event_loop, &files);
        assert!(calls.get() >= 100);
    });
}

const CANCELLED: Option<i32> = Some(125);

fn a_cancelled_operation_calls_back_and_returns_its_buffer(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = builder.threads(1).build(event_loop).unwrap();
        let other_files = FileIo::new(event_loop).unwrap();
        let pipes = [pipe(), pipe(), pipe()];
        let results = Recorder::new();
        let read = |n: usize| {
            let recording = results.clone();
            let file = File::from(pipes[n].0.try_clone().unwrap());
            files.read(&file, vec![n as u8; 4], move |_, read, buffer| {
                recording.record((read.map_err(|error| error.raw_os_error()), buffer));
            })
        };
        // With threads: one operation in progress, one in the queue behind it, and one that has not
        // left the loop.
        let first = read(0);
        turn(event_loop);
        let second = read(1);
        turn(event_loop);
        let third = read(2);
        assert!(!other_files.cancel(third));
        assert!(files.cancel(third) && files.cancel(second));
        assert!(files.cancel(second), "an operation whose callback has not run cannot be cancelled again");
        assert_eq!(results.len(), 0);
        while results.len() < 2 {
            event_loop.run_once(None).unwrap();
        }
        let mut done = results.take();
        done.sort_by_key(|(_, buffer)| buffer.clone());
        assert_eq!(done, [(Err(CANCELLED), vec![1; 4]), (Err(CANCELLED), vec![2; 4])]);
        assert!(!files.cancel(second) && !files.cancel(third));
        assert!(files.cancel(first));
        if files.backend() == reveille::fs::FileIoBackend::ThreadPool {
            // A thread that has already started the read completes it.
            (&pipes[0].1).write_all(b"text").unwrap();
        }
        finish_operations(event_loop, &files);
        let done = results.take();
        let read_by_thread =
            files.backend() == reveille::fs::FileIoBackend::ThreadPool && done == [(Ok(4), b"text".to_vec())];
        assert!(read_by_thread || done == [(Err(CANCELLED), vec![0; 4])], "{done:?}");

        // A cancelled close still closes the file.
        let [.., (reader, writer)] = pipes;
        let closing = files.close(File::from(writer), |_, closed| closed.unwrap());
        assert!(files.cancel(closing));
        finish_operations(event_loop, &files);
        assert_eq!((&reader).read(&mut [0; 4]).unwrap(), 0);
    });
}

fn many_operations_may_be_cancelled_at_once(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = builder.entries(8).threads(2).build(event_loop).unwrap();
        let (reader, mut writer) = pipe();
        let (file, cancelled) = (File::from(reader), Count::default());
        for round in 0..5 {
            let ids: Vec<_> = (0..100)
                .map(|_| {
                    let cancelled = cancelled.clone();
                    files.read(&file, vec![0; 1], move |_, read, _| {
                        if read.is_err_and(|error| error.raw_os_error() == CANCELLED) {
                            cancelled.add();
                        }
                    })
                })
                .collect();
            turn(event_loop);
            assert!(ids.into_iter().rev().all(|id| files.cancel(id)));
            // Completes the reads that threads have already started.
            writer.write_all(&[0; 2]).unwrap();
            finish_operations(event_loop, &files);
            assert!(cancelled.get() >= 98 * (round + 1), "{} in round {round}", cancelled.get());
        }
    });
}

fn a_panic_in_a_callback_affects_only_that_callback(builder: FileIoBuilder) {
    with_catching_loop(|event_loop| {
        let files = builder.build(event_loop).unwrap();
        let file = open(event_loop, &files, "/dev/zero", OpenOptions::reading()).unwrap();
        let calls = Count::default();
        for i in 0..100 {
            let (reading, refused) = (calls.clone(), calls.clone());
            files.read(&file, vec![1; 10], move |_, _, _| {
                reading.add();
                assert!(i % 10 != 3, "intended by the test");
            });
            files.read(&file, Vec::new(), move |_, _, _| {
                refused.add();
                assert!(i % 10 != 3, "intended by the test");
            });
        }
        finish_operations(event_loop, &files);
        assert_eq!(calls.get(), 200);
        assert_eq!(event_loop.handle().counters().panics, 20);
        assert_eq!(read(event_loop, &files, &file, 3).0.unwrap(), 3);
    });
}

fn dropping_file_io_drops_its_callbacks_uncalled(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = builder.entries(8).threads(2).build(event_loop).unwrap();
        let (reader, mut writer) = pipe();
        let pipe_file = File::from(reader);
        let (dropped, zero) = (Count::default(), File::from(fs::File::open("/dev/zero").unwrap()));
        for _ in 0..100 {
            for file in [&pipe_file, &zero] {
                let token = dropped.drop_token();
                files.read(file, vec![0; 100], move |_, _, _| {
                    token.keep();
                    panic!("called after the drop");
                });
            }
        }
        // The back end has received a part of them. With the ring, some have completed.
        event_loop.run_in_loop(|event_loop| {
            let files = files;
            event_loop.queue_in_loop(move |_| drop(files));
        });
        event_loop.queue_in_loop(|_| ());
        turn(event_loop);
        turn(event_loop);
        assert_eq!(dropped.get(), 200);
        drop(pipe_file);
        // A read in progress holds the pipe until it has completed.
        let _ = writer.write_all(&[0; 1000]);
        turn(event_loop);
    });
}

fn file_io_may_be_dropped_in_its_own_callback(builder: FileIoBuilder) {
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

fn dropping_the_loop_drops_operations_in_progress(builder: FileIoBuilder) {
    crate::support::with_watchdog(crate::support::LIMIT, || {
        let event_loop = EventLoop::builder().propagate_panics().build().unwrap();
        let files = Rc::new(builder.build(&event_loop).unwrap());
        let (reader, _writer) = pipe();
        let (file, dropped) = (File::from(reader), Count::default());
        for started in [true, false] {
            for n in [10, 0] {
                let (token, kept) = (dropped.drop_token(), Rc::clone(&files));
                files.read(&file, vec![0; n], move |_, read, _| {
                    token.keep();
                    let _ = &kept;
                    assert!(n == 0 && read.is_err(), "a read of an empty pipe has completed");
                });
            }
            if started {
                turn(&event_loop);
            }
        }
        drop(event_loop);
        assert_eq!(dropped.get(), 4);
        assert_eq!(Rc::strong_count(&files), 1);
        assert_eq!(files.pending(), 0);
        let token = dropped.drop_token();
        files.read(&file, vec![0; 10], move |_, _, _| token.keep());
        assert_eq!(dropped.get(), 5, "an operation started without a loop was not dropped");
    });
}

fn files_may_outlive_the_file_io_that_opened_them(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = builder.clone().build(event_loop).unwrap();
        let zero = open(event_loop, &files, "/dev/zero", OpenOptions::reading()).unwrap();
        drop(files);
        let files = builder.build(event_loop).unwrap();
        let (n, buffer) = read(event_loop, &files, &zero, 4);
        assert_eq!((n.unwrap(), buffer), (4, vec![0; 4]));
        let descriptor = zero.into_descriptor().expect("a file without operations");
        let mut byte = [1];
        fs::File::from(descriptor).read_exact(&mut byte).unwrap();
        assert_eq!(byte, [0]);
        let (reader, _writer) = pipe();
        let file = File::from(reader);
        files.read(&file, vec![0], |_, _, _| ());
        turn(event_loop);
        let file = file.into_descriptor().expect_err("a file with a read in progress");
        assert!(rustix::io::fcntl_getfd(file.as_fd()).is_ok());
    });
}

/// Returns the numbers of the open descriptors of this process.
fn descriptors() -> Vec<i32> {
    let entries = fs::read_dir("/proc/self/fd").expect("a directory");
    let numbers = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // The descriptor of the directory itself is closed by the time of this check.
    let path = |number: &i32| fs::read_link(format!("/proc/self/fd/{number}"));
    numbers
        .map(|number| number.parse().unwrap())
        .collect::<Vec<i32>>()
        .into_iter()
        .filter(|n| path(n).is_ok())
        .collect()
}

fn no_descriptor_leaks_or_is_inherited(builder: FileIoBuilder) {
    alone(|| {
        let before = descriptors();
        let number_before = before.len();
        with_loop(move |event_loop| {
            let files = builder.build(event_loop).unwrap();
            let kept: Vec<_> = (0..10)
                .map(|_| open(event_loop, &files, "/dev/zero", OpenOptions::reading()).unwrap())
                .collect();
            let ours: Vec<_> = descriptors().into_iter().filter(|number| !before.contains(number)).collect();
            assert!(ours.len() > 10, "the files or the loop have no descriptors: {ours:?}");
            for number in ours {
                let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
                let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
                assert!(flags & 0o2_000_000 != 0, "descriptor {number} is inherited: {info}");
            }
            // These operations are dropped while they are in progress.
            for _ in 0..100 {
                files.open("/dev/zero", OpenOptions::reading(), |_, file| drop(file));
            }
            turn(event_loop);
            for file in kept {
                outcome(event_loop, |done| files.close(file, |_, closed| done(closed))).unwrap();
            }
        });
        // Threads that were opening a file close it.
        while descriptors().len() > number_before {
            std::thread::yield_now();
        }
    });
}

fn an_operation_started_between_turns_wakes_an_embedded_loop(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = builder.build(event_loop).unwrap();
        let zero = File::from(fs::File::open("/dev/zero").unwrap());
        turn(event_loop);
        let calls = Count::default();
        let counting = calls.clone();
        files.read(&zero, vec![1; 10], move |_, _, _| counting.add());
        while calls.get() == 0 {
            crate::support::wait_readable(event_loop);
            turn(event_loop);
        }
    });
}

#[test]
fn files_from_descriptors_can_move_between_threads() {
    fn check_send_and_sync<T: Send + Sync>(value: T) -> T {
        value
    }
    let file = check_send_and_sync(File::from(OwnedFd::from(fs::File::open("/dev/zero").unwrap())));
    std::thread::spawn(move || drop(file)).join().unwrap();
}
