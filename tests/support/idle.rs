//! For the tests of `run_until_idle`: whether a loop waits for a source.

use std::time::Duration;

use reveille::EventLoop;

use super::Count;

/// The loop is idle although a source exists. It is not once the source is included, until the
/// source has ended.
#[track_caller]
pub(crate) fn assert_excluded(event_loop: &EventLoop, include: impl FnOnce(), end: impl FnOnce() + 'static) {
    event_loop.run_until_idle().unwrap();
    include();
    assert_waits(event_loop, end);
}

/// The loop waits for a source until `end` has ended or excluded it.
#[track_caller]
pub(crate) fn assert_waits(event_loop: &EventLoop, end: impl FnOnce() + 'static) {
    let ended = Count::default();
    let counting = ended.clone();
    let timer = event_loop.run_after(Duration::from_millis(1), move |_| {
        end();
        counting.add();
    });
    assert!(event_loop.exclude_from_idle(timer));
    event_loop.run_until_idle().unwrap();
    assert_eq!(ended.get(), 1, "the loop has not waited for the source");
}
