//! Files on a loop: the same tests with either back end.

mod support;

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::rc::Rc;

use reveille::{EventLoop, File, FileIo, FileIoBuilder, FileKind, FileStatus, OpenOptions};
use support::alone::alone;
use support::folder::Folder;
use support::{Count, Recorder, turn, with_catching_loop, with_loop};

/// Each function here is a test for either back end, which it gets a builder of.
macro_rules! with_both {
    ($($(#[$doc:meta])* $name:ident)+) => {
        mod threads {
            $(#[test]
            fn $name() {
                super::$name(reveille::FileIo::builder().backend(reveille::Backend::Threads));
            })+
        }

        #[cfg(feature = "uring")]
        mod ring {
            $(#[test]
            fn $name() {
                if let Some(builder) = super::ring() {
                    super::$name(builder);
                }
            })+
        }
    };
}

with_both! {
    a_file_that_is_written_reads_as_it_was_written
    a_missing_file_is_told_as_such
    options_that_contradict_each_other_are_refused
    files_are_made_emptied_and_appended_to_as_asked
    a_read_beyond_the_end_is_short_and_then_nothing
    what_cannot_be_meant_is_refused_with_the_buffer
    errors_of_the_kernel_come_with_the_buffer
    reads_from_the_position_follow_one_another
    pipes_are_read_and_written_with_and_without_an_offset
    the_opening_of_a_named_pipe_waits_for_its_other_end
    a_write_of_all_takes_as_many_operations_as_needed
    the_status_is_that_of_the_standard_library
    files_are_synchronised
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

/// A ring, unless there is none here, which is said.
#[cfg(feature = "uring")]
fn ring() -> Option<FileIoBuilder> {
    let builder = FileIo::builder().backend(reveille::Backend::Ring);
    let probed = with_loop(|event_loop| builder.clone().build(event_loop).map(drop));
    probed
        .map(|()| builder)
        .map_err(|error| support::alone::skipped(format_args!("no ring to test: {error}")))
        .ok()
}

/// Makes turns until nothing is under way.
fn settle(event_loop: &EventLoop, files: &FileIo) {
    while files.pending() > 0 {
        event_loop.run_once(None).expect("a turn");
    }
}

/// What `begin` is told in the end, by the function that it is given.
fn outcome<T: 'static, R>(event_loop: &EventLoop, begin: impl FnOnce(Box<dyn FnOnce(T)>) -> R) -> T {
    let place = Rc::new(RefCell::new(None));
    let result = Rc::clone(&place);
    begin(Box::new(move |value| *place.borrow_mut() = Some(value)));
    while result.borrow().is_none() {
        event_loop.run_once(None).expect("a turn");
    }
    result.take().expect("it is there")
}

fn open(
    event_loop: &EventLoop,
    files: &FileIo,
    path: impl AsRef<Path>,
    how: OpenOptions,
) -> io::Result<File> {
    outcome(event_loop, |tell| files.open(path, how, |_, file| tell(file)))
}

fn read_at(
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

fn read(event_loop: &EventLoop, files: &FileIo, file: &File, n: usize) -> (io::Result<usize>, Vec<u8>) {
    outcome(event_loop, |tell| files.read(file, vec![0; n], |_, read, buffer| tell((read, buffer))))
}

fn status(event_loop: &EventLoop, files: &FileIo, path: impl AsRef<Path>) -> io::Result<FileStatus> {
    outcome(event_loop, |tell| files.status_of(path, |_, status| tell(status)))
}

/// Bytes that are not the same in two places.
fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

fn pipe() -> (fs::File, fs::File) {
    let (reads, writes) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    (fs::File::from(reads), fs::File::from(writes))
}

fn a_file_that_is_written_reads_as_it_was_written(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        let how = OpenOptions::reading_and_writing().create_new().mode(0o600);
        let file = open(event_loop, &files, folder.join("file"), how).unwrap();
        let data = bytes(100_000);
        for (i, piece) in data.chunks(10_000).enumerate().rev() {
            let offset = i as u64 * 10_000;
            let (written, buffer) = outcome(event_loop, |tell| {
                files.write_at(&file, offset, piece.to_vec(), |_, n, buffer| tell((n, buffer)));
            });
            assert_eq!(written.unwrap(), piece.len());
            assert_eq!(buffer, piece);
        }
        let (n, buffer) = read_at(event_loop, &files, &file, 0, 100_000);
        assert_eq!(n.unwrap(), 100_000);
        assert!(buffer == data);
        assert!(fs::read(folder.join("file")).unwrap() == data);
        outcome(event_loop, |tell| files.close(file, |_, closed| tell(closed))).unwrap();
    });
}

fn a_missing_file_is_told_as_such(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        let path = folder.join("missing");
        let error = open(event_loop, &files, &path, OpenOptions::reading()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.raw_os_error(), Some(2));
        assert_eq!(status(event_loop, &files, &path).unwrap_err().kind(), ErrorKind::NotFound);
        let error = open(event_loop, &files, "a\0b", OpenOptions::reading()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(status(event_loop, &files, "a\0b").unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

fn options_that_contradict_each_other_are_refused(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        for how in [
            OpenOptions::reading().create(),
            OpenOptions::reading().create_new(),
            OpenOptions::reading().truncate(),
            OpenOptions::appending().create().truncate(),
            OpenOptions::writing().create().mode(0o10_000),
        ] {
            let error = open(event_loop, &files, folder.join("file"), how).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{how:?}");
            assert!(!folder.join("file").exists());
        }
    });
}

fn files_are_made_emptied_and_appended_to_as_asked(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        let path = folder.join("file");
        let open = |how| open(event_loop, &files, &path, how);
        let write = |file: &File, text: &str| {
            let text = text.as_bytes().to_vec();
            outcome(event_loop, |tell| files.write(file, text, |_, n, _| tell(n))).unwrap();
        };
        assert_eq!(open(OpenOptions::writing()).unwrap_err().kind(), ErrorKind::NotFound);
        let file = open(OpenOptions::writing().create_new().mode(0o640)).unwrap();
        write(&file, "one");
        let by_std = folder.join("by std");
        fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(&by_std).unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&by_std));
        let error = open(OpenOptions::writing().create_new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        write(&open(OpenOptions::appending().create()).unwrap(), "two");
        assert_eq!(fs::read_to_string(&path).unwrap(), "onetwo");
        write(&open(OpenOptions::writing().truncate()).unwrap(), "3");
        assert_eq!(fs::read_to_string(&path).unwrap(), "3");
        symlink(&path, folder.join("link")).unwrap();
        let link = |how| self::open(event_loop, &files, folder.join("link"), how);
        assert!(link(OpenOptions::reading()).is_ok());
        assert_eq!(link(OpenOptions::reading().no_follow()).unwrap_err().raw_os_error(), Some(40));
    });
}

fn a_read_beyond_the_end_is_short_and_then_nothing(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        fs::write(folder.join("file"), bytes(5000)).unwrap();
        let file = open(event_loop, &files, folder.join("file"), OpenOptions::reading()).unwrap();
        let (n, buffer) = read_at(event_loop, &files, &file, 4096, 4096);
        assert_eq!(n.unwrap(), 904);
        assert_eq!(buffer.len(), 4096);
        assert_eq!(buffer[..904], bytes(5000)[4096..]);
        assert!(buffer[904..].iter().all(|byte| *byte == 0), "the rest is as it was");
        assert_eq!(read_at(event_loop, &files, &file, 5000, 10).0.unwrap(), 0);
        assert_eq!(read_at(event_loop, &files, &file, 1 << 40, 10).0.unwrap(), 0);
    });
}

fn what_cannot_be_meant_is_refused_with_the_buffer(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        fs::write(folder.join("file"), "text").unwrap();
        let how = OpenOptions::reading_and_writing();
        let file = open(event_loop, &files, folder.join("file"), how).unwrap();
        let (n, buffer) = outcome(event_loop, |tell| {
            files.read_at(&file, 0, Vec::with_capacity(77), |_, n, buffer| tell((n, buffer)));
        });
        assert_eq!(n.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(buffer.capacity() >= 77);
        // The largest of all offsets is what the kernel takes for the position.
        for offset in [i64::MAX as u64 + 1, u64::MAX] {
            let (n, buffer) = read_at(event_loop, &files, &file, offset, 3);
            assert_eq!(n.unwrap_err().kind(), ErrorKind::InvalidInput);
            assert_eq!(buffer, [0; 3]);
            let (n, buffer) = outcome(event_loop, |tell| {
                files.write_at(&file, offset, b"more".to_vec(), |_, n, buffer| tell((n, buffer)));
            });
            assert_eq!(n.unwrap_err().kind(), ErrorKind::InvalidInput);
            assert_eq!(buffer, b"more");
        }
        assert_eq!(fs::read(folder.join("file")).unwrap(), b"text");
    });
}

fn errors_of_the_kernel_come_with_the_buffer(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = builder.build(event_loop).unwrap();
        let write = |file: &File| {
            outcome(event_loop, |tell| {
                files.write_at(file, 0, bytes(4096), |_, n, buffer| tell((n, buffer)));
            })
        };
        let full = open(event_loop, &files, "/dev/full", OpenOptions::writing()).unwrap();
        let (n, buffer) = write(&full);
        assert_eq!(n.unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(buffer, bytes(4096));
        // A file that may not be written (EBADF), one that may not be read, and a directory (EISDIR).
        let null = open(event_loop, &files, "/dev/null", OpenOptions::reading()).unwrap();
        let (n, buffer) = write(&null);
        assert_eq!(n.unwrap_err().raw_os_error(), Some(9));
        assert_eq!(buffer, bytes(4096));
        assert_eq!(read_at(event_loop, &files, &full, 0, 4).0.unwrap_err().raw_os_error(), Some(9));
        let folder = open(event_loop, &files, "/", OpenOptions::reading()).unwrap();
        let (n, buffer) = read_at(event_loop, &files, &folder, 0, 10);
        assert_eq!(n.unwrap_err().kind(), ErrorKind::IsADirectory);
        assert_eq!(buffer, [0; 10]);
        let (reads, writes) = pipe();
        drop(reads);
        let (n, buffer) = write(&File::from(writes));
        assert_eq!(n.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(buffer, bytes(4096));
    });
}

fn reads_from_the_position_follow_one_another(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        fs::write(folder.join("file"), bytes(1000)).unwrap();
        let file = open(event_loop, &files, folder.join("file"), OpenOptions::reading()).unwrap();
        let mut all = Vec::new();
        loop {
            let (n, buffer) = read(event_loop, &files, &file, 300);
            let n = n.unwrap();
            if n == 0 {
                break;
            }
            all.extend_from_slice(&buffer[..n]);
            assert_eq!(read_at(event_loop, &files, &file, 0, 100).1, bytes(1000)[..100]);
        }
        assert_eq!(all, bytes(1000));
    });
}

fn pipes_are_read_and_written_with_and_without_an_offset(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = builder.build(event_loop).unwrap();
        let (reads, mut writes) = pipe();
        let reads = File::from(reads);
        for _ in 0..3 {
            let text = Recorder::new();
            let recording = text.clone();
            files.read(&reads, vec![0; 10], move |_, n, buffer| recording.record((n.unwrap(), buffer)));
            turn(event_loop);
            assert_eq!(text.len(), 0);
            writes.write_all(b"abc").unwrap();
            settle(event_loop, &files);
            assert_eq!(text.take(), [(3, b"abc\0\0\0\0\0\0\0".to_vec())]);
        }
        writes.write_all(b"def").unwrap();
        assert_eq!(read_at(event_loop, &files, &reads, 500, 3).1, b"def");
        let (mut reads, writes) = pipe();
        let writes = File::from(writes);
        outcome(event_loop, |tell| files.write(&writes, b"ghi".to_vec(), |_, n, _| tell(n))).unwrap();
        outcome(event_loop, |tell| files.write_at(&writes, 9, b"jkl".to_vec(), |_, n, _| tell(n))).unwrap();
        let mut text = [0; 6];
        reads.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"ghijkl");
        // What is in non-blocking mode is waited for as well.
        let (reads, mut writes) = pipe();
        rustix::io::ioctl_fionbio(&reads, true).unwrap();
        let text = Recorder::new();
        let recording = text.clone();
        files
            .read(&File::from(reads), vec![0; 3], move |_, n, buffer| recording.record((n.unwrap(), buffer)));
        turn(event_loop);
        writes.write_all(b"mno").unwrap();
        settle(event_loop, &files);
        assert_eq!(text.take(), [(3, b"mno".to_vec())]);
    });
}

fn the_opening_of_a_named_pipe_waits_for_its_other_end(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        let path = folder.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let opened = Recorder::new();
        let opening = opened.clone();
        // The kernel knows the path by now, or it would have to go elsewhere for it and wait there.
        status(event_loop, &files, &path).unwrap();
        files.open(&path, OpenOptions::reading(), move |_, file| opening.record(file.unwrap()));
        turn(event_loop);
        status(event_loop, &files, &path).unwrap();
        assert_eq!(opened.len(), 0);
        let mut end = fs::OpenOptions::new().write(true).open(&path).unwrap();
        settle(event_loop, &files);
        end.write_all(b"there").unwrap();
        let file = opened.take().remove(0);
        assert_eq!(read(event_loop, &files, &file, 5).1, b"there");
        drop(file);
        let how = OpenOptions::writing().nonblocking();
        assert_eq!(open(event_loop, &files, &path, how).unwrap_err().raw_os_error(), Some(6));
    });
}

fn a_write_of_all_takes_as_many_operations_as_needed(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        // A pipe in non-blocking mode takes what it has room for, and that is not all.
        let (mut reads, writes) = pipe();
        rustix::io::ioctl_fionbio(&writes, true).unwrap();
        let data = bytes(300_000);
        let reader = std::thread::spawn(move || {
            let mut taken = Vec::new();
            reads.read_to_end(&mut taken).map(|_| taken)
        });
        let (result, buffer) = outcome(event_loop, |tell| {
            files.write_all(&File::from(writes), data.clone(), |_, result, buffer| tell((result, buffer)));
        });
        result.unwrap();
        assert!(buffer == data);
        assert!(reader.join().unwrap().unwrap() == data);

        let file = fs::File::create_new(folder.join("file")).unwrap();
        let file = File::from(file);
        let (result, buffer) = outcome(event_loop, |tell| {
            files.write_all_at(&file, 10, data.clone(), |_, result, buffer| tell((result, buffer)));
        });
        result.unwrap();
        assert!(buffer == data);
        assert!(fs::read(folder.join("file")).unwrap()[10..] == data);
        let (result, _) = outcome(event_loop, |tell| {
            files.write_all_at(&file, 0, Vec::new(), |_, result, buffer| tell((result, buffer)));
        });
        result.unwrap();
        let full = open(event_loop, &files, "/dev/full", OpenOptions::writing()).unwrap();
        let (result, buffer) = outcome(event_loop, |tell| {
            files.write_all(&full, data.clone(), |_, result, buffer| tell((result, buffer)));
        });
        assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
        assert!(buffer == data);
    });
}

fn the_status_is_that_of_the_standard_library(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        let path = folder.join("file");
        fs::write(&path, bytes(12_345)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(&path, folder.join("other name")).unwrap();
        symlink(&path, folder.join("link")).unwrap();
        let file = open(event_loop, &files, &path, OpenOptions::reading()).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        let of_file = outcome(event_loop, |tell| files.status(&file, |_, status| tell(status))).unwrap();
        let of_path = status(event_loop, &files, &path).unwrap();
        let of_link = status(event_loop, &files, folder.join("link")).unwrap();
        for status in [of_file, of_path, of_link] {
            assert_eq!(status.kind(), FileKind::Regular);
            assert!(status.is_file() && !status.is_directory());
            assert_eq!(status.size(), 12_345);
            assert_eq!(status.mode(), 0o4751);
            assert_eq!((status.user_id(), status.group_id()), (metadata.uid(), metadata.gid()));
            assert_eq!((status.inode(), u64::from(status.links())), (metadata.ino(), metadata.nlink()));
            let (major, minor) = status.device();
            assert_eq!(rustix::fs::makedev(major, minor), metadata.dev());
            assert_eq!(status.blocks(), metadata.blocks());
            for (time, seconds, nanoseconds) in [
                (status.modified(), metadata.mtime(), metadata.mtime_nsec()),
                (status.accessed(), metadata.atime(), metadata.atime_nsec()),
                (status.changed(), metadata.ctime(), metadata.ctime_nsec()),
            ] {
                assert_eq!((time.seconds, i64::from(time.nanoseconds)), (seconds, nanoseconds));
            }
            assert_eq!(status.created().is_some(), metadata.created().is_ok());
        }
        let kind = |path: &Path| status(event_loop, &files, path).unwrap().kind();
        assert_eq!(kind(folder.path()), FileKind::Directory);
        assert_eq!(kind("/dev/null".as_ref()), FileKind::CharacterDevice);
        let reads = File::from(pipe().0);
        let status = outcome(event_loop, |tell| files.status(&reads, |_, status| tell(status))).unwrap();
        assert_eq!(status.kind(), FileKind::Fifo);
    });
}

fn files_are_synchronised(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        let file = File::from(fs::File::create_new(folder.join("file")).unwrap());
        outcome(event_loop, |tell| files.write(&file, bytes(4096), |_, n, _| tell(n))).unwrap();
        outcome(event_loop, |tell| files.sync_all(&file, |_, synced| tell(synced))).unwrap();
        outcome(event_loop, |tell| files.sync_data(&file, |_, synced| tell(synced))).unwrap();
        let reads = File::from(pipe().0);
        let error = outcome(event_loop, |tell| files.sync_all(&reads, |_, synced| tell(synced))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
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
        // One that a thread begins, one that waits behind it, and one that has not been given to anybody.
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
        if files.backend() == reveille::Backend::Threads {
            // One may have begun it, and goes on then.
            (&pipes[0].1).write_all(b"text").unwrap();
        }
        settle(event_loop, &files);
        let told = said.take();
        let by_a_thread =
            files.backend() == reveille::Backend::Threads && told == [(Ok(4), b"text".to_vec())];
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
    with_loop(|event_loop| {
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
    support::with_watchdog(support::LIMIT, || {
        let event_loop = EventLoop::builder().propagate_panics(true).build().unwrap();
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
        with_loop(|event_loop| {
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
        while descriptors().len() > before.len() {
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
            support::wait_readable(event_loop);
            turn(event_loop);
        }
    });
}

#[cfg(feature = "uring")]
mod without_a_ring {
    use std::io::ErrorKind;
    use std::sync::Mutex;

    use reveille::{Backend, FileIo, OpenOptions};

    use super::support::alone::alone_after;
    use super::support::with_loop;
    use super::{open, read};

    /// What was logged.
    struct Lines(Mutex<Vec<String>>);

    impl log::Log for Lines {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            self.0.lock().unwrap().push(format!("{}: {}", record.level(), record.args()));
        }

        fn flush(&self) {}
    }

    static LINES: Lines = Lines(Mutex::new(Vec::new()));

    /// Where the kernel answers a process that asks for a ring with `error`.
    #[track_caller]
    fn threads_do_it(error: &str, kind: ErrorKind, why: &str) {
        // A process has one tracer, so under the address sanitizer this one does not look for leaks.
        let script = format!(
            "export ASAN_OPTIONS=detect_leaks=0
            command -v strace >&2 || {{ echo there is no strace >&2; exit 1; }}
            exec strace -f -qq -o /dev/null -e trace=io_uring_setup -e inject=io_uring_setup:error={error} \"$@\""
        );
        alone_after(&script, || {
            log::set_logger(&LINES).unwrap();
            log::set_max_level(log::LevelFilter::Info);
            with_loop(|event_loop| {
                let error = FileIo::builder().backend(Backend::Ring).build(event_loop).unwrap_err();
                assert_eq!(error.kind(), kind);
                assert!(error.to_string().contains(why), "{error}");
                assert!(LINES.0.lock().unwrap().is_empty());

                let files = FileIo::new(event_loop).unwrap();
                assert_eq!(files.backend(), Backend::Threads);
                let line = format!("INFO: file I/O by threads: {error}");
                assert_eq!(*LINES.0.lock().unwrap(), [line]);
                let zero = open(event_loop, &files, "/dev/zero", OpenOptions::reading()).unwrap();
                assert_eq!(read(event_loop, &files, &zero, 3).0.unwrap(), 3);
            });
        });
    }

    #[test]
    fn threads_do_it_if_the_kernel_has_no_rings() {
        threads_do_it("ENOSYS", ErrorKind::Unsupported, "the kernel is without it (ENOSYS)");
    }

    #[test]
    fn threads_do_it_if_rings_are_switched_off() {
        threads_do_it("EPERM", ErrorKind::PermissionDenied, "kernel.io_uring_disabled");
    }
}

#[cfg(not(feature = "uring"))]
#[test]
fn a_ring_that_there_cannot_be_is_an_error_that_says_why() {
    with_loop(|event_loop| {
        let error = FileIo::builder().backend(reveille::Backend::Ring).build(event_loop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("the feature `uring`"), "{error}");
        assert_eq!(FileIo::new(event_loop).unwrap().backend(), reveille::Backend::Threads);
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
