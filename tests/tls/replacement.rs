//! Configurations that are replaced at run time.

use std::fs;
use std::io::ErrorKind;

use log::Level;
use reveille::EventLoop;
use reveille::tls::ServerTls;

use crate::authority::{
    BOTH, NAME, authority, client_config, provider, server_config, server_config_with, server_identity,
};
use crate::logged::{record_lines, take_lines};
use crate::recorder::{Mode, Recorder};
use crate::support::folder::Folder;
use crate::support::{on_another_thread, with_loop};
use crate::tls_peer::TlsPeer;

/// Connects, and returns the peer and the certificate that the server has presented.
fn presented<'a>(event_loop: &'a EventLoop, tls: &ServerTls) -> (TlsPeer<'a>, Vec<u8>) {
    let mut peer = TlsPeer::client(event_loop, tls, client_config(), Recorder::new(Mode::Echo));
    peer.assert_echoes(b"hello");
    let certificate = peer.session.peer_certificates().unwrap()[0].to_vec();
    (peer, certificate)
}

#[test]
fn a_replaced_configuration_applies_to_new_connections() {
    with_loop(|event_loop| {
        let tls = ServerTls::new(server_config());
        let (mut old, certificate) = presented(event_loop, &tls);
        assert_eq!(certificate, server_identity().certificate().to_vec());

        let identity = authority().identity(NAME);
        let config = server_config_with(&identity, BOTH, |_| ());
        let shared = tls.clone();
        on_another_thread(|| shared.replace(&config));
        let (_, certificate) = presented(event_loop, &tls);
        assert_eq!(certificate, identity.certificate().to_vec());
        old.assert_echoes(b"the old connection continues");
    });
}

#[test]
fn reload_reads_the_files_again() {
    with_loop(|event_loop| {
        record_lines();
        let folder = Folder::new();
        let (chain, key) = server_identity().write(folder.path(), "server");
        let tls = ServerTls::builder().provider(provider()).certificate(&chain, &key).build().unwrap();
        let renewed = authority().identity(NAME);
        renewed.write(folder.path(), "server");
        let (_, certificate) = presented(event_loop, &tls);
        assert_eq!(certificate, server_identity().certificate().to_vec(), "before the reload");
        on_another_thread(|| tls.reload()).unwrap();
        let (_, certificate) = presented(event_loop, &tls);
        assert_eq!(certificate, renewed.certificate().to_vec());
        assert_eq!(take_lines(), []);
    });
}

#[test]
fn a_failed_reload_keeps_the_old_configuration() {
    with_loop(|event_loop| {
        record_lines();
        let folder = Folder::new();
        let (chain, key) = server_identity().write(folder.path(), "server");
        let tls = ServerTls::builder().provider(provider()).certificate(&chain, &key).build().unwrap();
        fs::remove_file(&key).unwrap();
        let error = tls.reload().expect_err("the key is missing");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let key = format!("{key:?}");
        assert!(error.to_string().contains(&key), "{error}");
        let lines = take_lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].0 == Level::Error && lines[0].1.contains(&key), "{lines:?}");
        let (_, certificate) = presented(event_loop, &tls);
        assert_eq!(certificate, server_identity().certificate().to_vec());
    });
}

#[test]
fn a_configuration_without_files_is_not_reloaded() {
    record_lines();
    let tls = ServerTls::new(server_config());
    assert_eq!(tls.reload().expect_err("no files").kind(), ErrorKind::InvalidInput);
    assert_eq!(take_lines().len(), 1);
}
