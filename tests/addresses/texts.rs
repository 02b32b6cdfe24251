//! Addresses as text: how each text is parsed, and which texts are refused.

use std::cell::RefCell;
use std::fmt::Debug;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::rc::Rc;

use crate::support::client::{Reported, Reporting, Reports};
use crate::support::{net, with_loop};
use reveille::net::{AddressError, ConnectError, ConnectTarget, SocketOptions, UnixAddress};
use reveille::{EventLoop, TcpClient, TcpServer, UdpSocket};
use rustix::net::netdevice::name_to_index;

/// Returns the error of a client that cannot connect.
#[track_caller]
fn failure_of(
    event_loop: &EventLoop,
    target: impl TryInto<ConnectTarget, Error: Into<AddressError>>,
) -> ConnectError {
    let failure = Rc::new(RefCell::new(None));
    let reported = Rc::clone(&failure);
    let _client = TcpClient::connect(event_loop, target)
        .on_failure(move |_, error| *reported.borrow_mut() = Some(error))
        .serve_fn(|_, _| ())
        .unwrap();
    net::turn_until(event_loop, || failure.borrow().is_some());
    failure.take().expect("a failure")
}

/// Returns the address that a client tries first.
#[track_caller]
fn tried(
    event_loop: &EventLoop,
    target: impl TryInto<ConnectTarget, Error: Into<AddressError>>,
) -> Option<SocketAddr> {
    let reports = Reports::new();
    let _client = TcpClient::connect(event_loop, target).reporting(&reports).serve_fn(|_, _| ()).unwrap();
    net::turn_until(event_loop, || reports.len() > 0);
    match reports.take().swap_remove(0) {
        Reported::Connected(address) => Some(address),
        Reported::Failed(address, _) => address,
        Reported::RetriesExhausted(..) => panic!("an attempt comes first"),
    }
}

fn in_zone(address: &str, scope: u32) -> Option<SocketAddr> {
    Some(SocketAddrV6::new(address.parse().unwrap(), 9, 0, scope).into())
}

#[test]
fn every_address_notation_connects_without_a_lookup() {
    with_loop(|event_loop| {
        let lo = name_to_index(std::net::UdpSocket::bind("127.0.0.1:0").unwrap(), "lo").unwrap();
        let v4 = Some("127.0.0.1:9".parse().unwrap());
        let texts = [
            ("127.0.0.1:9", v4),
            ("127.0.0.1:0009", v4),
            ("[::1]:9", in_zone("::1", 0)),
            ("[::ffff:127.0.0.1]:9", in_zone("::ffff:127.0.0.1", 0)),
            ("[fe80::1%lo]:9", in_zone("fe80::1", lo)),
            ("[fe80::1%7]:9", in_zone("fe80::1", 7)),
            ("[fe80::1%0]:9", in_zone("fe80::1", 0)),
            ("[ff02::1%lo]:9", in_zone("ff02::1", lo)),
        ];
        for (text, expected) in texts {
            assert_eq!(tried(event_loop, text), expected, "{text}");
        }
        let pairs = [
            ("127.0.0.1", v4),
            ("::1", in_zone("::1", 0)),
            ("[::1]", in_zone("::1", 0)),
            ("fe80::1%lo", in_zone("fe80::1", lo)),
            ("[fe80::1%lo]", in_zone("fe80::1", lo)),
            ("[fe80::1%7]", in_zone("fe80::1", 7)),
        ];
        for (host, expected) in pairs {
            assert_eq!(tried(event_loop, (host, 9)), expected, "{host}");
            assert_eq!(tried(event_loop, (host.to_owned(), 9)), expected, "{host}");
        }
    });
}

/// Every text here is ambiguous or invalid.
const REFUSED: [&str; 45] = [
    "",
    ":",
    ":80",
    "80",
    "localhost",
    "localhost:",
    "localhost:-http",
    "localhost:http ",
    "localhost:65536",
    "localhost:-1",
    "localhost:+80",
    "localhost:80 ",
    "localhost: 80",
    "localhost:80x",
    "localhost:80\0",
    "localhost:0x50",
    "local\0host:80",
    "local host:80",
    " localhost:80",
    "localhost\n:80",
    "localhost:80:90",
    "http://localhost:80",
    "localhost:80/",
    "user@localhost:80",
    "127.0.0.1",
    "127.1:80",
    "2130706433:80",
    "0x7f.0x1:80",
    "127.0.0.256:80",
    "127.0.0.1.:80",
    "127.0.0.1%lo:80",
    "::1",
    "::1:80",
    "2001:db8::5",
    "2001:db8::5:80",
    "fe80::1%lo:80",
    "[::1]",
    "[::1]:",
    "[::1]80",
    "[::1]x:80",
    "[::1:80",
    "::1]:80",
    "[[::1]]:80",
    "[127.0.0.1]:80",
    "[localhost]:80",
];

#[track_caller]
fn assert_is_refused_everywhere<T>(event_loop: &EventLoop, target: T)
where
    T: TryInto<ConnectTarget, Error: Into<AddressError>> + Clone + Debug,
{
    let copy = || target.clone();
    let refused = [
        Some(failure_of(event_loop, copy()).into()),
        TcpServer::bind(event_loop, copy()).and_then(|server| server.serve_fn(|_, _| ())).err(),
        UdpSocket::bind(event_loop, copy()).and_then(|socket| socket.serve_fn(|_, _, _| ())).err(),
        UdpSocket::connect(event_loop, copy()).and_then(|socket| socket.serve_fn(|_, _, _| ())).err(),
    ];
    for (n, refused) in refused.into_iter().enumerate() {
        let kind = refused.map(|error| error.kind());
        assert_eq!(kind, Some(ErrorKind::InvalidInput), "{target:?} in place {n}");
    }
}

#[test]
fn ambiguous_and_invalid_texts_are_refused_everywhere() {
    with_loop(|event_loop| {
        for text in REFUSED {
            assert_is_refused_everywhere(event_loop, text);
        }
        for zone in
            ["", "lo\0", "lo:x", "lo x", "99999999999", "+1", "-1", "25lo", "no-such-interface-has-this"]
        {
            assert_is_refused_everywhere(event_loop, format!("[fe80::1%{zone}]:80"));
            assert_is_refused_everywhere(event_loop, (format!("fe80::1%{zone}"), 80));
        }
        for host in
            ["", "localhost:80", "[::1", "::1]", "[::1]:80", "[localhost]", "127.1", "::1\0", "local\0host"]
        {
            assert_is_refused_everywhere(event_loop, (host, 80));
        }
        assert_is_refused_everywhere(event_loop, Vec::<SocketAddr>::new());
    });
}

#[test]
fn an_unknown_zone_is_refused_by_name() {
    with_loop(|event_loop| {
        let target = "[fe80::1%nowhere0]:9";
        let messages = [
            failure_of(event_loop, target).to_string(),
            TcpServer::bind(event_loop, target).unwrap_err().to_string(),
            UdpSocket::bind(event_loop, target).unwrap_err().to_string(),
        ];
        for message in messages {
            assert!(message.contains(r#"no network interface "nowhere0""#), "{message}");
        }
    });
}

#[test]
fn a_failed_lookup_names_its_operation_and_target() {
    with_loop(|event_loop| {
        // RFC 6761: this name does not exist.
        let target = "no-such-host.invalid:80";
        let errors = [
            ("listen on", TcpServer::bind(event_loop, target).unwrap_err()),
            ("bind a UDP socket to", UdpSocket::bind(event_loop, target).unwrap_err()),
            ("connect a UDP socket to", UdpSocket::connect(event_loop, target).unwrap_err()),
        ];
        for (operation, error) in errors {
            let begin = format!("cannot {operation} {target:?}: ");
            assert!(error.to_string().starts_with(&begin), "{error}");
        }
    });
}

#[test]
fn the_error_for_a_path_names_unix_addresses() {
    with_loop(|event_loop| {
        for path in ["/run/greeter.sock", "./greeter", "/run/greeter:1"] {
            let error = failure_of(event_loop, path).to_string();
            assert!(error.starts_with(&format!("cannot connect to {path}: ")), "{error}");
            assert!(error.ends_with("; for a Unix socket pass a UnixAddress"), "{error}");
        }
        for other in ["localhost", "http://localhost:80"] {
            let error = other.parse::<ConnectTarget>().unwrap_err().to_string();
            assert!(!error.contains("UnixAddress"), "{error}");
        }
    });
}

#[test]
fn host_names_are_left_to_the_resolver() {
    with_loop(|event_loop| {
        let names = [
            "example.org",
            "localhost.",
            "a_b.example",
            "3com.example",
            "host-1",
            "0x7g",
            "10.1.example",
            "ñ.example",
        ];
        for name in names {
            for target in [ConnectTarget::try_from((name, 9)).unwrap(), format!("{name}:9").parse().unwrap()]
            {
                // Stopped before the loop runs, so no lookup starts.
                TcpClient::connect(event_loop, target).serve_fn(|_, _| ()).unwrap().stop();
            }
        }
    });
}

#[test]
fn servers_and_udp_sockets_accept_the_targets_of_clients() {
    with_loop(|event_loop| {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let targets: [ConnectTarget; 9] = [
            "127.0.0.1:0".try_into().unwrap(),
            "localhost:0".try_into().unwrap(),
            ("127.0.0.1", 0).try_into().unwrap(),
            ("127.0.0.1".to_owned(), 0).try_into().unwrap(),
            (Ipv4Addr::LOCALHOST, 0).into(),
            any.into(),
            (&any).into(),
            (&[any][..]).try_into().unwrap(),
            [any, any].try_into().unwrap(),
        ];
        for target in targets {
            let server = TcpServer::bind(event_loop, &target).unwrap().serve_fn(|_, _| ()).unwrap();
            assert!(server.local_addr().unwrap().ip().is_loopback(), "{target:?}");
            let socket = UdpSocket::bind(event_loop, &target).unwrap().serve_fn(|_, _, _| ()).unwrap();
            assert!(socket.local_addr().unwrap().ip().is_loopback(), "{target:?}");
        }
        if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            for target in [
                ConnectTarget::try_from("[::1]:0").unwrap(),
                ("[::1]", 0).try_into().unwrap(),
                ("::1%lo", 0).try_into().unwrap(),
                (Ipv6Addr::LOCALHOST, 0).into(),
            ] {
                let server = TcpServer::bind(event_loop, &target).unwrap().serve_fn(|_, _| ()).unwrap();
                assert_eq!(server.local_addr().unwrap().ip(), Ipv6Addr::LOCALHOST, "{target:?}");
            }
        }
    });
}

#[test]
fn a_datagram_socket_has_no_unix_address() {
    with_loop(|event_loop| {
        let refused = UdpSocket::bind(event_loop, UnixAddress::abstract_name("x").unwrap()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_device_name_that_the_kernel_truncates_is_refused() {
    with_loop(|event_loop| {
        for name in ["", "lo\0", "lo\0garbage", "sixteen-letters-", "a/b"] {
            let options = SocketOptions::new().device(name);
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().socket_options(options);
            let refused = server.serve_fn(|_, _| ()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{name:?}: {refused}");
        }
    });
}
