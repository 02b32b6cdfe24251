//! smol: an executor for one thread, one task and one buffer per connection, as in its own example
//! of a TCP server.

use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};
use smol::{Async, LocalExecutor};

use super::{announce, listener};
use crate::Result;

/// A task cannot share its buffer across an await, so each connection has its own.
const BUFFER: usize = 16 * 1024;

pub(super) fn serve() -> Result<()> {
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        let listener = listener()?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from(Async::new(listener)?);
        announce(address)?;
        loop {
            let (stream, _) = listener.accept().await.map_err(|error| format!("accept: {error}"))?;
            stream.set_nodelay(true)?;
            executor.spawn(echo(stream)).detach();
        }
    }))
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(received) = stream.read(&mut buffer).await {
        if received == 0 || stream.write_all(&buffer[..received]).await.is_err() {
            return;
        }
    }
}
