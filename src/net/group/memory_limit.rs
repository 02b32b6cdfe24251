//! How much memory the process may use: the least of what its control groups, its resource limits and the machine allow.

use std::fs;
use std::path::{Component, Path, PathBuf};

use rustix::process::{Resource, getrlimit};
use rustix::system::sysinfo;

/// How many bytes of memory this process may use, as it is now.
///
/// A limit that cannot be read is left out; the machine's own memory is always known.
pub(crate) fn of_this_process() -> u64 {
    let machine = sysinfo();
    let physical = (machine.totalram as u64).saturating_mul(u64::from(machine.mem_unit.max(1)));
    let address_space = getrlimit(Resource::As).current;
    let data = getrlimit(Resource::Data).current;
    [address_space, data, of_control_groups(Path::new("/"))].into_iter().flatten().fold(physical, u64::min)
}

/// The least memory limit of the control groups that the process is in, their ancestors included, of either version. `None` without
/// a limit, or without procfs or the groups' file systems below `root`.
fn of_control_groups(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let limits = mounts.lines().filter_map(Hierarchy::parse).filter_map(|hierarchy| {
        let group = hierarchy.group(&groups)?;
        let mounted_at = below(root, &hierarchy.mounted_at);
        // The file system shows the groups from `root` on. Those above it, of which a container sees nothing, limit as well, and
        // cannot be known.
        let inside = group.strip_prefix(&hierarchy.root).unwrap_or(Path::new(""));
        let is_inside = inside.components().all(|part| matches!(part, Component::Normal(_)));
        let directory = if is_inside { mounted_at.join(inside) } else { mounted_at.clone() };
        let ancestors = directory.ancestors().take_while(|ancestor| ancestor.starts_with(&mounted_at));
        ancestors.filter_map(|ancestor| read_limit(&ancestor.join(hierarchy.file))).min()
    });
    limits.min()
}

/// A mounted file system of control groups that may limit memory.
struct Hierarchy {
    /// Whether it is that of cgroup v2.
    is_unified: bool,
    /// The group that its root directory is.
    root: PathBuf,
    mounted_at: PathBuf,
    /// Where the limit stands.
    file: &'static str,
}

impl Hierarchy {
    /// Of a line of `mountinfo`, proc(5).
    fn parse(line: &str) -> Option<Hierarchy> {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, mounted_at) = (unescaped(place.next()?), unescaped(place.next()?));
        let mut kind = kind.split(' ');
        let (is_unified, file) = match (kind.next()?, kind.nth(1)) {
            ("cgroup2", _) => (true, "memory.max"),
            ("cgroup", Some(options)) if options.split(',').any(|option| option == "memory") => {
                (false, "memory.limit_in_bytes")
            }
            _ => return None,
        };
        Some(Hierarchy { is_unified, root, mounted_at, file })
    }

    /// The process's group in it, of the lines of `/proc/self/cgroup`, cgroups(7).
    fn group<'a>(&self, groups: &'a str) -> Option<&'a Path> {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let is_it = match self.is_unified {
                true => number == "0" && controllers.is_empty(),
                false => controllers.split(',').any(|controller| controller == "memory"),
            };
            is_it.then(|| Path::new(path))
        })
    }
}

/// A limit of cgroup v1 that is none is a number of more bytes than there can be; of v2 it is `max`.
fn read_limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The kernel writes spaces, tabs, newlines and backslashes of paths as three octal digits behind a backslash.
fn unescaped(path: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let unescaped = escapes.iter().fold(path.to_owned(), |path, (escape, byte)| path.replace(escape, byte));
    PathBuf::from(unescaped)
}

#[cfg(test)]
mod tests;
