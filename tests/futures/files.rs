//! Operations on files as futures.

use std::io::{ErrorKind, Read};
use std::rc::Rc;

use crate::support::files::with_both_backends;
use crate::support::folder::Folder;
use crate::support::futures::run;
use crate::support::{turn, with_loop};
use reveille::fs::{File, FileIoBuilder, OpenOptions};

with_both_backends! {
    each_operation_returns_its_result
    errors_return_the_buffer
    a_dropped_read_is_cancelled
    a_dropped_open_leaves_no_descriptor
    the_end_of_the_loop_drops_waiting_operations
}

fn each_operation_returns_its_result(builder: FileIoBuilder) {
    with_loop(move |event_loop| {
        let files = builder.build(event_loop).unwrap();
        let folder = Folder::new();
        let path = folder.join("file");
        run(event_loop, async move {
            let options = OpenOptions::reading_and_writing().create();
            let file = files.open_async(&path, options).await.unwrap();
            let (written, buffer) = files.write_all_at_async(&file, 0, b"hello world".to_vec()).await;
            written.unwrap();
            assert_eq!(buffer, b"hello world");
            let (written, _) = files.write_at_async(&file, 0, b"J".to_vec()).await;
            assert_eq!(written.unwrap(), 1);
            files.sync_all_async(&file).await.unwrap();
            files.sync_data_async(&file).await.unwrap();
            let (read, buffer) = files.read_at_async(&file, 0, vec![0; 5]).await;
            assert_eq!((read.unwrap(), &buffer[..]), (5, &b"Jello"[..]));
            let (written, _) = files.write_async(&file, b"C".to_vec()).await;
            assert_eq!(written.unwrap(), 1);
            let (written, _) = files.write_all_async(&file, b"ello".to_vec()).await;
            written.unwrap();
            let (read, buffer) = files.read_async(&file, vec![0; 64]).await;
            assert_eq!(&buffer[..read.unwrap()], b" world");
            assert_eq!(files.metadata_async(&file).await.unwrap().size(), 11);
            assert_eq!(files.metadata_at_async(&path).await.unwrap().size(), 11);
            files.close_async(file).await.unwrap();
            assert_eq!(files.pending(), 0);
            drop(folder);
        });
    });
}

fn errors_return_the_buffer(builder: FileIoBuilder) {
    with_loop(move |event_loop| {
        let files = builder.build(event_loop).unwrap();
        run(event_loop, async move {
            let missing = files.open_async("/no/such/file", OpenOptions::reading()).await;
            assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
            let file = files.open_async("/proc/self/exe", OpenOptions::reading()).await.unwrap();
            let (written, buffer) = files.write_at_async(&file, 0, b"abc".to_vec()).await;
            assert_eq!((written.unwrap_err().raw_os_error(), &buffer[..]), (Some(9), &b"abc"[..]));
            let (read, buffer) = files.read_at_async(&file, u64::MAX, vec![7; 3]).await;
            assert_eq!((read.unwrap_err().kind(), &buffer[..]), (ErrorKind::InvalidInput, &[7; 3][..]));
        });
    });
}

/// The only thread is in a read of an empty pipe, or the ring waits for it.
fn a_dropped_read_is_cancelled(builder: FileIoBuilder) {
    with_loop(move |event_loop| {
        let files = Rc::new(builder.threads(1).build(event_loop).unwrap());
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let file = Rc::new(File::from(reader.try_clone().unwrap()));
        let reads = [(); 2].map(|()| {
            let (files, file) = (Rc::clone(&files), Rc::clone(&file));
            event_loop.spawn_local(async move { files.read_async(&file, vec![0; 8]).await })
        });
        (0..3).for_each(|_| turn(event_loop));
        assert_eq!(files.pending(), 2);
        reads.iter().for_each(|read| read.abort());
        (0..3).for_each(|_| turn(event_loop));
        // A thread that reads cannot be interrupted.
        rustix::io::write(&writer, b"abc").unwrap();
        event_loop.run_until_idle().unwrap();
        assert_eq!(files.pending(), 0);
        // At most the operation that could not be cancelled has taken input, and not twice.
        drop((writer, file));
        let mut left = Vec::new();
        std::fs::File::from(reader).read_to_end(&mut left).unwrap();
        assert!(left.is_empty() || left == b"abc", "{left:?}");
    });
}

fn a_dropped_open_leaves_no_descriptor(builder: FileIoBuilder) {
    with_loop(move |event_loop| {
        let files = Rc::new(builder.build(event_loop).unwrap());
        let folder = Folder::new();
        let path = folder.join("only here");
        std::fs::write(&path, "").unwrap();
        let (opening, at) = (Rc::clone(&files), path.clone());
        let open =
            event_loop.spawn_local(async move { opening.open_async(at, OpenOptions::reading()).await });
        turn(event_loop);
        open.abort();
        event_loop.run_until_idle().unwrap();
        assert_eq!(files.pending(), 0);
        let links = std::fs::read_dir("/proc/self/fd").unwrap();
        let is_open =
            links.flatten().filter_map(|link| std::fs::read_link(link.path()).ok()).any(|to| to == path);
        assert!(!is_open);
    });
}

fn the_end_of_the_loop_drops_waiting_operations(builder: FileIoBuilder) {
    with_loop(move |event_loop| {
        let files = builder.build(event_loop).unwrap();
        let joined = event_loop.spawn_local(async move {
            files.open_async("/proc/self/exe", OpenOptions::reading()).await.unwrap();
        });
        event_loop.spawn_local(async { reveille::task::with_loop(reveille::EventLoop::quit) });
        event_loop.run().unwrap();
        drop(joined);
    });
}
