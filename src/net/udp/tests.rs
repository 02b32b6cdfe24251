//! A UDP socket whose sends would block. On the loopback interface that never happens, so these
//! sockets are Unix sockets, which are full after a few datagrams. Everything above the descriptor
//! is the same.

use super::driver::establish;
use super::endpoint::Endpoint;
use super::queue::Limits;
use super::*;
use crate::event_loop::containment::Contained;
use std::cell::RefCell;
use std::iter;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);
const LONG: Duration = Duration::from_secs(30);

/// Records a handler's callbacks.
#[derive(Clone, Default)]
struct Recorder(Rc<RefCell<Vec<String>>>);

impl Recorder {
    fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

impl DatagramHandler for Recorder {
    fn on_datagram(&mut self, _: &UdpRef<'_>, datagram: &[u8], _: SocketAddr) -> io::Result<()> {
        self.0.borrow_mut().push(format!("datagram {}", String::from_utf8_lossy(datagram)));
        Ok(())
    }

    fn on_error(&mut self, _: &UdpRef<'_>, error: io::Error, peer: Option<SocketAddr>) {
        assert_eq!(peer, Some(PEER));
        self.0.borrow_mut().push(format!("error {:?}", error.kind()));
    }

    fn on_drained(&mut self, socket: &UdpRef<'_>) {
        assert_eq!(socket.unsent(), 0);
        self.0.borrow_mut().push("drained".to_owned());
    }

    fn on_close(&mut self, socket: &UdpRef<'_>, reason: &CloseReason) {
        self.0.borrow_mut().push(format!("close with {} unsent: {reason}", socket.unsent()));
    }
}

fn socket(event_loop: &EventLoop, limits: Limits) -> (UdpSocket, UnixDatagram, Recorder) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let recorder = Recorder::default();
    let make = |id| UdpCore::new(id, ours.into(), Endpoint { local: PEER, peer: Some(PEER) }, limits);
    let core = establish(event_loop, make, Contained::new(recorder.clone())).unwrap();
    (UdpSocket::new(event_loop, &core), theirs, recorder)
}

fn received(theirs: &UnixDatagram) -> Option<String> {
    let mut bytes = [0; 64];
    let n = theirs.recv(&mut bytes).ok()?;
    Some(String::from_utf8(bytes[..n].to_vec()).unwrap())
}

/// Sends numbers until one is queued, and returns how many were sent.
fn fill(socket: &UdpSocket) -> usize {
    let mut sent = 1;
    while socket.send((sent - 1).to_string()).unwrap() == SendStatus::Written {
        sent += 1;
    }
    sent
}

const LIMITS: Limits = Limits { datagrams: 300, bytes: 10_000 };

#[test]
fn a_full_socket_queues_and_later_sends_in_order() {
    let event_loop = EventLoop::new().unwrap();
    let (socket, theirs, recorder) = socket(&event_loop, LIMITS);
    let first = fill(&socket);
    for n in first..first + 200 {
        assert_eq!(socket.send(n.to_string()).unwrap(), SendStatus::Queued);
    }
    assert_eq!(socket.with(|socket| socket.unsent()), Some(201));
    for n in 0..first + 200 {
        let text = loop {
            match received(&theirs) {
                Some(text) => break text,
                // The peer has drained the socket, so it is writable, and an edge reports that.
                None => event_loop.run_once(LONG).unwrap(),
            };
        };
        assert_eq!(text, n.to_string());
        if n < first + 199 - 20 {
            assert!(recorder.take().is_empty(), "there is more to be sent");
        }
    }
    event_loop.run_once(Duration::ZERO).unwrap();
    assert_eq!(recorder.take(), ["drained"]);
    assert_eq!(socket.send("at once").unwrap(), SendStatus::Written);
}

#[test]
fn a_loop_sleeps_while_a_socket_is_full() {
    let event_loop = EventLoop::new().unwrap();
    let (socket, theirs, recorder) = socket(&event_loop, Limits { datagrams: 2000, bytes: 10_000 });
    fill(&socket);
    (0..2000 - 1).for_each(|_| assert_eq!(socket.send("more").unwrap(), SendStatus::Queued));
    // Capacity for some of them, so that the flush sends until it would block again.
    while received(&theirs).is_some() {}
    event_loop.run_once(LONG).unwrap();
    for _ in 0..20 {
        event_loop.run_once(Duration::ZERO).unwrap();
    }
    assert_ne!(socket.with(|socket| socket.unsent()), Some(0), "the kernel has taken all there is");
    let before = event_loop.iteration();
    event_loop.run_for(Duration::from_millis(20)).unwrap();
    let turns = event_loop.iteration() - before;
    assert!(turns < 10, "{turns} turns with nothing to do");
    assert!(recorder.take().is_empty());
}

#[test]
fn a_full_queue_refuses_new_datagrams_and_keeps_the_queued() {
    for limits in [Limits { datagrams: 3, bytes: 1000 }, Limits { datagrams: 1000, bytes: 6 }] {
        let event_loop = EventLoop::new().unwrap();
        let (socket, theirs, _recorder) = socket(&event_loop, limits);
        let first = fill(&socket);
        let mut queued = 1;
        let refused = loop {
            match socket.send(format!("{:02}", first + queued - 1)) {
                Ok(SendStatus::Queued) => queued += 1,
                result => break result,
            }
        };
        assert!(matches!(refused, Err(DatagramError::Full)), "{refused:?}");
        assert!((2..=3).contains(&queued), "{queued} in {limits:?}");
        let mut got = 0;
        while got < first - 1 + queued {
            match received(&theirs) {
                Some(text) => {
                    assert_eq!(text.parse::<usize>().unwrap(), got);
                    got += 1;
                }
                None => event_loop.run_once(LONG).unwrap(),
            }
        }
        event_loop.run_once(Duration::ZERO).unwrap();
        assert_eq!(received(&theirs), None);
    }
}

#[test]
fn handle_sends_beyond_the_queue_wait_in_a_bounded_mailbox() {
    let event_loop = EventLoop::new().unwrap();
    let (socket, theirs, recorder) = socket(&event_loop, Limits { datagrams: 4, bytes: 1000 });
    let first = fill(&socket);
    let handle = socket.handle();
    let mut accepted = 0;
    for _round in 0..3 {
        loop {
            match handle.send((first + accepted).to_string()) {
                Ok(()) => accepted += 1,
                Err(DatagramError::Full) => break,
                Err(error) => panic!("{error}"),
            }
        }
        event_loop.run_once(Duration::ZERO).unwrap();
        assert!(socket.with(|socket| socket.unsent()).unwrap() <= 4);
    }
    assert_eq!(accepted, 3 + 4, "three join the one in the queue, and four stay in the mailbox");
    let mut got = 0;
    while got < first + accepted {
        match received(&theirs) {
            Some(text) => {
                assert_eq!(text, got.to_string());
                got += 1;
            }
            None => event_loop.run_once(LONG).unwrap(),
        }
    }
    event_loop.run_once(Duration::ZERO).unwrap();
    assert_eq!(recorder.take().last().unwrap(), "drained");
}

#[test]
fn on_close_sees_the_number_of_lost_datagrams() {
    let event_loop = EventLoop::new().unwrap();
    let (socket, _theirs, recorder) = socket(&event_loop, LIMITS);
    fill(&socket);
    let handle = socket.handle();
    handle.send("in the mailbox").unwrap();
    drop(socket);
    assert!(!handle.is_open());
    event_loop.run_once(Duration::ZERO).unwrap();
    assert_eq!(recorder.take(), ["close with 2 unsent: closed by this end"]);
}

#[test]
fn a_closed_peer_loses_datagrams_and_the_socket_stays_open() {
    let event_loop = EventLoop::new().unwrap();
    let (socket, theirs, recorder) = socket(&event_loop, LIMITS);
    fill(&socket);
    socket.send("another").unwrap();
    drop(theirs);
    event_loop.run_once(LONG).unwrap();
    event_loop.run_once(Duration::ZERO).unwrap();
    let calls = recorder.take();
    let errors = calls.iter().filter(|call| call.starts_with("error ")).count();
    assert!((2..=3).contains(&errors), "one for each that was queued, perhaps one of the socket: {calls:?}");
    assert!(socket.is_open());
    assert_eq!(socket.with(|socket| socket.unsent()), Some(0));
}

#[test]
fn a_datagram_beyond_the_kernels_limit_is_refused_or_reported() {
    let event_loop = EventLoop::new().unwrap();
    let (socket, theirs, recorder) = socket(&event_loop, LIMITS);
    let shrink = |socket: &UdpRef<'_>| socket2::SockRef::from(socket).set_send_buffer_size(2500).unwrap();
    socket.with(shrink).unwrap();
    assert!(matches!(socket.send([0; 9000]), Err(DatagramError::TooLong)));
    fill(&socket);
    assert_eq!(socket.send([0; 9000]).unwrap(), SendStatus::Queued);
    while socket.with(|socket| socket.unsent()).unwrap() > 0 {
        while received(&theirs).is_some() {}
        event_loop.run_once(LONG).unwrap();
    }
    event_loop.run_once(Duration::ZERO).unwrap();
    let calls = recorder.take();
    assert_eq!(calls.iter().filter(|call| call.starts_with("error ")).count(), 1, "{calls:?}");
}

#[test]
fn datagrams_of_others_from_before_connect_are_not_delivered() {
    let event_loop = EventLoop::new().unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (stranger, peer) = (
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
    );
    socket.set_nonblocking(true).unwrap();
    let (to, at) = (socket.local_addr().unwrap(), peer.local_addr().unwrap());
    stranger.send_to(b"stranger", to).unwrap();
    socket.connect(at).unwrap();
    peer.send_to(b"peer", to).unwrap();
    let recorder = Recorder::default();
    let make = |id| UdpCore::new(id, socket.into(), Endpoint { local: to, peer: Some(at) }, LIMITS);
    let _core = establish(&event_loop, make, Contained::new(recorder.clone())).unwrap();
    event_loop.run_once(LONG).unwrap();
    assert_eq!(recorder.take(), ["datagram peer"]);
}

#[test]
fn an_error_is_delivered_while_the_socket_is_full() {
    let event_loop = EventLoop::new().unwrap();
    let (socket, theirs, recorder) = socket(&event_loop, Limits { datagrams: 2000, bytes: 20_000 });
    let shrink = |socket: &UdpRef<'_>| socket2::SockRef::from(socket).set_send_buffer_size(2500).unwrap();
    socket.with(shrink).unwrap();
    fill(&socket);
    assert_eq!(socket.send([0; 9000]).unwrap(), SendStatus::Queued);
    (0..1000).for_each(|_| assert_eq!(socket.send("behind").unwrap(), SendStatus::Queued));
    while received(&theirs).is_some() {}
    event_loop.run_once(LONG).unwrap();
    event_loop.run_once(Duration::ZERO).unwrap();
    assert_ne!(socket.with(|socket| socket.unsent()), Some(0));
    assert_eq!(recorder.take().len(), 1);
}

/// Makes the peer read everything in the middle of the next turn: after the poll, and before the
/// mailbox is drained.
fn read_in_the_next_turn(event_loop: &EventLoop, theirs: &UnixDatagram, got: &Recorder) {
    let (theirs, got) = (theirs.try_clone().unwrap(), got.clone());
    event_loop
        .run_after(Duration::ZERO, move |_| got.0.borrow_mut().extend(iter::from_fn(|| received(&theirs))));
}

#[test]
fn mailbox_datagrams_are_sent_if_writability_precedes_their_notification() {
    let event_loop = EventLoop::new().unwrap();
    let (socket, theirs, recorder) = socket(&event_loop, Limits { datagrams: 4, bytes: 1000 });
    let first = fill(&socket);
    let handle = socket.handle();
    // One more than the queue has capacity for.
    (first..first + 4).for_each(|n| handle.send(n.to_string()).unwrap());
    let got = Recorder::default();
    read_in_the_next_turn(&event_loop, &theirs, &got);
    event_loop.run_once(LONG).unwrap();
    for _ in 0..4 {
        event_loop.run_once(Duration::ZERO).unwrap();
    }
    got.0.borrow_mut().extend(iter::from_fn(|| received(&theirs)));
    assert_eq!(got.take(), (0..first + 4).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(recorder.take(), ["drained"]);
}

#[test]
fn on_drained_is_called_if_a_handle_sends_behind_the_queue() {
    let event_loop = EventLoop::new().unwrap();
    let (socket, theirs, recorder) = socket(&event_loop, LIMITS);
    fill(&socket);
    socket.handle().send("behind").unwrap();
    let got = Recorder::default();
    read_in_the_next_turn(&event_loop, &theirs, &got);
    event_loop.run_once(LONG).unwrap();
    for _ in 0..4 {
        event_loop.run_once(Duration::ZERO).unwrap();
    }
    assert_eq!(socket.with(|socket| socket.unsent()), Some(0));
    assert_eq!(recorder.take(), ["drained"]);
}

#[test]
fn a_queued_datagram_keeps_its_source() {
    let event_loop = EventLoop::new().unwrap();
    let (socket, _theirs, _recorder) = socket(&event_loop, LIMITS);
    fill(&socket);
    let source = UdpSource::from(Ipv4Addr::LOCALHOST);
    assert_eq!(socket.send_from(source, "queued", PEER).unwrap(), SendStatus::Queued);
    socket.handle().send_from(source, "through a handle", PEER).unwrap();
    event_loop.run_once(Duration::ZERO).unwrap();
    let core = socket.core.upgrade().unwrap();
    let mut queue = core.queue.borrow_mut();
    let sources: Vec<_> = iter::from_fn(|| queue.pop()).map(|datagram| datagram.source).collect();
    assert_eq!(sources, [None, Some(source), Some(source)]);
}

#[test]
fn datagrams_sent_together_keep_their_sources() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = receiver.local_addr().unwrap();
    let lasts = [1, 1, 8, 9, 1, 8, 1, 1];
    let datagrams = lasts.map(|last| {
        let source = (last != 1).then(|| UdpSource::from(Ipv4Addr::new(127, 0, 0, last)));
        queue::Datagram { to: Some(to), source, bytes: vec![last] }
    });
    let mut rest = &datagrams[..];
    while !rest.is_empty() {
        rest = &rest[super::socket::send_all(socket.as_fd(), rest).unwrap()..];
    }
    receiver.set_read_timeout(Some(LONG)).unwrap();
    for last in lasts {
        let mut bytes = [0];
        let (_, from) = receiver.recv_from(&mut bytes).unwrap();
        assert_eq!((bytes, from.ip()), ([last], Ipv4Addr::new(127, 0, 0, last).into()));
    }
}
