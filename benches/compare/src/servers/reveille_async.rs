//! reveille with a task for each connection: the async echo server of its documentation.

use reveille::{Buffer, EventLoop, TcpServer};

use super::announce;
use crate::Result;

pub(super) fn serve() -> Result<()> {
    let event_loop = EventLoop::new()?;
    let server = TcpServer::bind(&event_loop, "127.0.0.1:0")?.serve_async(|mut stream| async move {
        let mut input = Buffer::new();
        while stream.read_buf(&mut input).await? > 0 {
            stream.write_buf(&mut input).await?;
        }
        Ok(())
    })?;
    announce(server.local_addr()?)?;
    event_loop.run()?;
    Ok(())
}
