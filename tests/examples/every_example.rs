//! All examples as programs. None leaks a descriptor, and none passes an unrelated descriptor to a
//! program that it starts. If its output pipe is closed, each either continues or fails with a
//! message.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{self, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crate::support::alone::skipped;
use crate::support::example::Server;
use crate::support::net::{self, connect, read_to_end, until};
use crate::support::{LIMIT, example, with_watchdog};
use nix::errno::Errno;
use nix::libc::{O_CLOEXEC, PTRACE_EVENT_EXEC, PTRACE_EVENT_EXIT};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::pipe::PipeFlags;

// --- The examples --------------------------------------------------------------------------------

struct Example {
    name: &'static str,
    arguments: &'static [&'static str],
    lifetime: Lifetime,
    on_closed_output: OnClosedOutput,
    /// For each program that the example starts: the constant beginning of the name of its standard
    /// input. Its other descriptors are the standard output and standard error of the example.
    started_inputs: &'static [&'static str],
}

enum Lifetime {
    /// Ends by itself.
    Ends,
    /// Connects to the example with this name, and ends by itself.
    Requests { server: &'static str },
    /// Is ready when it has printed the line that begins with `ready`, and ends on a signal.
    /// `visit` gets the addresses from its output, and closes all of its connections.
    Serves { ready: &'static str, visit: fn(&[SocketAddr]) },
}

/// The behaviour of an example whose standard output is a pipe without a reader.
#[derive(PartialEq)]
enum OnClosedOutput {
    Continues,
    /// Ends with status 1 and an error message.
    Fails,
}

use Lifetime::{Ends, Requests, Serves};
use OnClosedOutput::{Continues, Fails};

/// All examples of the package. A test checks that the table is complete.
const EXAMPLES: &[Example] = &[
    Example {
        name: "async_echo",
        arguments: &["--listen", "127.0.0.1:0", "--threads", "2"],
        lifetime: Serves {
            ready: "try: ",
            visit: |addresses| net::assert_echoes(&mut connect(addresses[0])),
        },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "call_from_tokio",
        arguments: &[],
        lifetime: Ends,
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "chat",
        arguments: &["--listen", "127.0.0.1:0", "--threads", "2"],
        lifetime: Serves { ready: "try: ", visit: visit_chat },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "doorbell",
        arguments: &[],
        lifetime: Ends,
        on_closed_output: Fails,
        started_inputs: &["socket:"],
    },
    Example {
        name: "echo",
        arguments: &["--listen", "127.0.0.1:0", "--threads", "2"],
        lifetime: Serves {
            ready: "try: ",
            visit: |addresses| net::assert_echoes(&mut connect(addresses[0])),
        },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "eventfd",
        arguments: &["--write-every", "1ms", "--read-every", "1ms", "1", "2", "3"],
        lifetime: Ends,
        on_closed_output: Fails,
        started_inputs: &["anon_inode:[eventfd]"],
    },
    Example {
        name: "file_server",
        arguments: &["--port", "0", "/etc"],
        lifetime: Serves { ready: "try: ", visit: visit_file_server },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "in_mio",
        arguments: &["127.0.0.1:0"],
        lifetime: Serves { ready: "UDP on ", visit: visit_in_mio },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "in_tokio",
        arguments: &["127.0.0.1:0"],
        lifetime: Serves {
            ready: "echoing on ",
            visit: |addresses| net::assert_echoes(&mut connect(addresses[0])),
        },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "kvm_doorbell",
        arguments: &[],
        lifetime: Ends,
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "memcached",
        arguments: &["--listen", "127.0.0.1:0", "--threads", "2"],
        lifetime: Serves { ready: "try: ", visit: visit_memcached },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "own_ring",
        arguments: &["/etc/passwd"],
        lifetime: Ends,
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "pressure",
        arguments: &[],
        lifetime: Serves { ready: "end with ", visit: |_| () },
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "redis",
        arguments: &["--listen", "127.0.0.1:0"],
        lifetime: Serves { ready: "try: ", visit: visit_redis },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "redis_client",
        arguments: &[],
        lifetime: Requests { server: "redis" },
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "services",
        arguments: &["--listen", "127.0.0.1:0"],
        lifetime: Serves { ready: "try: ", visit: visit_services },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "services_client",
        arguments: &["--bytes", "100000", "--timeout", "3600"],
        lifetime: Requests { server: "services" },
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "socket_activation",
        arguments: &["127.0.0.1:0"],
        lifetime: Serves {
            ready: "listening on ",
            visit: |addresses| net::assert_echoes(&mut connect(addresses[0])),
        },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "terminal",
        arguments: &[],
        lifetime: Ends,
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "udp_echo",
        arguments: &["127.0.0.1:0"],
        lifetime: Serves { ready: "receiving on ", visit: visit_udp_echo },
        on_closed_output: Continues,
        started_inputs: &[],
    },
    Example {
        name: "uring_cat",
        arguments: &["/etc/passwd", "-", "/etc/group"],
        lifetime: Ends,
        on_closed_output: Fails,
        started_inputs: &[],
    },
    Example {
        name: "zlib_tunnel",
        arguments: &["--listen", "127.0.0.1:0", "--connect", "127.0.0.1:1"],
        lifetime: Serves { ready: "try: ", visit: |_| () },
        on_closed_output: Continues,
        started_inputs: &[],
    },
];

fn visit_chat(addresses: &[SocketAddr]) {
    let mut client = connect(addresses[0]);
    client.write_all(b"/nick visitor\n").unwrap();
    let mut lines = BufReader::new(client).lines().map(|line| line.expect("a line"));
    assert!(lines.any(|line| line.ends_with(" is now visitor")));
}

fn visit_redis(addresses: &[SocketAddr]) {
    let mut client = connect(addresses[0]);
    client.write_all(b"PING\r\n").unwrap();
    assert_eq!(net::read_exact(&mut client, 7), b"+PONG\r\n");
}

fn visit_memcached(addresses: &[SocketAddr]) {
    let mut client = connect(addresses[0]);
    client.write_all(b"set a 0 0 1\r\nx\r\n").unwrap();
    assert_eq!(net::read_exact(&mut client, 8), b"STORED\r\n");
}

fn visit_file_server(addresses: &[SocketAddr]) {
    let passwd = fs::read("/etc/passwd").unwrap();
    let mut client = connect(addresses[0]);
    client.write_all(b"GET passwd\n").unwrap();
    let reply = [format!("OK {}\n", passwd.len()).as_bytes(), &passwd].concat();
    assert_eq!(net::read_exact(&mut client, reply.len()), reply);
}

/// Each service has two addresses: that of TCP, then that of UDP.
fn visit_services(addresses: &[SocketAddr]) {
    let tcp: Vec<SocketAddr> = addresses.iter().copied().step_by(2).collect();
    let [echo, discard, daytime, quote, chargen, time] = tcp[..] else { panic!("{addresses:?}") };
    net::assert_echoes(&mut connect(echo));
    visit_udp_echo(&addresses[1..]);
    connect(discard).write_all(b"nothing").unwrap();
    assert!(read_to_end(&mut connect(daytime)).ends_with(b"UTC\r\n"));
    assert!(read_to_end(&mut connect(quote)).ends_with(b"\r\n"));
    assert_eq!(net::read_exact(&mut connect(chargen), 74)[72..], *b"\r\n");
    assert_eq!(read_to_end(&mut connect(time)).len(), 4);
}

fn visit_in_mio(addresses: &[SocketAddr]) {
    let [stream, datagrams] = addresses else { panic!("not two services: {addresses:?}") };
    net::assert_echoes(&mut connect(*stream));
    visit_udp_echo(&[*datagrams]);
}

fn visit_udp_echo(addresses: &[SocketAddr]) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(net::LIMIT)).unwrap();
    socket.send_to(b"who is there?", addresses[0]).unwrap();
    assert_eq!(socket.recv_from(&mut [0; 64]).unwrap(), (13, addresses[0]));
}

/// The arguments of an example, and the server that it needs.
fn command_of(example: &Example) -> (Vec<String>, Option<Server>) {
    let mut arguments: Vec<String> = example.arguments.iter().map(|&argument| argument.to_owned()).collect();
    let Requests { server } = example.lifetime else { return (arguments, None) };
    let server = Server::start(Command::new(example::program(server)).args(["--listen", "127.0.0.1:0"]));
    arguments.extend(["--connect".to_owned(), server.address.to_string()]);
    (arguments, Some(server))
}

/// Returns the addresses that a program prints, up to the line that begins with `last`.
fn read_addresses(output: impl BufRead, last: &str) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for line in output.lines() {
        let line = line.expect("a line");
        addresses.extend(line.split_once(" on ").and_then(|(_, address)| address.parse::<SocketAddr>().ok()));
        if line.starts_with(last) {
            return addresses;
        }
    }
    panic!("the program has ended without a line `{last}`");
}

// --- A traced example and the programs that it starts --------------------------------------------

/// The open descriptors of a process: the number and the link target of each.
type Descriptors = BTreeMap<u32, String>;

fn descriptors(process: Pid) -> Descriptors {
    // A process that has been killed has no directory.
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else { return Descriptors::new() };
    let of = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, fs::read_link(entry.path()).ok()?.to_str()?.to_owned()))
    };
    entries.filter_map(|entry| of(entry.ok()?)).collect()
}

/// Returns the descriptors of a process that are not closed on exec.
fn inheritable(process: Pid) -> Descriptors {
    let stays_open = |number: u32| {
        let info = fs::read_to_string(format!("/proc/{process}/fdinfo/{number}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.is_some_and(|flags| i32::from_str_radix(flags.trim(), 8).expect("octal") & O_CLOEXEC == 0)
    };
    descriptors(process).into_iter().filter(|(number, _)| stays_open(*number)).collect()
}

/// The observations of the tracer.
#[derive(Default)]
struct Observed {
    /// The exit status of the first process.
    status: Option<WaitStatus>,
    /// The descriptors of each program at its start, the example first.
    at_start: Vec<Descriptors>,
    /// The descriptors of each process just before its end.
    at_end: Vec<Descriptors>,
    /// All descriptors that were not closed on exec at any time.
    inheritable: Descriptors,
}

/// An example that is traced together with the processes it starts. Each is stopped at every system
/// call, after an exec, and just before its end, and its descriptors are recorded there.
struct Traced {
    id: Pid,
    output: BufReader<ChildStdout>,
    _server: Option<Server>,
    tracer: Option<JoinHandle<Observed>>,
}

impl Traced {
    /// Returns `None` if tracing is not allowed.
    fn start(example: &Example) -> Option<Traced> {
        // The shell prints a line and waits for the end of its input, so that it is traced before
        // it becomes the example.
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo; read -r _; exec \"$@\" </dev/null", "sh"])
            .arg(example::program(example.name));
        let (arguments, server) = command_of(example);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let (sender, receiver) = mpsc::channel();
        // A tracer is a single thread. It can wait only for processes that it has started or
        // traced.
        let tracer = thread::spawn(move || trace(command, &sender));
        let Ok((id, output)) = receiver.recv() else {
            tracer.join().expect("a tracer without permission");
            return None;
        };
        let output = BufReader::new(output);
        Some(Traced { id, output, _server: server, tracer: Some(tracer) })
    }

    /// Waits for the end of the example and of all processes that it has started.
    fn end(mut self) -> Observed {
        self.tracer.take().expect("a running tracer").join().expect("a tracer that ends")
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

fn trace(mut command: Command, sender: &mpsc::Sender<(Pid, ChildStdout)>) -> Observed {
    let mut observed = Observed::default();
    let mut shell = command.spawn().expect("a shell");
    let mut output = shell.stdout.take().expect("a pipe");
    output.read_exact(&mut [0; 1]).expect("a line from the shell");
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
            shell.kill().and_then(|()| shell.wait()).expect("the end of the shell");
            return observed;
        }
        Err(error) => panic!("cannot trace {first}: {error}"),
    }
    sender.send((first, output)).expect("a receiver");
    drop(shell.stdin.take());
    loop {
        let (task, signal) = match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
            Ok(WaitStatus::PtraceEvent(task, _, event)) => {
                match event {
                    PTRACE_EVENT_EXEC => observed.at_start.push(descriptors(task)),
                    PTRACE_EVENT_EXIT if is_process(task) => observed.at_end.push(descriptors(task)),
                    _ => {}
                }
                (task, None)
            }
            Ok(WaitStatus::PtraceSyscall(task)) => (task, None),
            Ok(WaitStatus::Stopped(task, signal)) => (task, Some(signal)),
            Ok(status) if status.pid() == Some(first) => {
                observed.status = Some(status);
                continue;
            }
            Ok(_) | Err(Errno::EINTR) => continue,
            // All processes have ended.
            Err(Errno::ECHILD) => return observed,
            Err(error) => panic!("cannot wait: {error}"),
        };
        // Before the first exec it is still the shell.
        if !observed.at_start.is_empty() {
            observed.inheritable.append(&mut inheritable(task));
        }
        // This fails for a task that has been killed meanwhile.
        let _ = ptrace::syscall(task, signal);
    }
}

/// Returns whether the task is the first thread of its process. Its end is that of the process.
fn is_process(task: Pid) -> bool {
    status_of(task, "Tgid:") == task.to_string()
}

/// Returns the field `name` of the status of a task.
fn status_of(task: Pid, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{task}/status")).expect("an existing task");
    status.lines().find_map(|line| line.strip_prefix(name)).expect("the field").trim().to_owned()
}

// --- The tests -----------------------------------------------------------------------------------

#[test]
fn every_example_is_in_the_table() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let entries = fs::read_dir(folder).expect("the examples").map(|entry| entry.expect("an entry").path());
    // Cargo finds examples by the same rules.
    let files: BTreeSet<String> = entries
        .filter(|path| path.extension().is_some_and(|rs| rs == "rs") || path.join("main.rs").exists())
        .map(|path| path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned())
        .collect();
    let rows: BTreeSet<String> = EXAMPLES.iter().map(|example| example.name.to_owned()).collect();
    assert_eq!(rows, files);
}

#[test]
fn every_example_has_a_usage_and_rejects_invalid_arguments() {
    with_watchdog(LIMIT, || {
        for Example { name, .. } in EXAMPLES {
            let start = format!("usage: {name}");
            let help = example::outcome_of(name, &["--help"]);
            let text = String::from_utf8_lossy(&help.stdout);
            assert!(help.status.success() && text.starts_with(&start), "{name}: {}: {text}", help.status);
            assert!(help.stderr.is_empty(), "{name}");
            let invalid: [&[&str]; 3] =
                [&["--no-such-option"], &["x", "y", "z", "-"], &["not an address", "x"]];
            for arguments in invalid {
                // They accept any number of arguments: file names, or a command.
                if matches!(*name, "uring_cat" | "redis_client") && arguments[0] != "--no-such-option" {
                    continue;
                }
                let rejected = example::outcome_of(name, arguments);
                let text = String::from_utf8_lossy(&rejected.stderr);
                assert_eq!(rejected.status.code(), Some(2), "{name} {arguments:?}: {text}");
                assert!(text.contains(&start), "{name} {arguments:?}: {text}");
                assert!(rejected.stdout.is_empty(), "{name} {arguments:?}");
            }
        }
    });
}

#[test]
fn no_example_leaks_or_passes_on_a_descriptor() {
    const VISITS: usize = 10;
    for example in EXAMPLES {
        with_watchdog(LIMIT, || {
            let name = example.name;
            let Some(mut traced) = Traced::start(example) else {
                return skipped("ptrace is not allowed here");
            };
            if let Serves { ready, visit } = example.lifetime {
                let addresses = read_addresses(&mut traced.output, ready);
                let before = descriptors(traced.id);
                assert!(before.len() > 3, "{name} has no loop: {before:?}");
                (0..VISITS).for_each(|_| visit(&addresses));
                // It may close a connection later than its peer sees the end.
                until(|| descriptors(traced.id).len() <= before.len());
                assert_eq!(descriptors(traced.id), before, "{name} has leaked a descriptor");
                kill(traced.id, Signal::SIGTERM).expect("a running process");
            }
            let id = traced.id;
            let observed = traced.end();
            assert_eq!(observed.status, Some(WaitStatus::Exited(id, 0)), "{name}");

            // The three standard descriptors, and those that this process itself has inherited.
            let (given, started) = observed.at_start.split_first().expect("the example itself");
            assert!((0..=2).all(|standard| given.contains_key(&standard)), "{given:?}");
            assert_eq!(observed.at_end.len(), observed.at_start.len(), "{name} has left a process running");
            for left in &observed.at_end {
                assert!(left.keys().eq(given.keys()), "{name} ends with {left:?} and started with {given:?}");
            }
            let inheritable = &observed.inheritable;
            assert!(inheritable.keys().eq(given.keys()), "{name} does not close on exec: {inheritable:?}");
            assert_eq!(
                started.len(),
                example.started_inputs.len(),
                "{name} has started a different number of programs"
            );
            for (found, input) in started.iter().zip(example.started_inputs) {
                assert!(found[&0].starts_with(input), "{name} has started a program with {found:?}");
                let others = |all: &Descriptors| all.clone().split_off(&1);
                assert_eq!(
                    others(found),
                    others(given),
                    "a program that {name} has started has other descriptors"
                );
            }
        });
    }
}

fn start(
    example: &Example,
    arguments: &[impl AsRef<OsStr>],
    output: impl Into<Stdio>,
) -> (process::Child, Pid) {
    let mut command = Command::new(example::program(example.name));
    command.args(arguments).stdin(Stdio::null()).stdout(output).stderr(Stdio::piped());
    let process = command.spawn().expect("the example");
    let id = Pid::from_raw(process.id().try_into().expect("a process id"));
    (process, id)
}

/// Returns whether a loop of the process watches a pipe, which is how it receives signals. The
/// signal handlers are installed before that.
fn watches_signals(process: Pid) -> bool {
    let open = descriptors(process);
    let is_pipe = |number: &str| {
        let number = number.parse().expect("a number");
        open.get(&number).is_some_and(|link| link.starts_with("pipe:"))
    };
    let watches_one = |epoll: &u32| {
        let info = fs::read_to_string(format!("/proc/{process}/fdinfo/{epoll}")).unwrap_or_default();
        let mut watched =
            info.lines().filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next());
        watched.any(is_pipe)
    };
    let loops = open.iter().filter(|(_, link)| *link == "anon_inode:[eventpoll]");
    loops.map(|(epoll, _)| epoll).any(watches_one)
}

/// Returns the writing end of a pipe without a reader.
fn pipe_without_reader() -> OwnedFd {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("a pipe").1
}

/// Waits for the end of the example. Its error output may contain only messages of its own.
#[track_caller]
fn assert_ends(example: &Example, process: process::Child, status: i32) {
    let output = process.wait_with_output().expect("the example");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{}: {errors}", example.name);
    let own = format!("{}: ", example.name);
    assert!(errors.lines().all(|line| line.starts_with(&own)), "{errors}");
}

#[test]
fn a_serving_example_continues_without_a_reader_of_its_output() {
    for example in EXAMPLES.iter().filter(|example| example.on_closed_output == Continues) {
        with_watchdog(LIMIT, || {
            let Serves { ready, visit } = example.lifetime else { panic!("{} ends by itself", example.name) };
            let (mut process, id) = start(example, example.arguments, Stdio::piped());
            // The pipe is closed after the addresses have been read.
            let addresses = read_addresses(BufReader::new(process.stdout.take().expect("a pipe")), ready);
            visit(&addresses);
            kill(id, Signal::SIGTERM).expect("a running process");
            assert_ends(example, process, 0);

            let (process, id) = start(example, example.arguments, pipe_without_reader());
            until(|| watches_signals(id));
            // Only one signal: a second one, after the loop has ended, would kill the process.
            kill(id, Signal::SIGTERM).expect("a running process");
            assert_ends(example, process, 0);
        });
    }
}

#[test]
fn other_examples_fail_without_a_reader_of_their_output() {
    for example in EXAMPLES.iter().filter(|example| example.on_closed_output == Fails) {
        with_watchdog(LIMIT, || {
            let (arguments, _server) = command_of(example);
            assert_ends(example, start(example, &arguments, pipe_without_reader()).0, 1);
        });
    }
}
