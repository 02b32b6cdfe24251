//! Configurations in a forked child.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use reveille::EventLoop;
use reveille::tls::ServerTls;

use crate::authority::{client_config, server_config};
use crate::recorder::{Mode, Recorder};
use crate::support::OnDrop;
use crate::support::alone::alone;
use crate::support::forked::in_child;
use crate::tls_peer::TlsPeer;

#[test]
fn a_child_uses_its_inherited_configuration_without_waiting() {
    alone(|| {
        let (config, client) = (server_config(), client_config());
        let (tls, done) = (ServerTls::new(config.clone()), AtomicBool::new(false));
        thread::scope(|scope| {
            let _stop = OnDrop::new(|| done.store(true, SeqCst));
            for _ in 0..2 {
                // Each replacement holds locks for a moment.
                scope.spawn(|| {
                    while !done.load(SeqCst) {
                        tls.replace(&config);
                    }
                });
            }
            for _ in 0..100 {
                in_child(|| {
                    let event_loop = EventLoop::new().unwrap();
                    let handler = Recorder::new(Mode::Echo);
                    let mut peer = TlsPeer::client(&event_loop, &tls, client.clone(), handler);
                    peer.assert_echoes(b"hello");
                    tls.replace(&config);
                    assert_eq!(tls.reload().map_err(|error| error.kind()), Err(ErrorKind::Unsupported));
                });
            }
        });
    });
}
