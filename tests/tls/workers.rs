//! Handshakes whose steps run on other threads.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use reveille::EventLoop;
use reveille::task::Workers;
use reveille::time::VirtualClock;
use reveille::tls::ServerTls;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::authority::{
    BOTH, NAME, client_config, client_config_with, server_config_with, server_identity,
    verifying_server_config,
};
use crate::recorder::{Mode, Recorder};
use crate::support::net::{pattern, turn_until};
use crate::support::{KIB, with_loop};
use crate::tls_peer::TlsPeer;

/// Records the name of the thread that processes each ClientHello.
#[derive(Debug)]
struct OnThread {
    resolver: Arc<dyn ResolvesServerCert>,
    threads: Mutex<Vec<Option<String>>>,
    panics: bool,
}

impl ResolvesServerCert for OnThread {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.threads.lock().unwrap().push(thread::current().name().map(str::to_owned));
        assert!(!self.panics, "a resolver that panics");
        self.resolver.resolve(hello)
    }
}

impl OnThread {
    fn take(&self) -> Vec<Option<String>> {
        std::mem::take(&mut self.threads.lock().unwrap())
    }
}

fn config_with(panics: bool, change: impl FnOnce(&mut ServerConfig)) -> (Arc<ServerConfig>, Arc<OnThread>) {
    let mut resolver = None;
    let config = server_config_with(server_identity(), BOTH, |config| {
        let on_thread =
            OnThread { resolver: Arc::clone(&config.cert_resolver), threads: Mutex::default(), panics };
        let on_thread = Arc::new(on_thread);
        config.cert_resolver = Arc::clone(&on_thread) as Arc<dyn ResolvesServerCert>;
        resolver = Some(on_thread);
        change(config);
    });
    (config, resolver.unwrap())
}

fn workers() -> Workers {
    Workers::builder().threads(1).queue(1).name("hello").build().unwrap()
}

/// Occupies the thread of the pool until the sender is dropped.
fn occupy(workers: &Workers) -> Sender<()> {
    let (open, has_begun) = occupy_next(workers);
    has_begun.recv().unwrap();
    open
}

/// Same as `occupy`, behind the jobs that wait. The receiver reports that the thread is occupied.
fn occupy_next(workers: &Workers) -> (Sender<()>, Receiver<()>) {
    let (open, gate) = mpsc::channel::<()>();
    let (begun, has_begun) = mpsc::channel();
    let job = move || {
        begun.send(()).unwrap();
        let _ = gate.recv();
    };
    workers.execute(job).unwrap();
    (open, has_begun)
}

/// Turns the loop and exchanges records until `done`.
#[track_caller]
fn exchange(event_loop: &EventLoop, peer: &mut TlsPeer<'_>, mut done: impl FnMut(&mut TlsPeer<'_>) -> bool) {
    turn_until(event_loop, || {
        peer.turn();
        done(peer)
    });
}

#[test]
fn the_hello_is_processed_on_a_worker() {
    with_loop(|event_loop| {
        let (config, on_thread) = config_with(false, |_| ());
        let tls = ServerTls::new(config).workers(&workers());
        for version in BOTH {
            let client = client_config_with(&[version], None, |_| ());
            for (piece, is_resumed) in [(usize::MAX, false), (1, true), (500, true)] {
                let handler = Recorder::new(Mode::Echo);
                let mut peer = TlsPeer::client(event_loop, &tls, client.clone(), handler.clone());
                peer.piece = piece;
                exchange(event_loop, &mut peer, |_| handler.is_open());
                peer.assert_echoes(&pattern(20 * KIB));
                assert_eq!(handler.info().is_resumed(), is_resumed);
                assert_eq!(handler.info().server_name(), Some(NAME));
            }
        }
        let threads = on_thread.take();
        assert!(threads.len() >= 2);
        let is_worker = |name: &Option<String>| name.as_ref().is_some_and(|name| name.starts_with("hello"));
        assert!(threads.iter().all(is_worker), "{threads:?}");
    });
}

/// In TLS 1.2 it contains the key exchange, and in both versions the client's certificate.
#[test]
fn the_last_flight_of_a_client_is_processed_on_a_worker() {
    with_loop(|event_loop| {
        let workers = Workers::builder().threads(1).queue(2).name("hello").build().unwrap();
        let tls = ServerTls::new(verifying_server_config()).workers(&workers);
        for version in BOTH {
            let client = client_config_with(&[version], Some(server_identity()), |_| ());
            let handler = Recorder::new(Mode::Echo);
            let mut peer = TlsPeer::client(event_loop, &tls, client, handler.clone());
            let before_hello = occupy(&workers);
            exchange(event_loop, &mut peer, |_| workers.waiting() == 1);
            let (after_hello, is_occupied) = occupy_next(&workers);
            drop(before_hello);
            is_occupied.recv().unwrap();
            exchange(event_loop, &mut peer, |_| workers.waiting() == 1);
            assert!(!handler.is_open());
            drop(after_hello);
            exchange(event_loop, &mut peer, |_| handler.is_open());
            assert_eq!(handler.info().peer_certificates().len(), 1);
            peer.assert_echoes(b"verified");
        }
    });
}

#[test]
fn bytes_behind_the_hello_follow_it_to_the_worker() {
    with_loop(|event_loop| {
        let (config, _) = config_with(false, |config| config.max_early_data_size = 1024);
        let client = client_config_with(BOTH, None, |config| config.enable_early_data = true);
        let tls = ServerTls::new(config).workers(&workers());
        let handler = Recorder::new(Mode::Echo);
        let mut peer = TlsPeer::client(event_loop, &tls, client.clone(), handler.clone());
        exchange(event_loop, &mut peer, |_| handler.is_open());
        peer.assert_echoes(b"a ticket follows the handshake");

        let handler = Recorder::new(Mode::Record);
        let mut peer = TlsPeer::client(event_loop, &tls, client, handler.clone());
        let rustls::Connection::Client(session) = &mut peer.session else { unreachable!() };
        std::io::Write::write_all(&mut session.early_data().expect("a ticket"), b"early").unwrap();
        exchange(event_loop, &mut peer, |_| handler.is_open());
        peer.send(b", late");
        assert_eq!(handler.info().early_data(), 5);
        assert_eq!(handler.calls.borrow().input, b"early, late");
    });
}

#[test]
fn without_room_for_a_job_the_step_runs_on_the_loop() {
    with_loop(|event_loop| {
        let (config, on_thread) = config_with(false, |_| ());
        let workers = workers();
        let _gate = occupy(&workers);
        workers.execute(|| ()).unwrap();
        assert!(workers.execute(|| ()).is_err(), "the pool has room");
        let tls = ServerTls::new(config).workers(&workers);
        let mut peer = TlsPeer::client(event_loop, &tls, client_config(), Recorder::new(Mode::Echo));
        peer.assert_echoes(b"hello");
        assert_eq!(on_thread.take(), [thread::current().name().map(str::to_owned)]);
    });
}

#[test]
fn a_connection_may_end_while_its_session_is_away() {
    let clock = VirtualClock::new();
    let builder = EventLoop::builder().virtual_clock(clock.clone()).propagate_panics();
    let event_loop = builder.build().unwrap();
    let workers = workers();
    let (config, on_thread) = config_with(false, |_| ());
    let tls = ServerTls::new(config).workers(&workers);
    for end in 0..4 {
        let gate = occupy(&workers);
        let handler = Recorder::new(Mode::Record);
        let mut peer = TlsPeer::client(&event_loop, &tls, client_config(), handler.clone());
        peer.turn();
        assert_eq!(workers.waiting(), 1);
        match end {
            0 => peer.end.reset().unwrap(),
            1 => peer.end.connection().close(),
            2 => clock.advance(Duration::from_secs(11)),
            _ => assert_eq!(workers.cancel_waiting(), 1),
        }
        turn_until(&event_loop, || peer.end.is_closed().unwrap());
        drop(gate);
        turn_until(&event_loop, || workers.waiting() == 0);
        event_loop.run_until_idle().unwrap();
        assert!(!handler.is_open());
    }
    assert_eq!(on_thread.take().len(), 3, "the last one was cancelled");
    // One that is away when its loop ends.
    let gate = occupy(&workers);
    let mut peer = TlsPeer::client(&event_loop, &tls, client_config(), Recorder::new(Mode::Record));
    peer.turn();
    drop(peer);
    drop(event_loop);
    drop(gate);
}

#[test]
fn the_end_of_the_peer_is_found_after_the_step() {
    with_loop(|event_loop| {
        let workers = workers();
        let (config, _) = config_with(false, |_| ());
        let tls = ServerTls::new(config).workers(&workers);
        let gate = occupy(&workers);
        let handler = Recorder::new(Mode::Record);
        let mut peer = TlsPeer::client(event_loop, &tls, client_config(), handler.clone());
        peer.turn();
        peer.end.shutdown().unwrap();
        assert!(!peer.end.is_closed().unwrap());
        drop(gate);
        turn_until(event_loop, || peer.end.is_closed().unwrap());
        assert!(!handler.is_open());
    });
}

#[test]
fn a_panic_on_a_worker_ends_only_its_connection() {
    with_loop(|event_loop| {
        let workers = workers();
        let (config, on_thread) = config_with(true, |_| ());
        let tls = ServerTls::new(config).workers(&workers);
        let handler = Recorder::new(Mode::Record);
        let mut peer = TlsPeer::client(event_loop, &tls, client_config(), handler.clone());
        exchange(event_loop, &mut peer, |peer| peer.end.is_closed().unwrap());
        assert!(!handler.is_open());
        assert_eq!(on_thread.take().len(), 1);

        let (config, _) = config_with(false, |_| ());
        let tls = ServerTls::new(config).workers(&workers);
        let handler = Recorder::new(Mode::Echo);
        let mut peer = TlsPeer::client(event_loop, &tls, client_config(), handler.clone());
        exchange(event_loop, &mut peer, |_| handler.is_open());
        peer.assert_echoes(b"the next");
    });
}

#[test]
fn an_error_of_the_step_sends_its_alert() {
    with_loop(|event_loop| {
        let (config, _) = config_with(false, |config| config.alpn_protocols = vec![b"h2".to_vec()]);
        let client = client_config_with(BOTH, None, |config| config.alpn_protocols = vec![b"other".to_vec()]);
        let tls = ServerTls::new(config).workers(&workers());
        let handler = Recorder::new(Mode::Record);
        let mut peer = TlsPeer::client(event_loop, &tls, client, handler.clone());
        exchange(event_loop, &mut peer, |peer| peer.end.is_closed().unwrap());
        peer.turn();
        assert!(matches!(peer.error, Some(rustls::Error::AlertReceived(_))), "{:?}", peer.error);
        assert!(!handler.is_open());
    });
}
