//! reveille with TLS: the echo server of its documentation.

use reveille::tls::ServerTls;
use reveille::{EventLoop, TcpServer};

use super::announce;
use crate::Result;
use crate::tls::Identity;

pub(super) fn serve() -> Result<()> {
    let tls = ServerTls::new(Identity::from_variables()?.server_config()?);
    let event_loop = EventLoop::new()?;
    let server = TcpServer::bind(&event_loop, "127.0.0.1:0")?
        .tls(tls)
        .serve_fn(|conn, input| conn.send(input.take_all()))?;
    announce(server.local_addr()?)?;
    event_loop.run()?;
    Ok(())
}
