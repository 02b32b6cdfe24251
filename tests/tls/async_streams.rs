//! Byte streams of async functions over TLS.

use std::io;

use crate::authority::{NAME, client_config, server_config};
use crate::support::futures::run;
use crate::support::{MIB, with_loop};
use reveille::net::ByteStream;
use reveille::tls::{ClientTls, ServerTls};
use reveille::{Buffer, TcpClient, TcpServer, task};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

async fn echo(mut stream: ByteStream) -> io::Result<()> {
    stream.with_connection(|conn| assert!(conn.tls().is_some()))?;
    let mut input = Buffer::new();
    while stream.read_buf(&mut input).await? > 0 {
        stream.write_buf(&mut input).await?;
    }
    stream.shutdown().await
}

#[test]
fn megabytes_are_echoed_over_tls() {
    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let server = server.tls(ServerTls::new(server_config())).serve_async(echo).unwrap();
        let client = ClientTls::new(client_config()).server_name(NAME);
        let connecting = TcpClient::connect(event_loop, server.local_address()).tls(client).connect_async();
        run(event_loop, async move {
            let mut stream = connecting.await.unwrap();
            let sent = pattern(2 * MIB);
            let expected = sent.clone();
            let mut received = Buffer::new();
            {
                let (mut input, mut output) = stream.split();
                let mut write = std::pin::pin!(async move {
                    for piece in sent.chunks(30_000) {
                        output.write_all(piece).await.unwrap();
                    }
                    output.shutdown().await.unwrap();
                });
                let mut read =
                    std::pin::pin!(async { while input.read_buf(&mut received).await.unwrap() > 0 {} });
                let (mut written, mut is_read) = (false, false);
                std::future::poll_fn(|context| {
                    written = written || write.as_mut().poll(context).is_ready();
                    is_read = is_read || read.as_mut().poll(context).is_ready();
                    if written && is_read { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
                })
                .await;
            }
            assert!(received.readable() == expected, "{} bytes", received.len());
            task::yield_now().await;
        });
        drop(server);
    });
}
