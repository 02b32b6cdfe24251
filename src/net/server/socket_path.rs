//! The path of a Unix socket that listens: taken, given its mode, and removed in the end.

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

/// What a server is told about the path that it is to listen at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AtPath {
    pub(in crate::net) replace_stale: bool,
    pub(in crate::net) mode: Option<u32>,
}

/// A path that leads to this process's own socket. Dropped, it is removed, unless it has come to lead elsewhere.
#[derive(Debug)]
pub(in crate::net) struct OwnPath {
    /// Absolute: the process may have another working directory by then.
    path: PathBuf,
    file: FileId,
    /// A forked child leaves the path to its parent.
    process: ProcessMark,
}

/// A file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl AtPath {
    /// Listens, and answers the path to remove in the end, if it is one.
    pub(in crate::net) fn listen(
        self,
        address: &UnixAddress,
        backlog: i32,
    ) -> io::Result<(Option<OwnPath>, OwnedFd)> {
        let bound = match (stream::bind_unix(address), address.as_path()) {
            (Err(error), Some(path)) if error.kind() == io::ErrorKind::AddrInUse => {
                self.make_room(address, path)?;
                stream::bind_unix(address)
            }
            (bound, _) => bound,
        };
        let socket = bound?;
        let path = address.as_path().map(OwnPath::new).transpose()?;
        // The kernel refuses connections until it listens, so nobody gets in before the mode says who may.
        if let (Some(mode), Some(own)) = (self.mode, &path) {
            fs::set_permissions(&own.path, Permissions::from_mode(mode))?;
        }
        stream::start_listening(&socket, backlog)?;
        Ok((path, socket))
    }

    /// Removes what is at the path, if it may.
    fn make_room(self, address: &UnixAddress, path: &Path) -> io::Result<()> {
        let in_use = |message| Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        let found = fs::symlink_metadata(path)?;
        if !found.file_type().is_socket() {
            return in_use("something that is no socket is there");
        }
        if !self.replace_stale {
            return in_use(
                "a socket is there, of a server that runs or of one that has left it (`replace_stale`)",
            );
        }
        match stream::connect_unix(address, &SocketOptions::new()) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            // Taken away by somebody else meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Ok(_) | Err(_) => return in_use("somebody listens there"),
        }
        // Not one that has taken its place meanwhile.
        remove_if_same(path, FileId::from(&found))
    }
}

impl OwnPath {
    /// Of a path to which a socket has just been bound.
    fn new(path: &Path) -> io::Result<OwnPath> {
        let path = path::absolute(path)?;
        let file = FileId::from(&fs::symlink_metadata(&path)?);
        Ok(OwnPath { path, file, process: ProcessMark::current() })
    }
}

impl Drop for OwnPath {
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
