//! Changes of files: which changes are reported, their order, and the lifetime of watches.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::rc::Rc;

use crate::support::alone::{alone, alone_after};
use crate::support::folder::Folder;
use crate::support::net::{open_descriptors, turn_until};
use crate::support::{Count, Recorder, on_another_thread, turn, with_catching_loop, with_loop};
use reveille::EventLoop;
use reveille::fs::{FileChange, FileChanges, WatchId, Watcher};

/// The events of a watcher: the change and the path.
type Events = Recorder<(FileChange, PathBuf)>;

fn recorded(event_loop: &EventLoop) -> (Watcher, Events) {
    let events = Recorder::new();
    let t = events.clone();
    let watcher = Watcher::new(event_loop, move |event| t.record((event.change(), event.path())));
    (watcher.unwrap(), events)
}

/// Turns until the kernel has no more events. The kernel queues an event before the system call
/// that caused it returns.
fn settle(event_loop: &EventLoop) {
    (0..3).for_each(|_| turn(event_loop));
}

#[test]
fn changes_in_a_directory_are_reported_in_order_with_names() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let (watcher, events) = recorded(event_loop);
        watcher.watch(folder.path(), FileChanges::ALL).unwrap();
        let path = folder.join("file");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"hello").unwrap();
        drop(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        event_loop.run_once(None).unwrap();
        let expected = [
            FileChange::Created,
            FileChange::Opened,
            FileChange::Modified,
            FileChange::ClosedWritten,
            FileChange::Attributes,
            FileChange::Opened,
            FileChange::Accessed,
            FileChange::ClosedUnwritten,
            FileChange::Deleted,
        ];
        assert_eq!(events.take(), expected.map(|change| (change, path.clone())));
    });
}

#[test]
fn only_the_requested_changes_are_reported() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let (watcher, events) = recorded(event_loop);
        watcher.watch(folder.path(), FileChanges::DELETED).unwrap();
        fs::write(folder.join("file"), "text").unwrap();
        fs::remove_file(folder.join("file")).unwrap();
        settle(event_loop);
        assert_eq!(events.take(), [(FileChange::Deleted, folder.join("file"))]);
    });
}

#[test]
fn both_ends_of_a_move_share_a_unique_cookie() {
    with_loop(|event_loop| {
        let (here, there, elsewhere) = (Folder::new(), Folder::new(), Folder::new());
        fs::write(here.join("a"), "").unwrap();
        fs::write(here.join("b"), "").unwrap();
        fs::write(here.join("c"), "").unwrap();
        let (watcher, events) = recorded(event_loop);
        watcher.watch(here.path(), FileChanges::MOVED).unwrap();
        watcher.watch(there.path(), FileChanges::MOVED).unwrap();
        fs::rename(here.join("a"), there.join("A")).unwrap();
        fs::rename(here.join("b"), here.join("B")).unwrap();
        fs::rename(here.join("c"), elsewhere.join("c")).unwrap();
        settle(event_loop);
        let events = events.take();
        let cookies: Vec<u32> = events
            .iter()
            .map(|(change, _)| match change {
                FileChange::MovedFrom { cookie } | FileChange::MovedTo { cookie } => *cookie,
                other => panic!("{other:?} is no move"),
            })
            .collect();
        let [a, also_a, b, also_b, c] = cookies[..] else { panic!("{events:?}") };
        assert!(a == also_a && b == also_b && a != b && b != c && a != c, "{cookies:?}");
        let expected = [
            (FileChange::MovedFrom { cookie: a }, here.join("a")),
            (FileChange::MovedTo { cookie: a }, there.join("A")),
            (FileChange::MovedFrom { cookie: b }, here.join("b")),
            (FileChange::MovedTo { cookie: b }, here.join("B")),
            (FileChange::MovedFrom { cookie: c }, here.join("c")),
        ];
        assert_eq!(events, expected);
    });
}

#[test]
fn a_directory_is_distinguished_from_a_file() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let events = Recorder::new();
        let t = events.clone();
        let watcher = Watcher::new(event_loop, move |event| {
            t.record((event.is_directory(), event.name().map(OsStr::to_owned)));
        });
        watcher.as_ref().unwrap().watch(folder.path(), FileChanges::CREATED).unwrap();
        fs::create_dir(folder.join("directory")).unwrap();
        fs::write(folder.join("file"), "").unwrap();
        // A name need not be UTF-8.
        let strange = OsStr::from_bytes(b"\xff\xfe");
        fs::write(folder.join(strange), "").unwrap();
        settle(event_loop);
        let expected = [
            (true, Some("directory".into())),
            (false, Some("file".into())),
            (false, Some(strange.to_owned())),
        ];
        assert_eq!(events.take(), expected);
    });
}

#[test]
fn a_watched_file_that_is_deleted_ends_its_watch() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let path = folder.join("file");
        fs::write(&path, "").unwrap();
        let (watcher, events) = recorded(event_loop);
        let id = watcher.watch(&path, FileChanges::WRITES).unwrap();
        fs::rename(&path, folder.join("moved")).unwrap();
        fs::remove_file(folder.join("moved")).unwrap();
        settle(event_loop);
        let expected = [
            FileChange::SelfMoved,
            // The link count has changed.
            FileChange::Attributes,
            FileChange::SelfDeleted,
            FileChange::WatchRemoved,
        ];
        assert_eq!(events.take(), expected.map(|change| (change, path.clone())));
        assert!(!watcher.unwatch(id));
        // The path can be watched again. The new watch has another id.
        fs::write(&path, "").unwrap();
        assert_ne!(watcher.watch(&path, FileChanges::MODIFIED).unwrap(), id);
    });
}

#[test]
fn more_events_than_one_read_are_reported_in_order() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let (watcher, events) = recorded(event_loop);
        watcher.watch(folder.path(), FileChanges::CREATED).unwrap();
        let name = |n: usize| format!("{n:0>width$}", width = 1 + n % 250);
        (0..1000).for_each(|n| fs::write(folder.join(name(n)), "").unwrap());
        let before = event_loop.iteration();
        turn_until(event_loop, || events.len() == 1000);
        assert!(event_loop.iteration() - before > 5, "one turn must not deliver all events");
        let expected: Vec<_> = (0..1000).map(|n| (FileChange::Created, folder.join(name(n)))).collect();
        assert!(events.take() == expected);
        // The next event is reported as well.
        fs::write(folder.join("one more"), "").unwrap();
        event_loop.run_once(None).unwrap();
        assert_eq!(events.take(), [(FileChange::Created, folder.join("one more"))]);
    });
}

#[test]
fn an_overflow_is_reported_after_the_queued_events() {
    with_loop(|event_loop| {
        let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        let folder = Folder::new();
        let mut file = File::create(folder.join("file")).unwrap();
        let (watcher, events) = recorded(event_loop);
        watcher.watch(folder.path(), FileChanges::MODIFIED | FileChanges::ATTRIBUTES).unwrap();
        // Alternating changes, because the kernel coalesces equal consecutive events (inotify(7)).
        for mode in [0o600, 0o644].into_iter().cycle().take(limit / 2 + 100) {
            file.write_all(b"x").unwrap();
            file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
        }
        let is_overflow = |(change, _): &(FileChange, PathBuf)| *change == FileChange::Overflow;
        let mut all = Vec::new();
        turn_until(event_loop, || {
            all.append(&mut events.take());
            all.last().is_some_and(is_overflow)
        });
        assert_eq!(all.iter().filter(|event| is_overflow(event)).count(), 1);
        assert_eq!(all.len(), limit + 1);
        assert_eq!(all.last().unwrap().1, PathBuf::new());
        // The watch still exists.
        file.write_all(b"x").unwrap();
        settle(event_loop);
        assert_eq!(events.take(), [(FileChange::Modified, folder.join("file"))]);
    });
}

#[test]
fn a_removed_watch_reports_no_pending_events() {
    with_loop(|event_loop| {
        let (folder, other) = (Folder::new(), Folder::new());
        let (watcher, events) = recorded(event_loop);
        let id = watcher.watch(folder.path(), FileChanges::ALL).unwrap();
        watcher.watch(other.path(), FileChanges::CREATED).unwrap();
        fs::write(folder.join("file"), "").unwrap();
        fs::write(other.join("file"), "").unwrap();
        assert!(watcher.unwatch(id));
        assert!(!watcher.unwatch(id));
        settle(event_loop);
        assert_eq!(events.take(), [(FileChange::Created, other.join("file"))]);
        watcher.watch(folder.path(), FileChanges::DELETED).unwrap();
        fs::remove_file(folder.join("file")).unwrap();
        settle(event_loop);
        assert_eq!(events.take(), [(FileChange::Deleted, folder.join("file"))]);
    });
}

#[test]
fn watch_ids_of_two_watchers_are_distinct() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let (first, first_events) = recorded(event_loop);
        let (second, second_events) = recorded(event_loop);
        let id = first.watch(folder.path(), FileChanges::CREATED).unwrap();
        let other = second.watch(folder.path(), FileChanges::CREATED).unwrap();
        assert!(!first.unwatch(other) && !second.unwatch(id));
        fs::write(folder.join("file"), "").unwrap();
        settle(event_loop);
        assert_eq!((first_events.len(), second_events.len()), (1, 1));
        drop(first);
        fs::write(folder.join("another"), "").unwrap();
        settle(event_loop);
        assert_eq!((first_events.len(), second_events.len()), (1, 2));
    });
}

#[test]
fn a_callback_can_watch_the_reported_path() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let events = Recorder::new();
        let (t, first) = (events.clone(), Rc::new(RefCell::new(None::<WatchId>)));
        let f = Rc::clone(&first);
        let watcher = Watcher::new(event_loop, move |event| {
            t.record(event.path());
            if event.is_directory() {
                event.watch(event.path(), FileChanges::CREATED).unwrap();
                assert_eq!(event.watch_id(), *f.borrow());
                assert!(event.unwatch(f.borrow_mut().take().unwrap()));
            }
        })
        .unwrap();
        *first.borrow_mut() = Some(watcher.watch(folder.path(), FileChanges::CREATED).unwrap());
        fs::create_dir(folder.join("below")).unwrap();
        settle(event_loop);
        fs::write(folder.join("not watched"), "").unwrap();
        fs::write(folder.join("below/file"), "").unwrap();
        settle(event_loop);
        assert_eq!(events.take(), [folder.join("below"), folder.join("below/file")]);
    });
}

#[test]
fn a_watcher_closed_in_its_callback_receives_no_more_events() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let events = Recorder::new();
        let t = events.clone();
        let watcher = Watcher::new(event_loop, move |event| {
            t.record(event.change());
            event.close();
        })
        .unwrap();
        watcher.watch(folder.path(), FileChanges::ALL).unwrap();
        fs::write(folder.join("file"), "text").unwrap();
        settle(event_loop);
        assert_eq!(events.take(), [FileChange::Created]);
        assert!(!watcher.is_open());
        let error = watcher.watch(folder.path(), FileChanges::ALL).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::NotFound, "the watcher is closed")
        );
    });
}

#[test]
fn a_panic_in_the_callback_ends_the_watcher_and_is_counted() {
    with_catching_loop(|event_loop| {
        let folder = Folder::new();
        let watcher = Watcher::new(event_loop, |_| panic!("intended by the test")).unwrap();
        let (other, events) = recorded(event_loop);
        for watcher in [&watcher, &other] {
            watcher.watch(folder.path(), FileChanges::CREATED).unwrap();
        }
        for n in ["first", "second"] {
            fs::write(folder.join(n), "").unwrap();
            settle(event_loop);
            assert_eq!(events.take(), [(FileChange::Created, folder.join(n))]);
            assert_eq!(event_loop.handle().counters().panics, 1);
        }
        assert!(!watcher.is_open());
    });
}

#[test]
fn a_path_that_cannot_be_watched_is_an_error() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let (watcher, _) = recorded(event_loop);
        let error = watcher.watch(folder.join("missing"), FileChanges::ALL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("missing"), "{error}");
        watcher.watch(folder.path(), FileChanges::CREATED).unwrap();
        let by_another_name = folder.join("../").join(folder.path().file_name().unwrap());
        let error = watcher.watch(by_another_name, FileChanges::DELETED).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    });
}

/// Runs in its own user namespace, where the limits are counted separately and can be set.
#[test]
fn errors_name_the_system_limit_that_was_reached() {
    let script = r#"exec unshare --user --map-root-user sh -ec '
        echo 3 > /proc/sys/user/max_inotify_watches
        echo 1 > /proc/sys/user/max_inotify_instances
        exec "$@"' sh "$@""#;
    alone_after(script, || {
        let event_loop = EventLoop::new().unwrap();
        let folders = [(); 4].map(|()| Folder::new());
        let (watcher, events) = recorded(&event_loop);
        let ids = [0, 1, 2].map(|n| watcher.watch(folders[n].path(), FileChanges::CREATED).unwrap());
        let error = watcher.watch(folders[3].path(), FileChanges::CREATED).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
        assert!(error.to_string().contains("fs.inotify.max_user_watches"), "{error}");
        // A loop uses one inotify instance. Another loop needs another instance.
        let (_second, _) = recorded(&event_loop);
        let elsewhere = on_another_thread(|| Watcher::new(&EventLoop::new().unwrap(), |_| ()).map(drop));
        let error = elsewhere.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
        assert!(error.to_string().contains("fs.inotify.max_user_instances"), "{error}");
        // Existing watches keep working, and a released watch can be used again.
        assert!(watcher.unwatch(ids[0]));
        watcher.watch(folders[3].path(), FileChanges::CREATED).unwrap();
        fs::write(folders[3].join("file"), "").unwrap();
        turn_until(&event_loop, || events.len() == 1);
    });
}

#[test]
fn watchers_leak_no_descriptor_and_no_callback() {
    alone(|| {
        let (dropped, folder) = (Count::default(), Folder::new());
        let before = open_descriptors();
        let event_loop = EventLoop::new().unwrap();
        let with_loop = open_descriptors();
        for _ in 0..20 {
            let token = dropped.drop_token();
            let watcher = Watcher::new(&event_loop, move |_| token.keep()).unwrap();
            watcher.watch(folder.path(), FileChanges::ALL).unwrap();
            assert_eq!(open_descriptors(), with_loop + 1);
            watcher.close();
            assert_eq!(open_descriptors(), with_loop);
        }
        let token = dropped.drop_token();
        let left = Watcher::new(&event_loop, move |_| token.keep()).unwrap();
        left.watch(folder.path(), FileChanges::ALL).unwrap();
        left.detach();
        assert_eq!(dropped.get(), 20);
        drop(event_loop);
        assert_eq!((dropped.get(), open_descriptors()), (21, before));
    });
}
