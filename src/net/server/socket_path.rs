//! `PathGuard`: the path of a listening Unix socket, with its mode, removed on drop.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{self, Path, PathBuf};

use crate::event_loop::containment::logger;
use crate::event_loop::process_mark::ProcessMark;
use crate::net::address::UnixAddress;
use crate::net::options::SocketOptions;
use crate::net::sys::stream;

/// A server's settings for the path of its Unix socket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PathOptions {
    pub(in crate::net) replace_stale: bool,
    pub(in crate::net) mode: Option<u32>,
}

/// A path at which a socket of this process is bound. Dropping the guard removes the path, unless
/// another file has replaced the socket.
#[derive(Debug)]
pub(in crate::net) struct PathGuard {
    /// Absolute, since the working directory may change before the drop.
    path: PathBuf,
    file: FileId,
    /// The process that owns the path. A forked child does not remove it.
    process: ProcessMark,
}

/// Identifies a file independently of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl PathOptions {
    /// Binds and listens. Returns the guard of the path, if the address is one, and the socket.
    pub(in crate::net) fn listen(
        self,
        address: &UnixAddress,
        backlog: i32,
    ) -> io::Result<(Option<PathGuard>, OwnedFd)> {
        let bound = match (stream::bind_unix(address), address.as_path()) {
            (Err(error), Some(path)) if error.kind() == io::ErrorKind::AddrInUse => {
                self.remove_stale(address, path)?;
                stream::bind_unix(address)
            }
            (bound, _) => bound,
        };
        let socket = bound?;
        let path = address.as_path().map(PathGuard::new).transpose()?;
        // The kernel refuses connections until listen(2), so none is made before the mode is set.
        if let (Some(mode), Some(guard)) = (self.mode, &path) {
            fs::set_permissions(&guard.path, Permissions::from_mode(mode))?;
        }
        stream::start_listening(&socket, backlog)?;
        Ok((path, socket))
    }

    /// Removes a stale socket at the path, if the settings allow it.
    fn remove_stale(self, address: &UnixAddress, path: &Path) -> io::Result<()> {
        let in_use = |message| Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        let found = fs::symlink_metadata(path)?;
        if !found.file_type().is_socket() {
            return in_use("the path exists and is not a socket");
        }
        if !self.replace_stale {
            return in_use(
                "the path is a socket, of a running server or left by one that has ended (`replace_stale`)",
            );
        }
        match stream::connect_unix(address, &SocketOptions::new()) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            // Another process has removed it in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Ok(_) | Err(_) => return in_use("another server listens there"),
        }
        // Another file may have replaced it in the meantime; that one stays.
        remove_if_same(path, FileId::from(&found))
    }
}

impl PathGuard {
    /// The guard of a path to which a socket has just been bound.
    fn new(path: &Path) -> io::Result<PathGuard> {
        let path = path::absolute(path)?;
        let file = FileId::from(&fs::symlink_metadata(&path)?);
        Ok(PathGuard { path, file, process: ProcessMark::current() })
    }
}

impl Drop for PathGuard {
    fn drop(&mut self) {
        if !self.process.is_current() {
            return;
        }
        match remove_if_same(&self.path, self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                logger::call(|| log::warn!("cannot remove {}: {error}", self.path.display()));
            }
            _ => {}
        }
    }
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> FileId {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }
}

fn remove_if_same(path: &Path, file: FileId) -> io::Result<()> {
    if FileId::from(&fs::symlink_metadata(path)?) == file { fs::remove_file(path) } else { Ok(()) }
}
