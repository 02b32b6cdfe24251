//! The examples' descriptors, seen from outside: none is left when an example's work is done, and no program that it starts finds
//! one that was not meant for it.
//!
//! Each example runs traced, with all that it starts: it is stopped at each system call, when it has become another program, and
//! when it is about to end, and then its table of descriptors can be looked at.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::libc::{O_CLOEXEC, PTRACE_EVENT_EXEC, PTRACE_EVENT_EXIT};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use support::alone::skipped;
use support::net::{self, connect, read_to_end, until};
use support::{LIMIT, example, with_watchdog};

// --- The examples ---------------------------------------------------------------------------------

struct Example {
    name: &'static str,
    arguments: &'static [&'static str],
    conduct: Conduct,
    /// What each program that it starts finds at its standard input. It finds the example's own two others, and nothing else.
    starts: &'static [&'static str],
}

enum Conduct {
    /// Comes to its end by itself.
    Ends,
    /// Has come up with the line that begins with `when`, and ends with a signal. `visit` gets the addresses that it has said it
    /// is on, and leaves nothing behind.
    Serves { when: &'static str, visit: fn(&[SocketAddr]) },
}

use Conduct::{Ends, Serves};

/// All of them: a new one gets its row here.
const EXAMPLES: [Example; 6] = [
    Example {
        name: "echo",
        arguments: &["--listen", "127.0.0.1:0", "--threads", "2"],
        conduct: Serves { when: "try: ", visit: |on| net::assert_echoes(&mut connect(on[0])) },
        starts: &[],
    },
    Example {
        name: "eventfd",
        arguments: &["--write-every", "1ms", "--read-every", "1ms", "1", "2", "3"],
        conduct: Ends,
        starts: &["anon_inode:[eventfd]"],
    },
    Example { name: "kvm_doorbell", arguments: &[], conduct: Ends, starts: &[] },
    Example {
        name: "pressure",
        arguments: &[],
        conduct: Serves { when: "end with ", visit: |_| () },
        starts: &[],
    },
    Example {
        name: "simple",
        arguments: &["127.0.0.1:0"],
        conduct: Serves { when: "time on ", visit: visit_services },
        starts: &[],
    },
    Example {
        name: "udp_echo",
        arguments: &["127.0.0.1:0"],
        conduct: Serves { when: "receiving on ", visit: visit_udp_echo },
        starts: &[],
    },
];

fn visit_services(on: &[SocketAddr]) {
    let [discard, daytime, chargen, time] = on else { panic!("not four services: {on:?}") };
    connect(*discard).write_all(b"nothing").unwrap();
    assert!(read_to_end(&mut connect(*daytime)).ends_with(b"UTC\r\n"));
    assert_eq!(net::read_exact(&mut connect(*chargen), 74)[72..], *b"\r\n");
    assert_eq!(read_to_end(&mut connect(*time)).len(), 4);
}

fn visit_udp_echo(on: &[SocketAddr]) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(net::LIMIT)).unwrap();
    socket.send_to(b"who is there?", on[0]).unwrap();
    assert_eq!(socket.recv_from(&mut [0; 64]).unwrap(), (13, on[0]));
}

// --- A program and what it starts, traced ---------------------------------------------------------

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

struct Traced {
    id: Pid,
    lines: mpsc::Receiver<String>,
    tracer: Option<JoinHandle<Seen>>,
}

impl Traced {
    /// `None` where tracing is not allowed.
    fn start(example: &Example) -> Option<Traced> {
        // A shell that says that it is there and waits for the end of its input, so that it is traced by the time that it becomes
        // the example.
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
        let (say, lines) = mpsc::channel();
        thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| say.send(line))
        });
        Some(Traced { id, lines, tracer: Some(tracer) })
    }

    /// The addresses that it names before the line that begins with `last`, or in that.
    fn addresses(&self, last: &str) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        loop {
            let line = self.lines.recv_timeout(net::LIMIT).expect("another line");
            let address = line.split_once(" on ").and_then(|(_, address)| address.parse::<SocketAddr>().ok());
            addresses.extend(address);
            if line.starts_with(last) {
                return addresses;
            }
        }
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
    let status = fs::read_to_string(format!("/proc/{task}/status")).expect("a task that is there");
    let of = status.lines().find_map(|line| line.strip_prefix("Tgid:")).expect("its process");
    of.trim() == task.to_string()
}

// --- The tests ------------------------------------------------------------------------------------

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
fn no_example_leaves_a_descriptor_open_or_hands_one_on() {
    const VISITS: usize = 10;
    for example in &EXAMPLES {
        with_watchdog(LIMIT, || {
            let name = example.name;
            let Some(traced) = Traced::start(example) else {
                return skipped("ptrace is not allowed here");
            };
            if let Serves { when, visit } = example.conduct {
                let on = traced.addresses(when);
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
            let expected = example.starts.iter().map(|input| {
                let mut found = given.clone();
                found.insert(0, (*input).to_owned());
                found
            });
            assert_eq!(started, expected.collect::<Vec<_>>(), "what programs found that {name} has started");
        });
    }
}
