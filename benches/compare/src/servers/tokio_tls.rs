//! tokio-rustls on the current-thread runtime: one task and one buffer per connection, as in its
//! own examples.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{announce, listener};
use crate::Result;
use crate::tls::Identity;

/// The largest plaintext of a record. A read returns no more than one record.
const BUFFER: usize = 16 * 1024;

pub(super) fn serve() -> Result<()> {
    let acceptor = TlsAcceptor::from(Identity::from_variables()?.server_config()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = listener()?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        announce(address)?;
        loop {
            let (stream, _) = listener.accept().await.map_err(|error| format!("accept: {error}"))?;
            stream.set_nodelay(true)?;
            // A client that leaves early is an error of its connection only.
            tokio::spawn(echo(acceptor.clone(), stream));
        }
    })
}

async fn echo(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let received = stream.read(&mut buffer).await?;
        if received == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..received]).await?;
        stream.flush().await?;
    }
}
