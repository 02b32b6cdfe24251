//! Watchers of one loop share one inotify descriptor. Each watcher receives only the changes that
//! it requested.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;

use crate::support::alone::{alone, alone_after};
use crate::support::folder::Folder;
use crate::support::net::{open_descriptors, turn_until};
use crate::support::{Recorder, turn, with_loop};
use reveille::EventLoop;
use reveille::fs::{FileChange, FileChanges, Watcher};

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
fn all_watchers_of_a_loop_share_one_descriptor() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let before = open_descriptors();
        let folders: Vec<Folder> = (0..300).map(|_| Folder::new()).collect();
        let mut watchers = Vec::new();
        for folder in &folders {
            let (watcher, events) = recorded(&event_loop);
            watcher.watch(folder.path(), FileChanges::CREATED).unwrap();
            watchers.push((watcher, events));
            assert_eq!(open_descriptors(), before + 1);
        }
        for folder in &folders {
            fs::write(folder.join("file"), "").unwrap();
        }
        turn_until(&event_loop, || watchers.iter().all(|(_, events)| events.len() > 0));
        for (folder, (_, events)) in folders.iter().zip(&watchers) {
            assert_eq!(events.take(), [(FileChange::Created, folder.join("file"))]);
        }
        let last = watchers.pop();
        drop(watchers);
        assert_eq!(open_descriptors(), before + 1);
        drop(last);
        assert_eq!(open_descriptors(), before);
        // The loop opens a new descriptor for the next watcher.
        let (watcher, events) = recorded(&event_loop);
        watcher.watch(folders[0].path(), FileChanges::DELETED).unwrap();
        fs::remove_file(folders[0].join("file")).unwrap();
        settle(&event_loop);
        assert_eq!(events.take(), [(FileChange::Deleted, folders[0].join("file"))]);
    });
}

#[test]
fn each_watcher_receives_only_its_requested_changes() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let [(created, created_events), (deleted, deleted_events), (both, both_events)] =
            [(); 3].map(|()| recorded(event_loop));
        // The later watches request fewer changes. The first still receives all of its own.
        let both_id = both.watch(folder.path(), FileChanges::CREATED | FileChanges::DELETED).unwrap();
        created.watch(folder.path(), FileChanges::CREATED).unwrap();
        deleted.watch(folder.path().join("."), FileChanges::DELETED).unwrap();
        let make_and_remove = || {
            fs::write(folder.join("file"), "").unwrap();
            fs::remove_file(folder.join("file")).unwrap();
            settle(event_loop);
        };
        let (created_event, removed) = ((FileChange::Created, folder.join("file")), FileChange::Deleted);
        let deleted_event = (removed, folder.join("file"));
        make_and_remove();
        assert_eq!(created_events.take(), std::slice::from_ref(&created_event));
        assert_eq!(deleted_events.take(), [(removed, folder.path().join("./file"))]);
        assert_eq!(both_events.take(), [created_event.clone(), deleted_event]);
        // Removing one watch does not affect the others.
        drop(deleted);
        assert!(both.unwatch(both_id));
        make_and_remove();
        assert_eq!(created_events.take(), [created_event]);
        assert_eq!((deleted_events.len(), both_events.len()), (0, 0));
    });
}

#[test]
fn a_second_watch_receives_no_earlier_events() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let [(first, first_events), (second, second_events)] = [(); 2].map(|()| recorded(event_loop));
        first.watch(folder.path(), FileChanges::CREATED).unwrap();
        for round in 0..3 {
            fs::write(folder.join(format!("before {round}")), "").unwrap();
            let id = second.watch(folder.path(), FileChanges::CREATED).unwrap();
            fs::write(folder.join(format!("after {round}")), "").unwrap();
            settle(event_loop);
            let created_at = |name: &str| (FileChange::Created, folder.join(format!("{name} {round}")));
            assert_eq!(first_events.take(), [created_at("before"), created_at("after")]);
            assert_eq!(second_events.take(), [created_at("after")]);
            assert!(second.unwatch(id));
            assert!(!second.unwatch(id), "an id stays invalid after removal");
        }
    });
}

#[test]
fn a_watch_added_in_a_callback_receives_no_earlier_events() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let (second, second_events) = recorded(event_loop);
        let first_events = Recorder::new();
        let recording = first_events.clone();
        let path = folder.path().to_owned();
        let adding = Rc::new(RefCell::new(Some(second)));
        let kept = Rc::clone(&adding);
        let first = Watcher::new(event_loop, move |event| {
            recording.record(event.path());
            if let Some(second) = adding.borrow_mut().take() {
                second.watch(&path, FileChanges::CREATED).unwrap();
                fs::write(path.join("third"), "").unwrap();
                second.detach();
            }
        })
        .unwrap();
        first.watch(folder.path(), FileChanges::CREATED).unwrap();
        fs::write(folder.join("first"), "").unwrap();
        fs::write(folder.join("second"), "").unwrap();
        settle(event_loop);
        assert_eq!(first_events.take(), ["first", "second", "third"].map(|name| folder.join(name)));
        assert_eq!(second_events.take(), [(FileChange::Created, folder.join("third"))]);
        assert!(kept.borrow().is_none());
    });
}

#[test]
fn the_deletion_of_a_file_is_reported_to_each_watcher() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let path = folder.join("file");
        fs::write(&path, "").unwrap();
        let [(first, first_events), (second, second_events), (third, third_events)] =
            [(); 3].map(|()| recorded(event_loop));
        let id = first.watch(&path, FileChanges::SELF_DELETED).unwrap();
        second.watch(&path, FileChanges::OPENED).unwrap();
        third.watch(&path, FileChanges::ALL).unwrap();
        drop(third);
        fs::remove_file(&path).unwrap();
        settle(event_loop);
        let [deleted, removed] =
            [FileChange::SelfDeleted, FileChange::WatchRemoved].map(|change| (change, path.clone()));
        assert_eq!(first_events.take(), [deleted, removed.clone()]);
        assert_eq!(second_events.take(), [removed]);
        assert_eq!(third_events.len(), 0);
        assert!(!first.unwatch(id));
        // The path can be watched again.
        fs::write(&path, "").unwrap();
        second.watch(&path, FileChanges::MODIFIED).unwrap();
        fs::write(&path, "text").unwrap();
        settle(event_loop);
        assert_eq!(second_events.take().last(), Some(&(FileChange::Modified, path)));
    });
}

#[test]
fn a_watcher_closed_by_another_receives_no_more_events() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let others: Rc<RefCell<Vec<Watcher>>> = Rc::default();
        let closing = Rc::clone(&others);
        let first = Watcher::new(event_loop, move |_| drop(closing.take())).unwrap();
        first.watch(folder.path(), FileChanges::CREATED).unwrap();
        let events: Vec<Events> = (0..3)
            .map(|_| {
                let (watcher, events) = recorded(event_loop);
                watcher.watch(folder.path(), FileChanges::CREATED).unwrap();
                others.borrow_mut().push(watcher);
                events
            })
            .collect();
        fs::write(folder.join("file"), "").unwrap();
        settle(event_loop);
        assert!(others.borrow().is_empty() && events.iter().all(|events| events.len() == 0));
    });
}

/// Runs in its own user namespace, where the queue can be shortened.
#[test]
fn an_overflow_is_reported_to_each_watcher() {
    let script = r#"exec unshare --user --map-root-user sh -ec '
        echo 128 > /proc/sys/user/max_inotify_instances
        exec "$@"' sh "$@""#;
    alone_after(script, || {
        let event_loop = EventLoop::new().unwrap();
        let [(first, first_events), (second, second_events)] = [(); 2].map(|()| recorded(&event_loop));
        let folder = Folder::new();
        first.watch(folder.path(), FileChanges::CREATED | FileChanges::DELETED).unwrap();
        let most: usize =
            fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
        for _ in 0..most / 2 + 1 {
            fs::write(folder.join("file"), "").unwrap();
            fs::remove_file(folder.join("file")).unwrap();
        }
        let overflow = (FileChange::Overflow, PathBuf::new());
        turn_until(&event_loop, || second_events.len() > 0);
        assert_eq!(second_events.take(), std::slice::from_ref(&overflow));
        assert_eq!(first_events.take().last(), Some(&overflow));
        drop(second);
    });
}

/// The kernel sets the directory flag on the unmount event of a directory's file system.
#[test]
fn an_unmount_event_is_not_reported_as_a_directory() {
    let script = r#"exec unshare --user --map-root-user --mount sh -ec '
        mount -t tmpfs none /mnt
        exec "$@"' sh "$@""#;
    alone_after(script, || {
        let event_loop = EventLoop::new().unwrap();
        let events = Recorder::new();
        let t = events.clone();
        let watcher =
            Watcher::new(&event_loop, move |event| t.record((event.change(), event.is_directory())));
        let watcher = watcher.unwrap();
        watcher.watch("/mnt", FileChanges::CREATED).unwrap();
        fs::create_dir("/mnt/below").unwrap();
        let unmounted = std::process::Command::new("umount").arg("/mnt").status().unwrap();
        assert!(unmounted.success());
        turn_until(&event_loop, || events.len() == 3);
        let expected =
            [(FileChange::Created, true), (FileChange::Unmounted, false), (FileChange::WatchRemoved, false)];
        assert_eq!(events.take(), expected);
    });
}
