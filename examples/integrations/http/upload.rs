//! A file that a client uploads. It gets its name when it is complete, so a reader finds the old
//! file or the new one, never a part.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Release};
use std::time::SystemTime;

use reveille::fs::{File, FileIo};
use reveille::net::KeepOpen;

use crate::protocol::{Body, Outcome, Request, Status, precondition};
use crate::reply::Persistence;
use crate::root::{FileVersion, Found, Root};

/// Received bytes are written to the file when there are this many.
pub(crate) const PIECE: usize = 64 << 10;

/// The directory for uploads.
pub(crate) struct Uploads {
    pub(crate) files: FileIo,
    /// The path of the directory below the root.
    prefix: Vec<u8>,
    directory: Root,
    /// The length of the largest file.
    pub(crate) limit: u64,
    /// Makes the names of temporary files unique within the process.
    loop_number: usize,
    begun: Cell<u64>,
    /// The number of complete uploads to all loops.
    completed: Arc<AtomicU64>,
}

impl Uploads {
    pub(crate) fn new(
        files: FileIo,
        root: &Root,
        path: &str,
        limit: u64,
        loop_number: usize,
        completed: Arc<AtomicU64>,
    ) -> Result<Uploads, Status> {
        let segments: Vec<&str> = path.split('/').filter(|segment| !matches!(*segment, "" | ".")).collect();
        let prefix = segments.join("/").into_bytes();
        let directory = root.open_below(&prefix)?;
        Ok(Uploads { files, prefix, directory, limit, loop_number, begun: Cell::new(0), completed })
    }

    /// Begins to receive the file that the request names.
    ///
    /// # Errors
    /// The status that refuses the request.
    pub(crate) fn begin(
        self: &Rc<Uploads>,
        request: &Request<'_>,
        persistence: Persistence,
        time: SystemTime,
    ) -> Result<Upload, Status> {
        let target = &request.target;
        let path = target.path.strip_prefix(&*self.prefix).and_then(|path| match self.prefix.is_empty() {
            true => Some(path),
            false => path.strip_prefix(b"/"),
        });
        // Nothing else can be written.
        let path = path.filter(|path| !path.is_empty()).ok_or(Status(405))?;
        if target.is_directory || target.is_hidden {
            return Err(Status(403));
        }
        match request.body {
            Body::None => return Err(Status(411)),
            Body::Length(length) if length > self.limit => return Err(Status(413)),
            _ => {}
        }
        if request.fields.has_content_range {
            return Err(Status::BAD_REQUEST);
        }
        if request.fields.has_content_coding {
            return Err(Status(415));
        }
        let existing = match self.directory.find(path) {
            Ok(Found::File(version)) => Some(version),
            Ok(Found::Directory) => return Err(Status(409)),
            Err(Status(404)) => None,
            Err(status) => return Err(status),
        };
        let validators = existing.as_ref().map(|version| &version.validators);
        if precondition(request.method, &request.fields, validators, time) != Outcome::Proceed {
            return Err(Status(412));
        }
        let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        if name.len() > 255 {
            return Err(Status(414));
        }
        let parent = self.directory.open_below(parent).map_err(|status| match status {
            Status(404) => Status(409),
            status => status,
        })?;
        self.begun.set(self.begun.get() + 1);
        let temporary = format!(".upload-{}-{}-{}", std::process::id(), self.loop_number, self.begun.get());
        let file = File::from(parent.create(&temporary)?);
        Ok(Upload {
            uploads: Rc::clone(self),
            file,
            buffer: Vec::new(),
            offset: 0,
            received: 0,
            is_complete: false,
            persistence,
            is_conditional: request.fields.select,
            existing,
            keep_open: None,
            name: name.to_vec(),
            temporary: Some(Temporary { parent, name: temporary }),
        })
    }
}

/// An upload in progress. Dropping it removes what has been received.
pub(crate) struct Upload {
    pub(crate) uploads: Rc<Uploads>,
    pub(crate) file: File,
    /// Received bytes that have not been given to the file.
    pub(crate) buffer: Vec<u8>,
    /// Where they belong in the file.
    pub(crate) offset: u64,
    pub(crate) received: u64,
    pub(crate) is_complete: bool,
    pub(crate) persistence: Persistence,
    /// Whether the request has conditions.
    is_conditional: bool,
    /// The file that the upload replaces.
    existing: Option<FileVersion>,
    /// From the end of the body to the response.
    pub(crate) keep_open: Option<KeepOpen>,
    name: Vec<u8>,
    temporary: Option<Temporary>,
}

impl Upload {
    /// Gives the file its name. Returns the status of the response.
    pub(crate) fn commit(&mut self) -> Status {
        let Some(Temporary { parent, name }) = &self.temporary else { return Status(500) };
        // Another upload may have been completed since the conditions were evaluated.
        let current = match parent.find(&self.name) {
            Ok(Found::File(version)) => Some(version),
            _ => None,
        };
        if self.is_conditional && current != self.existing {
            return Status(412);
        }
        let must_be_new = self.is_conditional && current.is_none();
        match parent.rename(name, &self.name, must_be_new) {
            Err(Status(409)) if must_be_new => return Status(412),
            Err(status) => return status,
            Ok(()) => {}
        }
        self.temporary = None;
        // Also other loops have the old file in memory.
        self.uploads.completed.fetch_add(1, Release);
        if current.is_some() { Status(204) } else { Status(201) }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(Temporary { parent, name }) = &self.temporary {
            parent.remove(name);
        }
    }
}

struct Temporary {
    parent: Root,
    name: String,
}
