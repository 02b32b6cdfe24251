//! reveille: the echo server of its documentation.

use reveille::{EventLoop, TcpServer};

use super::announce;
use crate::Result;

pub(super) fn serve() -> Result<()> {
    let event_loop = EventLoop::new()?;
    // By default the backlog is 4096 and TCP_NODELAY is set, as for the other peers.
    let server =
        TcpServer::bind(&event_loop, "127.0.0.1:0")?.serve_fn(|conn, input| conn.send(input.take_all()))?;
    announce(server.local_addr()?)?;
    event_loop.run()?;
    Ok(())
}
