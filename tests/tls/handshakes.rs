//! What a handshake negotiates, and what the connection reports of it.

use std::sync::Arc;

use reveille::EventLoop;
use reveille::tls::{ClientTls, ServerTls};
use rustls::{CipherSuite, ProtocolVersion};

use crate::authority::{
    Authority, BOTH, NAME, authority, client_config, client_config_with, server_config, server_config_with,
    server_identity, verifying_server_config,
};
use crate::recorder::{Mode, Recorder};
use crate::support::with_loop;
use crate::tls_peer::TlsPeer;

/// Makes a client exchange a message with an echo server. Returns what the server reports.
#[track_caller]
fn echo(
    event_loop: &EventLoop,
    tls: &ServerTls,
    client: &Arc<rustls::ClientConfig>,
) -> reveille::tls::TlsInfo {
    let handler = Recorder::new(Mode::Echo);
    let mut peer = TlsPeer::client(event_loop, tls, Arc::clone(client), handler.clone());
    peer.assert_echoes(b"hello");
    handler.info()
}

#[test]
fn both_versions_echo_and_are_reported() {
    with_loop(|event_loop| {
        let tls = ServerTls::new(server_config());
        for (version, expected) in [
            (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
            (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
        ] {
            let info = echo(event_loop, &tls, &client_config_with(&[version], None, |_| ()));
            assert_eq!(info.version(), expected);
            let is_tls13 = matches!(
                info.cipher_suite(),
                CipherSuite::TLS13_AES_256_GCM_SHA384 | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            );
            assert_eq!(is_tls13, expected == ProtocolVersion::TLSv1_3, "{:?}", info.cipher_suite());
            assert_eq!(info.server_name(), Some(NAME));
            assert_eq!((info.alpn(), info.early_data(), info.is_resumed()), (None, 0, false));
            assert!(info.peer_certificates().is_empty());
        }
    });
}

#[test]
fn a_client_reports_its_servers_certificate_and_name() {
    with_loop(|event_loop| {
        for version in BOTH {
            let tls = ClientTls::new(client_config_with(&[version], None, |_| ())).server_name(NAME);
            let handler = Recorder::new(Mode::Echo);
            let mut peer = TlsPeer::server(event_loop, &tls, server_config(), handler.clone());
            peer.turn();
            peer.assert_echoes(b"hello");
            let info = handler.info();
            assert_eq!(info.version(), version.version);
            assert_eq!(info.server_name(), Some(NAME));
            assert_eq!(info.peer_certificates(), [server_identity().certificate().clone()]);
        }
    });
}

#[test]
fn the_second_session_of_a_client_is_resumed() {
    with_loop(|event_loop| {
        for version in BOTH {
            let tls = ServerTls::new(server_config());
            let client = client_config_with(&[version], None, |_| ());
            assert!(!echo(event_loop, &tls, &client).is_resumed());
            let info = echo(event_loop, &tls, &client);
            assert!(info.is_resumed(), "{version:?}");
            assert_eq!(info.server_name(), Some(NAME), "the name of a resumed session");
        }
    });
}

#[test]
fn connections_of_a_client_configuration_resume_sessions() {
    with_loop(|event_loop| {
        for version in BOTH {
            let tls = ClientTls::new(client_config_with(&[version], None, |_| ())).server_name(NAME);
            let server = server_config();
            let resumed = [(); 2].map(|()| {
                let handler = Recorder::new(Mode::Echo);
                let mut peer = TlsPeer::server(event_loop, &tls, Arc::clone(&server), handler.clone());
                peer.turn();
                peer.assert_echoes(b"hello");
                handler.info().is_resumed()
            });
            assert_eq!(resumed, [false, true]);
        }
    });
}

#[test]
fn the_protocol_that_alpn_selects_is_reported() {
    with_loop(|event_loop| {
        let server = server_config_with(server_identity(), BOTH, |config| {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        });
        let tls = ServerTls::from(server);
        let offering = |protocols: &[&[u8]]| {
            let protocols = protocols.iter().map(|name| name.to_vec()).collect();
            client_config_with(BOTH, None, |config| config.alpn_protocols = protocols)
        };
        let info = echo(event_loop, &tls, &offering(&[b"http/1.1", b"h2"]));
        assert_eq!(info.alpn(), Some(&b"h2"[..]), "the server's preference decides");
        assert_eq!(echo(event_loop, &tls, &offering(&[b"http/1.1"])).alpn(), Some(&b"http/1.1"[..]));
        assert_eq!(echo(event_loop, &tls, &offering(&[])).alpn(), None);
        let handler = Recorder::new(Mode::Echo);
        let mut peer = TlsPeer::client(event_loop, &tls, offering(&[b"other"]), handler.clone());
        peer.turn();
        assert_eq!(
            peer.error,
            Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol))
        );
        assert!(peer.end.is_closed().unwrap() && !handler.is_open());
    });
}

#[test]
fn a_required_client_certificate_is_reported() {
    with_loop(|event_loop| {
        let tls = ServerTls::new(verifying_server_config());
        let identity = authority().identity("a client");
        for version in BOTH {
            let info = echo(event_loop, &tls, &client_config_with(&[version], Some(&identity), |_| ()));
            assert_eq!(info.peer_certificates(), [identity.certificate().clone()]);
        }
    });
}

#[test]
fn clients_without_a_trusted_certificate_get_an_alert() {
    with_loop(|event_loop| {
        let tls = ServerTls::new(verifying_server_config());
        let expired = authority().expired_identity("a client");
        let foreign = Authority::new().identity("a client");
        for version in BOTH {
            for identity in [None, Some(&expired), Some(&foreign)] {
                let handler = Recorder::new(Mode::Echo);
                let config = client_config_with(&[version], identity, |_| ());
                let mut peer = TlsPeer::client(event_loop, &tls, config, handler.clone());
                peer.turn();
                assert!(matches!(peer.error, Some(rustls::Error::AlertReceived(_))), "{:?}", peer.error);
                assert!(peer.end.is_closed().unwrap());
                assert!(!handler.is_open(), "the handler was opened");
            }
        }
    });
}

#[test]
fn early_data_is_marked_and_delivered_after_on_open() {
    with_loop(|event_loop| {
        let server = server_config_with(server_identity(), BOTH, |config| config.max_early_data_size = 1024);
        let client = client_config_with(BOTH, None, |config| config.enable_early_data = true);
        let tls = ServerTls::new(server);
        assert_eq!(echo(event_loop, &tls, &client).early_data(), 0, "a first session has none");

        let handler = Recorder::new(Mode::Record);
        let mut peer = TlsPeer::client(event_loop, &tls, client, handler.clone());
        let rustls::Connection::Client(session) = &mut peer.session else { unreachable!() };
        std::io::Write::write_all(&mut session.early_data().expect("a ticket"), b"early").unwrap();
        peer.flush();
        assert!(!handler.is_open(), "the handshake is not done");
        peer.turn();
        peer.send(b", late");
        assert_eq!(handler.info().early_data(), 5);
        assert_eq!(handler.calls.borrow().input, b"early, late");
    });
}

#[test]
fn early_data_is_rejected_by_default() {
    with_loop(|event_loop| {
        let tls = ServerTls::new(server_config());
        let client = client_config_with(BOTH, None, |config| config.enable_early_data = true);
        echo(event_loop, &tls, &client);
        let handler = Recorder::new(Mode::Echo);
        let mut peer = TlsPeer::client(event_loop, &tls, client, handler.clone());
        let rustls::Connection::Client(session) = &mut peer.session else { unreachable!() };
        assert!(session.early_data().is_none(), "the ticket permits early data");
        peer.assert_echoes(b"hello");
        assert_eq!(handler.info().early_data(), 0);
    });
}

#[test]
fn two_connections_of_a_loop_are_each_others_peers() {
    with_loop(|event_loop| {
        let server = ServerTls::new(server_config());
        let client = ClientTls::new(client_config()).server_name(NAME);
        let (asks, echoes) = (Recorder::new(Mode::Record), Recorder::new(Mode::Echo));
        let accepted = reveille::TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().tls(server);
        let handler = echoes.clone();
        let accepted = accepted.serve(move |_| handler.clone()).unwrap();
        let handler = asks.clone();
        let session = reveille::TcpClient::connect(event_loop, accepted.local_address())
            .tls(client)
            .serve(move |conn| {
                conn.send("hello").unwrap();
                handler.clone()
            })
            .unwrap();
        crate::support::net::turn_until(event_loop, || asks.calls.borrow().input == b"hello");
        session.handle().unwrap().shutdown();
        crate::support::net::turn_until(event_loop, || echoes.calls.borrow().closed.is_some());
        assert!(echoes.calls.borrow().has_ended);
        assert_eq!(echoes.closed().text, "both ends have finished");
    });
}
