//! Writes the broken copies of the protocol, one file a mutation, for the must-fail tests to compile and model.
//!
//! A mutation names the lines that it replaces. Each must occur exactly once in the source, so that no mutation can
//! silently stop mutating when the source changes: the build fails, and whoever changed the line says here what the
//! bug looks like now.

use std::{env, fs, path::Path};

const SOURCE: &str = "../../src/task_queue.rs";

/// A bug: its name, and the lines to replace (without their indentation), each with what takes its place.
///
/// One line does for a step that is missing or wrong; a step that moves is two, where it was and where it goes.
/// `LINE` in a replacement stands for the line itself.
type Mutation = (&'static str, &'static [(&'static str, &'static str)]);

const PUSH: &str =
    "pub(crate) fn push<B>(&self, task: B, into_task: impl FnOnce(B) -> T) -> Result<Wake, B> {";
const PUSHED: &str = "Ok(self.end_sleep())";
const ANNOUNCE: &str = "self.asleep.store(true);";
const IDLE: &str = "let idle = inbox.tasks.is_empty() && !inbox.quit;";

const MUTATIONS: &[Mutation] = &[
    // Going to sleep.
    ("sleep_is_not_announced", &[(ANNOUNCE, "")]),
    ("sleeps_over_a_task", &[(IDLE, "let idle = !inbox.quit;")]),
    ("sleeps_over_a_quit", &[(IDLE, "let idle = inbox.tasks.is_empty();")]),
    (
        "sleep_is_announced_after_the_lock",
        &[
            (
                "pub(crate) fn may_sleep(&self) -> bool {",
                "LINE
                     let idle = self.is_idle();
                     if idle {
                         self.asleep.store(true);
                     }
                     idle
                 }
                 fn is_idle(&self) -> bool {",
            ),
            (ANNOUNCE, ""),
        ],
    ),
    (
        "new_queue_counts_as_awake",
        &[(
            "TaskQueue { inbox: P::Mutex::new(inbox), asleep: P::Flag::new(true) }",
            "TaskQueue { inbox: P::Mutex::new(inbox), asleep: P::Flag::new(false) }",
        )],
    ),
    // Ending the sleep.
    ("push_wakes_nobody", &[(PUSHED, "Ok(Wake::NotNeeded)")]),
    ("quit_wakes_nobody", &[("self.end_sleep()", "Wake::NotNeeded")]),
    ("push_looks_before_it_adds", &[(PUSH, "LINE let wake = self.end_sleep();"), (PUSHED, "Ok(wake)")]),
    (
        "end_sleep_is_two_steps",
        &[(
            "if self.asleep.load() && self.asleep.swap(false) { Wake::Needed } else { Wake::NotNeeded }",
            "if self.asleep.load() { self.asleep.store(false); Wake::Needed } else { Wake::NotNeeded }",
        )],
    ),
    ("awake_is_not_noted", &[("self.asleep.store(false);", "")]),
    // Stopping.
    (
        "take_reads_quit_after_the_lock",
        &[
            (
                "pub(crate) fn take(&self, batch: &mut Vec<T>) -> bool {",
                "LINE
                 self.take_batch(batch);
                 self.inbox.with(|inbox| std::mem::take(&mut inbox.quit))
             }
             fn take_batch(&self, batch: &mut Vec<T>) {",
            ),
            ("std::mem::take(&mut inbox.quit)", ""),
        ],
    ),
    (
        "quit_is_cleared_after_the_lock",
        &[
            (
                "pub(crate) fn take(&self, batch: &mut Vec<T>) -> bool {",
                "LINE
                 let quit = self.take_batch(batch);
                 if quit {
                     self.inbox.with(|inbox| inbox.quit = false);
                 }
                 quit
             }
             fn take_batch(&self, batch: &mut Vec<T>) -> bool {",
            ),
            ("std::mem::take(&mut inbox.quit)", "inbox.quit"),
        ],
    ),
    ("quit_is_not_cleared", &[("std::mem::take(&mut inbox.quit)", "inbox.quit")]),
    // The end of the loop.
    ("close_refuses_nothing", &[("inbox.closed = true;", "")]),
    ("close_hands_out_nothing", &[("std::mem::take(&mut inbox.tasks)", "Vec::new()")]),
    (
        "push_looks_for_close_before_the_lock",
        &[
            (PUSH, "LINE if self.inbox.with(|inbox| inbox.closed) { return Err(task); }"),
            ("if inbox.closed {", "if false {"),
        ],
    ),
];

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=build.rs");
    let source = fs::read_to_string(SOURCE).unwrap_or_else(|error| panic!("{SOURCE}: {error}"));
    let out = env::var("OUT_DIR").expect("cargo sets it for build scripts");
    for (name, edits) in MUTATIONS {
        fs::write(Path::new(&out).join(format!("{name}.rs")), mutate(&source, name, edits))
            .expect("writable");
    }
    let names: Vec<&str> = MUTATIONS.iter().map(|(name, _)| *name).collect();
    fs::write(Path::new(&out).join("names.rs"), format!("&{names:?}")).expect("writable");
}

fn mutate(source: &str, name: &str, edits: &[(&str, &str)]) -> String {
    for (line, _) in edits {
        let found = source.lines().filter(|have| have.trim() == *line).count();
        assert_eq!(found, 1, "mutation {name}: {SOURCE} must have exactly one line `{line}`");
    }
    let mut mutated = String::new();
    for line in source.lines() {
        match edits.iter().find(|(old, _)| line.trim() == *old) {
            Some((old, new)) => mutated.push_str(&new.replace("LINE", old)),
            // `include!` takes no inner documentation.
            None if line.starts_with("//!") => mutated.push_str(&line.replacen("//!", "//", 1)),
            None => mutated.push_str(line),
        }
        mutated.push('\n');
    }
    mutated
}
