//! The files of the client. All of it runs on the worker thread.
//!
//! Paths are resolved below the destination, without following symbolic links, so no server can
//! make the client write elsewhere.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::checksums::{BLOCK, Sum};
use crate::protocol::Name;
use crate::root::{open_below, open_directory};
use crate::walk;

pub(crate) struct Disk {
    destination: OwnedFd,
}

/// How to begin a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// If there is a file with its name and its length, computes the checksum of that.
    Verify,
    /// Continues the part, if there is one.
    Resume,
    /// Discards the part.
    Fresh,
}

pub(crate) enum Begun {
    /// The file exists, and may be complete.
    Existing {
        sum: Sum,
        length: u64,
    },
    Part(Box<Part>),
}

/// A file that is being received, as `NAME.part`. Other processes that transfer the same file are
/// refused while this exists.
pub(crate) struct Part {
    directory: OwnedFd,
    /// Its name, and the name that it gets when it is complete.
    name: Vec<u8>,
    complete: Vec<u8>,
    file: File,
    /// Of all bytes of the file.
    hasher: Sha256,
    pub(crate) length: u64,
}

impl Disk {
    /// Opens the destination, which is created if only its last component is missing.
    pub(crate) fn open(destination: &Path) -> io::Result<Disk> {
        match std::fs::create_dir(destination) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let message = format!("{}: {error}", destination.display());
                Err(io::Error::new(error.kind(), message))
            }
            _ => Ok(Disk { destination: open_directory(destination)? }),
        }
    }

    /// Creates a directory, unless it exists.
    pub(crate) fn make_directory(&self, name: &Name) -> io::Result<()> {
        let Some((parent, component)) = name.split() else { return Ok(()) };
        let parent = self.directory(parent)?;
        match rustix::fs::mkdirat(&parent, component, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        // What exists may be a file, or a symbolic link.
        self.directory(name.path())?;
        Ok(())
    }

    fn directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        Ok(open_below(&self.destination, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?)
    }

    pub(crate) fn begin(&self, file: &walk::File, start: Start) -> io::Result<Begun> {
        let (parent, component) = file.local.split().unwrap_or_default();
        let directory = self.directory(parent)?;
        if start == Start::Verify {
            if let Some(mut existing) = open_existing(&directory, component, file.length)? {
                let (mut hasher, length) = (Sha256::new(), file.length);
                if hash_rest(&mut existing, &mut hasher)? == length {
                    return Ok(Begun::Existing { sum: hasher.finalize().into(), length });
                }
            }
        }
        let mut part = Part {
            file: open_part(&directory, &file.part)?,
            directory,
            name: file.part.clone(),
            complete: component.to_vec(),
            hasher: Sha256::new(),
            length: 0,
        };
        if start == Start::Fresh || part.file.metadata()?.len() > file.length {
            part.file.set_len(0)?;
        }
        part.length = hash_rest(&mut part.file, &mut part.hasher)?;
        Ok(Begun::Part(Box::new(part)))
    }
}

impl Part {
    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Gives the file its name if it has this checksum. Returns whether it has.
    pub(crate) fn complete(self, sum: &Sum, is_executable: bool) -> io::Result<bool> {
        if Sum::from(self.hasher.finalize()) != *sum {
            return Ok(false);
        }
        if is_executable {
            // Those who may read it may execute it.
            let mode = Mode::from_raw_mode(rustix::fs::fstat(&self.file)?.st_mode & 0o777);
            let readable = mode & (Mode::RUSR | Mode::RGRP | Mode::ROTH);
            rustix::fs::fchmod(&self.file, mode | Mode::from_raw_mode(readable.bits() >> 2))?;
        }
        rustix::fs::renameat(&self.directory, &*self.name, &self.directory, &*self.complete)?;
        Ok(true)
    }
}

/// Opens a regular file of this length, if there is one.
fn open_existing(directory: &OwnedFd, name: &[u8], length: u64) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    match open_below(directory, name, flags, Mode::empty()) {
        Ok(file) => {
            let file = File::from(file);
            let metadata = file.metadata()?;
            Ok(Some(file).filter(|_| metadata.is_file() && metadata.len() == length))
        }
        Err(Errno::NOENT | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens or creates a part, and locks it.
fn open_part(directory: &OwnedFd, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
    loop {
        let file = File::from(open_below(directory, name, flags, Mode::from_raw_mode(0o666))?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("the name of its part is in use"));
        }
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(io::Error::other("another process transfers it")),
            Err(error) => return Err(error.into()),
        }
        // Another process may have completed it, and given it its name, before it was locked.
        let opened = rustix::fs::fstat(&file)?;
        match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino) => {
                return Ok(file);
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Hashes a file from its position, and returns the number of bytes.
fn hash_rest(file: &mut File, hasher: &mut Sha256) -> io::Result<u64> {
    let (mut block, mut length) = (vec![0; BLOCK], 0);
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(length),
            Ok(read) => {
                hasher.update(&block[..read]);
                length += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
