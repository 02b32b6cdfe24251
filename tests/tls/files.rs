//! Certificates and keys from files.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use reveille::tls::{ClientCertificates, ClientTls, ServerTls, TlsError};

use crate::authority::{NAME, authority, client_config, client_config_with, provider, server_identity};
use crate::recorder::{Mode, Recorder};
use crate::support::folder::Folder;
use crate::support::with_loop;
use crate::tls_peer::{TlsPeer, client_session};

#[track_caller]
fn assert_names(tls: std::io::Result<impl Sized>, file: &Path, problem: &str) -> ErrorKind {
    let error = tls.err().expect("the files were accepted");
    let Some(TlsError::File { path, .. }) = TlsError::of(&error) else { panic!("{error}") };
    assert_eq!(path, file, "{error}");
    assert!(error.to_string().contains(problem), "{error}");
    error.kind()
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = Folder::new();
    let (chain, key) = server_identity().write(folder.path(), "good");
    let (_, other_key) = authority().identity(NAME).write(folder.path(), "other");
    let missing = folder.join("missing.pem");
    let empty = folder.join("empty.pem");
    fs::write(&empty, "no PEM here\n").unwrap();
    let broken = folder.join("broken.pem");
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let unfinished = folder.join("unfinished.pem");
    fs::write(&unfinished, "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    let load =
        |chain: &Path, key: &Path| ServerTls::builder().provider(provider()).certificate(chain, key).build();

    assert!(load(&chain, &key).is_ok());
    assert_eq!(assert_names(load(&missing, &key), &missing, "No such file"), ErrorKind::NotFound);
    assert_eq!(assert_names(load(&chain, &missing), &missing, "No such file"), ErrorKind::NotFound);
    assert_eq!(assert_names(load(folder.path(), &key), folder.path(), ""), ErrorKind::IsADirectory);
    let kind = assert_names(load(&empty, &key), &empty, "no certificate");
    assert_eq!(kind, ErrorKind::InvalidData);
    assert_names(load(&chain, &empty), &empty, "no private key");
    assert_names(load(&chain, &chain), &chain, "no private key");
    assert_names(load(&chain, &other_key), &other_key, "does not belong to the certificate");
    assert_names(load(&broken, &key), &broken, "");
    assert_names(load(&unfinished, &key), &unfinished, "end");

    let clients = |file: &Path| {
        let builder = ServerTls::builder().provider(provider()).certificate(&chain, &key);
        builder.client_certificates(file, ClientCertificates::Required).build()
    };
    assert_names(clients(&missing), &missing, "No such file");
    assert_names(clients(&empty), &empty, "no certificate");
    let authorities = |file: &Path| ClientTls::builder(file).provider(provider()).build();
    assert_names(authorities(&missing), &missing, "No such file");
    assert_names(authorities(&broken), &broken, "");
}

#[test]
fn settings_without_a_certificate_or_provider_are_refused() {
    let error = ServerTls::builder().provider(provider()).build().expect_err("no certificate");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let folder = Folder::new();
    let (chain, key) = server_identity().write(folder.path(), "server");
    let error = ServerTls::from_pem_files(chain, key).expect_err("no provider");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("install_default"), "{error}");
}

#[test]
fn the_certificate_is_selected_by_the_name() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let builder = ["one.example", "two.example", "*.three.example"].iter().enumerate().fold(
            ServerTls::builder().provider(provider()),
            |builder, (n, name)| {
                let (chain, key) = authority().identity(name).write(folder.path(), &n.to_string());
                builder.certificate(chain, key)
            },
        );
        let tls = builder.build().unwrap();
        for (name, is_valid) in
            [("two.example", true), ("a.three.example", true), ("one.example", true), ("four.example", false)]
        {
            let handler = Recorder::new(Mode::Echo);
            let mut peer = TlsPeer::client(event_loop, &tls, client_config(), handler.clone());
            peer.session = client_session(client_config(), name);
            peer.turn();
            let is_wrong = matches!(
                peer.error,
                Some(rustls::Error::InvalidCertificate(
                    rustls::CertificateError::NotValidForNameContext { .. }
                ))
            );
            assert_eq!(is_wrong, !is_valid, "{name}: {:?}", peer.error);
            if is_valid {
                peer.assert_echoes(b"hello");
                assert_eq!(handler.info().server_name(), Some(name));
            }
        }
    });
}

#[test]
fn optional_client_certificates_are_verified_if_presented() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let (chain, key) = server_identity().write(folder.path(), "server");
        let authorities = folder.join("authorities.pem");
        fs::write(&authorities, &authority().pem).unwrap();
        let tls = ServerTls::builder()
            .provider(provider())
            .certificate(chain, key)
            .client_certificates(authorities, ClientCertificates::Optional)
            .build()
            .unwrap();
        let trusted = authority().identity("a client");
        let foreign = crate::authority::Authority::new().identity("a client");
        for (identity, certificates) in [(None, Some(0)), (Some(&trusted), Some(1)), (Some(&foreign), None)] {
            let handler = Recorder::new(Mode::Echo);
            let config = client_config_with(crate::authority::BOTH, identity, |_| ());
            let mut peer = TlsPeer::client(event_loop, &tls, config, handler.clone());
            peer.turn();
            assert_eq!(handler.is_open(), certificates.is_some());
            if let Some(certificates) = certificates {
                assert_eq!(handler.info().peer_certificates().len(), certificates);
            }
        }
    });
}

#[test]
fn a_client_from_files_presents_its_certificate() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let authorities = folder.join("authorities.pem");
        fs::write(&authorities, &authority().pem).unwrap();
        let (chain, key) = authority().identity("a client").write(folder.path(), "client");
        let tls = ClientTls::builder(authorities)
            .provider(provider())
            .certificate(chain, key)
            .alpn(["echo"])
            .build()
            .unwrap()
            .server_name(NAME);
        let config = crate::authority::verifying_server_config();
        let handler = Recorder::new(Mode::Echo);
        let mut peer = TlsPeer::server(event_loop, &tls, config, handler.clone());
        peer.turn();
        peer.assert_echoes(b"hello");
        assert_eq!(peer.session.peer_certificates().map(<[_]>::len), Some(1));
    });
}
