//! The directory that is served. No name leads out of it, and symbolic links are not followed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::protocol::{Code, Entry, Kind, MAX_ENTRIES, Name};

/// Names are resolved by the kernel, which refuses `..` beyond the directory and all symbolic
/// links, also while another process replaces parts of the path (openat2(2)).
pub(crate) const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// The maximum size of a listing, in bytes on the line.
const MAX_LISTING: usize = 4 << 20;

pub(crate) struct Root {
    directory: OwnedFd,
    serves_hidden: bool,
}

/// A version of a regular file. Any change of its content gives it another one, within the
/// resolution of the file system's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Version {
    device: u64,
    inode: u64,
    pub(crate) length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, u64),
    pub(crate) changed: (i64, u64),
}

pub(crate) enum Listed {
    File { length: u64, is_executable: bool },
    Directory(Vec<Entry>),
}

impl Root {
    /// Opens the directory, and checks that the kernel can resolve names below it (Linux 5.6).
    pub(crate) fn open(path: &Path, serves_hidden: bool) -> io::Result<Root> {
        let directory = open_directory(path)?;
        Ok(Root { directory, serves_hidden })
    }

    /// Opens a regular file.
    pub(crate) fn open_file(&self, name: &Name) -> Result<(File, Version), Code> {
        // Looked up first, because the open of a device may have effects.
        stat_of_file(&self.look_up(name)?)?;
        // If it has become a pipe since, the open does not wait for a writer.
        let file = self.open_at(name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let version = stat_of_file(&file)?;
        Ok((File::from(file), version))
    }

    /// Returns the entries of a directory, sorted by name, or describes a file.
    pub(crate) fn list(&self, name: &Name) -> Result<Listed, Code> {
        let found = self.look_up(name)?;
        let stat = rustix::fs::fstat(&found).map_err(code_of)?;
        match kind_of(&stat) {
            Kind::File { length, is_executable } => return Ok(Listed::File { length, is_executable }),
            Kind::Other => return Err(Code::NotRegular),
            Kind::Directory => {}
        }
        let directory = self.open_at(name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let (mut entries, mut size) = (Vec::new(), 0);
        for entry in Dir::read_from(&directory).map_err(code_of)? {
            let entry = entry.map_err(code_of)?;
            let component = entry.file_name().to_bytes();
            let is_hidden = component.starts_with(b".") && !self.serves_hidden;
            if matches!(component, b"." | b"..") || is_hidden {
                continue;
            }
            let stat = match rustix::fs::statat(&directory, component, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // It was removed meanwhile.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(code_of(error)),
            };
            let entry = Entry { name: component.to_vec(), kind: kind_of(&stat) };
            size += entry.encode().len();
            if entries.len() as u64 == MAX_ENTRIES || size > MAX_LISTING {
                return Err(Code::TooLarge);
            }
            entries.push(entry);
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Listed::Directory(entries))
    }

    /// The last component may be a symbolic link, which is not followed. A listing shows it too.
    fn look_up(&self, name: &Name) -> Result<OwnedFd, Code> {
        self.open_at(name, OFlags::PATH | OFlags::NOFOLLOW)
    }

    fn open_at(&self, name: &Name, flags: OFlags) -> Result<OwnedFd, Code> {
        if name.is_hidden() && !self.serves_hidden {
            return Err(Code::NotFound);
        }
        open_below(&self.directory, name.path(), flags, Mode::empty()).map_err(code_of)
    }
}

/// Opens a directory by a path of this process.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let open = || -> io::Result<OwnedFd> {
        let directory = OwnedFd::from(File::open(path)?);
        open_below(&directory, b"", OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok(directory)
    };
    open().map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Opens or creates what a path below a directory names.
pub(crate) fn open_below(
    directory: &OwnedFd,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    let open = || rustix::fs::openat2(directory.as_fd(), path, flags | OFlags::CLOEXEC, mode, BENEATH);
    // EAGAIN: something was renamed meanwhile, so the kernel cannot rule out an escape.
    let opened = (0..8).map(|_| open()).find(|opened| !matches!(opened, Err(Errno::AGAIN)));
    opened.unwrap_or(Err(Errno::AGAIN))
}

fn kind_of(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File {
            length: stat.st_size.unsigned_abs(),
            is_executable: Mode::from_raw_mode(stat.st_mode).contains(Mode::XUSR),
        },
        FileType::Directory => Kind::Directory,
        _ => Kind::Other,
    }
}

/// The version of an open file, if it is a regular one.
pub(crate) fn stat_of_file(file: &impl AsFd) -> Result<Version, Code> {
    let stat = rustix::fs::fstat(file).map_err(code_of)?;
    let length = match kind_of(&stat) {
        Kind::File { length, .. } => length,
        Kind::Directory => return Err(Code::NotFound),
        Kind::Other => return Err(Code::NotRegular),
    };
    Ok(Version {
        device: stat.st_dev,
        inode: stat.st_ino,
        length,
        modified: (stat.st_mtime, stat.st_mtime_nsec),
        changed: (stat.st_ctime, stat.st_ctime_nsec),
    })
}

/// A name that leads out of the root does not exist for a client.
fn code_of(error: Errno) -> Code {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::XDEV => Code::NotFound,
        Errno::INVAL | Errno::NXIO => Code::NotFound,
        Errno::ACCESS | Errno::PERM => Code::NotPermitted,
        Errno::MFILE | Errno::NFILE | Errno::AGAIN => Code::Busy,
        _ => {
            log::error!("a file operation failed: {error}");
            Code::Failed
        }
    }
}
