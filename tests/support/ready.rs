//! Channels that have something to say as soon as they are made.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use reveille::EventLoop;
use reveille::io::{Channel, ChannelEvent, Interest};

/// A channel that is ready at once; its callback reads the one byte, then calls `then`.
pub(crate) fn ready_channel(
    event_loop: &EventLoop,
    mut then: impl FnMut(&EventLoop) + 'static,
) -> Channel<UnixStream> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.write_all(b"x").unwrap();
    let callback = move |event: &ChannelEvent<'_, UnixStream>| {
        // The other end lives as long as the channel, so that no hang-up calls it again.
        let _ = &theirs;
        assert_eq!(event.source().read(&mut [0; 8]).unwrap(), 1);
        then(event.event_loop());
    };
    Channel::new(event_loop, ours, Interest::READABLE, callback).unwrap()
}
