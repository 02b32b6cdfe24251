//! Sides of a handshake whose clocks are wrong.

use std::sync::Arc;
use std::time::Duration;

use reveille::tls::{ClientTls, ServerTls};
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error};

use crate::authority::{
    BOTH, NAME, authority, client_config_with, provider, server_config, server_config_with, server_identity,
};
use crate::logged::{record_lines, take_lines};
use crate::recorder::{Mode, Recorder};
use crate::support::with_loop;
use crate::tls_peer::TlsPeer;

/// A clock that stands still.
#[derive(Debug)]
struct Stopped(u64);

impl TimeProvider for Stopped {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

/// A time before the certificates of the tests are valid, and one after it.
const TOO_EARLY: u64 = 1000;
const TOO_LATE: u64 = 200_000_000_000;

fn client_at(time: u64) -> Arc<ClientConfig> {
    client_config_with(BOTH, None, |config| config.time_provider = Arc::new(Stopped(time)))
}

#[test]
fn a_client_with_a_wrong_clock_rejects_the_certificate() {
    with_loop(|event_loop| {
        record_lines();
        for time in [TOO_EARLY, TOO_LATE] {
            let tls = ClientTls::new(client_at(time)).server_name(NAME);
            let handler = Recorder::new(Mode::Record);
            let mut peer = TlsPeer::server(event_loop, &tls, server_config(), handler.clone());
            peer.turn();
            assert!(peer.end.is_closed().unwrap() && !handler.is_open());
            // rustls has no alert for a certificate that is not valid yet.
            assert!(matches!(
                peer.error,
                Some(Error::AlertReceived(
                    AlertDescription::CertificateExpired | AlertDescription::BadCertificate
                ))
            ));
        }
        let line = take_lines().remove(0).1;
        assert!(line.contains("not valid yet"), "{line}");
    });
}

#[test]
fn a_server_reports_the_alert_of_a_client_with_a_wrong_clock() {
    with_loop(|event_loop| {
        record_lines();
        for time in [TOO_EARLY, TOO_LATE] {
            let tls = ServerTls::new(server_config());
            let handler = Recorder::new(Mode::Record);
            let mut peer = TlsPeer::client(event_loop, &tls, client_at(time), handler.clone());
            peer.turn();
            assert!(matches!(
                &peer.error,
                Some(Error::InvalidCertificate(
                    CertificateError::ExpiredContext { .. } | CertificateError::NotValidYetContext { .. }
                ))
            ));
            assert!(peer.end.is_closed().unwrap() && !handler.is_open());
        }
        assert!(take_lines()[0].1.contains("alert"));
    });
}

#[test]
fn a_server_with_a_wrong_clock_rejects_client_certificates() {
    with_loop(|event_loop| {
        let identity = authority().identity("a client");
        for time in [TOO_EARLY, TOO_LATE] {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(authority().roots(), provider()).build().unwrap();
            let (chain, key) = server_identity().pair();
            let mut config = rustls::ServerConfig::builder_with_details(provider(), Arc::new(Stopped(time)))
                .with_protocol_versions(BOTH)
                .unwrap()
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain, key)
                .unwrap();
            config.time_provider = Arc::new(Stopped(time));
            let tls = ServerTls::new(Arc::new(config));
            let handler = Recorder::new(Mode::Record);
            let client = client_config_with(BOTH, Some(&identity), |_| ());
            let mut peer = TlsPeer::client(event_loop, &tls, client, handler.clone());
            peer.turn();
            assert!(matches!(peer.error, Some(Error::AlertReceived(_))), "{:?}", peer.error);
            assert!(peer.end.is_closed().unwrap() && !handler.is_open());
        }
    });
}

/// A session is resumed or negotiated anew.
#[test]
fn a_jump_of_the_servers_clock_does_not_break_resumption() {
    with_loop(|event_loop| {
        for version in BOTH {
            let client = client_config_with(&[version], None, |_| ());
            let first = server_config();
            let storage = Arc::clone(&first.session_storage);
            let jumped = server_config_with(server_identity(), BOTH, |config| {
                config.session_storage = storage;
                config.time_provider = Arc::new(Stopped(TOO_LATE));
            });
            for config in [first, jumped] {
                let tls = ServerTls::new(config);
                let handler = Recorder::new(Mode::Echo);
                let mut peer = TlsPeer::client(event_loop, &tls, Arc::clone(&client), handler);
                peer.assert_echoes(b"hello");
            }
        }
    });
}
