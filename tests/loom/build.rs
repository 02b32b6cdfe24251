//! Writes the broken copies of the protocols, one file for each mutation. `tests/rejects.rs` checks
//! that the models reject them.
//!
//! A mutation names the lines that it replaces. Each line must occur exactly once in its function,
//! otherwise the build fails. So a change of the source cannot disable a mutation: the change must
//! update the mutation here.

use std::{env, fs, path::Path};

const QUEUE: &str = "../../src/event_loop/tasks/task_queue.rs";
const STATE: &str = "../../src/event_loop/tasks/future_state.rs";
const INDICES: &str = "../../src/shared_ring/event_index.rs";

/// A bug: its name and its edits.
///
/// A missing or wrong step is one edit. A moved step is two: one at its old place and one at its
/// new place.
type Mutation = (&'static str, &'static [Edit]);

/// The function that contains the line, the line (without its indentation), and its replacement, in
/// which `LINE` stands for the line itself.
type Edit = (&'static str, &'static str, &'static str);

const PUSH: &str =
    "pub(crate) fn push<B>(&self, task: B, into_task: impl FnOnce(B) -> T) -> Result<Wake, (Refusal, B)> {";
const END_SLEEP: &str = "Ok(self.end_sleep())";
const PUSH_CHECK: &str = "self.inbox.with(|inbox| match inbox.refusal(self.capacity) {";
const WAITING_CHECK: &str =
    "let refusal = self.inbox.wait_with(deadline, |inbox| match inbox.refusal(self.capacity) {";
const WAITING_END_SLEEP: &str = "None => Ok(self.end_sleep()),";
const TAKE: &str =
    "fn take_with(&self, batch: &mut Batch<T>, take_more: impl FnOnce(&mut Inbox<T>)) -> bool {";
const SWAP: &str = "std::mem::swap(&mut inbox.batch, batch);";
const TAKE_QUIT: &str = "std::mem::take(&mut inbox.quit)";
const WAS_FULL: &str = "if batch.tasks.len() >= self.capacity {";
const NOTIFY: &str = "self.inbox.notify_all();";
const ANNOUNCE: &str = "self.asleep.0.store(true);";
const IDLE: &str = "self.batch.is_empty() && !self.quit";
const MAY_SLEEP: &str = "pub(crate) fn may_sleep(&self) -> bool {";
const HAS_WORK: &str = "self.pending.0.load()";
const CLOSE: &str = "inbox.closed = true;";
const CLOSE_TAKE: &str = "std::mem::take(&mut inbox.batch)";

const MUTATIONS: &[Mutation] = &[
    // Going to sleep.
    ("sleep_is_not_announced", &[("may_sleep", ANNOUNCE, "")]),
    ("may_sleep_ignores_tasks", &[("is_idle", IDLE, "self.batch.internal.is_empty() && !self.quit")]),
    ("may_sleep_ignores_internal_tasks", &[("is_idle", IDLE, "self.batch.tasks.is_empty() && !self.quit")]),
    ("may_sleep_ignores_quit", &[("is_idle", IDLE, "self.batch.is_empty()")]),
    (
        "sleep_is_announced_after_the_lock",
        &[
            (
                "may_sleep",
                MAY_SLEEP,
                "LINE
                     let idle = self.inbox_is_idle();
                     if idle {
                         self.asleep.0.store(true);
                     }
                     idle
                 }
                 fn inbox_is_idle(&self) -> bool {",
            ),
            ("may_sleep", ANNOUNCE, ""),
        ],
    ),
    (
        "new_queue_counts_as_awake",
        &[("new", "asleep: CachePadded(P::Flag::new(true)),", "asleep: CachePadded(P::Flag::new(false)),")],
    ),
    // Checking for work without going to sleep.
    (
        "has_work_replaces_may_sleep",
        &[("may_sleep", MAY_SLEEP, "LINE !self.has_work() } fn announce(&self) -> bool {")],
    ),
    ("may_sleep_replaces_has_work", &[("has_work", HAS_WORK, "!self.may_sleep()")]),
    ("has_work_ignores_tasks", &[("has_work", HAS_WORK, "self.inbox.with(|inbox| inbox.quit)")]),
    // Ending the sleep.
    ("push_omits_the_wake_up", &[("push", END_SLEEP, "Ok(Wake::NotNeeded)")]),
    (
        "waiting_push_omits_the_wake_up",
        &[("push_waiting", WAITING_END_SLEEP, "None => Ok(Wake::NotNeeded),")],
    ),
    ("internal_push_omits_the_wake_up", &[("push_internal", END_SLEEP, "Ok(Wake::NotNeeded)")]),
    ("quit_omits_the_wake_up", &[("quit", "self.end_sleep()", "Wake::NotNeeded")]),
    (
        "push_ends_sleep_before_it_adds",
        &[("push", PUSH, "LINE let wake = self.end_sleep();"), ("push", END_SLEEP, "Ok(wake)")],
    ),
    (
        "waiting_push_ends_sleep_before_it_adds",
        &[
            ("push_waiting", WAITING_CHECK, "let wake = self.end_sleep(); LINE"),
            ("push_waiting", WAITING_END_SLEEP, "None => Ok(wake),"),
        ],
    ),
    (
        "internal_push_ends_sleep_before_it_adds",
        &[
            (
                "push_internal",
                "pub(crate) fn push_internal(&self, task: T) -> Result<Wake, T> {",
                "LINE let wake = self.end_sleep();",
            ),
            ("push_internal", END_SLEEP, "Ok(wake)"),
        ],
    ),
    (
        "end_sleep_is_not_atomic",
        &[(
            "end_sleep",
            "if self.asleep.0.load() && self.asleep.0.swap(false) { Wake::Needed } else { Wake::NotNeeded }",
            "if self.asleep.0.load() { self.asleep.0.store(false); Wake::Needed } else { Wake::NotNeeded }",
        )],
    ),
    ("awake_does_not_clear_the_sleep", &[("awake", "self.asleep.0.store(false);", "")]),
    // The capacity.
    (
        "capacity_is_exceeded_by_one",
        &[(
            "refusal",
            "} else if self.batch.tasks.len() >= capacity {",
            "} else if self.batch.tasks.len() > capacity {",
        )],
    ),
    (
        "push_checks_capacity_before_the_lock",
        &[
            (
                "push",
                PUSH,
                "LINE if self.inbox.with(|inbox| inbox.batch.tasks.len()) >= self.capacity { return Err((Refusal::Full, task)); }",
            ),
            ("push", PUSH_CHECK, "self.inbox.with(|inbox| match inbox.refusal(usize::MAX) {"),
        ],
    ),
    (
        "waiting_push_ignores_capacity",
        &[(
            "push_waiting",
            WAITING_CHECK,
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
        "waiting_push_adds_before_it_waits",
        &[(
            "push_waiting",
            "Some(Refusal::Full) => None,",
            "Some(Refusal::Full) => {
                 inbox.batch.tasks.extend(to_push.take().map(|(task, into_task)| into_task(task)));
                 None
             }",
        )],
    ),
    ("take_does_not_notify", &[("take_with", NOTIFY, "")]),
    (
        "take_notifies_only_above_capacity",
        &[("take_with", WAS_FULL, "if batch.tasks.len() > self.capacity {")],
    ),
    (
        "take_notifies_only_below_capacity",
        &[("take_with", WAS_FULL, "if batch.tasks.len() < self.capacity {")],
    ),
    (
        "take_notifies_before_it_takes",
        &[("take_with", TAKE, "LINE self.inbox.notify_all();"), ("take_with", NOTIFY, "")],
    ),
    (
        "take_checks_capacity_before_the_lock",
        &[
            (
                "take_with",
                TAKE,
                "LINE let full = self.inbox.with(|inbox| inbox.batch.tasks.len()) >= self.capacity;",
            ),
            ("take_with", WAS_FULL, "if full {"),
        ],
    ),
    // Internal tasks.
    (
        "internal_push_checks_capacity",
        &[("push_internal", "if inbox.closed {", "if inbox.refusal(self.capacity).is_some() {")],
    ),
    ("take_drops_internal_tasks", &[("take_with", SWAP, "LINE batch.internal.clear();")]),
    (
        "take_defers_internal_tasks",
        &[(
            "take_with",
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
                "take_with",
                TAKE,
                "LINE
                     self.take_batch(batch, take_more);
                     self.inbox.with(|inbox| std::mem::take(&mut inbox.quit))
                 }
                 fn take_batch(&self, batch: &mut Batch<T>, take_more: impl FnOnce(&mut Inbox<T>)) {",
            ),
            ("take_with", TAKE_QUIT, ""),
        ],
    ),
    (
        "quit_is_cleared_after_the_lock",
        &[
            (
                "take_with",
                TAKE,
                "LINE
                     let quit = self.take_batch(batch, take_more);
                     if quit {
                         self.inbox.with(|inbox| inbox.quit = false);
                     }
                     quit
                 }
                 fn take_batch(&self, batch: &mut Batch<T>, take_more: impl FnOnce(&mut Inbox<T>)) -> bool {",
            ),
            ("take_with", TAKE_QUIT, "inbox.quit"),
        ],
    ),
    ("quit_is_not_cleared", &[("take_with", TAKE_QUIT, "inbox.quit")]),
    // Closing.
    ("close_leaves_the_queue_open", &[("close", CLOSE, "")]),
    ("close_does_not_notify", &[("close", NOTIFY, "")]),
    (
        "close_notifies_before_it_closes",
        &[
            ("close", CLOSE, "inbox.closed = false;"),
            ("close", NOTIFY, "LINE self.inbox.with(|inbox| inbox.closed = true);"),
        ],
    ),
    ("close_returns_nothing", &[("close", CLOSE_TAKE, "Batch::default()")]),
    (
        "close_returns_no_internal_tasks",
        &[(
            "close",
            CLOSE_TAKE,
            "Batch { tasks: std::mem::take(&mut inbox.batch.tasks), internal: Vec::new() }",
        )],
    ),
    (
        "push_checks_closed_before_the_lock",
        &[
            (
                "push",
                PUSH,
                "LINE if self.inbox.with(|inbox| inbox.closed) { return Err((Refusal::Closed, task)); }",
            ),
            (
                "push",
                PUSH_CHECK,
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
        "waiting_push_waits_on_a_closed_queue",
        &[(
            "push_waiting",
            "Some(Refusal::Closed) => Some(Refusal::Closed),",
            "Some(Refusal::Closed) => None,",
        )],
    ),
    (
        "waiting_push_reports_closed_as_full",
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
    ("move_on_has_no_fence", &[("move_on", FENCE, "")]),
    ("set_mark_has_no_fence", &[("set_mark", FENCE, "")]),
    (
        "mark_is_read_before_the_move",
        &[
            ("move_on", MOVE, "let rings = passes(mark.load_relaxed(), from, to); LINE"),
            ("move_on", RINGS, "rings"),
        ],
    ),
    (
        "mark_is_set_after_the_recheck",
        &[("set_mark", SET, ""), ("set_mark", RECHECK, "let last = LINE; mark.store_relaxed(at); last")],
    ),
    ("move_is_relaxed", &[("move_on", MOVE, "position.store_relaxed(to);")]),
    ("passes_is_off_by_one", &[("passes", PASSES, "to.wrapping_sub(mark) < to.wrapping_sub(from)")]),
    ("every_move_rings", &[("passes", PASSES, "let _ = (mark, from, to); true")]),
    ("no_move_rings", &[("passes", PASSES, "let _ = (mark, from, to); false")]),
];

const FENCE: &str = "W::fence();";
const MOVE: &str = "position.store_release(to);";
const RINGS: &str = "passes(mark.load_relaxed(), from, to)";
const SET: &str = "mark.store_relaxed(at);";
const RECHECK: &str = "position.load_acquire()";
const PASSES: &str = "to.wrapping_sub(mark).wrapping_sub(1) < to.wrapping_sub(from)";

/// Bugs of the state of a spawned future.
const STATE_MUTATIONS: &[Mutation] = &[
    ("wake_loads_before_it_sets", &[("wake", WAKE, "self.0.load() & (WOKEN | COMPLETE) == 0 && LINE")]),
    ("wake_ignores_pending_ones", &[("wake", WAKE, "self.0.fetch_or(WOKEN) & COMPLETE == 0")]),
    ("wake_ignores_the_completion", &[("wake", WAKE, "self.0.fetch_or(WOKEN) & WOKEN == 0")]),
    ("wake_does_not_notify", &[("wake", WAKE, "LINE && false")]),
    ("deliver_does_nothing", &[("deliver", "self.0.fetch_and(!WOKEN);", "")]),
    ("abort_does_not_notify", &[("abort", ABORT, "LINE && false")]),
    ("abort_is_not_stored", &[("abort", ABORT, "self.0.fetch_or(WOKEN) & (WOKEN | COMPLETE) == 0")]),
    (
        "arrival_is_not_pending",
        &[(
            "new",
            "FutureState(W::new(if is_arriving { JOINED | WOKEN } else { JOINED }))",
            "FutureState(W::new(JOINED))",
        )],
    ),
    (
        "complete_loads_before_it_sets",
        &[("complete", COMPLETES, "let before = self.0.load(); self.0.fetch_or(COMPLETE);")],
    ),
    (
        "complete_keeps_every_result",
        &[("complete", COMPLETION, "Completion { is_unclaimed: false, has_joiner: before & WAITING != 0 }")],
    ),
    (
        "complete_forgets_the_joiner",
        &[("complete", COMPLETION, "Completion { is_unclaimed: before & JOINED == 0, has_joiner: false }")],
    ),
    (
        "publish_ignores_the_completion",
        &[("publish", "self.0.fetch_or(WAITING) & COMPLETE != 0", "LINE && false")],
    ),
    ("withdraw_only_loads", &[("withdraw", WITHDRAW, "before & COMPLETE != 0")]),
    (
        "withdraw_ignores_a_late_completion",
        &[("withdraw", WITHDRAW, "self.0.fetch_and(!WAITING); before & COMPLETE != 0")],
    ),
    (
        "release_keeps_the_waker_published",
        &[("release", RELEASE, "self.0.fetch_and(!JOINED) & COMPLETE != 0")],
    ),
    ("release_ignores_the_completion", &[("release", RELEASE, "LINE && false")]),
];

const WAKE: &str = "self.0.fetch_or(WOKEN) & (WOKEN | COMPLETE) == 0";
const ABORT: &str = "self.0.fetch_or(ABORTED | WOKEN) & (WOKEN | COMPLETE) == 0";
const COMPLETES: &str = "let before = self.0.fetch_or(COMPLETE);";
const COMPLETION: &str =
    "Completion { is_unclaimed: before & JOINED == 0, has_joiner: before & WAITING != 0 }";
const WITHDRAW: &str =
    "before & COMPLETE != 0 || (before & WAITING != 0 && self.0.fetch_and(!WAITING) & COMPLETE != 0)";
const RELEASE: &str = "self.0.fetch_and(!(JOINED | WAITING)) & COMPLETE != 0";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let mut names: Vec<&str> = Vec::new();
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    for (path, mutations) in [(QUEUE, MUTATIONS), (INDICES, INDEX_MUTATIONS), (STATE, STATE_MUTATIONS)] {
        println!("cargo::rerun-if-changed={path}");
        let source = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        for (name, edits) in mutations {
            let mutated = mutate(path, &source, name, edits);
            fs::write(Path::new(&out).join(format!("{name}.rs")), mutated).expect("OUT_DIR is writable");
            names.push(name);
        }
    }
    fs::write(Path::new(&out).join("names.rs"), format!("&{names:?}")).expect("OUT_DIR is writable");
}

fn mutate(path: &str, source: &str, name: &str, edits: &[Edit]) -> String {
    let mut replaced = vec![0; edits.len()];
    let mut mutated = String::new();
    let mut function = "";
    for line in source.lines() {
        let code = if line.trim().starts_with("//") { "" } else { line.trim() };
        function = declared_function(code).unwrap_or(function);
        match edits.iter().position(|(place, old, _)| (*place, *old) == (function, code)) {
            Some(edit) => {
                replaced[edit] += 1;
                mutated.push_str(&edits[edit].2.replace("LINE", code));
            }
            // `include!` does not accept inner documentation.
            None if line.starts_with("//!") => mutated.push_str(&line.replacen("//!", "//", 1)),
            None => mutated.push_str(line),
        }
        mutated.push('\n');
    }
    for ((place, line, _), replaced) in edits.iter().zip(replaced) {
        assert_eq!(replaced, 1, "mutation {name}: {path} must have exactly one line `{line}` in {place}");
    }
    mutated
}

/// The name of the function whose declaration starts on the line, if any.
fn declared_function(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let name = after.split(['(', '<']).next()?;
    (before.is_empty() || before.ends_with(' ')).then_some(name)
}
