//! Writes the broken copies of the protocols, one file a mutation, for the must-fail tests to
//! compile and model.
//!
//! A mutation names the lines that it replaces. Each must occur exactly once in its function, so
//! that no mutation can silently stop mutating when the source changes: the build fails, and
//! whoever changed the line says here what the bug looks like now.

use std::{env, fs, path::Path};

const QUEUE: &str = "../../src/event_loop/tasks/task_queue.rs";
const INDICES: &str = "../../src/shared_ring/event_index.rs";

/// A bug: its name, and what to change.
///
/// One line does for a step that is missing or wrong; a step that moves is two, where it was and
/// where it goes.
type Mutation = (&'static str, &'static [Edit]);

/// The function that the line is in, the line (without its indentation), and what takes its place,
/// in which `LINE` stands for the line itself.
type Edit = (&'static str, &'static str, &'static str);

const PUSH: &str =
    "pub(crate) fn push<B>(&self, task: B, into_task: impl FnOnce(B) -> T) -> Result<Wake, (Refusal, B)> {";
const PUSHED: &str = "Ok(self.end_sleep())";
const ROOM: &str = "self.inbox.with(|inbox| match inbox.refusal(self.capacity) {";
const WAIT: &str =
    "let refusal = self.inbox.wait_with(deadline, |inbox| match inbox.refusal(self.capacity) {";
const WAITED: &str = "None => Ok(self.end_sleep()),";
const TAKE: &str = "pub(crate) fn take(&self, batch: &mut Batch<T>) -> bool {";
const SWAP: &str = "std::mem::swap(&mut inbox.batch, batch);";
const TAKE_QUIT: &str = "std::mem::take(&mut inbox.quit)";
const WAS_FULL: &str = "if batch.tasks.len() >= self.capacity {";
const NOTIFY: &str = "self.inbox.notify_all();";
const ANNOUNCE: &str = "self.asleep.0.store(true);";
const IDLE: &str = "self.batch.is_empty() && !self.quit";
const MAY_SLEEP: &str = "pub(crate) fn may_sleep(&self) -> bool {";
const LOOK: &str = "self.pending.0.load()";
const CLOSE: &str = "inbox.closed = true;";
const HAND_OUT: &str = "std::mem::take(&mut inbox.batch)";

const MUTATIONS: &[Mutation] = &[
    // Going to sleep.
    ("sleep_is_not_announced", &[("may_sleep", ANNOUNCE, "")]),
    ("sleeps_over_a_task", &[("is_idle", IDLE, "self.batch.internal.is_empty() && !self.quit")]),
    ("sleeps_over_an_internal_task", &[("is_idle", IDLE, "self.batch.tasks.is_empty() && !self.quit")]),
    ("sleeps_over_a_quit", &[("is_idle", IDLE, "self.batch.is_empty()")]),
    (
        "sleep_is_announced_after_the_lock",
        &[
            (
                "may_sleep",
                MAY_SLEEP,
                "LINE
                     let idle = self.finds_nothing();
                     if idle {
                         self.asleep.0.store(true);
                     }
                     idle
                 }
                 fn finds_nothing(&self) -> bool {",
            ),
            ("may_sleep", ANNOUNCE, ""),
        ],
    ),
    (
        "new_queue_counts_as_awake",
        &[("new", "asleep: CachePadded(P::Flag::new(true)),", "asleep: CachePadded(P::Flag::new(false)),")],
    ),
    // Looking without going to sleep.
    (
        "has_work_stands_for_may_sleep",
        &[("may_sleep", MAY_SLEEP, "LINE !self.has_work() } fn announce(&self) -> bool {")],
    ),
    ("may_sleep_stands_for_has_work", &[("has_work", LOOK, "!self.may_sleep()")]),
    ("has_work_overlooks_tasks", &[("has_work", LOOK, "self.inbox.with(|inbox| inbox.quit)")]),
    // Ending the sleep.
    ("push_wakes_nobody", &[("push", PUSHED, "Ok(Wake::NotNeeded)")]),
    ("waiting_push_wakes_nobody", &[("push_waiting", WAITED, "None => Ok(Wake::NotNeeded),")]),
    ("internal_push_wakes_nobody", &[("push_internal", PUSHED, "Ok(Wake::NotNeeded)")]),
    ("quit_wakes_nobody", &[("quit", "self.end_sleep()", "Wake::NotNeeded")]),
    (
        "push_looks_before_it_adds",
        &[("push", PUSH, "LINE let wake = self.end_sleep();"), ("push", PUSHED, "Ok(wake)")],
    ),
    (
        "waiting_push_looks_before_it_adds",
        &[
            ("push_waiting", WAIT, "let wake = self.end_sleep(); LINE"),
            ("push_waiting", WAITED, "None => Ok(wake),"),
        ],
    ),
    (
        "internal_push_looks_before_it_adds",
        &[
            (
                "push_internal",
                "pub(crate) fn push_internal(&self, task: T) -> Result<Wake, T> {",
                "LINE let wake = self.end_sleep();",
            ),
            ("push_internal", PUSHED, "Ok(wake)"),
        ],
    ),
    (
        "end_sleep_is_two_steps",
        &[(
            "end_sleep",
            "if self.asleep.0.load() && self.asleep.0.swap(false) { Wake::Needed } else { Wake::NotNeeded }",
            "if self.asleep.0.load() { self.asleep.0.store(false); Wake::Needed } else { Wake::NotNeeded }",
        )],
    ),
    ("awake_is_not_noted", &[("awake", "self.asleep.0.store(false);", "")]),
    // Room.
    (
        "queue_has_room_for_one_more",
        &[(
            "refusal",
            "} else if self.batch.tasks.len() >= capacity {",
            "} else if self.batch.tasks.len() > capacity {",
        )],
    ),
    (
        "push_looks_for_room_before_the_lock",
        &[
            (
                "push",
                PUSH,
                "LINE if self.inbox.with(|inbox| inbox.batch.tasks.len()) >= self.capacity { return Err((Refusal::Full, task)); }",
            ),
            ("push", ROOM, "self.inbox.with(|inbox| match inbox.refusal(usize::MAX) {"),
        ],
    ),
    (
        "waiting_push_ignores_capacity",
        &[(
            "push_waiting",
            WAIT,
            "let refusal = self.inbox.wait_with(deadline, |inbox| match inbox.refusal(usize::MAX) {",
        )],
    ),
    (
        "waiting_push_adds_after_the_lock",
        &[
            (
                "push_waiting",
                "inbox.batch.tasks.extend(to_push.take().map(|(task, into_task)| into_task(task)));",
                "",
            ),
            (
                "push_waiting",
                "match to_push {",
                "if refusal != Some(Refusal::Closed) {
                     let task = to_push.take().map(|(task, into_task)| into_task(task));
                     self.inbox.with(|inbox| inbox.batch.tasks.extend(task));
                 }
                 LINE",
            ),
        ],
    ),
    (
        "waiting_push_waits_with_its_task_added",
        &[(
            "push_waiting",
            "Some(Refusal::Full) => None,",
            "Some(Refusal::Full) => {
                 inbox.batch.tasks.extend(to_push.take().map(|(task, into_task)| into_task(task)));
                 None
             }",
        )],
    ),
    ("take_lets_nobody_in", &[("take", NOTIFY, "")]),
    ("take_lets_in_above_capacity_only", &[("take", WAS_FULL, "if batch.tasks.len() > self.capacity {")]),
    ("take_lets_in_below_capacity_only", &[("take", WAS_FULL, "if batch.tasks.len() < self.capacity {")]),
    (
        "take_lets_in_before_it_takes",
        &[("take", TAKE, "LINE self.inbox.notify_all();"), ("take", NOTIFY, "")],
    ),
    (
        "take_looks_who_waits_before_the_lock",
        &[
            (
                "take",
                TAKE,
                "LINE let full = self.inbox.with(|inbox| inbox.batch.tasks.len()) >= self.capacity;",
            ),
            ("take", WAS_FULL, "if full {"),
        ],
    ),
    // Internal tasks.
    (
        "internal_tasks_need_room",
        &[("push_internal", "if inbox.closed {", "if inbox.refusal(self.capacity).is_some() {")],
    ),
    ("take_forgets_internal_tasks", &[("take", SWAP, "LINE batch.internal.clear();")]),
    (
        "take_leaves_internal_tasks_to_the_next",
        &[(
            "take",
            SWAP,
            "std::mem::swap(&mut inbox.batch.tasks, &mut batch.tasks);
            if batch.tasks.is_empty() { std::mem::swap(&mut inbox.batch.internal, &mut batch.internal); }",
        )],
    ),
    // Stopping.
    (
        "take_reads_quit_after_the_lock",
        &[
            (
                "take",
                TAKE,
                "LINE
                     self.take_batch(batch);
                     self.inbox.with(|inbox| std::mem::take(&mut inbox.quit))
                 }
                 fn take_batch(&self, batch: &mut Batch<T>) {",
            ),
            ("take", TAKE_QUIT, ""),
        ],
    ),
    (
        "quit_is_cleared_after_the_lock",
        &[
            (
                "take",
                TAKE,
                "LINE
                     let quit = self.take_batch(batch);
                     if quit {
                         self.inbox.with(|inbox| inbox.quit = false);
                     }
                     quit
                 }
                 fn take_batch(&self, batch: &mut Batch<T>) -> bool {",
            ),
            ("take", TAKE_QUIT, "inbox.quit"),
        ],
    ),
    ("quit_is_not_cleared", &[("take", TAKE_QUIT, "inbox.quit")]),
    // The end of the loop.
    ("close_refuses_nothing", &[("close", CLOSE, "")]),
    ("close_lets_nobody_go", &[("close", NOTIFY, "")]),
    (
        "close_lets_go_before_it_closes",
        &[
            ("close", CLOSE, "inbox.closed = false;"),
            ("close", NOTIFY, "LINE self.inbox.with(|inbox| inbox.closed = true);"),
        ],
    ),
    ("close_hands_out_nothing", &[("close", HAND_OUT, "Batch::default()")]),
    (
        "close_hands_out_no_internal_tasks",
        &[(
            "close",
            HAND_OUT,
            "Batch { tasks: std::mem::take(&mut inbox.batch.tasks), internal: Vec::new() }",
        )],
    ),
    (
        "push_looks_for_close_before_the_lock",
        &[
            (
                "push",
                PUSH,
                "LINE if self.inbox.with(|inbox| inbox.closed) { return Err((Refusal::Closed, task)); }",
            ),
            (
                "push",
                ROOM,
                "self.inbox.with(|inbox| match inbox.refusal(self.capacity).filter(|why| *why == Refusal::Full) {",
            ),
        ],
    ),
    (
        "waiting_push_ignores_close",
        &[
            ("push_waiting", "Some(Refusal::Closed) => Some(Refusal::Closed),", ""),
            ("push_waiting", "None => {", "None | Some(Refusal::Closed) => {"),
        ],
    ),
    (
        "waiting_push_waits_at_a_closed_queue",
        &[(
            "push_waiting",
            "Some(Refusal::Closed) => Some(Refusal::Closed),",
            "Some(Refusal::Closed) => None,",
        )],
    ),
    (
        "waiting_push_takes_closed_for_full",
        &[(
            "push_waiting",
            "Some(Refusal::Closed) => Some(Refusal::Closed),",
            "Some(Refusal::Closed) => Some(Refusal::Full),",
        )],
    ),
    ("internal_push_ignores_close", &[("push_internal", "if inbox.closed {", "if false {")]),
];

/// Bugs of the event indices.
const INDEX_MUTATIONS: &[Mutation] = &[
    ("move_has_no_fence", &[("move_on", FENCE, "")]),
    ("mark_has_no_fence", &[("set_mark", FENCE, "")]),
    (
        "mark_is_looked_at_before_the_move",
        &[
            ("move_on", MOVE, "let rings = passes(mark.load_relaxed(), from, to); LINE"),
            ("move_on", RINGS, "rings"),
        ],
    ),
    (
        "mark_is_set_after_the_last_look",
        &[("set_mark", SET, ""), ("set_mark", LOOK_AGAIN, "let last = LINE; mark.store_relaxed(at); last")],
    ),
    ("move_is_relaxed", &[("move_on", MOVE, "position.store_relaxed(to);")]),
    ("mark_is_beyond_itself", &[("passes", PASSES, "to.wrapping_sub(mark) < to.wrapping_sub(from)")]),
    ("every_move_rings", &[("passes", PASSES, "let _ = (mark, from, to); true")]),
    ("no_move_rings", &[("passes", PASSES, "let _ = (mark, from, to); false")]),
];

const FENCE: &str = "W::fence();";
const MOVE: &str = "position.store_release(to);";
const RINGS: &str = "passes(mark.load_relaxed(), from, to)";
const SET: &str = "mark.store_relaxed(at);";
const LOOK_AGAIN: &str = "position.load_acquire()";
const PASSES: &str = "to.wrapping_sub(mark).wrapping_sub(1) < to.wrapping_sub(from)";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let mut names: Vec<&str> = Vec::new();
    let out = env::var("OUT_DIR").expect("cargo sets it for build scripts");
    for (path, mutations) in [(QUEUE, MUTATIONS), (INDICES, INDEX_MUTATIONS)] {
        println!("cargo::rerun-if-changed={path}");
        let source = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        for (name, edits) in mutations {
            let mutated = mutate(path, &source, name, edits);
            fs::write(Path::new(&out).join(format!("{name}.rs")), mutated).expect("writable");
            names.push(name);
        }
    }
    fs::write(Path::new(&out).join("names.rs"), format!("&{names:?}")).expect("writable");
}

fn mutate(path: &str, source: &str, name: &str, edits: &[Edit]) -> String {
    let mut made = vec![0; edits.len()];
    let mut mutated = String::new();
    let mut function = "";
    for line in source.lines() {
        let code = if line.trim().starts_with("//") { "" } else { line.trim() };
        function = declared(code).unwrap_or(function);
        match edits.iter().position(|(place, old, _)| (*place, *old) == (function, code)) {
            Some(edit) => {
                made[edit] += 1;
                mutated.push_str(&edits[edit].2.replace("LINE", code));
            }
            // `include!` takes no inner documentation.
            None if line.starts_with("//!") => mutated.push_str(&line.replacen("//!", "//", 1)),
            None => mutated.push_str(line),
        }
        mutated.push('\n');
    }
    for ((place, line, _), made) in edits.iter().zip(made) {
        assert_eq!(made, 1, "mutation {name}: {path} must have exactly one line `{line}` in {place}");
    }
    mutated
}

/// The name of the function that the line begins, if it does.
fn declared(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let name = after.split(['(', '<']).next()?;
    (before.is_empty() || before.ends_with(' ')).then_some(name)
}
