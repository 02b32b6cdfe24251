//! All examples, seen from outside: none leaves a descriptor open when its work is done, no program
//! that it starts finds one that was not meant for it, and none minds if nobody reads what it
//! prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{self, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crate::support::alone::skipped;
use crate::support::net::{self, connect, read_to_end, until};
use crate::support::{LIMIT, example, with_watchdog};
use nix::errno::Errno;
use nix::libc::{O_CLOEXEC, PTRACE_EVENT_EXEC, PTRACE_EVENT_EXIT};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::pipe::PipeFlags;

// --- The examples
// ---------------------------------------------------------------------------------

struct Example {
    name: &'static str,
    arguments: &'static [&'static str],
    conduct: Conduct,
    unread: Unread,
    /// What each program that it starts finds at its standard input, as far as that is the same
    /// each time. It finds the example's own two others, and nothing else.
    starts: &'static [&'static str],
}

enum Conduct {
    /// Comes to its end by itself.
    Ends,
    /// Has come up with the line that begins with `when`, and ends with a signal. `visit` gets the
    /// addresses that it has said it is on, and leaves nothing behind.
    Serves { when: &'static str, visit: fn(&[SocketAddr]) },
}

/// What becomes of it when nobody reads what it prints.
#[derive(PartialEq)]
enum Unread {
    GoesOn,
    /// It ends with a status that says so.
    Fails,
}

use Conduct::{Ends, Serves};
use Unread::{Fails, GoesOn};

/// All of them: a new one gets its row here.
const EXAMPLES: &[Example] = &[
    Example { name: "doorbell", arguments: &[], conduct: Ends, unread: Fails, starts: &["socket:"] },
    Example {
        name: "echo",
        arguments: &["--listen", "127.0.0.1:0", "--threads", "2"],
        conduct: Serves { when: "try: ", visit: |on| net::assert_echoes(&mut connect(on[0])) },
        unread: GoesOn,
        starts: &[],
    },
    Example {
        name: "eventfd",
        arguments: &["--write-every", "1ms", "--read-every", "1ms", "1", "2", "3"],
        conduct: Ends,
        unread: Fails,
        starts: &["anon_inode:[eventfd]"],
    },
    Example {
        name: "file_server",
        arguments: &["--port", "0", "/etc"],
        conduct: Serves { when: "try: ", visit: visit_file_server },
        unread: GoesOn,
        starts: &[],
    },
    Example {
        name: "in_mio",
        arguments: &["127.0.0.1:0"],
        conduct: Serves { when: "UDP on ", visit: visit_in_mio },
        unread: GoesOn,
        starts: &[],
    },
    Example {
        name: "in_tokio",
        arguments: &["127.0.0.1:0"],
        conduct: Serves { when: "echoing on ", visit: |on| net::assert_echoes(&mut connect(on[0])) },
        unread: GoesOn,
        starts: &[],
    },
    Example { name: "kvm_doorbell", arguments: &[], conduct: Ends, unread: Fails, starts: &[] },
    Example { name: "own_ring", arguments: &["/etc/passwd"], conduct: Ends, unread: Fails, starts: &[] },
    Example {
        name: "pressure",
        arguments: &[],
        conduct: Serves { when: "end with ", visit: |_| () },
        unread: Fails,
        starts: &[],
    },
    Example {
        name: "simple",
        arguments: &["127.0.0.1:0"],
        conduct: Serves { when: "time on ", visit: visit_services },
        unread: GoesOn,
        starts: &[],
    },
    Example {
        name: "udp_echo",
        arguments: &["127.0.0.1:0"],
        conduct: Serves { when: "receiving on ", visit: visit_udp_echo },
        unread: GoesOn,
        starts: &[],
    },
    Example {
        name: "uring_cat",
        arguments: &["/etc/passwd", "-", "/etc/group"],
        conduct: Ends,
        unread: Fails,
        starts: &[],
    },
];

fn visit_file_server(on: &[SocketAddr]) {
    let passwd = fs::read("/etc/passwd").unwrap();
    let mut client = connect(on[0]);
    client.write_all(b"GET passwd\n").unwrap();
    let answer = [format!("OK {}\n", passwd.len()).as_bytes(), &passwd].concat();
    assert_eq!(net::read_exact(&mut client, answer.len()), answer);
}

fn visit_services(on: &[SocketAddr]) {
    let [discard, daytime, chargen, time] = on else { panic!("not four services: {on:?}") };
    connect(*discard).write_all(b"nothing").unwrap();
    assert!(read_to_end(&mut connect(*daytime)).ends_with(b"UTC\r\n"));
    assert_eq!(net::read_exact(&mut connect(*chargen), 74)[72..], *b"\r\n");
    assert_eq!(read_to_end(&mut connect(*time)).len(), 4);
}

fn visit_in_mio(on: &[SocketAddr]) {
    let [stream, datagrams] = on else { panic!("not two services: {on:?}") };
    net::assert_echoes(&mut connect(*stream));
    visit_udp_echo(&[*datagrams]);
}

fn visit_udp_echo(on: &[SocketAddr]) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(net::LIMIT)).unwrap();
    socket.send_to(b"who is there?", on[0]).unwrap();
    assert_eq!(socket.recv_from(&mut [0; 64]).unwrap(), (13, on[0]));
}

/// The addresses that a program says it is on, up to the line that begins with `last`.
fn addresses(output: impl BufRead, last: &str) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for line in output.lines() {
        let line = line.expect("a line");
        addresses.extend(line.split_once(" on ").and_then(|(_, address)| address.parse::<SocketAddr>().ok()));
        if line.starts_with(last) {
            return addresses;
        }
    }
    panic!("it has ended, and has not said `{last}`");
}

// --- A program and what it starts, traced
// ---------------------------------------------------------

/// The open descriptors of a process, and what each is of.
type Descriptors = BTreeMap<u32, String>;

fn descriptors(process: Pid) -> Descriptors {
    // One that has been killed has none.
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else { return Descriptors::new() };
    let of = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, fs::read_link(entry.path()).ok()?.to_str()?.to_owned()))
    };
    entries.filter_map(|entry| of(entry.ok()?)).collect()
}

/// Those that a program would find that is started now.
fn inheritable(process: Pid) -> Descriptors {
    let stays_open = |number: u32| {
        let info = fs::read_to_string(format!("/proc/{process}/fdinfo/{number}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.is_some_and(|flags| i32::from_str_radix(flags.trim(), 8).expect("octal") & O_CLOEXEC == 0)
    };
    descriptors(process).into_iter().filter(|(number, _)| stays_open(*number)).collect()
}

/// What the tracer has seen.
#[derive(Default)]
struct Seen {
    /// How the first process has ended.
    status: Option<WaitStatus>,
    /// What each program found when it was started, the example first.
    found: Vec<Descriptors>,
    /// What each process had open when it was about to end.
    left: Vec<Descriptors>,
    /// What another program would have found at any time.
    inheritable: Descriptors,
}

/// It is stopped at each system call, when it has become another program, and when it is about to
/// end, and then its table of descriptors can be looked at.
struct Traced {
    id: Pid,
    output: BufReader<ChildStdout>,
    tracer: Option<JoinHandle<Seen>>,
}

impl Traced {
    /// `None` where tracing is not allowed.
    fn start(example: &Example) -> Option<Traced> {
        // A shell that says that it is there and waits for the end of its input, so that it is
        // traced by the time that it becomes the example.
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo; read -r _; exec \"$@\" </dev/null", "sh"])
            .arg(example::program(example.name));
        command.args(example.arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let (introduce, introduced) = mpsc::channel();
        // A tracer is a thread, and hears only of what it has started or traced itself.
        let tracer = thread::spawn(move || trace(command, &introduce));
        let Ok((id, output)) = introduced.recv() else {
            tracer.join().expect("a tracer that may not trace");
            return None;
        };
        let output = BufReader::new(output);
        Some(Traced { id, output, tracer: Some(tracer) })
    }

    /// Waits until it and all that it has started have ended.
    fn end(mut self) -> Seen {
        self.tracer.take().expect("not ended before").join().expect("a tracer that ends")
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if let Some(tracer) = self.tracer.take() {
            let _ = kill(self.id, Signal::SIGKILL);
            let _ = tracer.join();
        }
    }
}

fn trace(mut command: Command, introduce: &mpsc::Sender<(Pid, ChildStdout)>) -> Seen {
    let mut seen = Seen::default();
    let mut shell = command.spawn().expect("a shell");
    let mut output = shell.stdout.take().expect("a pipe");
    output.read_exact(&mut [0; 1]).expect("a shell that speaks");
    let first = Pid::from_raw(shell.id().try_into().expect("a process id"));
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEEXIT
        | Options::PTRACE_O_EXITKILL;
    match ptrace::seize(first, options) {
        Ok(()) => {}
        Err(Errno::EPERM | Errno::ENOSYS) => {
            shell.kill().and_then(|()| shell.wait()).expect("a shell that is killed");
            return seen;
        }
        Err(error) => panic!("cannot trace {first}: {error}"),
    }
    introduce.send((first, output)).expect("somebody waits for it");
    drop(shell.stdin.take());
    loop {
        let (task, signal) = match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
            Ok(WaitStatus::PtraceEvent(task, _, event)) => {
                match event {
                    PTRACE_EVENT_EXEC => seen.found.push(descriptors(task)),
                    PTRACE_EVENT_EXIT if is_process(task) => seen.left.push(descriptors(task)),
                    _ => {}
                }
                (task, None)
            }
            Ok(WaitStatus::PtraceSyscall(task)) => (task, None),
            Ok(WaitStatus::Stopped(task, signal)) => (task, Some(signal)),
            Ok(status) if status.pid() == Some(first) => {
                seen.status = Some(status);
                continue;
            }
            Ok(_) | Err(Errno::EINTR) => continue,
            // All have ended.
            Err(Errno::ECHILD) => return seen,
            Err(error) => panic!("cannot wait: {error}"),
        };
        // Not while it is the shell still.
        if !seen.found.is_empty() {
            seen.inheritable.append(&mut inheritable(task));
        }
        // One that has been killed meanwhile does not go on.
        let _ = ptrace::syscall(task, signal);
    }
}

/// Whether it is the first thread of its process, which lasts as long as that.
fn is_process(task: Pid) -> bool {
    status_of(task, "Tgid:") == task.to_string()
}

/// What the kernel says of a task under `name`.
fn status_of(task: Pid, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{task}/status")).expect("a task that is there");
    status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of that name").trim().to_owned()
}

// --- The tests
// ------------------------------------------------------------------------------------

#[test]
fn every_example_has_a_row() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let entries = fs::read_dir(folder).expect("the examples").map(|entry| entry.expect("an entry").path());
    // As Cargo finds them.
    let there: BTreeSet<String> = entries
        .filter(|path| path.extension().is_some_and(|rs| rs == "rs") || path.join("main.rs").exists())
        .map(|path| path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned())
        .collect();
    let rows: BTreeSet<String> = EXAMPLES.iter().map(|example| example.name.to_owned()).collect();
    assert_eq!(rows, there);
}

#[test]
fn every_example_explains_itself_and_refuses_other_arguments() {
    with_watchdog(LIMIT, || {
        for Example { name, .. } in EXAMPLES {
            let start = format!("usage: {name}");
            let help = example::outcome_of(name, &["--help"]);
            let text = String::from_utf8_lossy(&help.stdout);
            assert!(help.status.success() && text.starts_with(&start), "{name}: {}: {text}", help.status);
            assert!(help.stderr.is_empty(), "{name}");
            let wrong: [&[&str]; 3] =
                [&["--no-such-option"], &["x", "y", "z", "-"], &["not an address", "x"]];
            for arguments in wrong {
                // These take any number of files, or a directory.
                if *name == "uring_cat" && arguments[0] != "--no-such-option" {
                    continue;
                }
                let refused = example::outcome_of(name, arguments);
                let text = String::from_utf8_lossy(&refused.stderr);
                assert_eq!(refused.status.code(), Some(2), "{name} {arguments:?}: {text}");
                assert!(text.contains(&start), "{name} {arguments:?}: {text}");
                assert!(refused.stdout.is_empty(), "{name} {arguments:?}");
            }
        }
    });
}

#[test]
fn no_example_leaves_a_descriptor_open_or_hands_one_on() {
    const VISITS: usize = 10;
    for example in EXAMPLES {
        with_watchdog(LIMIT, || {
            let name = example.name;
            let Some(mut traced) = Traced::start(example) else {
                return skipped("ptrace is not allowed here");
            };
            if let Serves { when, visit } = example.conduct {
                let on = addresses(&mut traced.output, when);
                let before = descriptors(traced.id);
                assert!(before.len() > 3, "{name} has come up with no loop: {before:?}");
                (0..VISITS).for_each(|_| visit(&on));
                // Its peers have seen the end before it closes.
                until(|| descriptors(traced.id).len() <= before.len());
                assert_eq!(descriptors(traced.id), before, "{name} after its visitors");
                kill(traced.id, Signal::SIGTERM).expect("a process that is there");
            }
            let id = traced.id;
            let seen = traced.end();
            assert_eq!(seen.status, Some(WaitStatus::Exited(id, 0)), "{name}");

            // Its three standard ones, and what this process was itself started with.
            let (given, started) = seen.found.split_first().expect("the example itself");
            assert!((0..=2).all(|standard| given.contains_key(&standard)), "{given:?}");
            assert_eq!(seen.left.len(), seen.found.len(), "{name} has started what has not ended");
            for left in &seen.left {
                assert!(left.keys().eq(given.keys()), "{name} ends with {left:?}, and began with {given:?}");
            }
            let inheritable = &seen.inheritable;
            assert!(inheritable.keys().eq(given.keys()), "{name} has {inheritable:?} not closed on exec");
            assert_eq!(started.len(), example.starts.len(), "how many programs {name} has started");
            for (found, input) in started.iter().zip(example.starts) {
                assert!(found[&0].starts_with(input), "{name} has started a program with {found:?}");
                let others = |all: &Descriptors| all.clone().split_off(&1);
                assert_eq!(others(found), others(given), "what a program found that {name} has started");
            }
        });
    }
}

fn start(example: &Example, output: impl Into<Stdio>) -> (process::Child, Pid) {
    let mut command = Command::new(example::program(example.name));
    command.args(example.arguments).stdin(Stdio::null()).stdout(output).stderr(Stdio::piped());
    let process = command.spawn().expect("the example");
    let id = Pid::from_raw(process.id().try_into().expect("a process id"));
    (process, id)
}

/// Whether a loop of the process watches a pipe, which is how it hears of signals. They have their
/// handlers by then.
fn listens_to_signals(process: Pid) -> bool {
    let open = descriptors(process);
    let is_pipe = |number: &str| {
        let number = number.parse().expect("a number");
        open.get(&number).is_some_and(|what| what.starts_with("pipe:"))
    };
    let watches_one = |epoll: &u32| {
        let info = fs::read_to_string(format!("/proc/{process}/fdinfo/{epoll}")).unwrap_or_default();
        let mut watched =
            info.lines().filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next());
        watched.any(is_pipe)
    };
    let loops = open.iter().filter(|(_, what)| *what == "anon_inode:[eventpoll]");
    loops.map(|(epoll, _)| epoll).any(watches_one)
}

/// A pipe that has no other end any more.
fn nobody() -> OwnedFd {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("a pipe").1
}

/// Waits for its end, and sees that it says no more than a word about it.
#[track_caller]
fn assert_ends(example: &Example, process: process::Child, status: i32) {
    let output = process.wait_with_output().expect("the example");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{}: {errors}", example.name);
    let own = format!("{}: ", example.name);
    assert!(errors.lines().all(|line| line.starts_with(&own)), "{errors}");
}

#[test]
fn an_example_that_serves_goes_on_when_nobody_reads_what_it_prints() {
    for example in EXAMPLES.iter().filter(|example| example.unread == GoesOn) {
        with_watchdog(LIMIT, || {
            let Serves { when, visit } = example.conduct else { panic!("{} ends by itself", example.name) };
            let (mut process, id) = start(example, Stdio::piped());
            // The pipe is closed when this has been read from it.
            let on = addresses(BufReader::new(process.stdout.take().expect("a pipe")), when);
            visit(&on);
            kill(id, Signal::SIGTERM).expect("a process that is there");
            assert_ends(example, process, 0);

            let (process, id) = start(example, nobody());
            until(|| listens_to_signals(id));
            // Once, for one that comes when its loop has gone would end it in the other way.
            kill(id, Signal::SIGTERM).expect("a process that is there");
            assert_ends(example, process, 0);
        });
    }
}

#[test]
fn any_other_example_ends_with_a_word_when_nobody_reads_what_it_prints() {
    for example in EXAMPLES.iter().filter(|example| example.unread == Fails) {
        with_watchdog(LIMIT, || assert_ends(example, start(example, nobody()).0, 1));
    }
}
