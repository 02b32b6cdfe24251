//! Clients with TLS: the names that they verify, and how failures are reported.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use reveille::net::{ConnectError, ConnectTarget, TcpClientBuilder, UnixAddress};
use reveille::tls::{ClientTls, ServerTls, TlsError};
use reveille::{EventLoop, TcpClient, TcpServer};

use crate::authority::{
    Authority, BOTH, NAME, authority, client_config, server_config, server_config_with,
    verifying_server_config,
};
use crate::recorder::{Mode, Recorder};
use crate::support::net::turn_until;
use crate::support::with_loop;

/// Starts an echo server.
fn server(event_loop: &EventLoop, tls: impl Into<ServerTls>) -> TcpServer {
    let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
    server.tls(tls).serve_fn(|conn, input| conn.send(input.take_all())).unwrap()
}

/// Connects to a server with `identity`. Returns the error of the failed handshake.
#[track_caller]
fn failure(event_loop: &EventLoop, tls: impl Into<ServerTls>, client: ClientTls) -> ConnectError {
    let server = server(event_loop, tls);
    let failed = Rc::new(RefCell::new(None));
    let slot = Rc::clone(&failed);
    let handler = Recorder::new(Mode::Record);
    let opened = handler.clone();
    let _client = TcpClient::connect(event_loop, server.local_address())
        .tls(client)
        .on_failure(move |_, error| *slot.borrow_mut() = Some(error))
        .serve(move |_| handler.clone())
        .unwrap();
    turn_until(event_loop, || failed.borrow().is_some());
    assert!(!opened.is_open());
    failed.take().unwrap()
}

#[track_caller]
fn tls_error(error: &ConnectError) -> &TlsError {
    TlsError::of(&error.failures()[0].error).unwrap_or_else(|| panic!("not an error of TLS: {error}"))
}

#[test]
fn a_certificate_that_is_not_valid_fails_the_attempt() {
    with_loop(|event_loop| {
        let client = ClientTls::new(client_config()).server_name(NAME);
        let config = |identity: &_| server_config_with(identity, BOTH, |_| ());

        let error = failure(event_loop, config(&authority().identity("other.example")), client.clone());
        assert!(tls_error(&error).is_wrong_name() && !tls_error(&error).is_expired(), "{error}");

        let error = failure(event_loop, config(&authority().expired_identity(NAME)), client.clone());
        assert!(tls_error(&error).is_expired() && !tls_error(&error).is_wrong_name(), "{error}");

        let error = failure(event_loop, config(&Authority::new().identity(NAME)), client);
        let expected = TlsError::Certificate(rustls::CertificateError::UnknownIssuer);
        assert_eq!(format!("{:?}", tls_error(&error)), format!("{expected:?}"));
    });
}

#[test]
fn a_missing_client_certificate_is_reported_to_both_sides() {
    with_loop(|event_loop| {
        // With TLS 1.2 the server rejects the client within the client's handshake.
        let config = crate::authority::client_config_with(&[&rustls::version::TLS12], None, |_| ());
        let client = ClientTls::new(config).server_name(NAME);
        crate::logged::record_lines();
        let error = failure(event_loop, verifying_server_config(), client);
        assert!(matches!(tls_error(&error), TlsError::Alert(_)), "{error}");
        let lines = crate::logged::take_lines();
        let line = &lines[0].1;
        assert!(line.ends_with("failed: the client presented no certificate"), "{line}");
    });
}

#[test]
fn the_host_of_the_target_is_verified_by_default() {
    with_loop(|event_loop| {
        for (host, certified) in [("localhost", "localhost"), ("127.0.0.1", "127.0.0.1")] {
            let identity = authority().identity(certified);
            let server = server(event_loop, server_config_with(&identity, BOTH, |_| ()));
            let handler = Recorder::new(Mode::Record);
            let opened = handler.clone();
            let port = server.local_addr().unwrap().port();
            let _client = TcpClient::connect(event_loop, (host, port))
                .tls(client_config())
                .serve(move |_| handler.clone())
                .unwrap();
            turn_until(event_loop, || opened.is_open());
            assert_eq!(opened.info().server_name(), Some(host));
        }
    });
}

#[test]
fn a_client_without_a_valid_name_is_refused() {
    fn refusal(builder: TcpClientBuilder<'_>) -> String {
        let error = builder.serve_fn(|_, _| ()).expect_err("the client was built");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(matches!(TlsError::of(&error), Some(TlsError::ServerName(_))));
        error.to_string()
    }

    with_loop(|event_loop| {
        let unix = UnixAddress::abstract_name("reveille-tls-test").unwrap();
        let several: ConnectTarget =
            [([127, 0, 0, 1], 1).into(), ([127, 0, 0, 2], 1).into()].try_into().unwrap();
        for target in [unix.clone().into(), several] {
            let error = refusal(TcpClient::connect(event_loop, target).tls(client_config()));
            assert!(error.contains("server_name"), "{error}");
        }
        for name in ["", "under score..example", "white space", "\u{e4}.example"] {
            let tls = ClientTls::new(client_config()).server_name(name);
            let error = refusal(TcpClient::connect(event_loop, unix.clone()).tls(tls));
            assert!(error.contains(&format!("{name:?}")), "{error}");
        }
    });
}

#[test]
fn a_unix_socket_works_with_a_server_name() {
    with_loop(|event_loop| {
        let folder = crate::support::folder::Folder::new();
        let address = UnixAddress::path(folder.join("socket")).unwrap();
        let _server = TcpServer::bind_unix(event_loop, address.clone())
            .unwrap()
            .tls(server_config())
            .serve_fn(|conn, input| conn.send(input.take_all()))
            .unwrap();
        let handler = Recorder::new(Mode::Record);
        let opened = handler.clone();
        let tls = ClientTls::from(Arc::clone(&client_config())).server_name(NAME);
        let client =
            TcpClient::connect(event_loop, address).tls(tls).serve(move |_| handler.clone()).unwrap();
        turn_until(event_loop, || opened.is_open());
        client.handle().unwrap().send("through a Unix socket").unwrap();
        turn_until(event_loop, || opened.calls.borrow().input == b"through a Unix socket");
    });
}
