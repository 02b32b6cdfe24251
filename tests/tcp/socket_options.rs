//! Socket options of servers, clients and connections, as the kernel reports them.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::client::{Reported, Reporting, Reports};
use crate::support::net::{self, turn_until};
use crate::support::{LIMIT, with_loop, with_watchdog};
use reveille::net::{KeepAlive, SocketOptions, TcpState};
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpClient, TcpConnection, TcpServer};
use rustix::net::sockopt;
use socket2::{Domain, SockRef, Socket, Type};

/// The options of a socket, as the kernel reports them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Options {
    nodelay: bool,
    keep_alive: bool,
    idle: Duration,
    interval: Duration,
    count: u32,
    user_timeout: u32,
    send_buffer: usize,
    receive_buffer: usize,
}

impl Options {
    fn of(socket: impl AsFd) -> Options {
        let socket = socket.as_fd();
        Options {
            nodelay: sockopt::tcp_nodelay(socket).unwrap(),
            keep_alive: sockopt::socket_keepalive(socket).unwrap(),
            idle: sockopt::tcp_keepidle(socket).unwrap(),
            interval: sockopt::tcp_keepintvl(socket).unwrap(),
            count: sockopt::tcp_keepcnt(socket).unwrap(),
            user_timeout: sockopt::tcp_user_timeout(socket).unwrap(),
            send_buffer: sockopt::socket_send_buffer_size(socket).unwrap(),
            receive_buffer: sockopt::socket_recv_buffer_size(socket).unwrap(),
        }
    }
}

/// Options that all differ from the system's defaults.
fn custom_options() -> SocketOptions {
    let keep_alive = KeepAlive::new(Duration::from_secs(71)).interval(Duration::from_secs(13)).count(4);
    SocketOptions::new()
        .delay_small_writes()
        .keep_alive(keep_alive)
        .user_timeout(Duration::from_micros(12_344_001))
        .send_buffer(20_000)
        .receive_buffer(30_000)
}

#[track_caller]
fn assert_custom_options(found: &Options) {
    let expected = Options {
        nodelay: false,
        keep_alive: true,
        idle: Duration::from_secs(71),
        interval: Duration::from_secs(13),
        count: 4,
        user_timeout: 12_345,
        // The kernel doubles the requested sizes.
        send_buffer: 40_000,
        receive_buffer: 60_000,
    };
    assert_eq!(*found, expected);
}

/// Sends the options of its connection when the connection opens.
struct OptionReporter(mpsc::Sender<Options>);

impl ConnectionHandler for OptionReporter {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.0.send(Options::of(conn)).map_err(io::Error::other)
    }

    fn on_message(&mut self, _conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        Ok(())
    }
}

/// Turns the loop until a handler has sent a report.
#[track_caller]
fn wait_for_report<T>(event_loop: &EventLoop, reports: &mpsc::Receiver<T>) -> T {
    let mut received = None;
    turn_until(event_loop, || {
        received = reports.try_recv().ok();
        received.is_some()
    });
    received.unwrap()
}

/// The options of a connection of a server with `options`.
fn options_of_server_connection(options: Option<SocketOptions>) -> Options {
    with_loop(|event_loop| {
        let (sender, reports) = mpsc::channel();
        let mut builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        if let Some(options) = options {
            builder = builder.socket_options(options);
        }
        let server = builder.serve(move |_| OptionReporter(sender.clone())).unwrap();
        let _client = net::connect(server.local_addr().unwrap());
        wait_for_report(event_loop, &reports)
    })
}

/// The options of the connection of a client with `options`.
fn options_of_client_connection(options: Option<SocketOptions>) -> Options {
    with_loop(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (sender, reports) = mpsc::channel();
        let mut builder = TcpClient::connect(event_loop, listener.local_addr().unwrap());
        if let Some(options) = options {
            builder = builder.socket_options(options);
        }
        let _client = builder.serve(move |_| OptionReporter(sender.clone())).unwrap();
        wait_for_report(event_loop, &reports)
    })
}

#[test]
fn socket_options_of_a_server_apply_to_its_connections() {
    assert_custom_options(&options_of_server_connection(Some(custom_options())));
}

#[test]
fn socket_options_of_a_client_apply_to_its_connection() {
    assert_custom_options(&options_of_client_connection(Some(custom_options())));
}

#[test]
fn only_nodelay_differs_from_the_systems_defaults() {
    let plain = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let defaults = Options::of(&plain);
    assert!(!defaults.nodelay);
    for found in [options_of_server_connection(None), options_of_client_connection(None)] {
        assert!(found.nodelay);
        // The buffer sizes are not compared: the kernel adapts them to the path.
        let expected = Options {
            nodelay: true,
            send_buffer: found.send_buffer,
            receive_buffer: found.receive_buffer,
            ..defaults.clone()
        };
        assert_eq!(found, expected);
    }
}

#[test]
fn a_connection_may_change_its_options() {
    with_loop(|event_loop| {
        let (sender, reports) = mpsc::channel();
        let server = TcpServer::bind(event_loop, "127.0.0.1:0")
            .unwrap()
            .serve_fn(move |conn, input| {
                input.clear();
                conn.set_nodelay(false)?;
                conn.set_keep_alive(Some(KeepAlive::new(Duration::from_secs(5)).count(2)))?;
                conn.set_user_timeout(Duration::from_secs(9))?;
                conn.set_quickack(false)?;
                assert!(!sockopt::tcp_quickack(conn)?);
                conn.set_quickack(true)?;
                assert!(sockopt::tcp_quickack(conn)?);
                sender.send(Options::of(conn)).map_err(io::Error::other)?;
                conn.set_keep_alive(None)?;
                conn.set_user_timeout(Duration::ZERO)?;
                sender.send(Options::of(conn)).map_err(io::Error::other)?;
                let invalid = conn.set_keep_alive(Some(KeepAlive::new(Duration::ZERO))).unwrap_err();
                assert_eq!(invalid.kind(), io::ErrorKind::InvalidInput);
                Ok::<_, io::Error>(())
            })
            .unwrap();
        let mut client = net::connect(server.local_addr().unwrap());
        io::Write::write_all(&mut client, b"x").unwrap();
        let mut found = Vec::new();
        turn_until(event_loop, || {
            found.extend(reports.try_iter());
            found.len() == 2
        });
        let [changed, restored] = &found[..] else { panic!("not two reports: {found:?}") };
        assert!(!changed.nodelay && changed.keep_alive, "{changed:?}");
        assert_eq!((changed.idle, changed.count, changed.user_timeout), (Duration::from_secs(5), 2, 9000));
        assert!(!restored.keep_alive && restored.user_timeout == 0, "{restored:?}");
    });
}

#[test]
fn the_error_for_an_invalid_option_names_it() {
    with_loop(|event_loop| {
        let listen = |options: SocketOptions| {
            let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().socket_options(options);
            builder.serve_fn(|_, _| ()).expect_err("an invalid option was accepted")
        };
        let too_long = Duration::from_secs(1_000_000);
        let options = [
            ("TCP_KEEPIDLE", SocketOptions::new().keep_alive(KeepAlive::new(Duration::ZERO))),
            ("TCP_KEEPINTVL", SocketOptions::new().keep_alive(KeepAlive::new(LIMIT).interval(too_long))),
            ("TCP_KEEPCNT", SocketOptions::new().keep_alive(KeepAlive::new(LIMIT).count(1000))),
            ("TCP_USER_TIMEOUT", SocketOptions::new().user_timeout(Duration::MAX)),
        ];
        for (name, options) in options {
            let error = listen(options.clone());
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains(name), "{error}");

            let reports = Reports::new();
            let address: SocketAddr = "127.0.0.1:9".parse().unwrap();
            let client = TcpClient::connect(event_loop, address).socket_options(options).reporting(&reports);
            let _client = client.serve_fn(|_, _| ()).unwrap();
            turn_until(event_loop, || reports.len() == 2);
            let failure = Reported::Failed(Some(address), io::ErrorKind::InvalidInput);
            assert_eq!(reports.take()[0], failure);
        }
        let error = listen(SocketOptions::new().device("no-such-device"));
        assert!(error.to_string().contains("SO_BINDTODEVICE"), "{error}");
    });
}

#[test]
fn servers_with_reuse_port_share_a_port() {
    with_loop(|event_loop| {
        let listen = |address: SocketAddr, options| {
            let builder = TcpServer::bind(event_loop, address).unwrap().socket_options(options);
            builder.serve_fn(|conn, input| conn.send(input.take_all()))
        };
        let shared = || SocketOptions::new().reuse_port();
        let first = listen("127.0.0.1:0".parse().unwrap(), shared()).unwrap();
        let address = first.local_addr().unwrap();
        let _second = listen(address, shared()).expect("a shared port");
        let error =
            listen(address, SocketOptions::new()).expect_err("the port was shared without reuse_port");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    });
}

#[test]
fn only_v6_determines_whether_ipv4_clients_can_connect() {
    with_loop(|event_loop| {
        if TcpListener::bind("[::1]:0").is_err() {
            return; // This machine has no IPv6.
        }
        for only_v6 in [true, false] {
            let options = SocketOptions::new();
            let options = if only_v6 { options.only_v6() } else { options.dual_stack() };
            let builder = TcpServer::bind(event_loop, "[::]:0").unwrap().socket_options(options);
            let server = builder.serve_fn(|_, _| ()).unwrap();
            let port = server.local_addr().unwrap().port();
            net::connect(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port)));
            let over_v4 = TcpStream::connect(("127.0.0.1", port));
            assert_eq!(over_v4.is_err(), only_v6, "{over_v4:?}");
        }
        // A server for IPv4 ignores the option.
        let options = SocketOptions::new().only_v6();
        let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().socket_options(options);
        net::connect(builder.serve_fn(|_, _| ()).unwrap().local_addr().unwrap());
    });
}

#[test]
fn connections_are_bound_to_the_device_of_their_server() {
    with_loop(|event_loop| {
        let (sender, reports) = mpsc::channel();
        let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let builder = builder.socket_options(SocketOptions::new().device("lo"));
        let server = builder.serve(move |conn: &TcpConnection<'_>| {
            sender.send(SockRef::from(conn).device().unwrap()).unwrap();
            OptionReporter(mpsc::channel().0)
        });
        let server = match server {
            // Old kernels require a capability for this option.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
            server => server.unwrap(),
        };
        let _client = net::connect(server.local_addr().unwrap());
        let device = wait_for_report(event_loop, &reports).expect("a device");
        assert_eq!(device.strip_suffix(b"\0").unwrap_or(&device), b"lo");
    });
}

#[test]
fn a_connection_reports_its_tcp_info_and_unacknowledged_bytes() {
    with_watchdog(LIMIT, || {
        let (sender, reports) = mpsc::channel();
        let host = net::Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(move |conn, input| {
                conn.send(input.take_all())?;
                let report = (conn.tcp_info()?, conn.unacknowledged()?);
                sender.send(report).map_err(io::Error::other)
            })
        });
        let mut client = host.connect();
        let bytes = net::pattern(5000);
        assert_eq!(net::exchange(&mut client, &bytes), bytes);
        let (info, unacknowledged) = reports.recv_timeout(net::LIMIT).expect("a report");
        assert_eq!(info.state, TcpState::Established);
        assert!(info.bytes_received.is_none_or(|received| (1..=5000).contains(&received)), "{info:?}");
        assert!(unacknowledged <= 5000, "{unacknowledged} unacknowledged bytes");
    });
}
