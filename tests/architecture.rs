//! Consistency of ARCHITECTURE.md and the code. The files and tests that the document names exist,
//! its code map covers every source file, and imports go only downwards in the map.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Whether this is the repository. The published package contains no `.ci`, no `benches`, and no
/// packages below `tests`, so their names in the document cannot be checked there.
fn is_repository() -> bool {
    root().join(".ci").exists()
}

/// Returns the texts between backquotes, without code blocks.
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

/// Returns all Rust files below a directory, as paths relative to the root.
fn rust_files(folder: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a directory") {
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

/// Returns the modules of the code map, from the top down.
fn code_map() -> Vec<String> {
    let text = read("ARCHITECTURE.md");
    let section = text.split("\n## ").find(|section| section.starts_with("3. ")).expect("a code map");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.map(str::to_owned).collect()
}

/// Returns the row of the code map that contains a file: that of its innermost module.
fn row_of(file: &str, map: &[String]) -> Option<usize> {
    let module = file.strip_suffix(".rs").expect("a Rust file");
    let is_in =
        |row: &str| module.strip_prefix(row).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (0..map.len()).filter(|&n| is_in(&map[n])).max_by_key(|&n| map[n].len())
}

#[test]
fn every_file_named_in_the_document_exists() {
    if !is_repository() {
        return;
    }
    let named = quoted(&read("ARCHITECTURE.md"));
    let roots = ["src/", "tests/", "examples/", "benches/", ".ci/"];
    let files: Vec<_> = named.iter().filter(|name| roots.iter().any(|root| name.starts_with(root))).collect();
    assert!(files.len() > 20, "the document names only {} files", files.len());
    for file in files {
        let exists = root().join(file).exists() || root().join(format!("{file}.rs")).exists();
        assert!(exists, "ARCHITECTURE.md names `{file}`, which does not exist");
    }
}

/// The functions of the echo path, each with its file, in the order of the document.
fn echo_path() -> Vec<(String, String)> {
    let text = read("ARCHITECTURE.md");
    let (_, path) = text.split_once("- **An echo**").expect("the echo path");
    let path = path.split("\n- ").next().expect("one item");
    let steps = path.split('→').map(quoted);
    steps.map(|step| <[String; 2]>::try_from(step).expect("a function and its file").into()).collect()
}

#[test]
fn an_echo_is_in_twelve_files_at_most() {
    let steps = echo_path();
    let files: BTreeSet<&String> = steps.iter().map(|(_, file)| file).collect();
    assert!(files.len() <= 12, "an echo is in {} files: {files:?}", files.len());
    // A step that is missing would leave a function that no earlier step calls. The handler is that
    // of the README.
    let mut earlier = read("README.md");
    for (n, (function, file)) in steps.iter().enumerate() {
        let calls = [format!(".{function}("), format!("::{function}(")];
        let is_called = calls.iter().any(|text| earlier.contains(text));
        assert!(n == 0 || is_called, "no step before `{file}` calls `{function}`");
        let code = read(file);
        let is_defined = [format!("fn {function}("), format!("fn {function}<")];
        assert!(is_defined.iter().any(|text| code.contains(text)), "{file} has no function `{function}`");
        earlier.push_str(&code);
    }
}

#[test]
fn the_code_map_covers_every_file_once() {
    let map = code_map();
    let unique: BTreeSet<&String> = map.iter().collect();
    assert_eq!(unique.len(), map.len(), "the code map contains a module twice");
    for row in &map {
        assert!(
            root().join(format!("{row}.rs")).exists(),
            "the code map names `{row}`, which does not exist"
        );
    }
    for file in rust_files("src").iter().filter(|file| *file != "src/lib.rs") {
        assert!(row_of(file, &map).is_some(), "{file} is in no module of the code map");
    }
}

#[test]
fn the_crate_has_at_most_thirteen_top_level_modules() {
    let entries = fs::read_dir(root().join("src")).expect("a directory");
    let names: BTreeSet<PathBuf> =
        entries.map(|entry| entry.expect("an entry").path().with_extension("")).collect();
    assert!(names.len() <= 13, "{names:?}");
}

/// Returns the file of the module that a path from the crate root names: the longest prefix of the
/// path that is a file.
fn file_of(path: &[&str]) -> Option<String> {
    (1..=path.len())
        .rev()
        .map(|n| format!("src/{}.rs", path[..n].join("/")))
        .find(|file| root().join(file).exists())
}

/// Returns the files that `file` imports with `crate::` and `super::`.
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
        "{file}: use a separate `use crate::` for each module, since this test does not parse lists"
    );
    let mut found = BTreeSet::new();
    for (keyword, base) in [("crate::", &[][..]), ("super::", parent)] {
        for (at, _) in code.match_indices(keyword) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || "_:$".contains(before) || code[..at].ends_with("pub(in ") {
                continue; // Part of a longer name or path, or of a visibility.
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
fn the_crate_root_has_at_most_thirty_public_names() {
    let text = read("src/lib.rs");
    let root = text.split("pub use ").skip(1).filter(|item| !item.starts_with("crate::"));
    let reexported = root.flat_map(|item| {
        let names = item.split(';').next().unwrap_or_default();
        names.rsplit("::").next().unwrap_or_default().split(',').map(str::trim).collect::<Vec<_>>()
    });
    let modules = text.matches("\npub mod ").count();
    let names: Vec<&str> = reexported.collect();
    assert!(
        names.contains(&"Buffer"),
        "`Buffer` was not found, so this test does not parse the names: {names:?}"
    );
    assert!(names.len() + modules <= 30, "{modules} modules and {names:?}");
}

#[test]
fn comments_are_at_most_a_hundred_columns_wide() {
    for file in ["src", "tests", "examples", "benches"].into_iter().flat_map(rust_files) {
        for (number, line) in read(&file).lines().enumerate() {
            let is_wide = line.trim_start().starts_with("//") && line.chars().count() > 100;
            assert!(!is_wide, "{file}:{}: the comment is wider than 100 columns", number + 1);
        }
    }
}

#[test]
fn imports_go_downwards_in_the_code_map() {
    let map = code_map();
    let mut between_rows = 0;
    for file in rust_files("src") {
        if file == "src/lib.rs" || is_unit_test(&file) {
            continue;
        }
        let row = row_of(&file, &map);
        for imported in imports(&file) {
            let other = row_of(&imported, &map);
            assert!(other >= row, "{file} imports {imported}, which is above it in the code map");
            between_rows += usize::from(other != row);
        }
    }
    assert!(between_rows > 60, "this test has found only {between_rows} imports");
}

#[test]
fn the_import_parser_finds_known_imports() {
    let found = imports("src/net/connection/write.rs");
    for file in
        ["src/net/connection.rs", "src/event_loop.rs", "src/net/result.rs", "src/net/sys/transport.rs"]
    {
        assert!(found.contains(file), "{file} is not among {found:?}");
    }
}

#[test]
fn every_test_named_in_the_invariants_exists() {
    if !is_repository() {
        return;
    }
    let text = read("ARCHITECTURE.md");
    let section = text.split("\n## ").find(|section| section.starts_with("6. ")).expect("the invariants");
    let all: String = rust_files("src").union(&rust_files("tests")).map(|file| read(file)).collect();
    let mut invariants = 0;
    for row in section.lines().filter(|line| line.starts_with("| ")).filter(|line| !line.starts_with("| #")) {
        invariants += 1;
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, number, _, tests, _] = cells[..] else { panic!("not a row of three cells: {row}") };
        assert_eq!(number, invariants.to_string(), "the number of an invariant: {row}");
        let tests = quoted(tests);
        assert!((1..=3).contains(&tests.len()), "{} tests are named in: {row}", tests.len());
        for test in tests {
            let exists = ["(", "<"].iter().any(|after| all.contains(&format!("fn {test}{after}")));
            assert!(exists, "there is no test `{test}`, which is named in: {row}");
        }
    }
    assert!(invariants >= 40, "only {invariants} invariants were found");
}

/// The wall clock can be set to any time, so the crate does not use it.
#[test]
fn no_source_reads_the_wall_clock() {
    for file in rust_files("src") {
        let text = read(&file);
        for clock in ["SystemTime", "UNIX_EPOCH", "ClockId::Realtime", "TimerfdClockId::Realtime"] {
            assert!(!text.contains(clock), "{file} names {clock}");
        }
    }
}
