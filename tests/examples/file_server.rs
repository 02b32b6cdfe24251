//! The example file_server as its users meet it, friendly ones and others.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

use crate::support::example::Server;
use crate::support::folder::Folder;
use crate::support::net::{self, pattern, until};
use crate::support::{LIMIT, example, with_watchdog};
use rustix::process::Signal;
use socket2::SockRef;

/// What is there, and that is a ring if the example has been built with it and the machine has one;
/// and threads.
const BACK_ENDS: [&[&str]; 2] = [&[], &["--by", "threads"]];

/// Larger than what the kernel takes of it for a client that does not read.
const LARGE: usize = 16 << 20;

/// The example while it runs.
struct FileServer(Server);

impl FileServer {
    /// Serves the folder `served`.
    fn start(back_end: &[&str], folder: &Folder) -> FileServer {
        let mut command = Command::new(example::program("file_server"));
        let command = command.env("RUST_LOG", "error").args(["--port", "0"]).args(back_end);
        let mut server = Server::start(command.arg(folder.join("served")));
        let by = server.line();
        assert!(by == "reading by threads" || by == "reading by io_uring" && back_end.is_empty(), "{by}");
        let (ip, port) = (server.address.ip(), server.address.port());
        assert_eq!(server.line(), format!("try: echo 'GET name' | nc -N {ip} {port}"));
        FileServer(server)
    }

    /// A client that the kernel keeps little for.
    fn connect(&self) -> TcpStream {
        let client = net::connect(self.0.address);
        SockRef::from(&client).set_recv_buffer_size(64 << 10).expect("a smaller buffer");
        client
    }

    /// What its descriptors are.
    fn links(&self) -> Vec<PathBuf> {
        let links = fs::read_dir(format!("/proc/{}/fd", self.0.id())).expect("a process that is there");
        links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect()
    }

    fn descriptors(&self) -> usize {
        self.links().len()
    }

    /// Whether it has no file open, and no socket but the one that listens.
    fn serves_nobody(&self) -> bool {
        let links = self.links();
        let sockets = links.iter().filter(|link| link.to_string_lossy().starts_with("socket:")).count();
        sockets == 1 && !links.iter().any(|link| link.to_string_lossy().contains("/served/"))
    }

    /// Waits for its end, and answers the line of totals.
    #[track_caller]
    fn end(self) -> String {
        let (status, line) = self.0.end();
        assert_eq!(status.code(), Some(0));
        line
    }
}

/// A folder `served` with a large file in it, an empty and a small one, beside a file that is
/// nobody's business.
fn folder() -> (Folder, Vec<u8>) {
    let (folder, large) = (Folder::new(), pattern(LARGE));
    fs::create_dir(folder.join("served")).unwrap();
    for (name, bytes) in [
        ("served/large", &large[..]),
        ("served/empty", b""),
        ("served/small", b"few\n"),
        ("secret", b"secret"),
    ] {
        fs::write(folder.join(name), bytes).unwrap();
    }
    (folder, large)
}

/// Asks for a file, and answers the line that comes before its bytes.
#[track_caller]
fn ask(client: &mut TcpStream, name: &str) -> String {
    client.write_all(format!("GET {name}\n").as_bytes()).expect("a server that reads");
    answer(client)
}

/// Reads a line and no further.
#[track_caller]
fn answer(client: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.extend(net::read_exact(client, 1));
    }
    String::from_utf8(line).expect("text").trim_end().to_owned()
}

/// Asks for a file and reads it.
#[track_caller]
fn get(client: &mut TcpStream, name: &str) -> Vec<u8> {
    let answer = ask(client, name);
    let length = answer.strip_prefix("OK ").unwrap_or_else(|| panic!("`{answer}` for {name}"));
    net::read_exact(client, length.parse().expect("a length"))
}

#[test]
fn requests_of_a_connection_are_answered_in_order() {
    with_watchdog(LIMIT, || {
        let (folder, large) = folder();
        for back_end in BACK_ENDS {
            let server = FileServer::start(back_end, &folder);
            let mut client = server.connect();
            // All of them at once, and nothing more, so that the end comes while the first is being
            // answered.
            let requests =
                "GET small\nGET large\r\nGET empty\nGET missing\nPUT small\nGET large\nGET small\n";
            client.write_all(requests.as_bytes()).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let file = [format!("OK {LARGE}\n").as_bytes(), &large].concat();
            let expected = [
                b"OK 4\nfew\n",
                &file[..],
                b"OK 0\n",
                b"ERR there is no such file\n",
                b"ERR a request is GET and a name\n",
                &file,
                b"OK 4\nfew\n",
            ];
            assert!(net::read_to_end(&mut client) == expected.concat());
            server.0.signal(Signal::TERM);
            assert_eq!(server.end(), format!("1 connections, 5 files, {} bytes", 2 * LARGE + 8));
        }
    });
}

#[test]
fn many_clients_get_their_files_at_a_time() {
    with_watchdog(LIMIT, || {
        let (folder, large) = folder();
        for (number, piece) in large.chunks(LARGE / 16).enumerate() {
            fs::write(folder.join(format!("served/{number}")), piece).unwrap();
        }
        for back_end in BACK_ENDS {
            let server = FileServer::start(back_end, &folder);
            thread::scope(|scope| {
                for (number, piece) in large.chunks(LARGE / 16).enumerate() {
                    let mut client = server.connect();
                    scope.spawn(move || {
                        for _ in 0..2 {
                            assert!(get(&mut client, &number.to_string()) == piece);
                            assert_eq!(get(&mut client, "small"), b"few\n");
                        }
                    });
                }
            });
            server.0.signal(Signal::INT);
            assert_eq!(server.end(), format!("16 connections, 64 files, {} bytes", 2 * LARGE + 32 * 4));
        }
    });
}

#[test]
fn nothing_but_files_of_the_directory_can_be_had() {
    with_watchdog(LIMIT, || {
        let (folder, _) = folder();
        let served = folder.join("served");
        fs::create_dir(served.join("below")).unwrap();
        fs::write(served.join("below/file"), "below").unwrap();
        symlink(folder.join("secret"), served.join("link")).unwrap();
        symlink("../secret", served.join("relative")).unwrap();
        symlink("small", served.join("inside")).unwrap();
        symlink("..", served.join("up")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(served.join("socket")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let pipe = served.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
        let secret = folder.join("secret").display().to_string();
        let no_name = [
            "",
            ".",
            "..",
            "../secret",
            "./small",
            "/etc/passwd",
            &secret,
            "up/secret",
            "below/file",
            "below/../small",
            "small/",
            "//small",
            "small\0",
            "..\0/secret",
        ];
        let unreadable = ["link", "relative", "inside", "up", "below", "socket", "pipe"];
        let missing =
            ["%2e%2e%2fsecret", "..\\secret", "small ", " small", "SMALL", "sma*", "~", "...", "\u{2025}"];
        for back_end in BACK_ENDS {
            let server = FileServer::start(back_end, &folder);
            let mut client = server.connect();
            let reasons = [
                (&no_name[..], "this is no file's name"),
                (&unreadable, "this cannot be read"),
                (&missing, "there is no such file"),
            ];
            for (names, reason) in reasons {
                for name in names {
                    assert_eq!(ask(&mut client, name), format!("ERR {reason}"), "{name:?}");
                }
            }
            for bytes in [&b"GET \xFF\xFE\n"[..], format!("GET {}\n", "x".repeat(255)).as_bytes()] {
                client.write_all(bytes).unwrap();
                assert_eq!(answer(&mut client), "ERR there is no such file");
            }
            for line in ["", "GET", "get small", "GETsmall", "HEAD small"] {
                client.write_all(format!("{line}\n").as_bytes()).unwrap();
                assert_eq!(answer(&mut client), "ERR a request is GET and a name", "{line}");
            }
            assert_eq!(get(&mut client, "small"), b"few\n", "after all that");
            // What is no line is not waited for, and ends the connection.
            client.write_all(&[b'x'; 1000]).unwrap();
            assert_eq!(net::read_to_end(&mut client), b"ERR no file has so long a name\n");
            // Half a request is none.
            let mut client = server.connect();
            client.write_all(b"GET small").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(net::read_to_end(&mut client), b"");
        }
    });
}

#[test]
fn a_client_that_does_not_read_has_few_pieces_read_for_it() {
    with_watchdog(LIMIT, || {
        let (folder, large) = folder();
        for back_end in BACK_ENDS {
            let server = FileServer::start(back_end, &folder);
            let mut client = server.connect();
            assert_eq!(ask(&mut client, "large"), format!("OK {LARGE}"));
            // Whoever reads is not kept waiting by the one that does not, which goes on when it
            // does.
            busy_elsewhere(&server);
            let mut received = net::read_exact(&mut client, LARGE / 4);
            busy_elsewhere(&server);
            // What the kernel has taken goes with the reset.
            let taken = net::queues(client.peer_addr().unwrap(), Some(client.local_addr().unwrap()));
            let taken = taken.expect("a connection").unsent as usize;
            server.0.signal(Signal::TERM);
            server.0.signal(Signal::INT);
            let totals = server.end();
            let bytes: usize =
                totals.split(' ').nth(4).and_then(|bytes| bytes.parse().ok()).expect("a number");
            received.extend(net::read_until_reset(&mut client));
            assert!(received == large[..received.len()]);
            assert!(received.len() < LARGE, "the file is too small for this");
            let ahead = bytes - 200 * b"few\n".len() - received.len() - taken;
            assert!(ahead <= 8 * (64 << 10), "{ahead} bytes were read ahead");
        }
    });
}

/// Has a server do so much else that it would have got far with a file meanwhile, if nothing held
/// it: its loop makes hundreds of turns.
#[track_caller]
fn busy_elsewhere(server: &FileServer) {
    let mut client = server.connect();
    for _ in 0..100 {
        assert_eq!(get(&mut client, "small"), b"few\n");
    }
}

#[test]
fn clients_that_vanish_in_mid_transfer_leave_nothing_behind() {
    with_watchdog(LIMIT, || {
        let (folder, _) = folder();
        for back_end in BACK_ENDS {
            let server = FileServer::start(back_end, &folder);
            // What is made with the first request, such as threads, is there from now on.
            assert_eq!(get(&mut server.connect(), "small"), b"few\n");
            let mut idle = server.connect();
            assert_eq!(get(&mut idle, "small"), b"few\n");
            drop(idle);
            until(|| server.serves_nobody());
            let before = server.descriptors();
            for round in 0..10 {
                let mut clients: Vec<_> = (0..12).map(|_| server.connect()).collect();
                for (number, client) in clients.iter_mut().enumerate() {
                    client.write_all(b"GET large\nGET large\n").unwrap();
                    // Some go at once, some when the answer has begun, and some when it does not go
                    // on.
                    if number % 3 > 0 {
                        assert_eq!(answer(client), format!("OK {LARGE}"));
                    }
                    if number % 3 > 1 {
                        net::read_exact(client, 1 << 20);
                    }
                }
                assert!(server.descriptors() > before);
                for (number, client) in clients.into_iter().enumerate() {
                    if (number + round) % 2 == 0 {
                        net::reset(client);
                    }
                }
            }
            until(|| server.serves_nobody() && server.descriptors() == before);
            assert_eq!(get(&mut server.connect(), "small"), b"few\n");
            server.0.signal(Signal::TERM);
            assert!(server.end().starts_with("123 connections, "));
        }
    });
}

#[test]
fn nothing_is_read_on_for_a_client_that_has_gone() {
    with_watchdog(LIMIT, || {
        let (folder, _) = folder();
        for back_end in BACK_ENDS {
            let server = FileServer::start(back_end, &folder);
            for _ in 0..20 {
                let mut client = server.connect();
                assert_eq!(ask(&mut client, "large"), format!("OK {LARGE}"));
                net::reset(client);
            }
            until(|| server.serves_nobody());
            server.0.signal(Signal::TERM);
            let totals = server.end();
            let bytes: usize =
                totals.split(' ').nth(4).and_then(|bytes| bytes.parse().ok()).expect("a number");
            assert!(bytes < 20 * LARGE / 2, "{totals}");
        }
    });
}

/// Those of files that are being sent, of a ring, of the loop: whatever is there when a client is
/// being served.
#[test]
fn no_descriptor_of_it_would_be_inherited() {
    with_watchdog(LIMIT, || {
        let (folder, _) = folder();
        for back_end in BACK_ENDS {
            let server = FileServer::start(back_end, &folder);
            let mut client = server.connect();
            assert_eq!(ask(&mut client, "large"), format!("OK {LARGE}"));
            let id = server.0.id();
            let mut seen = Vec::new();
            for entry in fs::read_dir(format!("/proc/{id}/fd")).unwrap() {
                let entry = entry.unwrap();
                let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
                let Ok(link) = fs::read_link(entry.path()) else { continue };
                // What it has inherited itself: the standard ones, and what whoever runs the tests
                // has left open.
                let is_inherited = number < 3
                    || fs::read_link(format!("/proc/self/fd/{number}")).is_ok_and(|own| own == link);
                // The server may have closed it since.
                let Ok(info) = fs::read_to_string(format!("/proc/{id}/fdinfo/{number}")) else { continue };
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
                let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
                if !is_inherited {
                    assert!(flags & 0o2_000_000 != 0, "{} would be inherited", link.display());
                    seen.push(link.display().to_string());
                }
            }
            assert!(seen.iter().any(|link| link.ends_with("served/large")), "{seen:?}");
            assert!(seen.iter().filter(|link| link.starts_with("socket:")).count() >= 2, "{seen:?}");
        }
    });
}

#[test]
fn a_file_that_becomes_shorter_is_cut_off_and_others_are_served() {
    with_watchdog(LIMIT, || {
        for back_end in BACK_ENDS {
            let (folder, _) = folder();
            let server = FileServer::start(back_end, &folder);
            let mut client = server.connect();
            assert_eq!(ask(&mut client, "large"), format!("OK {LARGE}"));
            busy_elsewhere(&server);
            File::options().write(true).open(folder.join("served/large")).unwrap().set_len(100).unwrap();
            let mut received = Vec::new();
            // A reset, or an end: either way too early.
            let _ = client.read_to_end(&mut received);
            assert!(received.len() < LARGE);
            assert_eq!(get(&mut server.connect(), "large").len(), 100);
        }
    });
}

#[test]
fn a_signal_lets_those_finish_that_have_asked() {
    with_watchdog(LIMIT, || {
        let (folder, large) = folder();
        for back_end in BACK_ENDS {
            let server = FileServer::start(back_end, &folder);
            let mut idle = server.connect();
            assert_eq!(get(&mut idle, "small"), b"few\n");
            let mut client = server.connect();
            assert_eq!(ask(&mut client, "large"), format!("OK {LARGE}"));
            server.0.signal(Signal::TERM);
            assert!(net::read_exact(&mut client, LARGE) == large);
            for client in [&mut client, &mut idle] {
                assert_eq!(net::read_to_end(client), b"");
            }
            drop((client, idle));
            assert_eq!(server.end(), format!("2 connections, 2 files, {} bytes", LARGE + 4));
        }
    });
}

fn outcome_of(arguments: &[&str]) -> Output {
    example::outcome_of("file_server", arguments)
}

#[test]
fn wrong_arguments_are_answered_with_a_line_and_the_usage() {
    let wrong: [(&[&str], &str); 8] = [
        (&[], "whose files are to be served?"),
        (&["--nonsense", "/"], "there is no argument `--nonsense`"),
        (&["/", "/tmp"], "`/tmp` is one directory too many"),
        (&["--port"], "--port wants a value"),
        (&["--listen"], "--listen wants a value"),
        (&["--by"], "--by wants a value"),
        (&["--by", "magic", "/"], "--by wants io_uring or threads"),
        (&["--port", "many", "/"], "`127.0.0.1:many` is not an address with a port, such as 127.0.0.1:2008"),
    ];
    for (arguments, message) in wrong {
        let output = outcome_of(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let errors = String::from_utf8(output.stderr).expect("text");
        let start = format!("file_server: {message}\nusage: file_server ");
        assert!(errors.starts_with(&start), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty());
    }
    assert!(outcome_of(&["--help"]).stdout.starts_with(b"usage: file_server "));
}

#[test]
fn what_cannot_be_served_is_one_line_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = taken.local_addr().unwrap().to_string();
    let wrong: [(&[&str], &str); 3] = [
        (&["/no/such/directory"], "/no/such/directory"),
        (&["/etc/passwd"], "/etc/passwd"),
        (&["--listen", &in_use, "/etc"], &in_use),
    ];
    for (arguments, name) in wrong {
        let output = outcome_of(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let errors = String::from_utf8(output.stderr).expect("text");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.starts_with("file_server: ") && errors.contains(name), "{errors}");
        assert!(output.stdout.is_empty());
    }
}
