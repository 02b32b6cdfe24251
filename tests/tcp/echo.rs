//! Echo servers: every way to write a server, and every way in which a stream can be split into
//! pieces.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, Write};
use std::mem;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;

use crate::support::net::{self, Host, Random, pattern};
use crate::support::{LIMIT, with_loop, with_watchdog};
use reveille::net::SocketOptions;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection, TcpServer};
use socket2::SockRef;

fn echo(event_loop: &EventLoop) -> io::Result<TcpServer> {
    TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(|conn, input| conn.send(input.take_all()))
}

#[test]
fn the_five_lines_of_the_readme_are_an_echo_server() {
    fn five_lines(client: impl FnOnce(&EventLoop, &TcpServer)) -> io::Result<()> {
        let event_loop = EventLoop::new()?;
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0")?
            .serve_fn(|conn, input| conn.send(input.take_all()))?;
        client(&event_loop, &server);
        event_loop.run()
    }
    with_watchdog(LIMIT, || {
        let mut thread = None;
        let served = five_lines(|event_loop, server| {
            let (address, handle) = (server.local_addr().unwrap(), event_loop.handle());
            thread = Some(thread::spawn(move || {
                let mut client = net::connect(address);
                let reply = net::exchange(&mut client, b"hello");
                handle.quit();
                reply
            }));
        });
        served.expect("a running server");
        assert_eq!(thread.unwrap().join().unwrap(), b"hello");
    });
}

/// Replies to each line with its number.
#[derive(Default)]
struct LineCounter {
    lines: u64,
}

impl ConnectionHandler for LineCounter {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        while let Some(end) = input.find(b'\n') {
            input.consume(end + 1);
            self.lines += 1;
            conn.send(format!("{}\n", self.lines))?;
        }
        Ok(())
    }
}

#[test]
fn each_connection_has_its_own_handler_state() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve(|_| LineCounter::default())
        });
        let (mut one, mut other) = (host.connect(), host.connect());
        for n in 1..=9 {
            let expected = format!("{n}\n");
            assert_eq!(net::exchange(&mut one, b"x\n"), expected.as_bytes());
            if n <= 3 {
                assert_eq!(net::exchange(&mut other, b"y\n"), expected.as_bytes());
            }
        }
        assert_eq!(net::exchange(&mut other, b"z\n"), b"4\n");
    });
}

/// A server whose connections send the name of the thread that serves them, and shut down.
fn name_threads(event_loop: &EventLoop, threads: usize) -> io::Result<TcpServer> {
    struct Name;
    impl ConnectionHandler for Name {
        fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
            conn.send(thread::current().name().expect("a thread with a name"))?;
            conn.shutdown();
            Ok(())
        }

        fn on_message(&mut self, _: &TcpConnection, _: &mut Buffer) -> io::Result<()> {
            Ok(())
        }
    }
    TcpServer::bind(event_loop, "127.0.0.1:0")?.threads(threads).serve(|_| Name)
}

fn names_seen(host: &Host, connections: usize) -> Vec<String> {
    (0..connections)
        .map(|_| String::from_utf8(net::read_to_end(&mut host.connect())).expect("the name of a thread"))
        .collect()
}

#[test]
fn connections_are_assigned_to_three_loops_round_robin() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| name_threads(event_loop, 3));
        let names = names_seen(&host, 12);
        let mut counts = HashMap::new();
        for name in &names {
            *counts.entry(name.as_str()).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 3, "{names:?}");
        assert!(counts.values().all(|&count| count == 4), "{names:?}");
        assert!(names.windows(4).all(|turn| turn[0] == turn[3]), "{names:?}");
        assert!(!names.iter().any(|name| name == "host"), "the accepting loop served: {names:?}");
    });
}

#[test]
fn a_server_with_one_thread_serves_on_its_own_loop() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| name_threads(event_loop, 1));
        assert_eq!(names_seen(&host, 3), ["host", "host", "host"]);
    });
}

#[test]
fn a_closure_serves_on_several_loops() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .threads(3)
                .serve_fn(|conn, input| conn.send(input.take_all()))
        });
        let mut clients: Vec<_> = (0..6).map(|_| host.connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            let text = format!("I am number {number}");
            assert_eq!(net::exchange(client, &text), text.as_bytes());
        }
    });
}

#[test]
fn forty_concurrent_clients_each_receive_their_own_bytes() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .threads(2)
                .serve_fn(|conn, input| conn.send(input.take_all()))
        });
        thread::scope(|scope| {
            for number in 0..40 {
                let host = &host;
                scope.spawn(move || {
                    let mut client = host.connect();
                    for round in 1..20 {
                        let bytes = pattern(number * 100 + round);
                        assert_eq!(net::exchange(&mut client, &bytes), bytes);
                    }
                });
            }
        });
    });
}

#[test]
fn ipv4_and_ipv6_addresses_are_served() {
    with_watchdog(LIMIT, || {
        let mut addresses = vec!["127.0.0.1:0"];
        match TcpListener::bind("[::1]:0") {
            Ok(_) => addresses.push("[::1]:0"),
            Err(error) => eprintln!("IPv6 is not tested, since this machine has none: {error}"),
        }
        for address in addresses {
            let host = Host::new(move |event_loop| {
                TcpServer::bind(event_loop, address)?.serve_fn(|conn, _| {
                    conn.send(format!("{} {}\n", conn.local_addr()?, conn.peer_address()))
                        .map_err(io::Error::from)
                })
            });
            assert_eq!(host.address().is_ipv6(), address.contains("::1"));
            let mut client = host.connect();
            let ends = format!("{} {}\n", client.peer_addr().unwrap(), client.local_addr().unwrap());
            assert_eq!(client.peer_addr().unwrap(), host.address());
            client.write_all(b"who are we?").unwrap();
            assert_eq!(String::from_utf8(net::read_exact(&mut client, ends.len())).unwrap(), ends);
        }
    });
}

#[test]
fn a_message_may_arrive_one_byte_at_a_time() {
    /// Echoes units of sixteen bytes. Sends nothing until all sixteen have arrived.
    fn sixteen(conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        while input.len() >= 16 {
            conn.send(input.take(16))?;
        }
        Ok(())
    }
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(sixteen));
        let mut client = host.connect();
        let bytes = pattern(16 * 40);
        for byte in &bytes {
            client.write_all(&[*byte]).unwrap();
        }
        assert_eq!(net::read_exact(&mut client, bytes.len()), bytes);
    });
}

/// Each write arrives as one piece, since the test turns the loop after each of them.
#[test]
fn unconsumed_input_is_offered_again_with_new_input() {
    with_loop(|event_loop| {
        let seed = 20_071_107;
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let lines: Vec<String> =
            (0..300).map(|n| format!("line {n} {}", "x".repeat(random.below(60)))).collect();
        let text = lines.join("\n") + "\n";

        let received = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::new(Cell::new(0));
        let (writing, counting) = (Rc::clone(&received), Rc::clone(&seen));
        let mut left = 0;
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_fn(move |_, input| {
            counting.set(counting.get() + input.len() - left);
            while let Some(end) = input.find(b'\n') {
                writing.borrow_mut().push(String::from_utf8(input.take(end).to_vec()).unwrap());
                input.consume(1);
            }
            left = input.len();
        });
        let server = server.unwrap();
        let mut client = net::connect(server.local_addr().unwrap());
        let mut remaining = text.as_bytes();
        while !remaining.is_empty() {
            let piece = remaining.len().min(1 + random.below(50));
            client.write_all(&remaining[..piece]).unwrap();
            remaining = &remaining[piece..];
            net::turn_until(event_loop, || seen.get() == text.len() - remaining.len());
        }
        assert_eq!(*received.borrow(), lines);
    });
}

#[test]
fn eight_mebibytes_are_echoed_while_being_sent() {
    with_watchdog(LIMIT, || {
        let host = Host::new(echo);
        let bytes = pattern(8 << 20);
        let mut client = host.connect();
        assert!(net::finish_meanwhile(&mut client, &bytes) == bytes, "the echoed bytes differ");
    });
}

#[test]
fn tcp_nodelay_is_the_default_and_can_be_disabled() {
    fn options(conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        let nodelay = || SockRef::from(conn).tcp_nodelay();
        let before = nodelay()?;
        conn.set_nodelay(!before)?;
        conn.send(format!("{before} {}\n", nodelay()?))?;
        input.clear();
        Ok(())
    }
    with_watchdog(LIMIT, || {
        let default_host =
            Host::new(|event_loop| TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(options));
        assert_eq!(net::exchange(&mut default_host.connect(), [b'?'; 11]), b"true false\n");
        let other = Host::new(|event_loop| {
            let nagle = SocketOptions::new().delay_small_writes();
            TcpServer::bind(event_loop, "127.0.0.1:0")?.socket_options(nagle).serve_fn(options)
        });
        assert_eq!(net::exchange(&mut other.connect(), [b'?'; 11]), b"false true\n");
    });
}

#[test]
fn a_handler_may_keep_its_input_buffer() {
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| {
            let mut kept = Vec::new();
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(move |conn, input| {
                if input.readable().ends_with(b".") {
                    kept.push(mem::take(input));
                    conn.send(kept.last().unwrap())?;
                }
                io::Result::Ok(())
            })
        });
        let (mut one, mut other) = (host.connect(), host.connect());
        for round in 0..10 {
            let text = format!("round {round}.");
            assert_eq!(net::exchange(&mut one, &text), text.as_bytes());
            // For a message in two pieces, the handler borrows the connection's own buffer.
            other.write_all(b"in two").unwrap();
            assert_eq!(net::exchange(&mut one, b"meanwhile."), b"meanwhile.");
            other.write_all(b" pieces.").unwrap();
            assert_eq!(net::read_exact(&mut other, 14), b"in two pieces.");
        }
    });
}

/// Both clients have sent before the loop polls, so the loop determines the order of the messages.
#[test]
fn a_busy_connection_does_not_starve_a_quiet_one() {
    with_watchdog(LIMIT, || {
        const BUFFER: usize = 1024;
        let event_loop = EventLoop::builder().input_buffer(BUFFER).build().unwrap();
        let order = Rc::new(RefCell::new(Vec::new()));
        let sockets = Rc::new(RefCell::new(Vec::new()));
        let (writing, opening) = (Rc::clone(&order), Rc::clone(&sockets));
        struct Order(usize, Rc<RefCell<Vec<(usize, usize)>>>);
        impl ConnectionHandler for Order {
            fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
                self.1.borrow_mut().push((self.0, input.len()));
                input.clear();
                Ok(())
            }
        }
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().serve(move |conn| {
            opening.borrow_mut().push(net::second_descriptor(conn));
            Order(opening.borrow().len() - 1, Rc::clone(&writing))
        });
        let server = server.unwrap();
        let mut busy = net::connect(server.local_addr().unwrap());
        net::turn_until(&event_loop, || sockets.borrow().len() == 1);
        let mut quiet = net::connect(server.local_addr().unwrap());
        net::turn_until(&event_loop, || sockets.borrow().len() == 2);

        for round in 0..3 {
            order.borrow_mut().clear();
            busy.write_all(&[0; 20 * BUFFER]).unwrap();
            quiet.write_all(b"me too").unwrap();
            for (socket, expected) in sockets.borrow().iter().zip([20 * BUFFER, 6]) {
                let mut seen = vec![0; expected];
                net::until(|| socket.peek(&mut seen).unwrap() == expected);
            }
            let busy_bytes =
                || order.borrow().iter().filter(|read| read.0 == 0).map(|read| read.1).sum::<usize>();
            net::turn_until(&event_loop, || busy_bytes() == 20 * BUFFER);

            let order = order.borrow();
            assert!(order.iter().all(|read| read.1 <= BUFFER), "{order:?}");
            let quiet_turn = order.iter().position(|read| *read == (1, 6)).expect("quiet input");
            assert!(quiet_turn <= 1, "the quiet connection waited for {quiet_turn} reads, round {round}");
        }
        sockets.borrow_mut().clear();
    });
}

/// No read is short if the input has exactly the size of the buffer.
#[test]
fn input_of_exactly_one_buffer_is_read_without_waiting() {
    with_watchdog(LIMIT, || {
        const BUFFER: usize = 1024;
        let host = Host::on(EventLoop::builder().input_buffer(BUFFER), echo);
        let mut client = host.connect();
        for buffers in [1, 2, 5, 1, 3] {
            let bytes = pattern(buffers * BUFFER);
            assert_eq!(net::exchange(&mut client, &bytes), bytes);
        }
        // The loop stops reading after the read that finds no bytes.
        host.assert_idle();
    });
}

#[test]
fn a_closure_that_returns_unit_is_a_handler() {
    with_watchdog(LIMIT, || {
        let (sender, messages) = mpsc::channel();
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(move |_, input| {
                sender.send(input.take_all().to_vec()).unwrap();
            })
        });
        host.connect().write_all(b"quietly").unwrap();
        assert_eq!(messages.recv_timeout(net::LIMIT).unwrap(), b"quietly");
    });
}

#[test]
fn a_small_send_buffer_preserves_all_bytes_in_order() {
    struct Narrow;
    impl ConnectionHandler for Narrow {
        fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
            SockRef::from(conn).set_send_buffer_size(4096)
        }

        fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
            // Several sends per message. Most of them find bytes in the queue.
            while !input.is_empty() {
                conn.send(input.take(input.len().min(1000)))?;
            }
            Ok(())
        }
    }
    with_watchdog(LIMIT, || {
        let host = Host::new(|event_loop| TcpServer::bind(event_loop, "127.0.0.1:0")?.serve(|_| Narrow));
        let bytes = pattern(1 << 20);
        let reply = net::exchange_meanwhile(&mut host.connect(), &bytes);
        assert!(reply == bytes, "the echoed bytes differ");
    });
}
