//! Channels that are ready when they are created.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use reveille::EventLoop;
use reveille::io::{Channel, ChannelEvent, Interest};

/// Creates a channel with one byte to read. Its callback reads the byte, then calls `then`.
pub(crate) fn ready_channel(
    event_loop: &EventLoop,
    mut then: impl FnMut(&EventLoop) + 'static,
) -> Channel<UnixStream> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.write_all(b"x").unwrap();
    let callback = move |event: &ChannelEvent<'_, UnixStream>| {
        // The callback owns the other end, so that no hang-up causes a second call.
        let _ = &theirs;
        assert_eq!(event.source().read(&mut [0; 8]).unwrap(), 1);
        then(event.event_loop());
    };
    Channel::new(event_loop, ours, Interest::READABLE, callback).unwrap()
}
