//! Watchers of one loop: they share a descriptor, and each has the changes that it asks for and no
//! others.

mod support;

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;

use reveille::EventLoop;
use reveille::fs::{FileChange, FileChanges, Watcher};
use support::alone::{alone, alone_after};
use support::folder::Folder;
use support::net::{open_descriptors, turn_until};
use support::{Recorder, turn, with_loop};

type Told = Recorder<(FileChange, PathBuf)>;

fn recorded(event_loop: &EventLoop) -> (Watcher, Told) {
    let told = Recorder::new();
    let t = told.clone();
    let watcher = Watcher::new(event_loop, move |event| t.record((event.change(), event.path())));
    (watcher.unwrap(), told)
}

/// Turns until the kernel has nothing more to report: what it knows it has noted before the call
/// that caused it returned.
fn settle(event_loop: &EventLoop) {
    (0..3).for_each(|_| turn(event_loop));
}

#[test]
fn many_watchers_of_a_loop_share_one_descriptor_until_the_last() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let before = open_descriptors();
        let folders: Vec<Folder> = (0..300).map(|_| Folder::new()).collect();
        let mut watchers = Vec::new();
        for folder in &folders {
            let (watcher, told) = recorded(&event_loop);
            watcher.watch(folder.path(), FileChanges::CREATED).unwrap();
            watchers.push((watcher, told));
            assert_eq!(open_descriptors(), before + 1);
        }
        for folder in &folders {
            fs::write(folder.join("file"), "").unwrap();
        }
        turn_until(&event_loop, || watchers.iter().all(|(_, told)| told.len() > 0));
        for (folder, (_, told)) in folders.iter().zip(&watchers) {
            assert_eq!(told.take(), [(FileChange::Created, folder.join("file"))]);
        }
        let last = watchers.pop();
        drop(watchers);
        assert_eq!(open_descriptors(), before + 1);
        drop(last);
        assert_eq!(open_descriptors(), before);
        // And from the beginning.
        let (watcher, told) = recorded(&event_loop);
        watcher.watch(folders[0].path(), FileChanges::DELETED).unwrap();
        fs::remove_file(folders[0].join("file")).unwrap();
        settle(&event_loop);
        assert_eq!(told.take(), [(FileChange::Deleted, folders[0].join("file"))]);
    });
}

#[test]
fn each_watcher_of_a_file_has_the_changes_it_asks_for() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let [(created, told_created), (deleted, told_deleted), (both, told_both)] =
            [(); 3].map(|()| recorded(event_loop));
        created.watch(folder.path(), FileChanges::CREATED).unwrap();
        deleted.watch(folder.path().join("."), FileChanges::DELETED).unwrap();
        let both_id = both.watch(folder.path(), FileChanges::CREATED | FileChanges::DELETED).unwrap();
        let make_and_remove = || {
            fs::write(folder.join("file"), "").unwrap();
            fs::remove_file(folder.join("file")).unwrap();
            settle(event_loop);
        };
        let (made, removed) = ((FileChange::Created, folder.join("file")), FileChange::Deleted);
        let gone = (removed, folder.join("file"));
        make_and_remove();
        assert_eq!(told_created.take(), std::slice::from_ref(&made));
        assert_eq!(told_deleted.take(), [(removed, folder.path().join("./file"))]);
        assert_eq!(told_both.take(), [made.clone(), gone]);
        // The end of one leaves the others as they were.
        drop(deleted);
        assert!(both.unwatch(both_id));
        make_and_remove();
        assert_eq!(told_created.take(), [made]);
        assert_eq!((told_deleted.len(), told_both.len()), (0, 0));
    });
}

#[test]
fn a_second_watch_of_a_file_has_nothing_that_came_before_it() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let [(first, told_first), (second, told_second)] = [(); 2].map(|()| recorded(event_loop));
        first.watch(folder.path(), FileChanges::CREATED).unwrap();
        for round in 0..3 {
            fs::write(folder.join(format!("before {round}")), "").unwrap();
            let id = second.watch(folder.path(), FileChanges::CREATED).unwrap();
            fs::write(folder.join(format!("after {round}")), "").unwrap();
            settle(event_loop);
            let made = |name: &str| (FileChange::Created, folder.join(format!("{name} {round}")));
            assert_eq!(told_first.take(), [made("before"), made("after")]);
            assert_eq!(told_second.take(), [made("after")]);
            assert!(second.unwatch(id));
            assert!(!second.unwatch(id), "and not by the id of a later watch");
        }
    });
}

#[test]
fn a_watch_that_a_callback_adds_has_nothing_that_was_read_before() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let (second, told_second) = recorded(event_loop);
        let told_first = Recorder::new();
        let recording = told_first.clone();
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
        assert_eq!(told_first.take(), ["first", "second", "third"].map(|name| folder.join(name)));
        assert_eq!(told_second.take(), [(FileChange::Created, folder.join("third"))]);
        assert!(kept.borrow().is_none());
    });
}

#[test]
fn the_end_of_a_watched_file_is_reported_to_each_watcher() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let path = folder.join("file");
        fs::write(&path, "").unwrap();
        let [(first, told_first), (second, told_second), (third, told_third)] =
            [(); 3].map(|()| recorded(event_loop));
        let id = first.watch(&path, FileChanges::SELF_DELETED).unwrap();
        second.watch(&path, FileChanges::OPENED).unwrap();
        third.watch(&path, FileChanges::ALL).unwrap();
        drop(third);
        fs::remove_file(&path).unwrap();
        settle(event_loop);
        let [deleted, removed] =
            [FileChange::SelfDeleted, FileChange::WatchRemoved].map(|change| (change, path.clone()));
        assert_eq!(told_first.take(), [deleted, removed.clone()]);
        assert_eq!(told_second.take(), [removed]);
        assert_eq!(told_third.len(), 0);
        assert!(!first.unwatch(id));
        // The name may be watched anew.
        fs::write(&path, "").unwrap();
        second.watch(&path, FileChanges::MODIFIED).unwrap();
        fs::write(&path, "text").unwrap();
        settle(event_loop);
        assert_eq!(told_second.take().last(), Some(&(FileChange::Modified, path)));
    });
}

#[test]
fn a_watcher_that_another_closes_in_its_callback_has_no_more() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let others: Rc<RefCell<Vec<Watcher>>> = Rc::default();
        let closing = Rc::clone(&others);
        let first = Watcher::new(event_loop, move |_| drop(closing.take())).unwrap();
        first.watch(folder.path(), FileChanges::CREATED).unwrap();
        let told: Vec<Told> = (0..3)
            .map(|_| {
                let (watcher, told) = recorded(event_loop);
                watcher.watch(folder.path(), FileChanges::CREATED).unwrap();
                others.borrow_mut().push(watcher);
                told
            })
            .collect();
        fs::write(folder.join("file"), "").unwrap();
        settle(event_loop);
        assert!(others.borrow().is_empty() && told.iter().all(|told| told.len() == 0));
    });
}

/// In a user namespace of its own, where the queue may be made short.
#[test]
fn an_overflow_is_reported_to_each_watcher() {
    let script = r#"exec unshare --user --map-root-user sh -ec '
        echo 128 > /proc/sys/user/max_inotify_instances
        exec "$@"' sh "$@""#;
    alone_after(script, || {
        let event_loop = EventLoop::new().unwrap();
        let [(first, told_first), (second, told_second)] = [(); 2].map(|()| recorded(&event_loop));
        let folder = Folder::new();
        first.watch(folder.path(), FileChanges::CREATED | FileChanges::DELETED).unwrap();
        let most: usize =
            fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
        for _ in 0..most / 2 + 1 {
            fs::write(folder.join("file"), "").unwrap();
            fs::remove_file(folder.join("file")).unwrap();
        }
        let overflow = (FileChange::Overflow, PathBuf::new());
        turn_until(&event_loop, || told_second.len() > 0);
        assert_eq!(told_second.take(), std::slice::from_ref(&overflow));
        assert_eq!(told_first.take().last(), Some(&overflow));
        drop(second);
    });
}

/// The kernel marks the end of a directory's file system as that of a directory.
#[test]
fn an_unmounted_directory_is_not_said_to_be_one() {
    let script = r#"exec unshare --user --map-root-user --mount sh -ec '
        mount -t tmpfs none /mnt
        exec "$@"' sh "$@""#;
    alone_after(script, || {
        let event_loop = EventLoop::new().unwrap();
        let told = Recorder::new();
        let t = told.clone();
        let watcher =
            Watcher::new(&event_loop, move |event| t.record((event.change(), event.is_directory())));
        let watcher = watcher.unwrap();
        watcher.watch("/mnt", FileChanges::CREATED).unwrap();
        fs::create_dir("/mnt/below").unwrap();
        let unmounted = std::process::Command::new("umount").arg("/mnt").status().unwrap();
        assert!(unmounted.success());
        turn_until(&event_loop, || told.len() == 3);
        let expected =
            [(FileChange::Created, true), (FileChange::Unmounted, false), (FileChange::WatchRemoved, false)];
        assert_eq!(told.take(), expected);
    });
}
