//! Streams of pipes and terminals, and servers that distribute their connections or stop accepting.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::data::{pattern, read_all};
use crate::support::futures::run;
use crate::support::net::{self, Host, until};
use crate::support::{LIMIT, MIB, with_loop, with_watchdog};
use reveille::net::{LoadBalancing, OverflowPolicy};
use reveille::{TcpConnection, TcpServer, task};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}

#[test]
fn pipes_are_a_stream_in_both_directions() {
    with_loop(|event_loop| {
        let ((input, to_input), (from_output, output)) = (pipe(), pipe());
        let builder = TcpConnection::builder(event_loop);
        let mut stream = builder.adopt_pipes_async(input, output).unwrap();
        // The peer sends back what it receives, until the end.
        let echo = thread::spawn(move || {
            std::io::copy(&mut File::from(from_output), &mut File::from(to_input)).unwrap()
        });
        run(event_loop, async move {
            let (mut input, mut output) = stream.split();
            let write = async {
                output.write_all(&pattern(MIB)).await.unwrap();
                output.shutdown().await.unwrap();
                assert_eq!(output.write_all("x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
            };
            let read = async {
                let mut received = vec![0; MIB];
                let mut filled = 0;
                while filled < MIB {
                    match input.read(&mut received[filled..]).await.unwrap() {
                        0 => break,
                        n => filled += n,
                    }
                }
                assert!(received == pattern(MIB));
                assert_eq!(input.read(&mut [0; 1]).await.unwrap(), 0);
            };
            crate::data::join(write, read).await;
        });
        assert_eq!(echo.join().unwrap(), MIB as u64);
    });
}

#[test]
fn a_pipe_without_a_reader_is_an_error_of_the_write() {
    with_loop(|event_loop| {
        let ((input, _to_input), (from_output, output)) = (pipe(), pipe());
        let builder = TcpConnection::builder(event_loop);
        let mut stream = builder.adopt_pipes_async(input, output).unwrap();
        drop(from_output);
        let error = run(event_loop, async move {
            loop {
                if let Err(error) = stream.write_all(&pattern(100_000)).await {
                    return error;
                }
                // A process that another test is starting has a copy of the read end for a moment.
                task::yield_now().await;
            }
        });
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_terminal_is_a_stream_of_lines_that_ends_with_it() {
    with_loop(|event_loop| {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).unwrap();
        let mut stream = TcpConnection::builder(event_loop).adopt_async(slave).unwrap();
        let mut master = File::from(master);
        run(event_loop, async move {
            // Two lines at once are two reads of a terminal, of which the second has no new edge.
            master.write_all(b"one\ntwo\n").unwrap();
            let mut line = [0; 4];
            stream.read_exact(&mut line).await.unwrap();
            assert_eq!(&line, b"one\n");
            stream.read_exact(&mut line).await.unwrap();
            assert_eq!(&line, b"two\n");
            stream.write_all("three").await.unwrap();
            stream.flush().await.unwrap();
            let mut echoed = Vec::new();
            while !echoed.ends_with(b"three") {
                let mut bytes = [0; 100];
                let n = master.read(&mut bytes).unwrap();
                echoed.extend_from_slice(&bytes[..n]);
            }
            drop(master);
            // A hang-up is an end, or an error, of the input.
            let end = stream.read(&mut line).await;
            assert!(matches!(&end, Ok(0) | Err(_)), "{end:?}");
            assert!(!matches!(&end, Err(error) if error.kind() == ErrorKind::WouldBlock));
        });
    });
}

#[test]
fn unix_sockets_end_and_fail_like_tcp() {
    with_loop(|event_loop| {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut stream = TcpConnection::builder(event_loop).adopt_async(ours).unwrap();
        run(event_loop, async move {
            theirs.write_all(b"the last words").unwrap();
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(read_all(&mut stream).await, b"the last words");
            stream.write_all("half-open").await.unwrap();
            stream.flush().await.unwrap();
            let mut bytes = [0; 9];
            theirs.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"half-open");
            drop(theirs);
            let error = loop {
                if let Err(error) = stream.write_all("x").await {
                    break error;
                }
                task::yield_now().await;
            };
            assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
        });
    });
}

#[test]
fn tasks_are_distributed_over_the_loops() {
    with_watchdog(LIMIT, || {
        for balancing in [LoadBalancing::RoundRobin, LoadBalancing::LeastConnections] {
            let threads = Arc::new(Mutex::new(BTreeMap::<String, usize>::new()));
            let counting = Arc::clone(&threads);
            let host = Host::new(move |event_loop| {
                let server = TcpServer::bind(event_loop, "127.0.0.1:0")?.threads(3);
                server.load_balancing(balancing).serve_async(move |mut stream| {
                    let name = format!("{:?}", thread::current().id());
                    *counting.lock().unwrap().entry(name).or_default() += 1;
                    async move {
                        stream.write_all("x").await?;
                        while stream.read(&mut [0; 1]).await? > 0 {}
                        Ok(())
                    }
                })
            });
            let mut clients = Vec::new();
            for _ in 0..9 {
                let mut client = host.connect();
                client.read_exact(&mut [0; 1]).unwrap();
                clients.push(client);
            }
            let counts: Vec<_> = threads.lock().unwrap().values().copied().collect();
            assert_eq!(counts, [3, 3, 3], "{balancing:?}");
        }
    });
}

#[test]
fn a_full_server_rejects_or_leaves_connections_unaccepted() {
    with_watchdog(LIMIT, || {
        for policy in [OverflowPolicy::Reject, OverflowPolicy::Queue] {
            let host = Host::new(move |event_loop| {
                let server = TcpServer::bind(event_loop, "127.0.0.1:0")?.max_connections(1);
                server.overflow_policy(policy).serve_async(|mut stream| async move {
                    stream.write_all("hello").await?;
                    while stream.read(&mut [0; 1]).await? > 0 {}
                    Ok(())
                })
            });
            let mut one = host.connect();
            one.read_exact(&mut [0; 5]).unwrap();
            let mut two = host.connect();
            let counters = || host.request(|_, server| server.as_ref().expect("a server").counters());
            if policy == OverflowPolicy::Reject {
                net::wait_for_end(&mut two);
                assert_eq!(counters().rejected_at_maximum, 1);
                drop(one);
                until(|| host.open_connections() == 0);
                two = host.connect();
            } else {
                assert_eq!((host.open_connections(), counters().accepted), (1, 1));
                drop(one);
            }
            two.read_exact(&mut [0; 5]).unwrap();
            assert_eq!(host.open_connections(), 1);
        }
    });
}
