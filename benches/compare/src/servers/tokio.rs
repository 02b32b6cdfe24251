//! tokio: the current-thread runtime, one task and one buffer per connection, as in its own echo
//! example.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{announce, listener};
use crate::Result;

/// A task cannot share its buffer across an await, so each connection has its own.
const BUFFER: usize = 16 * 1024;

pub(super) fn serve() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = listener()?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        announce(address)?;
        loop {
            let (stream, _) = listener.accept().await.map_err(|error| format!("accept: {error}"))?;
            stream.set_nodelay(true)?;
            tokio::spawn(echo(stream));
        }
    })
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(received) = stream.read(&mut buffer).await {
        if received == 0 || stream.write_all(&buffer[..received]).await.is_err() {
            return;
        }
    }
}
