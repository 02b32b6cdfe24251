//! The open descriptors of the process.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

/// The number of descriptors whose files are looked up for one request.
const MAX_LISTED: usize = 1000;

/// How long a count is valid.
const VALID: Duration = Duration::from_secs(2);

/// The number of open descriptors. It is read again after some time: on kernels before Linux 6.2
/// that takes time for each of them.
#[derive(Debug, Default)]
pub(super) struct DescriptorCount {
    read: Option<(Instant, Option<u64>)>,
}

impl DescriptorCount {
    pub(super) fn get(&mut self, now: Instant) -> Option<u64> {
        match self.read {
            Some((at, count)) if now.saturating_duration_since(at) < VALID => count,
            _ => {
                let count = count();
                self.read = Some((now, count));
                count
            }
        }
    }
}

/// The number of descriptors that the process may open.
pub(super) fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

fn count() -> Option<u64> {
    // Since Linux 6.2 the size of the directory is the number of descriptors.
    let size = fs::metadata("/proc/self/fd").ok()?.size();
    if size > 0 {
        return Some(size);
    }
    // One of them reads the directory.
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) number: u32,
    /// `socket`, `pipe`, `eventfd` and so on, or `file`.
    pub(super) kind: String,
    /// What the kernel calls the file.
    pub(super) file: String,
}

/// The descriptors with the lowest numbers.
pub(super) fn list() -> Vec<Descriptor> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let mut numbers: Vec<u32> = names.collect();
    numbers.sort_unstable();
    // The descriptor that has read the directory is closed already.
    let described = numbers.into_iter().filter_map(|number| {
        let file = fs::read_link(format!("/proc/self/fd/{number}")).ok()?;
        let file = file.to_string_lossy().into_owned();
        Some(Descriptor { number, kind: kind_of(&file).to_owned(), file })
    });
    described.take(MAX_LISTED).collect()
}

/// `socket:[123]` is a socket, `anon_inode:[eventfd]` and `anon_inode:inotify` name their kinds.
fn kind_of(file: &str) -> &str {
    match file.split_once(':') {
        Some(("anon_inode", kind)) => kind.trim_matches(['[', ']']),
        Some((kind, _)) if !file.starts_with('/') => kind,
        _ => "file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_come_from_the_names_of_the_kernel() {
        for (file, kind) in [
            ("socket:[123]", "socket"),
            ("pipe:[1]", "pipe"),
            ("anon_inode:[eventpoll]", "eventpoll"),
            ("anon_inode:inotify", "inotify"),
            ("/tmp/a:b", "file"),
            ("/dev/null", "file"),
        ] {
            assert_eq!(kind_of(file), kind, "{file}");
        }
    }

    #[test]
    fn an_open_descriptor_is_listed_and_counted() {
        use std::os::fd::AsRawFd;
        let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let number = socket.as_raw_fd() as u32;
        let listed = list();
        let found = listed.iter().find(|descriptor| descriptor.number == number).expect("it is open");
        assert_eq!(found.kind, "socket");
        // Other tests open and close descriptors meanwhile.
        assert!(count().expect("a count") >= 2);
    }
}
