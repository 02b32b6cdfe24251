//! The options of sockets, as the kernel has them in the end.

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

/// What the kernel says of a socket.
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

fn unusual() -> SocketOptions {
    let keep_alive = KeepAlive::new(Duration::from_secs(71)).interval(Duration::from_secs(13)).count(4);
    SocketOptions::new()
        .delay_small_writes()
        .keep_alive(keep_alive)
        .user_timeout(Duration::from_micros(12_344_001))
        .send_buffer(20_000)
        .receive_buffer(30_000)
}

#[track_caller]
fn assert_unusual(found: &Options) {
    let expected = Options {
        nodelay: false,
        keep_alive: true,
        idle: Duration::from_secs(71),
        interval: Duration::from_secs(13),
        count: 4,
        user_timeout: 12_345,
        // Doubled by the kernel.
        send_buffer: 40_000,
        receive_buffer: 60_000,
    };
    assert_eq!(*found, expected);
}

/// Says what options its connection has when it is opened.
struct Tell(mpsc::Sender<Options>);

impl ConnectionHandler for Tell {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.0.send(Options::of(conn)).map_err(io::Error::other)
    }

    fn on_message(&mut self, _conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        Ok(())
    }
}

/// Turns the loop until the handler of a connection sends its message.
#[track_caller]
fn opened<T>(event_loop: &EventLoop, told: &mpsc::Receiver<T>) -> T {
    let mut received = None;
    turn_until(event_loop, || {
        received = told.try_recv().ok();
        received.is_some()
    });
    received.unwrap()
}

/// The options of a connection of a server that has these.
fn of_server(options: Option<SocketOptions>) -> Options {
    with_loop(|event_loop| {
        let (tell, told) = mpsc::channel();
        let mut builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        if let Some(options) = options {
            builder = builder.socket_options(options);
        }
        let server = builder.serve(move |_| Tell(tell.clone())).unwrap();
        let _client = net::connect(server.local_addr().unwrap());
        opened(event_loop, &told)
    })
}

fn of_client(options: Option<SocketOptions>) -> Options {
    with_loop(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (tell, told) = mpsc::channel();
        let mut builder = TcpClient::connect(event_loop, listener.local_addr().unwrap());
        if let Some(options) = options {
            builder = builder.socket_options(options);
        }
        let _client = builder.serve(move |_| Tell(tell.clone())).unwrap();
        let mut found = None;
        turn_until(event_loop, || {
            found = told.try_recv().ok();
            found.is_some()
        });
        found.expect("just found")
    })
}

#[test]
fn what_is_set_for_a_server_holds_for_its_connections() {
    assert_unusual(&of_server(Some(unusual())));
}

#[test]
fn what_is_set_for_a_client_holds_for_its_connection() {
    assert_unusual(&of_client(Some(unusual())));
}

#[test]
fn usually_small_writes_go_out_at_once_and_all_else_is_as_the_system_has_it() {
    let plain = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let systems = Options::of(&plain);
    assert!(!systems.nodelay);
    for found in [of_server(None), of_client(None)] {
        assert!(found.nodelay);
        // Not the buffers, which the kernel adapts to the way as soon as it knows it.
        let expected = Options {
            nodelay: true,
            send_buffer: found.send_buffer,
            receive_buffer: found.receive_buffer,
            ..systems.clone()
        };
        assert_eq!(found, expected);
    }
}

#[test]
fn a_connection_may_change_its_options() {
    with_loop(|event_loop| {
        let (tell, told) = mpsc::channel();
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
                tell.send(Options::of(conn)).map_err(io::Error::other)?;
                conn.set_keep_alive(None)?;
                conn.set_user_timeout(Duration::ZERO)?;
                tell.send(Options::of(conn)).map_err(io::Error::other)?;
                let invalid = conn.set_keep_alive(Some(KeepAlive::new(Duration::ZERO))).unwrap_err();
                assert_eq!(invalid.kind(), io::ErrorKind::InvalidInput);
                Ok::<_, io::Error>(())
            })
            .unwrap();
        let mut client = net::connect(server.local_addr().unwrap());
        io::Write::write_all(&mut client, b"x").unwrap();
        let mut found = Vec::new();
        turn_until(event_loop, || {
            found.extend(told.try_iter());
            found.len() == 2
        });
        let [with, without] = &found[..] else { panic!("two") };
        assert!(!with.nodelay && with.keep_alive, "{with:?}");
        assert_eq!((with.idle, with.count, with.user_timeout), (Duration::from_secs(5), 2, 9000));
        assert!(!without.keep_alive && without.user_timeout == 0, "{without:?}");
    });
}

#[test]
fn an_option_that_the_kernel_does_not_take_is_an_error_that_names_it() {
    with_loop(|event_loop| {
        let listen = |options: SocketOptions| {
            let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().socket_options(options);
            builder.serve_fn(|_, _| ()).expect_err("an option that makes no sense")
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
            let failed = Reported::Failed(Some(address), io::ErrorKind::InvalidInput);
            assert_eq!(reports.take()[0], failed);
        }
        let error = listen(SocketOptions::new().device("no-such-device"));
        assert!(error.to_string().contains("SO_BINDTODEVICE"), "{error}");
    });
}

#[test]
fn servers_that_ask_for_it_share_a_port() {
    with_loop(|event_loop| {
        let listen = |address: SocketAddr, options| {
            let builder = TcpServer::bind(event_loop, address).unwrap().socket_options(options);
            builder.serve_fn(|conn, input| conn.send(input.take_all()))
        };
        let shared = || SocketOptions::new().reuse_port();
        let first = listen("127.0.0.1:0".parse().unwrap(), shared()).unwrap();
        let _second = listen(first.local_addr().unwrap(), shared()).expect("a port that is shared");
        let error =
            listen(first.local_addr().unwrap(), SocketOptions::new()).expect_err("a port that is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    });
}

#[test]
fn a_server_for_ipv6_takes_ipv4_or_not_as_it_is_told() {
    with_loop(|event_loop| {
        if TcpListener::bind("[::1]:0").is_err() {
            return; // Not on this machine.
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
        // Where it has no meaning it does no harm.
        let options = SocketOptions::new().only_v6();
        let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().socket_options(options);
        net::connect(builder.serve_fn(|_, _| ()).unwrap().local_addr().unwrap());
    });
}

#[test]
fn sockets_keep_to_their_device() {
    with_loop(|event_loop| {
        let (tell, told) = mpsc::channel();
        let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let builder = builder.socket_options(SocketOptions::new().device("lo"));
        let server = builder.serve(move |conn: &TcpConnection<'_>| {
            tell.send(SockRef::from(conn).device().unwrap()).unwrap();
            Tell(mpsc::channel().0)
        });
        let server = match server {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return, // An old kernel's policy.
            server => server.unwrap(),
        };
        let _client = net::connect(server.local_addr().unwrap());
        let device = opened(event_loop, &told).expect("a device");
        assert_eq!(device.strip_suffix(b"\0").unwrap_or(&device), b"lo");
    });
}

#[test]
fn a_connection_says_what_the_kernel_knows_of_it() {
    with_watchdog(LIMIT, || {
        let (tell, told) = mpsc::channel();
        let host = net::Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve_fn(move |conn, input| {
                conn.send(input.take_all())?;
                let told = (conn.tcp_info()?, conn.unacknowledged()?);
                tell.send(told).map_err(io::Error::other)
            })
        });
        let mut client = host.connect();
        let bytes = net::pattern(5000);
        assert_eq!(net::exchange(&mut client, &bytes), bytes);
        let (info, unacknowledged) = told.recv_timeout(net::LIMIT).expect("an answer");
        assert_eq!(info.state, TcpState::Established);
        assert!(info.bytes_received.is_none_or(|received| (1..=5000).contains(&received)), "{info:?}");
        assert!(unacknowledged <= 5000, "{unacknowledged}");
    });
}
