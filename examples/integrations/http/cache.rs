//! Small files in memory, each with the head of its response.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire};
use std::time::{Duration, Instant, SystemTime};

use crate::clock::DATE_LENGTH;
use crate::file_reply::file_head;
use crate::protocol::Status;
use crate::reply::{DATE_AT, Persistence};
use crate::root::{FileVersion, Found, Root};

/// The length of the largest file that is kept, in bytes.
pub(crate) const LARGEST: u64 = 64 << 10;

/// The bytes of all files that are kept, for each loop.
const CAPACITY: usize = 16 << 20;

/// What an entry takes besides its bytes, at most.
const OVERHEAD: usize = 512;

/// After this time, and after an upload, a file is checked for changes when it is requested. Until
/// then an old version may be served.
const VALID: Duration = Duration::from_secs(1);

/// A file that is kept.
pub(crate) struct Entry {
    /// The head of a response with status 200, and the file.
    response: Vec<u8>,
    head_length: usize,
    date: [u8; DATE_LENGTH],
    pub(crate) version: FileVersion,
    was_strong: bool,
    checked: Instant,
    /// The number of uploads before the check.
    uploads: u64,
}

pub(crate) struct Cache {
    entries: HashMap<Box<[u8]>, Entry>,
    bytes: usize,
    /// The number of uploads to all loops.
    uploads: Arc<AtomicU64>,
}

impl Cache {
    pub(crate) fn new(uploads: Arc<AtomicU64>) -> Cache {
        Cache { entries: HashMap::new(), bytes: 0, uploads }
    }

    /// Returns the file with this path, if it is kept and has not changed.
    pub(crate) fn get(
        &mut self,
        path: &[u8],
        root: &Root,
        now: Instant,
        time: SystemTime,
    ) -> Option<&mut Entry> {
        // The borrow checker accepts no return from the first lookup.
        let entry = self.entries.get_mut(path)?;
        // Read before the file is checked, so that a later upload causes another check.
        let uploads = self.uploads.load(Acquire);
        if now.saturating_duration_since(entry.checked) >= VALID || entry.uploads != uploads {
            let is_current = entry.was_strong == entry.version.validators.is_strong(time)
                && matches!(root.find(path), Ok(Found::File(version)) if version == entry.version);
            if !is_current {
                self.remove(path);
                return None;
            }
            (entry.checked, entry.uploads) = (now, uploads);
        }
        self.entries.get_mut(path)
    }

    /// The number of uploads to all loops.
    pub(crate) fn uploads(&self) -> u64 {
        self.uploads.load(Acquire)
    }

    /// Keeps a file, and returns it.
    pub(crate) fn insert(&mut self, path: &[u8], entry: Entry) -> &mut Entry {
        let size = path.len() + entry.response.len() + OVERHEAD;
        self.remove(path);
        while self.bytes + size > CAPACITY {
            // Any of them: files that are in demand return.
            let Some(other) = self.entries.keys().next().cloned() else { break };
            self.remove(&other);
        }
        self.bytes += size;
        self.entries.entry(path.into()).or_insert(entry)
    }

    fn remove(&mut self, path: &[u8]) {
        if let Some(entry) = self.entries.remove(path) {
            self.bytes -= path.len() + entry.response.len() + OVERHEAD;
        }
    }
}

impl Entry {
    /// Reads a small file. Returns `None` if it has another length than expected: it is being
    /// changed. `uploads` is the number of uploads before the file was opened.
    pub(crate) fn read(
        uploads: u64,
        path: &[u8],
        file: &std::fs::File,
        version: FileVersion,
        now: Instant,
        (date, time): ([u8; DATE_LENGTH], SystemTime),
    ) -> Option<Entry> {
        let head = file_head(Status(200), date, path, &version.validators, time)
            .field("Content-Length", version.length);
        let mut response = head.end(Persistence::KeepAlive);
        let head_length = response.len();
        response.resize(head_length + version.length as usize, 0);
        file.read_exact_at(&mut response[head_length..], 0).ok()?;
        let was_strong = version.validators.is_strong(time);
        Some(Entry { response, head_length, date, version, was_strong, checked: now, uploads })
    }

    /// The whole response, with this date.
    pub(crate) fn response(&mut self, date: [u8; DATE_LENGTH]) -> &[u8] {
        if self.date != date {
            self.date = date;
            self.response[DATE_AT..DATE_AT + DATE_LENGTH].copy_from_slice(&date);
        }
        &self.response
    }

    /// The content of the file.
    pub(crate) fn content(&self) -> &[u8] {
        &self.response[self.head_length..]
    }
}
