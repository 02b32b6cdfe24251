//! monoio with its epoll driver, which it calls legacy: one task per connection, whose buffer the
//! runtime owns during each operation, as in its own echo example.

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{LegacyDriver, RuntimeBuilder};

use super::{announce, listener};
use crate::Result;

/// A task cannot share its buffer across an await, so each connection has its own.
const BUFFER: usize = 16 * 1024;

pub(super) fn serve() -> Result<()> {
    let mut runtime = RuntimeBuilder::<LegacyDriver>::new().build()?;
    runtime.block_on(async {
        let listener = listener()?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        announce(address)?;
        loop {
            let (stream, _) = listener.accept().await.map_err(|error| format!("accept: {error}"))?;
            stream.set_nodelay(true)?;
            monoio::spawn(echo(stream));
        }
    })
}

async fn echo(mut stream: TcpStream) {
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        let (received, filled) = stream.read(buffer).await;
        if !matches!(received, Ok(1..)) {
            return;
        }
        let (sent, mut written) = stream.write_all(filled).await;
        if sent.is_err() {
            return;
        }
        written.clear();
        buffer = written;
    }
}
