//! Keeps ARCHITECTURE.md true: the files it names exist, its code map is complete and in order, imports run downwards, and the
//! tests that its invariants name are there.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between backquotes, line by line; code blocks apart.
fn quoted(text: &str) -> Vec<String> {
    let mut in_block = false;
    let mut names = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            names.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    names
}

/// All Rust files below a folder, as paths from the root.
fn rust_files(folder: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder") {
            let path = folder.join(entry.expect("an entry").file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.insert(path.to_str().expect("a path in UTF-8").to_owned());
            }
        }
    }
    found
}

fn is_unit_test(path: &str) -> bool {
    path.ends_with("/tests.rs")
}

/// The files of the code map, from the top down.
fn code_map() -> Vec<String> {
    let text = read("ARCHITECTURE.md");
    let section = text.split("\n## ").find(|section| section.starts_with("3. ")).expect("a code map");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.map(str::to_owned).collect()
}

#[test]
fn every_file_that_the_document_names_exists() {
    let named = quoted(&read("ARCHITECTURE.md"));
    let roots = ["src/", "tests/", "examples/", "benches/", ".ci/"];
    let files: Vec<_> = named.iter().filter(|name| roots.iter().any(|root| name.starts_with(root))).collect();
    assert!(files.len() > 40, "the document names only {} files", files.len());
    for file in files {
        assert!(root().join(file).exists(), "ARCHITECTURE.md names `{file}`, which does not exist");
    }
}

#[test]
fn the_code_map_lists_every_file_once() {
    let mapped = code_map();
    let unique: BTreeSet<String> = mapped.iter().cloned().collect();
    assert_eq!(unique.len(), mapped.len(), "a file stands in the code map twice");
    let there: BTreeSet<String> = rust_files("src").into_iter().filter(|path| !is_unit_test(path)).collect();
    assert_eq!(unique, there);
}

/// The file of the module that `path` names, seen from the crate's root: the longest part of it that is a file.
fn file_of(path: &[&str]) -> Option<String> {
    (1..=path.len())
        .rev()
        .map(|n| format!("src/{}.rs", path[..n].join("/")))
        .find(|file| root().join(file).exists())
}

/// The files that `file` imports by `crate::` and `super::`.
fn imports(file: &str) -> BTreeSet<String> {
    let module: Vec<&str> = file
        .strip_prefix("src/")
        .and_then(|file| file.strip_suffix(".rs"))
        .expect("a source file")
        .split('/')
        .collect();
    let parent = &module[..module.len() - 1];
    let text = read(file);
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    assert!(
        !code.contains("use crate::{"),
        "{file}: one `use crate::` a module, so that this test can read them"
    );
    let mut found = BTreeSet::new();
    for (keyword, base) in [("crate::", &[][..]), ("super::", parent)] {
        for (at, _) in code.match_indices(keyword) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || "_:$".contains(before) || code[..at].ends_with("pub(in ") {
                continue; // A part of a longer name or path, or a visibility.
            }
            let rest: &str = &code[at + keyword.len()..];
            let end =
                rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
            let names = rest[..end].split("::").filter(|name| !name.is_empty());
            let path: Vec<&str> = base.iter().copied().chain(names).collect();
            found.extend(file_of(&path));
        }
    }
    found.remove(file);
    found
}

#[test]
fn imports_run_downwards_in_the_code_map() {
    let order: HashMap<String, usize> =
        code_map().into_iter().enumerate().map(|(n, file)| (file, n)).collect();
    let mut arrows = 0;
    for (file, position) in &order {
        if file == "src/lib.rs" {
            continue;
        }
        for imported in imports(file) {
            arrows += 1;
            let is_child = |child: &str, parent: &str| {
                child
                    .strip_suffix(".rs")
                    .and_then(|child| child.rsplit_once('/'))
                    .is_some_and(|(folder, _)| Some(folder) == parent.strip_suffix(".rs"))
            };
            let allowed =
                order[&imported] > *position || is_child(file, &imported) || is_child(&imported, file);
            assert!(allowed, "{file} imports {imported}, which stands above it in the code map");
        }
    }
    assert!(arrows > 60, "only {arrows} imports were seen: can this test still read them?");
}

#[test]
fn the_reader_of_imports_reads_them() {
    let found = imports("src/net/connection/output.rs");
    for file in ["src/net/connection.rs", "src/event_loop.rs", "src/net/outcome.rs", "src/net/socket.rs"] {
        assert!(found.contains(file), "{file} is not among {found:?}");
    }
}

#[test]
fn the_tests_that_the_invariants_name_exist() {
    let text = read("ARCHITECTURE.md");
    let section = text.split("\n## ").find(|section| section.starts_with("6. ")).expect("the invariants");
    let all: String = rust_files("src").union(&rust_files("tests")).map(|file| read(file)).collect();
    let mut invariants = 0;
    for line in section.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).skip(1) {
        invariants += 1;
        let tests: Vec<String> = quoted(line.rsplit_once(" — ").expect("an invariant and its tests").1);
        assert!(!tests.is_empty(), "no test is named for: {line}");
        for test in tests {
            let is_there = ["(", "<"].iter().any(|after| all.contains(&format!("fn {test}{after}")));
            assert!(is_there, "there is no test `{test}`, named for: {line}");
        }
    }
    assert!(invariants >= 10, "only {invariants} invariants were found");
}

/// The clock of the date may be stepped; nothing in the crate goes by it.
#[test]
fn no_source_reads_the_wall_clock() {
    for file in rust_files("src") {
        let text = read(&file);
        for clock in ["SystemTime", "UNIX_EPOCH", "ClockId::Realtime", "TimerfdClockId::Realtime"] {
            assert!(!text.contains(clock), "{file} names {clock}");
        }
    }
}
