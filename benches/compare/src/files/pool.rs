//! A hand-written blocking pool: threads that take reads from a queue and send back the data, as in
//! a program with no other task.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use parking_lot::{Condvar, Mutex};

use super::workload::{Check, Data, offset};
use super::{BLOCK, IN_FLIGHT, Sample, THREADS, TIMEOUT, WARM_UP};
use crate::Result;

/// A read, by number; its buffer is returned with the data.
type Read = (usize, Vec<u8>);

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    reads: VecDeque<Read>,
    is_over: bool,
}

impl Queue {
    fn push(&self, read: Read) {
        self.state.lock().reads.push_back(read);
        self.changed.notify_one();
    }

    fn pop(&self) -> Option<Read> {
        let mut state = self.state.lock();
        loop {
            if let Some(read) = state.reads.pop_front() {
                return Some(read);
            }
            if state.is_over {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    fn close(&self) {
        self.state.lock().is_over = true;
        self.changed.notify_all();
    }
}

pub(super) fn sample(data: &Data, reads: usize) -> Result<Sample> {
    let queue = Queue::default();
    let (done, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let (queue, done) = (&queue, done.clone());
            scope.spawn(move || work(data, queue, &done));
        }
        // Drops this thread's sender, so that the channel closes when the threads end.
        drop(done);
        let sample = pass(data, &queue, &results, WARM_UP)
            .and_then(|()| Sample::of(reads, || pass(data, &queue, &results, reads)));
        queue.close();
        sample
    })
}

fn work(data: &Data, queue: &Queue, done: &Sender<std::io::Result<Read>>) {
    while let Some((read, mut buffer)) = queue.pop() {
        let result = data.file.read_exact_at(&mut buffer, offset(read));
        if done.send(result.map(|()| (read, buffer))).is_err() {
            return;
        }
    }
}

fn pass(data: &Data, queue: &Queue, results: &Receiver<std::io::Result<Read>>, reads: usize) -> Result<()> {
    let check = Check::default();
    let first = reads.min(IN_FLIGHT);
    (0..first).for_each(|read| queue.push((read, vec![0; BLOCK])));
    let mut next = first;
    while check.count() < reads {
        let (read, buffer) = results.recv_timeout(TIMEOUT)??;
        check.add(read, &buffer);
        if next < reads {
            queue.push((next, buffer));
            next += 1;
        }
    }
    check.compare(data, reads)
}
