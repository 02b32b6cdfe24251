//! What can be done with files on a loop, and what is answered: the same tests with either back
//! end.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use crate::support::files::{bytes, open, outcome, pipe, read, read_at, settle, status, with_both};
use crate::support::folder::Folder;
use crate::support::{Recorder, turn, with_loop};
use reveille::fs::{File, FileIoBuilder, FileKind, OpenOptions};

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
        // A file that may not be written (EBADF), one that may not be read, and a directory
        // (EISDIR).
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
        let of_file = outcome(event_loop, |tell| files.metadata(&file, |_, status| tell(status))).unwrap();
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
        let status = outcome(event_loop, |tell| files.metadata(&reads, |_, status| tell(status))).unwrap();
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
