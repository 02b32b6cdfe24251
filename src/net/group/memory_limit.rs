//! The memory available to the process: the minimum of the machine's memory, the process's resource
//! limits and the limits of its control groups.

use std::fs;
use std::path::{Component, Path, PathBuf};

use rustix::process::{Resource, getrlimit};
use rustix::system::sysinfo;

/// The bytes of memory available to this process, as of now.
///
/// A limit that cannot be read is ignored; the machine's memory is always known.
pub(crate) fn of_this_process() -> u64 {
    let machine = sysinfo();
    let physical = (machine.totalram as u64).saturating_mul(u64::from(machine.mem_unit.max(1)));
    let address_space = getrlimit(Resource::As).current;
    let data = getrlimit(Resource::Data).current;
    [address_space, data, of_control_groups(Path::new("/"))].into_iter().flatten().fold(physical, u64::min)
}

/// The minimum of the memory limits of the process's control groups and their ancestors, of cgroup
/// v1 and v2.
///
/// `None` if there is no limit, or if procfs or the cgroup file systems are not mounted below
/// `root`.
fn of_control_groups(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let limits = mounts.lines().filter_map(Hierarchy::parse).filter_map(|hierarchy| {
        let group = hierarchy.group(&groups)?;
        let mounted_at = below(root, &hierarchy.mounted_at);
        // The mount shows the groups below its `root`. Those above it, which a container cannot
        // see, also apply, but their limits cannot be read.
        let inside = group.strip_prefix(&hierarchy.root).unwrap_or(Path::new(""));
        let is_inside = inside.components().all(|part| matches!(part, Component::Normal(_)));
        let directory = if is_inside { mounted_at.join(inside) } else { mounted_at.clone() };
        let ancestors = directory.ancestors().take_while(|ancestor| ancestor.starts_with(&mounted_at));
        ancestors.filter_map(|ancestor| read_limit(&ancestor.join(hierarchy.file))).min()
    });
    limits.min()
}

/// A mounted cgroup hierarchy that can limit memory.
struct Hierarchy {
    /// Whether this is the unified hierarchy of cgroup v2.
    is_unified: bool,
    /// The group that the root directory of the mount represents.
    root: PathBuf,
    mounted_at: PathBuf,
    /// The name of the file that contains the limit.
    file: &'static str,
}

impl Hierarchy {
    /// Parses a line of `mountinfo`, proc(5). `None` if the mount cannot limit memory.
    fn parse(line: &str) -> Option<Hierarchy> {
        let (location, kind) = line.split_once(" - ")?;
        let mut location = location.split(' ').skip(3);
        let (root, mounted_at) = (unescaped(location.next()?), unescaped(location.next()?));
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

    /// The process's group in this hierarchy. `groups` is the content of `/proc/self/cgroup`,
    /// cgroups(7).
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

/// Without a limit, cgroup v1 shows a number larger than any memory, and cgroup v2 shows `max`.
fn read_limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Decodes a path: the kernel writes spaces, tabs, newlines and backslashes as a backslash and
/// three octal digits.
fn unescaped(path: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let unescaped = escapes.iter().fold(path.to_owned(), |path, (escape, byte)| path.replace(escape, byte));
    PathBuf::from(unescaped)
}

#[cfg(test)]
mod tests;
