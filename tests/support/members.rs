//! Connections on several loops, for the tests of groups.

use std::net::TcpStream;
use std::sync::mpsc;

use reveille::ConnectionHandle;
use reveille::net::{ConnectionGroup, ConnectionLimits, FullPolicy, TcpServerBuilder};

use super::net::{self, Host, Journal, scripted_with};

/// A loop with a server whose connections give their handles to the test.
pub(crate) struct MemberLoop {
    pub(crate) host: Host,
    pub(crate) journal: Journal,
    handles: mpsc::Receiver<ConnectionHandle>,
}

/// A connection, seen from both ends.
pub(crate) struct Member {
    pub(crate) peer: TcpStream,
    pub(crate) handle: ConnectionHandle,
}

/// A group that closes members that are full.
pub(crate) fn group_of<'a>(members: impl IntoIterator<Item = &'a Member>) -> ConnectionGroup {
    let group = ConnectionGroup::new(FullPolicy::Close);
    members.into_iter().for_each(|member| group.join(&member.handle));
    group
}

impl MemberLoop {
    pub(crate) fn new() -> MemberLoop {
        MemberLoop::with_settings(|builder| builder)
    }

    /// Same as [`new`](MemberLoop::new), with a limit of unsent bytes.
    pub(crate) fn with_max_unsent(bytes: usize) -> MemberLoop {
        MemberLoop::with_settings(move |builder| builder.limits(ConnectionLimits::new().max_unsent(bytes)))
    }

    pub(crate) fn with_settings(
        settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a> + Send + 'static,
    ) -> MemberLoop {
        let (sender, handles) = mpsc::channel();
        let (host, journal) = scripted_with(settings, move |script| {
            let sender = sender.clone();
            script.on_open(move |conn| sender.send(conn.handle()).unwrap())
        });
        MemberLoop { host, journal, handles }
    }

    #[track_caller]
    pub(crate) fn connect(&self) -> Member {
        self.member(self.host.connect())
    }

    /// Same as [`connect`](MemberLoop::connect), for a peer that is slow when it does not read.
    #[track_caller]
    pub(crate) fn connect_slow(&self) -> Member {
        self.member(net::connect_with_small_packets(self.host.address()))
    }

    #[track_caller]
    fn member(&self, peer: TcpStream) -> Member {
        Member { peer, handle: self.handles.recv_timeout(net::LIMIT).expect("the connection did not open") }
    }

    /// Waits until the tasks that are queued now have run, those of groups included.
    pub(crate) fn run_tasks(&self) {
        self.host.request(|_, _| ());
    }

    /// Blocks the loop in a task until the returned sender is dropped.
    #[must_use]
    pub(crate) fn block(&self) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel::<()>();
        let (sender, is_blocked) = mpsc::channel();
        let blocked = self.host.handle().queue_in_loop(move |_| {
            sender.send(()).unwrap();
            released.recv().unwrap_err();
        });
        blocked.expect("the loop has ended");
        is_blocked.recv_timeout(net::LIMIT).expect("the task did not run");
        release
    }
}

impl Member {
    /// Ends the output, and returns what the peer received.
    #[track_caller]
    pub(crate) fn received(mut self) -> Vec<u8> {
        self.handle.shutdown();
        net::read_to_end(&mut self.peer)
    }

    #[track_caller]
    pub(crate) fn assert_received(self, expected: &str) {
        assert_eq!(String::from_utf8(self.received()).unwrap(), expected);
    }
}
