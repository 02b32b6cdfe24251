//! Forked processes, which share terminals and pipes with their parent.

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, Write};

use super::terminals::{is_canonical, is_nonblocking, pty};
use super::{Seen, pipe};
use crate::support::alone::alone;
use crate::support::forked::in_child;
use crate::support::net::turn_until;
use reveille::io::Terminal;
use reveille::testing::Peer;
use reveille::{EventLoop, TcpConnection};

#[test]
fn a_child_does_not_restore_the_modes_of_its_parent() {
    alone(|| {
        let event_loop = EventLoop::builder().propagate_panics().build().unwrap();
        let (master, slave) = pty();
        let raw = Cell::new(Some(Terminal::new(&slave).unwrap().raw_mode().unwrap()));
        let shared = master.try_clone().unwrap();
        let seen = Seen::default();
        let handler = seen.handler();
        TcpConnection::adopt(&event_loop, master, |_| handler).unwrap();
        event_loop.run_ready().unwrap();
        let event_loop = Cell::new(Some(event_loop));
        in_child(|| {
            drop(raw.take());
            drop(event_loop.take());
        });
        assert!(is_nonblocking(&shared) && !is_canonical(&slave));
        let event_loop = event_loop.take().unwrap();
        File::from(slave.try_clone().unwrap()).write_all(b"x").unwrap();
        turn_until(&event_loop, || seen.received() == 1);
        drop((raw, event_loop));
        assert!(!is_nonblocking(&shared) && is_canonical(&slave));
    });
}

#[test]
fn an_inherited_loop_takes_no_stream() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        in_child(|| {
            let (input, output) = pipe();
            let handler = || Seen::default().handler();
            let refused = TcpConnection::adopt_pipes(&event_loop, input, output, move |_| handler());
            let ((input, _), error) = refused.unwrap_err().into_parts();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let refused = TcpConnection::adopt(&event_loop, input, move |_| handler());
            assert_eq!(refused.unwrap_err().into_parts().1.kind(), ErrorKind::Unsupported);
            let refused = TcpConnection::pair(&event_loop, move |_| handler(), move |_| handler());
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
            let refused = Peer::connect(&event_loop, move |_| handler());
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
        });
    });
}
