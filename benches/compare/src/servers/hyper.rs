//! hyper's hello world, over HTTP/1.1 and over HTTP/2: on reveille, and on tokio's current-thread
//! runtime, as in hyper's own examples. The service is one function. Only the stream, the executor
//! and the timer differ.

use std::convert::Infallible;
use std::io;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use reveille::task::LocalExecutor;
use reveille::time::LoopTimer;
use reveille::{EventLoop, TcpServer};
use tokio::net::TcpListener;

use super::{announce, listener};
use crate::Result;
use crate::http::{BODY, Version};

async fn hello(_request: Request<Incoming>) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(BODY))))
}

pub(super) fn serve_on_reveille(version: Version) -> Result<()> {
    let event_loop = EventLoop::new()?;
    let server = TcpServer::bind(&event_loop, "127.0.0.1:0")?;
    let server = match version {
        Version::Http1 => server.serve_async(|stream| async {
            let mut builder = http1::Builder::new();
            let served = builder.timer(LoopTimer).serve_connection(stream, service_fn(hello));
            served.await.map_err(io::Error::other)
        })?,
        Version::Http2 => server.serve_async(|stream| async {
            let mut builder = http2::Builder::new(LocalExecutor);
            let served = builder.timer(LoopTimer).serve_connection(stream, service_fn(hello));
            served.await.map_err(io::Error::other)
        })?,
    };
    announce(server.local_addr()?)?;
    event_loop.run()?;
    Ok(())
}

pub(super) fn serve_on_tokio(version: Version) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = listener()?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        announce(address)?;
        loop {
            let (stream, _) = listener.accept().await.map_err(|error| format!("accept: {error}"))?;
            stream.set_nodelay(true)?;
            let stream = TokioIo::new(stream);
            // A client that leaves early is an error of its connection only.
            match version {
                Version::Http1 => drop(tokio::spawn(async move {
                    let mut builder = http1::Builder::new();
                    builder.timer(TokioTimer::new()).serve_connection(stream, service_fn(hello)).await
                })),
                Version::Http2 => drop(tokio::spawn(async move {
                    let mut builder = http2::Builder::new(TokioExecutor::new());
                    builder.timer(TokioTimer::new()).serve_connection(stream, service_fn(hello)).await
                })),
            }
        }
    })
}
