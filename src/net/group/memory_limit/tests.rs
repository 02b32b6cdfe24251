use std::path::{Path, PathBuf};
use std::{env, fs, process};

use super::{of_control_groups, of_this_process};

/// A root directory with test files, removed on drop.
struct Root(PathBuf);

impl Root {
    fn new(name: &str, groups: &str, mounts: &str, files: &[(&str, &str)]) -> Root {
        let root = Root(env::temp_dir().join(format!("reveille-memory-{name}-{}", process::id())));
        let own = [("proc/self/cgroup", groups), ("proc/self/mountinfo", mounts)];
        for (path, content) in own.iter().chain(files) {
            let path = root.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    fn limit(&self) -> Option<u64> {
        of_control_groups(&self.0)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
const V1: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                  36 31 0:33 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";

#[test]
fn the_minimum_of_a_group_and_its_ancestors_applies() {
    let files = [
        ("sys/fs/cgroup/a/memory.max", "300\n"),
        ("sys/fs/cgroup/a/b/memory.max", "max\n"),
        ("sys/fs/cgroup/a/b/c/memory.max", "400\n"),
        ("sys/fs/cgroup/other/memory.max", "1\n"),
    ];
    assert_eq!(Root::new("v2", "0::/a/b/c\n", V2, &files).limit(), Some(300));
    assert_eq!(Root::new("v2-none", "0::/a/b\n", V2, &files[1..2]).limit(), None);
}

#[test]
fn limits_of_cgroup_v1_apply_too() {
    let files = [
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "500\n"),
        ("sys/fs/cgroup/cpu/jobs/memory.limit_in_bytes", "1\n"),
    ];
    let groups = "4:cpu,cpuacct:/jobs\n3:memory:/jobs\n0::/\n";
    assert_eq!(Root::new("v1", groups, V1, &files).limit(), Some(500));
    let both = [("sys/fs/cgroup/unified/memory.max", "450\n"), files[1]];
    let mounts = format!("{V1}{}", V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified "));
    assert_eq!(Root::new("both", groups, &mounts, &both).limit(), Some(450));
}

#[test]
fn a_mount_rooted_at_a_group_is_read_from_there() {
    let mounts = V2.replace("0:26 / ", "0:26 /docker/1 ");
    let files = [("sys/fs/cgroup/memory.max", "700"), ("sys/fs/cgroup/inner/memory.max", "600")];
    assert_eq!(Root::new("begin", "0::/docker/1\n", &mounts, &files).limit(), Some(700));
    assert_eq!(Root::new("inner", "0::/docker/1/inner\n", &mounts, &files).limit(), Some(600));
    // Outside the mount, and outside the namespace.
    assert_eq!(Root::new("outside", "0::/docker/2\n", &mounts, &files).limit(), Some(700));
    assert_eq!(Root::new("above", "0::/../../a\n", V2, &files).limit(), Some(700));
}

#[test]
fn a_mount_point_with_a_space_is_found() {
    let mounts = V2.replace("/sys/fs/cgroup ", "/my\\040groups ");
    let files = [("my groups/a/memory.max", "800")];
    assert_eq!(Root::new("space", "0::/a\n", &mounts, &files).limit(), Some(800));
}

#[test]
fn unreadable_or_malformed_files_are_no_limit() {
    assert_eq!(of_control_groups(Path::new("/nowhere")), None);
    assert_eq!(Root::new("garbage", "garbage\n:\n0::/a\n", "- cgroup2\n\n1 2 - cgroup\n", &[]).limit(), None);
    let files = [("sys/fs/cgroup/a/memory.max", "much\n")];
    assert_eq!(Root::new("words", "0::/a\n", V2, &files).limit(), None);
}

#[test]
fn this_process_has_some_memory_available() {
    assert!(of_this_process() > 1 << 20);
}
