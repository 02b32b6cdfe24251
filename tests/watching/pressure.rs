//! Pressure triggers and the memory of groups. A test that the kernel or the user's permissions do
//! not allow is skipped with a message.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crate::support::alone::{alone, alone_after, skipped};
use crate::support::folder::Folder;
use crate::support::net::{open_descriptors, turn_until};
use crate::support::{Count, OnDrop, Recorder, turn, with_catching_loop, with_loop};
use reveille::EventLoop;
use reveille::pressure::{MemoryCounts, MemoryEvents, MemoryThreshold, PressureResource, PressureTrigger};
use reveille::process::Child;
use reveille::signal::Signal;

/// Whether the kernel provides pressure stall information and allows this user to register
/// triggers.
fn has_pressure() -> bool {
    let has = File::options().read(true).write(true).open("/proc/pressure/cpu").is_ok();
    if !has {
        skipped("/proc/pressure/cpu cannot be opened for reading and writing");
    }
    has
}

/// Returns a trigger that fires soon when tasks wait for a processor.
fn short_trigger() -> PressureTrigger {
    PressureTrigger::some(PressureResource::Cpu).stall(Duration::from_millis(20))
}

/// Calls `call` while more threads are runnable than there are processors.
fn under_load(call: impl FnOnce()) {
    let done = AtomicBool::new(false);
    let threads = 2 * thread::available_parallelism().unwrap().get();
    thread::scope(|scope| {
        let _done = OnDrop::new(|| done.store(true, SeqCst));
        for _ in 0..threads {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    std::hint::spin_loop();
                }
            });
        }
        call();
    });
}

#[test]
fn pressure_is_reported_repeatedly_while_it_lasts() {
    if !has_pressure() {
        return;
    }
    with_loop(|event_loop| {
        let (received, dropped_calls) = (Count::default(), Count::default());
        let (t, d) = (received.clone(), dropped_calls.clone());
        let pressure = short_trigger().watch(event_loop, move |_| t.add()).unwrap();
        let dropped = short_trigger().watch(event_loop, move |_| d.add()).unwrap();
        assert!(pressure.is_open());
        drop(dropped);
        under_load(|| {
            event_loop.run_once(None).unwrap();
            assert_eq!(received.get(), 1);
            // The event has been consumed. These turns take less than one window, in which at most
            // one more event occurs.
            (0..10).for_each(|_| turn(event_loop));
            assert!(received.get() <= 2, "{} events", received.get());
            turn_until(event_loop, || received.get() >= 2);
        });
        assert_eq!(dropped_calls.get(), 0);
    });
}

#[test]
fn a_panic_in_a_callback_ends_only_its_trigger() {
    if !has_pressure() {
        return;
    }
    with_catching_loop(|event_loop| {
        let received = Count::default();
        let t = received.clone();
        let panicking = short_trigger().watch(event_loop, |_| panic!("intended by the test")).unwrap();
        let other = short_trigger().watch(event_loop, move |_| t.add()).unwrap();
        under_load(|| turn_until(event_loop, || received.get() > 0 && !panicking.is_open()));
        assert!(other.is_open());
        assert_eq!(event_loop.handle().counters().panics, 1);
    });
}

#[test]
fn out_of_range_triggers_are_refused_with_the_reason() {
    with_loop(|event_loop| {
        let some = || PressureTrigger::some(PressureResource::Memory);
        let refused = [
            (some().window(Duration::from_millis(499)), "from 500 ms"),
            (some().window(Duration::from_secs(11)), "to 10 s"),
            (some().stall(Duration::ZERO), "more than zero"),
            (some().stall(Duration::from_nanos(999)), "more than zero"),
            (some().stall(Duration::from_millis(2001)), "at most the window"),
        ];
        for (trigger, reason) in refused {
            let error = trigger.watch(event_loop, |_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(reason), "{error}");
        }
        let error = some().in_group("/no/such/group").watch(event_loop, |_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("/no/such/group/memory.pressure"), "{error}");
    });
}

/// Without CAP_SYS_RESOURCE, a window that the kernel reserves for privileged processes is refused.
#[test]
fn a_privileged_window_is_refused_without_the_capability() {
    if !has_pressure() {
        return;
    }
    let script =
        r#"exec setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource --ambient-caps=-all "$@""#;
    alone_after(script, || {
        let event_loop = EventLoop::new().unwrap();
        let trigger = PressureTrigger::some(PressureResource::Memory);
        let error = trigger.clone().window(Duration::from_secs(3)).watch(&event_loop, |_| ()).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::PermissionDenied), "{error:?}");
        assert!(error.to_string().contains("CAP_SYS_RESOURCE"), "{error}");
        if error.kind() == ErrorKind::InvalidInput {
            trigger.window(Duration::from_secs(4)).watch(&event_loop, |_| ()).unwrap().close();
        }
    });
}

#[test]
fn all_resources_can_be_watched_and_leak_no_descriptor() {
    if !has_pressure() {
        return;
    }
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let files = || {
            let links = fs::read_dir("/proc/self/fd").unwrap();
            links
                .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
                .filter(|link| link.starts_with("/proc/pressure"))
                .count()
        };
        let before = files();
        let resources = [PressureResource::Cpu, PressureResource::Memory, PressureResource::Io];
        let all = resources.map(|resource| {
            [PressureTrigger::some(resource), PressureTrigger::full(resource)]
                .map(|trigger| trigger.watch(&event_loop, |_| ()).unwrap())
        });
        assert_eq!(files(), before + 6);
        drop(all);
        assert_eq!(files(), before);
    });
}

// --- Groups

/// A memory group of cgroup v1, removed when this is dropped.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Option<Group> {
        let root = Path::new("/sys/fs/cgroup/memory");
        let path = root.join(format!("reveille-test-{}-{name}", process::id()));
        let made = match root.join("cgroup.event_control").exists() {
            true => fs::create_dir(&path),
            false => Err(ErrorKind::Unsupported.into()),
        };
        if let Err(error) = made {
            skipped(format_args!("a memory group of cgroup v1 cannot be created: {error}"));
            return None;
        }
        Some(Group(path))
    }

    /// Returns a program in the group that fills 16 MiB and then exits.
    fn filler(&self) -> Command {
        let mut command = Command::new("sh");
        let script = r#"echo $$ > "$1/cgroup.procs"; exec dd if=/dev/zero of=/dev/null bs=16M count=1"#;
        command.args(["-ec", script, "sh"]).arg(&self.0).stderr(Stdio::null());
        command
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn an_allocation_past_the_threshold_is_reported() {
    let Some(group) = Group::new("threshold") else { return };
    with_loop(move |event_loop| {
        let crossings = Recorder::new();
        let c = crossings.clone();
        let threshold = MemoryThreshold::new(event_loop, &group.0, 4 << 20, move |_, n| c.record(n)).unwrap();
        // A threshold that usage does not reach is not crossed.
        let far = MemoryThreshold::new(event_loop, &group.0, 1 << 40, |_, _| {
            panic!("the threshold is not crossed")
        })
        .unwrap();
        turn(event_loop);
        assert_eq!(crossings.len(), 0);
        let ended = Count::default();
        let e = ended.clone();
        Child::spawn(event_loop, &mut group.filler(), move |_, status| {
            assert!(status.unwrap().success());
            e.add();
        })
        .unwrap();
        turn_until(event_loop, || ended.get() == 1 && crossings.len() > 0);
        assert!(crossings.take().into_iter().all(|n| n > 0));
        assert!(threshold.is_open() && far.is_open());
        drop(far);
    });
}

#[test]
fn a_dropped_threshold_reports_nothing_and_leaks_no_descriptor() {
    // This check is made outside the separate process, where the message of a skip would be lost.
    // The group is created again inside it.
    if Group::new("possible").is_none() {
        return;
    }
    alone(|| {
        let group = Group::new("dropped").unwrap();
        let event_loop = EventLoop::builder().propagate_panics().build().unwrap();
        let before = open_descriptors();
        let files = || fs::read_dir("/proc/self/fd").unwrap().count();
        let files_before = files();
        let received = |_: &EventLoop, _| panic!("the threshold is dropped");
        let threshold = MemoryThreshold::new(&event_loop, &group.0, 4 << 20, received).unwrap();
        assert_eq!((open_descriptors(), files()), (before + 1, files_before + 1));
        drop(threshold);
        assert_eq!((open_descriptors(), files()), (before, files_before));
        assert!(group.filler().status().unwrap().success());
        turn(&event_loop);
    });
}

#[test]
fn a_panic_in_a_threshold_callback_ends_the_threshold() {
    let Some(group) = Group::new("panic") else { return };
    with_catching_loop(move |event_loop| {
        let threshold =
            MemoryThreshold::new(event_loop, &group.0, 4 << 20, |_, _| panic!("intended by the test"))
                .unwrap();
        assert!(group.filler().status().unwrap().success());
        turn_until(event_loop, || !threshold.is_open());
        assert_eq!(event_loop.handle().counters().panics, 1);
    });
}

#[test]
fn an_error_names_a_directory_that_is_no_group() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let error = MemoryThreshold::new(event_loop, folder.path(), 4 << 20, |_, _| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(folder.path().to_str().unwrap()), "{error}");
        for error in [
            MemoryEvents::new(event_loop, folder.path(), |_, _| ()).unwrap_err(),
            MemoryCounts::of(folder.path()).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("no group of cgroup v2"), "{error}");
        }
    });
}

/// Uses a regular file in place of the kernel's `memory.events`. A change of either is reported in
/// the same way.
#[test]
fn memory_events_are_reported_when_a_count_changes() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let path = folder.join("memory.events");
        fs::write(&path, "low 0\nhigh 3\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n").unwrap();
        let received = Recorder::new();
        let t = received.clone();
        let events = MemoryEvents::new(event_loop, folder.path(), move |_, counts| t.record(counts)).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let write = |text: &str| {
            file.write_all_at(text.as_bytes(), 0).unwrap();
            (0..3).for_each(|_| turn(event_loop));
        };
        // A notification without a changed count is not reported.
        write("low 0\nhigh 3\n");
        assert_eq!(received.take(), []);
        write("low 0\nhigh 4\nmax 1\noom 2\noom_kill 1\n");
        let [counts] = received.take()[..] else { panic!("expected one report") };
        assert_eq!((counts.low, counts.high, counts.max, counts.oom, counts.oom_kill), (0, 4, 1, 2, 1));
        assert_eq!(MemoryCounts::of(folder.path()).unwrap(), counts);
        write("low 1");
        assert_eq!(received.take().len(), 1);
        drop(file);
        fs::remove_file(&path).unwrap();
        (0..3).for_each(|_| turn(event_loop));
        assert!(!events.is_open() && received.len() == 0);
    });
}

#[test]
fn the_example_prints_its_watches_and_stops_on_sigint() {
    let tests = env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples/pressure");
    assert!(program.exists(), "build it with `cargo build --examples`");
    with_loop(move |event_loop| {
        let wrong = Command::new(&program).args(["a", "b"]).output().unwrap();
        assert_eq!(wrong.status.code(), Some(2));
        let none = Command::new(&program).arg("/no/such/group").output().unwrap();
        assert_eq!(none.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&none.stderr).contains("/no/such/group is no memory group"));
        let mut command = Command::new(&program);
        let ended = Recorder::new();
        let e = ended.clone();
        let mut child = Child::spawn(event_loop, command.stdout(Stdio::piped()), move |_, status| {
            e.record(status.unwrap().code());
        })
        .unwrap()
        .kill_on_drop();
        let output = child.take_stdout().unwrap();
        rustix::io::ioctl_fionbio(&output, false).unwrap();
        let lines = BufReader::new(output).lines().map(Result::unwrap);
        let printed: Vec<String> = lines.take_while(|line| line != "end with Ctrl-C").collect();
        for resource in ["cpu: ", "memory: ", "io: "] {
            assert!(printed.iter().any(|line| line.starts_with(resource)), "{printed:?}");
        }
        child.kill(Signal::INT).unwrap();
        turn_until(event_loop, || ended.len() == 1);
        assert_eq!(ended.take(), [Some(0)]);
    });
}
