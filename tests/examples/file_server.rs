//! The file_server example as a program, with well-behaved and with hostile clients.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

use crate::support::example::Server;
use crate::support::folder::Folder;
use crate::support::net::{self, pattern, until};
use crate::support::{LIMIT, example, with_watchdog};
use rustix::process::Signal;
use socket2::{Domain, SockRef, Socket, Type};

/// The options of each back end. The first is the default: a ring if the build and the machine
/// support it, otherwise threads.
const BACK_ENDS: [&[&str]; 2] = [&[], &["--by", "threads"]];

/// Larger than the buffers of the kernel for a client that does not read.
const LARGE: usize = 16 << 20;

/// The running example.
struct FileServer(Server);

impl FileServer {
    /// Starts the example with these options. It serves the directory `served`.
    fn start(options: &[&str], folder: &Folder) -> FileServer {
        let mut command = Command::new(example::program("file_server"));
        let command = command.env("RUST_LOG", "error").args(["--listen", "127.0.0.1:0"]).args(options);
        let mut server = Server::start(command.arg(folder.join("served")));
        let by = server.line();
        assert!(
            by == "reading by threads" || by == "reading by io_uring" && !options.contains(&"--by"),
            "{by}"
        );
        let (ip, port) = (server.address.ip(), server.address.port());
        assert_eq!(server.line(), format!("try: echo 'GET name' | nc -N {ip} {port}"));
        FileServer(server)
    }

    /// Connects a client with a small receive buffer.
    fn connect(&self) -> TcpStream {
        let client = net::connect(self.0.address);
        SockRef::from(&client).set_recv_buffer_size(64 << 10).expect("a smaller buffer");
        client
    }

    /// Returns the link targets of its descriptors.
    fn links(&self) -> Vec<PathBuf> {
        let links = fs::read_dir(format!("/proc/{}/fd", self.0.id())).expect("a running process");
        links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect()
    }

    fn descriptors(&self) -> usize {
        self.links().len()
    }

    /// Returns whether it has no file open, and no socket but its listener.
    fn has_no_clients(&self) -> bool {
        let links = self.links();
        let sockets = links.iter().filter(|link| link.to_string_lossy().starts_with("socket:")).count();
        sockets == 1 && !links.iter().any(|link| link.to_string_lossy().contains("/served/"))
    }

    /// Waits for its end, and returns the line with the totals.
    #[track_caller]
    fn end(self) -> String {
        let (status, line) = self.0.end();
        assert_eq!(status.code(), Some(0));
        line
    }
}

/// Creates a directory `served` with a large, an empty and a small file, and beside it a file that
/// is not served. Returns the parent directory and the content of the large file.
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

/// Requests a file, and returns the first line of the reply.
#[track_caller]
fn request(client: &mut TcpStream, name: &str) -> String {
    client.write_all(format!("GET {name}\n").as_bytes()).expect("a server that reads");
    read_line(client)
}

/// Reads one line, and no byte after it.
#[track_caller]
fn read_line(client: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.extend(net::read_exact(client, 1));
    }
    String::from_utf8(line).expect("text").trim_end().to_owned()
}

/// Requests a file, and returns its bytes.
#[track_caller]
fn get(client: &mut TcpStream, name: &str) -> Vec<u8> {
    let first_line = request(client, name);
    let length = first_line.strip_prefix("OK ").unwrap_or_else(|| panic!("`{first_line}` for {name}"));
    net::read_exact(client, length.parse().expect("a length"))
}

#[test]
fn requests_of_a_connection_are_answered_in_order() {
    with_watchdog(LIMIT, || {
        let (folder, large) = folder();
        for back_end in BACK_ENDS {
            let server = FileServer::start(back_end, &folder);
            let mut client = server.connect();
            // All requests and the end of input arrive at once, while the server sends the first
            // file.
            let requests =
                "GET small\nGET large\r\nGET empty\nGET missing\nPUT small\nGET large\nGET small\n";
            client.write_all(requests.as_bytes()).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let file = [format!("OK {LARGE}\n").as_bytes(), &large].concat();
            let expected = [
                b"OK 4\nfew\n",
                &file[..],
                b"OK 0\n",
                b"ERR no such file\n",
                b"ERR invalid request\n",
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
fn incomplete_requests_give_way_to_other_clients() {
    with_watchdog(LIMIT, || {
        let (folder, _) = folder();
        let server = FileServer::start(&["--timeout", "0.05"], &folder);
        // As many as the server accepts, and as many of each address as it accepts.
        let slow: Vec<TcpStream> = (0..400u16)
            .map(|number| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                let local = SocketAddr::from(([127, 0, 0, 2 + (number / 100) as u8], 0));
                socket.bind(&local.into()).expect("an address of this machine");
                socket.connect(&server.0.address.into()).expect("a server that listens");
                socket.send(b"G").expect("an open connection");
                let client = TcpStream::from(socket);
                client.set_read_timeout(Some(net::LIMIT)).unwrap();
                client
            })
            .collect();
        assert_eq!(get(&mut server.connect(), "small"), b"few\n");
        for mut client in slow {
            assert_eq!(net::read_to_end(&mut client), b"ERR the request is incomplete\n");
        }
    });
}

#[test]
fn a_client_that_reads_too_slowly_is_closed() {
    with_watchdog(LIMIT, || {
        let (folder, _) = folder();
        for back_end in BACK_ENDS {
            let options = [back_end, &["--timeout", "0.05", "--slowest", "1000000000"]].concat();
            let server = FileServer::start(&options, &folder);
            let mut client = server.connect();
            assert_eq!(request(&mut client, "large"), format!("OK {LARGE}"));
            until(|| server.has_no_clients());
            assert!(net::read_until_reset(&mut client).len() < LARGE);
        }
    });
}

#[test]
fn many_clients_are_served_at_the_same_time() {
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
fn only_files_of_the_directory_are_served() {
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
        let invalid = [
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
                (&invalid[..], "invalid file name"),
                (&unreadable, "cannot be read"),
                (&missing, "no such file"),
            ];
            for (names, reason) in reasons {
                for name in names {
                    assert_eq!(request(&mut client, name), format!("ERR {reason}"), "{name:?}");
                }
            }
            for bytes in [&b"GET \xFF\xFE\n"[..], format!("GET {}\n", "x".repeat(255)).as_bytes()] {
                client.write_all(bytes).unwrap();
                assert_eq!(read_line(&mut client), "ERR no such file");
            }
            for line in ["", "GET", "get small", "GETsmall", "HEAD small"] {
                client.write_all(format!("{line}\n").as_bytes()).unwrap();
                assert_eq!(read_line(&mut client), "ERR invalid request", "{line}");
            }
            assert_eq!(get(&mut client, "small"), b"few\n", "a valid request failed after the rejected ones");
            // A line that is too long ends the connection before its end arrives.
            client.write_all(&[b'x'; 1000]).unwrap();
            assert_eq!(net::read_to_end(&mut client), b"ERR the file name is too long\n");
            // An incomplete request is ignored.
            let mut client = server.connect();
            client.write_all(b"GET small").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(net::read_to_end(&mut client), b"");
        }
    });
}

#[test]
fn few_pieces_are_read_for_a_client_that_does_not_read() {
    with_watchdog(LIMIT, || {
        let (folder, large) = folder();
        for back_end in BACK_ENDS {
            let server = FileServer::start(back_end, &folder);
            let mut client = server.connect();
            assert_eq!(request(&mut client, "large"), format!("OK {LARGE}"));
            // Other clients are served meanwhile, and this client receives more when it reads.
            serve_another_client(&server);
            let mut received = net::read_exact(&mut client, LARGE / 4);
            serve_another_client(&server);
            // A reset discards the bytes in the buffers of the kernel.
            let in_kernel = net::queues(client.peer_addr().unwrap(), Some(client.local_addr().unwrap()));
            let in_kernel = in_kernel.expect("a connection").unsent as usize;
            server.0.signal(Signal::TERM);
            server.0.signal(Signal::INT);
            let totals = server.end();
            let bytes: usize =
                totals.split(' ').nth(4).and_then(|bytes| bytes.parse().ok()).expect("a number");
            received.extend(net::read_until_reset(&mut client));
            assert!(received == large[..received.len()]);
            assert!(received.len() < LARGE, "the whole file fits into the buffers of the kernel");
            let read_ahead = bytes - 200 * b"few\n".len() - received.len() - in_kernel;
            assert!(read_ahead <= 8 * (64 << 10), "{read_ahead} bytes were read ahead");
        }
    });
}

/// Serves a small file to another client a hundred times. The loop of the server makes hundreds of
/// turns meanwhile, enough to read much of another file if reading were not limited.
#[track_caller]
fn serve_another_client(server: &FileServer) {
    let mut client = server.connect();
    for _ in 0..100 {
        assert_eq!(get(&mut client, "small"), b"few\n");
    }
}

#[test]
fn clients_that_disconnect_during_a_transfer_leave_no_descriptor() {
    with_watchdog(LIMIT, || {
        let (folder, _) = folder();
        for back_end in BACK_ENDS {
            let server = FileServer::start(back_end, &folder);
            // The first request creates lasting objects, such as threads.
            assert_eq!(get(&mut server.connect(), "small"), b"few\n");
            let mut idle = server.connect();
            assert_eq!(get(&mut idle, "small"), b"few\n");
            drop(idle);
            until(|| server.has_no_clients());
            let before = server.descriptors();
            for round in 0..10 {
                let mut clients: Vec<_> = (0..12).map(|_| server.connect()).collect();
                for (number, client) in clients.iter_mut().enumerate() {
                    client.write_all(b"GET large\nGET large\n").unwrap();
                    // Some disconnect at once, some after the first line, and some after a part of
                    // the file.
                    if number % 3 > 0 {
                        assert_eq!(read_line(client), format!("OK {LARGE}"));
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
            until(|| server.has_no_clients() && server.descriptors() == before);
            assert_eq!(get(&mut server.connect(), "small"), b"few\n");
            server.0.signal(Signal::TERM);
            assert!(server.end().starts_with("123 connections, "));
        }
    });
}

#[test]
fn reading_stops_when_the_client_disconnects() {
    with_watchdog(LIMIT, || {
        let (folder, _) = folder();
        for back_end in BACK_ENDS {
            let server = FileServer::start(back_end, &folder);
            for _ in 0..20 {
                let mut client = server.connect();
                assert_eq!(request(&mut client, "large"), format!("OK {LARGE}"));
                net::reset(client);
            }
            until(|| server.has_no_clients());
            server.0.signal(Signal::TERM);
            let totals = server.end();
            let bytes: usize =
                totals.split(' ').nth(4).and_then(|bytes| bytes.parse().ok()).expect("a number");
            assert!(bytes < 20 * LARGE / 2, "{totals}");
        }
    });
}

/// The descriptors are examined during a transfer: those of files, sockets, the loop, and the ring
/// if there is one.
#[test]
fn all_descriptors_are_closed_on_exec() {
    with_watchdog(LIMIT, || {
        let (folder, _) = folder();
        for back_end in BACK_ENDS {
            let server = FileServer::start(back_end, &folder);
            let mut client = server.connect();
            assert_eq!(request(&mut client, "large"), format!("OK {LARGE}"));
            let id = server.0.id();
            let mut checked = Vec::new();
            for entry in fs::read_dir(format!("/proc/{id}/fd")).unwrap() {
                let entry = entry.unwrap();
                let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
                let Ok(link) = fs::read_link(entry.path()) else { continue };
                // The standard descriptors, and those that the test process itself has inherited.
                let is_inherited = number < 3
                    || fs::read_link(format!("/proc/self/fd/{number}")).is_ok_and(|own| own == link);
                // The server may have closed it meanwhile.
                let Ok(info) = fs::read_to_string(format!("/proc/{id}/fdinfo/{number}")) else { continue };
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
                let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
                if !is_inherited {
                    assert!(flags & 0o2_000_000 != 0, "{} is not closed on exec", link.display());
                    checked.push(link.display().to_string());
                }
            }
            assert!(checked.iter().any(|link| link.ends_with("served/large")), "{checked:?}");
            assert!(checked.iter().filter(|link| link.starts_with("socket:")).count() >= 2, "{checked:?}");
        }
    });
}

#[test]
fn a_file_truncated_during_a_transfer_ends_only_its_connection() {
    with_watchdog(LIMIT, || {
        for back_end in BACK_ENDS {
            let (folder, _) = folder();
            let server = FileServer::start(back_end, &folder);
            let mut client = server.connect();
            assert_eq!(request(&mut client, "large"), format!("OK {LARGE}"));
            serve_another_client(&server);
            File::options().write(true).open(folder.join("served/large")).unwrap().set_len(100).unwrap();
            let mut received = Vec::new();
            // The transfer ends early, with a reset or an end of input.
            let _ = client.read_to_end(&mut received);
            assert!(received.len() < LARGE);
            assert_eq!(get(&mut server.connect(), "large").len(), 100);
        }
    });
}

#[test]
fn a_signal_does_not_interrupt_transfers() {
    with_watchdog(LIMIT, || {
        let (folder, large) = folder();
        for back_end in BACK_ENDS {
            let server = FileServer::start(back_end, &folder);
            let mut idle = server.connect();
            assert_eq!(get(&mut idle, "small"), b"few\n");
            let mut client = server.connect();
            assert_eq!(request(&mut client, "large"), format!("OK {LARGE}"));
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
fn invalid_arguments_are_rejected_with_the_usage() {
    let invalid: [(&[&str], &str); 7] = [
        (&[], "the directory is missing"),
        (&["--nonsense", "/"], "unknown argument `--nonsense`"),
        (&["/", "/tmp"], "`/tmp` is an extra argument"),
        (&["--listen"], "missing argument for option '--listen'"),
        (&["--by"], "missing argument for option '--by'"),
        (&["--by", "magic", "/"], "--by takes io_uring or threads"),
        (
            &["--listen", "many", "/"],
            "`--listen`: `many` is not an address with a port, such as 127.0.0.1:2008 or [::1]:2008",
        ),
    ];
    for (arguments, message) in invalid {
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
fn an_unusable_directory_or_address_is_reported_in_one_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = listener.local_addr().unwrap().to_string();
    let invalid: [(&[&str], &str); 3] = [
        (&["/no/such/directory"], "/no/such/directory"),
        (&["/etc/passwd"], "/etc/passwd"),
        (&["--listen", &in_use, "/etc"], &in_use),
    ];
    for (arguments, name) in invalid {
        let output = outcome_of(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let errors = String::from_utf8(output.stderr).expect("text");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.starts_with("file_server: ") && errors.contains(name), "{errors}");
        assert!(output.stdout.is_empty());
    }
}
