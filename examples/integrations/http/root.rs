//! The directory whose files are served. No path leads out of it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::protocol::{Status, Validators};

/// A listing reads at most this many entries of a directory.
const MAX_ENTRIES: usize = 10_000;

/// Names are resolved by the kernel, which refuses `..`, symbolic links and mounts of the proc
/// file system that lead out of the directory, also while another process renames parts of the
/// path (openat2(2)).
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

pub(crate) struct Root {
    directory: OwnedFd,
}

/// A version of a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileVersion {
    pub(crate) length: u64,
    pub(crate) validators: Validators,
}

pub(crate) enum Found {
    File(FileVersion),
    Directory,
}

impl Root {
    /// Opens the directory, and checks that the kernel can resolve paths beneath it (Linux 5.6).
    pub(crate) fn open(path: &Path) -> io::Result<Root> {
        let open = || -> io::Result<Root> {
            let directory = OwnedFd::from(fs::File::open(path)?);
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat2(&directory, ".", flags, Mode::empty(), BENEATH)?;
            Ok(Root { directory })
        };
        open().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    /// Opens the directory `path` below this one as a root of its own.
    pub(crate) fn open_below(&self, path: &[u8]) -> Result<Root, Status> {
        Ok(Root { directory: self.open_at(path, OFlags::PATH | OFlags::DIRECTORY)? })
    }

    /// Looks up a path. Nothing is opened, so a pipe or a device has no effect.
    pub(crate) fn find(&self, path: &[u8]) -> Result<Found, Status> {
        let file = self.open_at(path, OFlags::PATH)?;
        found(&rustix::fs::fstat(file).map_err(status_of)?)
    }

    /// Opens a regular file.
    pub(crate) fn open_file(&self, path: &[u8]) -> Result<(fs::File, FileVersion), Status> {
        // If the file has become a pipe since it was looked up, opening it does not wait for a
        // writer.
        let file = self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        match found(&rustix::fs::fstat(&file).map_err(status_of)?)? {
            Found::File(version) => Ok((fs::File::from(file), version)),
            Found::Directory => Err(Status(404)),
        }
    }

    /// Returns the sorted directories and files in a directory, and whether each is a directory.
    pub(crate) fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, bool)>, Status> {
        let directory = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in Dir::new(directory).map_err(status_of)?.take(MAX_ENTRIES) {
            let entry = entry.map_err(status_of)?;
            let name = entry.file_name().to_bytes();
            // Some file systems do not report the type here.
            let may_be_served =
                matches!(entry.file_type(), FileType::Directory | FileType::RegularFile | FileType::Unknown);
            // Hidden files are not served.
            if may_be_served && !name.starts_with(b".") {
                entries.push((name.to_vec(), entry.file_type() == FileType::Directory));
            }
        }
        entries.sort();
        Ok(entries)
    }

    /// Creates a file for writing, which does not exist.
    pub(crate) fn create(&self, name: &str) -> Result<OwnedFd, Status> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        rustix::fs::openat2(&self.directory, name, flags, mode, BENEATH).map_err(status_of)
    }

    /// Renames a file, replacing another one unless the name must be new.
    pub(crate) fn rename(&self, from: &str, to: &[u8], must_be_new: bool) -> Result<(), Status> {
        let flags = if must_be_new { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
        rustix::fs::renameat_with(&self.directory, from, &self.directory, to, flags).map_err(status_of)
    }

    pub(crate) fn remove(&self, name: &str) {
        if let Err(error) = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            log::warn!("cannot remove {name}: {error}");
        }
    }

    fn open_at(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Status> {
        let path: &[u8] = if path.is_empty() { b"." } else { path };
        let directory = self.directory.as_fd();
        let open = || rustix::fs::openat2(directory, path, flags | OFlags::CLOEXEC, Mode::empty(), BENEATH);
        // EAGAIN: something was renamed meanwhile, so the kernel cannot rule out an escape.
        let opened = (0..8).map(|_| open()).find(|opened| !matches!(opened, Err(Errno::AGAIN)));
        opened.unwrap_or(Err(Errno::AGAIN)).map_err(status_of)
    }
}

fn found(stat: &Stat) -> Result<Found, Status> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let since = Duration::new(stat.st_mtime.unsigned_abs(), stat.st_mtime_nsec as u32);
            let modified = match stat.st_mtime {
                0.. => SystemTime::UNIX_EPOCH + since,
                _ => SystemTime::UNIX_EPOCH,
            };
            let tag = format!("{:x}-{:x}-{:x}", stat.st_ino, stat.st_size, since.as_nanos());
            let length = stat.st_size.unsigned_abs();
            Ok(Found::File(FileVersion { length, validators: Validators { tag, modified } }))
        }
        FileType::Directory => Ok(Found::Directory),
        // A pipe, a socket, a device.
        _ => Err(Status(404)),
    }
}

/// A path that leads out of the root is not found, as is one that does not exist.
pub(crate) fn status_of(error: Errno) -> Status {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::XDEV => Status(404),
        Errno::INVAL | Errno::NXIO => Status(404),
        Errno::ACCESS | Errno::PERM => Status(403),
        Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY => Status(409),
        Errno::MFILE | Errno::NFILE | Errno::AGAIN => Status(503),
        Errno::NOSPC | Errno::DQUOT => Status(507),
        _ => {
            log::error!("a file operation failed: {error}");
            Status(500)
        }
    }
}
