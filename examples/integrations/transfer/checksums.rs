//! Checksums of served files, computed by worker threads and kept for each version of a file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use reveille::ConnectionHandle;
use reveille::net::ReplySlot;
use reveille::task::Workers;
use sha2::{Digest, Sha256};

use crate::protocol::{Code, Name, Reply};
use crate::root::{Root, Version, stat_of_file};
use crate::session::{Awaited, Session};

pub(crate) type Sum = [u8; 32];

/// A thread reads this much at a time.
pub(crate) const BLOCK: usize = 256 << 10;

/// After this many blocks a thread checks whether a connection still waits for the checksum.
const BLOCKS_PER_CHECK: usize = 16;

/// Files up to this length have a thread of their own, so that they do not wait for large ones.
const SMALL: u64 = 1 << 20;

/// The number of checksums in memory; about 150 bytes each.
const MAX_KNOWN: usize = 100_000;

/// The number of files whose checksums may wait for a thread.
const QUEUE: usize = 10_000;

/// Within this number of seconds after a change, another change may have the same time.
const UNSETTLED: u64 = 2;

pub(crate) struct Checksums {
    root: Arc<Root>,
    small: Workers,
    large: Workers,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: HashMap<Version, Sum>,
    /// The checksums that are being computed, and the connections that wait for each.
    running: HashMap<Version, Vec<Waiter>>,
}

/// A connection that waits for a checksum, and the place of it in its output.
pub(crate) struct Waiter {
    pub(crate) connection: ConnectionHandle,
    pub(crate) slot: ReplySlot,
}

impl Checksums {
    pub(crate) fn new(root: Arc<Root>) -> io::Result<Arc<Checksums>> {
        let small = Workers::builder().threads(1).queue(QUEUE).name("small-sums").build()?;
        let large = Workers::builder().queue(QUEUE).name("sums").build()?;
        Ok(Arc::new(Checksums { root, small, large, state: Mutex::default() }))
    }

    /// The checksum of a version, if it is known.
    pub(crate) fn known(&self, version: &Version) -> Option<Sum> {
        self.state().known.get(version).copied()
    }

    /// Replies with the checksum when it is computed. Connections that wait for the same version
    /// share the computation.
    pub(crate) fn compute(self: &Arc<Checksums>, name: Name, version: Version, waiter: Waiter) {
        let is_first = {
            let mut state = self.state();
            let waiters = state.running.entry(version).or_default();
            waiters.push(waiter);
            waiters.len() == 1
        };
        if !is_first {
            return;
        }
        let workers = if version.length <= SMALL { &self.small } else { &self.large };
        // Replies when it is dropped: after a result, a panic, or a refusal of the job.
        let mut running = Running { checksums: Arc::clone(self), version, result: Code::Busy.reply() };
        let job = move || {
            running.result = Code::Failed.reply();
            if let Some(result) = running.checksums.sum_of(&name, &version) {
                running.result = result;
            }
        };
        if let Err(refused) = workers.execute(job) {
            log::warn!("a checksum was not computed: {}", refused.reason());
        }
    }

    /// Returns `None` if no connection waits for it any more.
    fn sum_of(&self, name: &Name, version: &Version) -> Option<Reply> {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let file = match self.root.open_file(name) {
            Ok((file, found)) if found == *version => file,
            Ok(_) | Err(Code::NotFound) => return Some(Reply::Changed),
            Err(code) => return Some(code.reply()),
        };
        let sum = match digest(&file, || self.is_awaited(version)) {
            Ok(sum) => sum?,
            Err(error) => {
                log::error!("{}: {error}", name.encode());
                return Some(Code::Failed.reply());
            }
        };
        if stat_of_file(&file).ok() != Some(*version) {
            return Some(Reply::Changed);
        }
        let settled = began.as_secs().saturating_sub(UNSETTLED);
        if i64::try_from(settled).is_ok_and(|settled| version.changed.0 < settled) {
            let known = &mut self.state().known;
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
            known.insert(*version, sum);
        }
        Some(Reply::Sum(sum))
    }

    fn is_awaited(&self, version: &Version) -> bool {
        let state = self.state();
        let waiters = state.running.get(version);
        waiters.is_some_and(|waiters| waiters.iter().any(|waiter| waiter.connection.is_open()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A computation. Its drop replies to all connections that wait for it.
struct Running {
    checksums: Arc<Checksums>,
    version: Version,
    result: Reply,
}

impl Drop for Running {
    fn drop(&mut self) {
        let waiters = self.checksums.state().running.remove(&self.version).unwrap_or_default();
        let reply = self.result.encode();
        for Waiter { connection, slot } in waiters {
            reply_later(&connection, Awaited::Checksum, slot, reply.clone());
        }
    }
}

/// Fills a slot, and reports it to the session. Errors mean that the connection has closed.
pub(crate) fn reply_later(connection: &ConnectionHandle, awaited: Awaited, slot: ReplySlot, reply: String) {
    let length = reply.len();
    let _ = slot.fill(reply);
    let _ = connection.with(move |session: &mut Session, conn| session.on_reply(conn, awaited, length));
}

/// The checksum of a file from its position. `None` if `continues` returned false.
fn digest(mut file: &File, continues: impl Fn() -> bool) -> io::Result<Option<Sum>> {
    let (mut hasher, mut block) = (Sha256::new(), vec![0; BLOCK]);
    for number in 1.. {
        match file.read(&mut block) {
            Ok(0) => break,
            Ok(read) => hasher.update(&block[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if number % BLOCKS_PER_CHECK == 0 && !continues() {
            return Ok(None);
        }
    }
    Ok(Some(hasher.finalize().into()))
}
