//! The operations on files and their results. Each test runs with both back ends.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use crate::support::files::{
    bytes, finish_operations, open, outcome, pipe, read, read_at, status, with_both_backends,
};
use crate::support::folder::Folder;
use crate::support::{Recorder, turn, with_loop};
use reveille::fs::{File, FileIoBuilder, FileKind, OpenOptions};

with_both_backends! {
    written_data_is_read_back_unchanged
    missing_files_and_invalid_paths_are_errors
    contradictory_open_options_are_rejected
    open_options_create_truncate_and_append
    a_read_past_the_end_is_short_or_empty
    rejected_operations_return_the_buffer
    errors_of_the_kernel_return_the_buffer
    reads_without_an_offset_advance_the_position
    pipes_are_read_and_written_with_and_without_an_offset
    opening_a_named_pipe_waits_for_its_other_end
    write_all_continues_after_partial_writes
    metadata_equals_that_of_the_standard_library
    a_sync_succeeds_for_files_and_fails_for_pipes
}

fn written_data_is_read_back_unchanged(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        let options = OpenOptions::reading_and_writing().create_new().mode(0o600);
        let file = open(event_loop, &files, folder.join("file"), options).unwrap();
        let data = bytes(100_000);
        for (i, piece) in data.chunks(10_000).enumerate().rev() {
            let offset = i as u64 * 10_000;
            let (written, buffer) = outcome(event_loop, |done| {
                files.write_at(&file, offset, piece.to_vec(), |_, n, buffer| done((n, buffer)));
            });
            assert_eq!(written.unwrap(), piece.len());
            assert_eq!(buffer, piece);
        }
        let (n, buffer) = read_at(event_loop, &files, &file, 0, 100_000);
        assert_eq!(n.unwrap(), 100_000);
        assert!(buffer == data);
        assert!(fs::read(folder.join("file")).unwrap() == data);
        outcome(event_loop, |done| files.close(file, |_, closed| done(closed))).unwrap();
    });
}

fn missing_files_and_invalid_paths_are_errors(builder: FileIoBuilder) {
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

fn contradictory_open_options_are_rejected(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        for options in [
            OpenOptions::reading().create(),
            OpenOptions::reading().create_new(),
            OpenOptions::reading().truncate(),
            OpenOptions::appending().create().truncate(),
            OpenOptions::writing().create().mode(0o10_000),
        ] {
            let error = open(event_loop, &files, folder.join("file"), options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{options:?}");
            assert!(!folder.join("file").exists());
        }
    });
}

fn open_options_create_truncate_and_append(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        let path = folder.join("file");
        let open = |options| open(event_loop, &files, &path, options);
        let write = |file: &File, text: &str| {
            let text = text.as_bytes().to_vec();
            outcome(event_loop, |done| files.write(file, text, |_, n, _| done(n))).unwrap();
        };
        assert_eq!(open(OpenOptions::writing()).unwrap_err().kind(), ErrorKind::NotFound);
        let file = open(OpenOptions::writing().create_new().mode(0o640)).unwrap();
        write(&file, "one");
        let reference = folder.join("reference");
        fs::OpenOptions::new().write(true).create_new(true).mode(0o640).open(&reference).unwrap();
        let mode = |path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&reference));
        let error = open(OpenOptions::writing().create_new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        write(&open(OpenOptions::appending().create()).unwrap(), "two");
        assert_eq!(fs::read_to_string(&path).unwrap(), "onetwo");
        write(&open(OpenOptions::writing().truncate()).unwrap(), "3");
        assert_eq!(fs::read_to_string(&path).unwrap(), "3");
        symlink(&path, folder.join("link")).unwrap();
        let link = |options| self::open(event_loop, &files, folder.join("link"), options);
        assert!(link(OpenOptions::reading()).is_ok());
        assert_eq!(link(OpenOptions::reading().no_follow()).unwrap_err().raw_os_error(), Some(40));
    });
}

fn a_read_past_the_end_is_short_or_empty(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        fs::write(folder.join("file"), bytes(5000)).unwrap();
        let file = open(event_loop, &files, folder.join("file"), OpenOptions::reading()).unwrap();
        let (n, buffer) = read_at(event_loop, &files, &file, 4096, 4096);
        assert_eq!(n.unwrap(), 904);
        assert_eq!(buffer.len(), 4096);
        assert_eq!(buffer[..904], bytes(5000)[4096..]);
        assert!(buffer[904..].iter().all(|byte| *byte == 0), "the read has changed the rest of the buffer");
        assert_eq!(read_at(event_loop, &files, &file, 5000, 10).0.unwrap(), 0);
        assert_eq!(read_at(event_loop, &files, &file, 1 << 40, 10).0.unwrap(), 0);
    });
}

fn rejected_operations_return_the_buffer(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        fs::write(folder.join("file"), "text").unwrap();
        let options = OpenOptions::reading_and_writing();
        let file = open(event_loop, &files, folder.join("file"), options).unwrap();
        let (n, buffer) = outcome(event_loop, |done| {
            files.read_at(&file, 0, Vec::with_capacity(77), |_, n, buffer| done((n, buffer)));
        });
        assert_eq!(n.unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(buffer.capacity() >= 77);
        // The kernel interprets `u64::MAX` as the current position.
        for offset in [i64::MAX as u64 + 1, u64::MAX] {
            let (n, buffer) = read_at(event_loop, &files, &file, offset, 3);
            assert_eq!(n.unwrap_err().kind(), ErrorKind::InvalidInput);
            assert_eq!(buffer, [0; 3]);
            let (n, buffer) = outcome(event_loop, |done| {
                files.write_at(&file, offset, b"more".to_vec(), |_, n, buffer| done((n, buffer)));
            });
            assert_eq!(n.unwrap_err().kind(), ErrorKind::InvalidInput);
            assert_eq!(buffer, b"more");
        }
        assert_eq!(fs::read(folder.join("file")).unwrap(), b"text");
    });
}

fn errors_of_the_kernel_return_the_buffer(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let files = builder.build(event_loop).unwrap();
        let write = |file: &File| {
            outcome(event_loop, |done| {
                files.write_at(file, 0, bytes(4096), |_, n, buffer| done((n, buffer)));
            })
        };
        let full = open(event_loop, &files, "/dev/full", OpenOptions::writing()).unwrap();
        let (n, buffer) = write(&full);
        assert_eq!(n.unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!(buffer, bytes(4096));
        // A file opened for reading only (EBADF), one for writing only (EBADF), and a directory
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
        let (reader, writer) = pipe();
        drop(reader);
        let (n, buffer) = write(&File::from(writer));
        assert_eq!(n.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(buffer, bytes(4096));
    });
}

fn reads_without_an_offset_advance_the_position(builder: FileIoBuilder) {
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
        let (reader, mut writer) = pipe();
        let file = File::from(reader);
        for _ in 0..3 {
            let text = Recorder::new();
            let recording = text.clone();
            files.read(&file, vec![0; 10], move |_, n, buffer| recording.record((n.unwrap(), buffer)));
            turn(event_loop);
            assert_eq!(text.len(), 0);
            writer.write_all(b"abc").unwrap();
            finish_operations(event_loop, &files);
            assert_eq!(text.take(), [(3, b"abc\0\0\0\0\0\0\0".to_vec())]);
        }
        writer.write_all(b"def").unwrap();
        assert_eq!(read_at(event_loop, &files, &file, 500, 3).1, b"def");
        let (mut reader, writer) = pipe();
        let file = File::from(writer);
        outcome(event_loop, |done| files.write(&file, b"ghi".to_vec(), |_, n, _| done(n))).unwrap();
        outcome(event_loop, |done| files.write_at(&file, 9, b"jkl".to_vec(), |_, n, _| done(n))).unwrap();
        let mut text = [0; 6];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"ghijkl");
        // A read from a pipe in non-blocking mode waits as well.
        let (reader, mut writer) = pipe();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        let text = Recorder::new();
        let recording = text.clone();
        files.read(&File::from(reader), vec![0; 3], move |_, n, buffer| {
            recording.record((n.unwrap(), buffer));
        });
        turn(event_loop);
        writer.write_all(b"mno").unwrap();
        finish_operations(event_loop, &files);
        assert_eq!(text.take(), [(3, b"mno".to_vec())]);
    });
}

fn opening_a_named_pipe_waits_for_its_other_end(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        let path = folder.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let opened = Recorder::new();
        let opening = opened.clone();
        // This puts the path into the cache of the kernel. A ring opens an uncached path in a
        // worker thread of the kernel, which may wait.
        status(event_loop, &files, &path).unwrap();
        files.open(&path, OpenOptions::reading(), move |_, file| opening.record(file.unwrap()));
        turn(event_loop);
        status(event_loop, &files, &path).unwrap();
        assert_eq!(opened.len(), 0);
        let mut writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
        finish_operations(event_loop, &files);
        writer.write_all(b"there").unwrap();
        let file = opened.take().remove(0);
        assert_eq!(read(event_loop, &files, &file, 5).1, b"there");
        drop(file);
        let options = OpenOptions::writing().nonblocking();
        assert_eq!(open(event_loop, &files, &path, options).unwrap_err().raw_os_error(), Some(6));
    });
}

fn write_all_continues_after_partial_writes(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        // A pipe in non-blocking mode accepts only a part of the data.
        let (mut read_end, write_end) = pipe();
        rustix::io::ioctl_fionbio(&write_end, true).unwrap();
        let data = bytes(300_000);
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            read_end.read_to_end(&mut received).map(|_| received)
        });
        let (result, buffer) = outcome(event_loop, |done| {
            files.write_all(&File::from(write_end), data.clone(), |_, result, buffer| done((result, buffer)));
        });
        result.unwrap();
        assert!(buffer == data);
        assert!(reader.join().unwrap().unwrap() == data);

        let file = fs::File::create_new(folder.join("file")).unwrap();
        let file = File::from(file);
        let (result, buffer) = outcome(event_loop, |done| {
            files.write_all_at(&file, 10, data.clone(), |_, result, buffer| done((result, buffer)));
        });
        result.unwrap();
        assert!(buffer == data);
        assert!(fs::read(folder.join("file")).unwrap()[10..] == data);
        let (result, _) = outcome(event_loop, |done| {
            files.write_all_at(&file, 0, Vec::new(), |_, result, buffer| done((result, buffer)));
        });
        result.unwrap();
        let full = open(event_loop, &files, "/dev/full", OpenOptions::writing()).unwrap();
        let (result, buffer) = outcome(event_loop, |done| {
            files.write_all(&full, data.clone(), |_, result, buffer| done((result, buffer)));
        });
        assert_eq!(result.unwrap_err().kind(), ErrorKind::StorageFull);
        assert!(buffer == data);
    });
}

fn metadata_equals_that_of_the_standard_library(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        let path = folder.join("file");
        fs::write(&path, bytes(12_345)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(&path, folder.join("other name")).unwrap();
        symlink(&path, folder.join("link")).unwrap();
        let file = open(event_loop, &files, &path, OpenOptions::reading()).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        let of_file = outcome(event_loop, |done| files.metadata(&file, |_, status| done(status))).unwrap();
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
        let reader = File::from(pipe().0);
        let status = outcome(event_loop, |done| files.metadata(&reader, |_, status| done(status))).unwrap();
        assert_eq!(status.kind(), FileKind::Fifo);
    });
}

fn a_sync_succeeds_for_files_and_fails_for_pipes(builder: FileIoBuilder) {
    with_loop(|event_loop| {
        let (folder, files) = (Folder::new(), builder.build(event_loop).unwrap());
        let file = File::from(fs::File::create_new(folder.join("file")).unwrap());
        outcome(event_loop, |done| files.write(&file, bytes(4096), |_, n, _| done(n))).unwrap();
        outcome(event_loop, |done| files.sync_all(&file, |_, synced| done(synced))).unwrap();
        outcome(event_loop, |done| files.sync_data(&file, |_, synced| done(synced))).unwrap();
        let pipe = File::from(pipe().0);
        let error = outcome(event_loop, |done| files.sync_all(&pipe, |_, synced| done(synced))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    });
}
