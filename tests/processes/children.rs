//! Child processes: the reports of their end, detached children, and pipes.
//!
//! The tests count descriptors and children of the whole process, so each test runs in its own
//! process.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::rc::Rc;

use crate::support::alone::alone;
use crate::support::net::{open_descriptors, turn_until, until};
use crate::support::{Count, Recorder, turn};
use reveille::EventLoop;
use reveille::io::{Channel, Interest};
use reveille::process::Child;
use reveille::signal::{Signal, Signals};
use rustix::process::{Pid, Resource, Rlimit, WaitId, WaitIdOptions, getrlimit, setrlimit, waitid};

/// The end of a child: its exit code, the signal that killed it, or the kind of the error.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Code(i32),
    Killed(i32),
    Error(ErrorKind),
}

fn end(result: std::io::Result<ExitStatus>) -> End {
    match result {
        Ok(status) => status.code().map(End::Code).or(status.signal().map(End::Killed)).expect("an end"),
        Err(error) => End::Error(error.kind()),
    }
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// Returns a program that runs until its input is closed, and then exits with 0.
fn waiting() -> Command {
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    command
}

fn recorded(event_loop: &EventLoop, command: &mut Command) -> (Child, Recorder<End>) {
    let events = Recorder::new();
    let recording = events.clone();
    (Child::spawn(event_loop, command, move |_, result| recording.record(end(result))).unwrap(), events)
}

/// Returns whether no such process exists, not even as a zombie.
fn is_reaped(id: u32) -> bool {
    !Path::new(&format!("/proc/{id}")).exists()
}

fn is_zombie(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("a process");
    stat.rsplit_once(") ").expect("a name in parentheses").1.starts_with('Z')
}

/// Returns whether this process has no children at all.
fn has_no_children() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::All, options).is_err_and(|error| error == rustix::io::Errno::CHILD)
}

fn event_loop() -> EventLoop {
    EventLoop::builder().propagate_panics().build().unwrap()
}

#[test]
fn the_end_of_a_process_is_reported_once() {
    alone(|| {
        let event_loop = event_loop();
        let ends = [
            ("exit 0", End::Code(0)),
            ("exit 3", End::Code(3)),
            ("exit 255", End::Code(255)),
            ("kill -TERM $$", End::Killed(15)),
            ("kill -KILL $$", End::Killed(9)),
        ];
        for (script, expected) in ends {
            let (child, events) = recorded(&event_loop, &mut shell(script));
            assert!(child.is_running() && events.len() == 0);
            event_loop.run_once(None).unwrap();
            assert_eq!(events.take(), [expected], "{script}");
            assert!(!child.is_running() && is_reaped(child.id()));
            turn(&event_loop);
            assert_eq!(events.take(), []);
        }
    });
}

#[test]
fn the_status_equals_that_of_the_standard_library() {
    alone(|| {
        let event_loop = event_loop();
        for script in ["exit 7", "kill -INT $$", "ulimit -c 0; kill -QUIT $$", "kill -SEGV $$"] {
            let events = Recorder::new();
            let recording = events.clone();
            let watched = Child::spawn(&event_loop, &mut shell(script), move |_, result| {
                recording.record(result.unwrap());
            });
            turn_until(&event_loop, || events.len() > 0);
            // The core file, if any, depends on the settings of the system and is not compared.
            let [status] = events.take()[..] else { panic!("not reported once") };
            let reference = shell(script).status().unwrap();
            assert_eq!((status, status.core_dumped()), (reference, reference.core_dumped()), "{script}");
            drop(watched);
        }
    });
}

#[test]
fn a_process_that_ends_before_the_poll_is_reported() {
    alone(|| {
        let event_loop = event_loop();
        let (child, events) = recorded(&event_loop, &mut shell("exit 5"));
        until(|| is_zombie(child.id()));
        assert_eq!(events.take(), []);
        turn(&event_loop);
        assert_eq!(events.take(), [End::Code(5)]);
        assert!(has_no_children());
    });
}

#[test]
fn each_of_many_processes_reports_to_its_own_callback() {
    alone(|| {
        let event_loop = event_loop();
        let events = Recorder::new();
        for code in 0..40 {
            let recording = events.clone();
            Child::spawn(&event_loop, &mut shell(&format!("exit {code}")), move |_, result| {
                recording.record((code, end(result)));
            })
            .unwrap();
        }
        turn_until(&event_loop, || events.len() == 40);
        assert!(events.take().into_iter().all(|(code, end)| end == End::Code(code)));
        assert!(has_no_children());
    });
}

#[test]
fn a_dropped_child_keeps_running_and_leaves_no_zombie() {
    alone(|| {
        let event_loop = event_loop();
        let (mut child, events) = recorded(&event_loop, &mut waiting());
        let (id, input) = (child.id(), child.take_stdin());
        drop(child);
        turn(&event_loop);
        assert!(events.len() == 0 && !is_zombie(id));
        drop(input);
        turn_until(&event_loop, || events.len() > 0);
        assert_eq!(events.take(), [End::Code(0)]);
        assert!(has_no_children());
    });
}

#[test]
fn a_child_killed_on_drop_reports_its_end() {
    alone(|| {
        let event_loop = event_loop();
        let (child, events) = recorded(&event_loop, &mut waiting());
        let mut child = child.kill_on_drop();
        let _input = child.take_stdin();
        drop(child);
        turn_until(&event_loop, || events.len() > 0);
        assert_eq!(events.take(), [End::Killed(9)]);
        assert!(has_no_children());
    });
}

#[test]
fn a_signal_reaches_a_running_process() {
    alone(|| {
        let event_loop = event_loop();
        let mut command = shell("trap 'exit 6' USR1; echo ready; while :; do read line; done");
        let (mut child, events) = recorded(&event_loop, command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let output = child.take_stdout().unwrap();
        until(|| (&output).read(&mut [0; 16]).is_ok());
        child.kill(Signal::USR1).unwrap();
        // The shell runs its traps between two commands.
        drop(child.take_stdin());
        turn_until(&event_loop, || events.len() > 0);
        assert_eq!(events.take(), [End::Code(6)]);
        assert_eq!(child.kill(Signal::KILL).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_process_reaped_elsewhere_is_an_error_and_not_killed() {
    alone(|| {
        let event_loop = event_loop();
        let (child, events) = recorded(&event_loop, &mut shell("exit 0"));
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).unwrap();
        // The loop has not polled yet, so the error comes from the kernel.
        assert!(child.is_running());
        assert_eq!(child.kill(Signal::KILL).unwrap_err().kind(), ErrorKind::NotFound);
        turn_until(&event_loop, || events.len() > 0);
        assert_eq!(events.take(), [End::Error(ErrorKind::NotFound)]);
    });
}

#[test]
fn a_dropped_loop_reports_and_kills_its_children() {
    alone(|| {
        let event_loop = event_loop();
        let (ended, ended_events) = recorded(&event_loop, &mut shell("exit 4"));
        let (mut running, running_events) = recorded(&event_loop, &mut waiting());
        let (killed, killed_events) = recorded(&event_loop, &mut waiting());
        let killed = killed.kill_on_drop();
        until(|| is_zombie(ended.id()));
        drop(event_loop);
        assert_eq!(ended_events.take(), [End::Code(4)]);
        assert_eq!(running_events.take(), [End::Error(ErrorKind::Other)]);
        assert_eq!(killed_events.take(), [End::Killed(9)]);
        assert!(is_reaped(ended.id()) && is_reaped(killed.id()) && !is_reaped(running.id()));
        assert!(!running.is_running(), "a child of a dropped loop counts as running");
        assert_eq!(running.kill(Signal::KILL).unwrap_err().kind(), ErrorKind::NotFound);
        // The process runs until its input ends, and then this test must wait for it.
        drop(running.take_stdin());
        let pid = Pid::from_raw(running.id() as i32).unwrap();
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).unwrap();
        assert!(has_no_children());
    });
}

#[test]
fn pipes_of_a_process_work_as_channels() {
    alone(|| {
        let event_loop = event_loop();
        let mut command = shell("cat; echo done >&2");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let (mut child, events) = recorded(&event_loop, &mut command);
        let stdin = child.take_stdin().unwrap();
        let [stdout, stderr] = [child.take_stdout(), child.take_stderr()].map(Option::unwrap);
        assert!(
            child.take_stdin().is_none() && child.take_stdout().is_none() && child.take_stderr().is_none()
        );
        // The pipe is non-blocking. A blocking read would hang here.
        assert_eq!((&stdout).read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        // More bytes than the pipes hold, so that writing and reading must alternate.
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        let (bytes, at) = (sent.clone(), Cell::new(0));
        let writer = Channel::new(&event_loop, stdin, Interest::WRITABLE, move |event| {
            match event.source().write(&bytes[at.get()..]) {
                Ok(n) => at.set(at.get() + n),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            if at.get() == bytes.len() {
                event.close();
            }
        });
        let ends = Count::default();
        let reader = |source: File| {
            let received = Rc::new(RefCell::new(Vec::new()));
            let (r, ended) = (Rc::clone(&received), ends.clone());
            let channel = Channel::new(&event_loop, source, Interest::READABLE, move |event| {
                let mut bytes = [0; 4096];
                match event.source().read(&mut bytes) {
                    Ok(0) => {
                        ended.add();
                        event.close();
                    }
                    Ok(n) => r.borrow_mut().extend_from_slice(&bytes[..n]),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
            });
            (channel.unwrap(), received)
        };
        let (output, errors) = (reader(stdout), reader(stderr));
        turn_until(&event_loop, || ends.get() == 2 && events.len() == 1);
        assert!(*output.1.borrow() == sent, "the output differs; it has {} bytes", output.1.borrow().len());
        assert_eq!(*errors.1.borrow(), b"done\n");
        assert_eq!(events.take(), [End::Code(0)]);
        drop(writer);
    });
}

#[test]
fn a_dropped_child_closes_its_remaining_pipes() {
    alone(|| {
        let event_loop = event_loop();
        let (child, events) = recorded(&event_loop, &mut waiting());
        turn(&event_loop);
        assert_eq!(events.len(), 0);
        drop(child);
        turn_until(&event_loop, || events.len() > 0);
        assert_eq!(events.take(), [End::Code(0)]);
    });
}

#[test]
fn a_panic_in_a_callback_affects_only_that_callback() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let (first, events) = recorded(&event_loop, &mut shell("exit 1"));
        Child::spawn(&event_loop, &mut shell("exit 2"), |_, _| panic!("intended by the test")).unwrap();
        turn_until(&event_loop, || events.len() > 0 && event_loop.handle().counters().panics == 1);
        assert_eq!(events.take(), [End::Code(1)]);
        turn(&event_loop);
        assert!(has_no_children() && !first.is_running());
        assert_eq!(event_loop.handle().counters().panics, 1);
    });
}

#[test]
fn a_callback_can_start_the_next_process() {
    fn start(event_loop: &EventLoop, left: i32, done: Count) {
        Child::spawn(event_loop, &mut shell("exit 0"), move |event_loop, result| {
            assert!(result.unwrap().success());
            match left {
                0 => done.add(),
                left => start(event_loop, left - 1, done),
            }
        })
        .unwrap();
    }
    alone(|| {
        let (event_loop, done) = (event_loop(), Count::default());
        start(&event_loop, 5, done.clone());
        turn_until(&event_loop, || done.get() == 1);
    });
}

#[test]
fn sigchld_is_neither_needed_nor_consumed() {
    alone(|| {
        let event_loop = event_loop();
        let signals = Count::default();
        let counting = signals.clone();
        let _signals = Signals::new(&event_loop, [Signal::CHLD], move |_, _| counting.add()).unwrap();
        let (_child, events) = recorded(&event_loop, &mut shell("exit 3"));
        turn_until(&event_loop, || events.len() == 1 && signals.get() == 1);
        assert_eq!(events.take(), [End::Code(3)]);
    });
}

#[test]
fn a_missing_program_is_an_error_without_leaks() {
    alone(|| {
        let (event_loop, dropped) = (event_loop(), Count::default());
        let before = open_descriptors();
        for n in 1..=5 {
            let token = dropped.drop_token();
            let mut command = Command::new("/no/such/program");
            command.stdin(Stdio::piped());
            let error = Child::spawn(&event_loop, &mut command, move |_, _| token.keep()).unwrap_err();
            assert_eq!((error.kind(), dropped.get()), (ErrorKind::NotFound, n));
        }
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn a_process_that_cannot_be_watched_is_killed_and_leaves_no_zombie() {
    alone(|| {
        let event_loop = event_loop();
        let mut command = Command::new("sleep");
        command.arg("100");
        // Not the test's own streams, which its parent reads until they end.
        let null = || Stdio::from(File::options().write(true).open("/dev/null").unwrap());
        command.stdout(null()).stderr(null());
        let maximum = getrlimit(Resource::Nofile).maximum;
        // Exactly the descriptors that are open. Starting a process whose streams are already open
        // needs no further descriptor.
        let next = File::open("/dev/null").unwrap().as_raw_fd();
        let limit = |current| setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
        limit(Some(next as u64));
        let error = Child::spawn(&event_loop, &mut command, |_, _| panic!("no event expected")).unwrap_err();
        limit(maximum);
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::MFILE.raw_os_error()));
        assert!(has_no_children());
        turn(&event_loop);
    });
}

#[test]
fn children_leak_and_inherit_no_descriptor() {
    alone(|| {
        let listed = |command: &mut Command| {
            let output = command.arg("/proc/self/fd").output().unwrap();
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let expected = listed(&mut Command::new("ls"));
        let before = open_descriptors();
        let event_loop = event_loop();
        let with_loop = open_descriptors();
        for _ in 0..20 {
            let mut command = waiting();
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let (child, events) = recorded(&event_loop, &mut command);
            assert_eq!(open_descriptors(), with_loop + 4);
            assert_eq!(listed(&mut Command::new("ls")), expected);
            drop(child);
            turn_until(&event_loop, || events.len() > 0);
            assert_eq!(open_descriptors(), with_loop);
        }
        let (child, _) = recorded(&event_loop, &mut waiting());
        drop((child.kill_on_drop(), event_loop));
        assert_eq!(open_descriptors(), before);
    });
}
