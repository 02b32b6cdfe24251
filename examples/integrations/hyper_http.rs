//! An HTTP server with hyper, on the loop's own futures: HTTP/1.1, HTTP/2 with prior knowledge on
//! the same port, and both over TLS on request.
//!
//! Run it with `cargo run --release -p integrations --bin hyper_http`, then use the `curl` command
//! that it prints. `/` returns a greeting, `/echo` the body of the request while it arrives,
//! `/length` the length of that body, and `/bytes/N` N bytes at the pace of the client.

mod certificate;
#[path = "../shared/options.rs"]
mod options;
#[path = "../shared/reload.rs"]
mod reload;
#[path = "../shared/serving.rs"]
mod serving;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{self, select};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CONTENT_LENGTH, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::server::conn::auto;
use reveille::net::{ByteStream, ConnectionLimits};
use reveille::task::LocalExecutor;
use reveille::time::LoopTimer;
use reveille::tls::ServerTls;
use reveille::{EventLoop, TcpServer};

use certificate::Certificate;
use options::{Failure, Options};

const USAGE: &str = "usage: hyper_http [--tls CERT KEY | --self-signed] [OPTION VALUE]...

  --tls          two PEM files: the certificate of the server with those that lead to its authority,
                 and its key; SIGHUP loads them again
  --self-signed  creates a certificate for localhost, which only this server has
  --listen       the address to listen on; default: 127.0.0.1:8080; port 0 selects a free port
  --threads      the number of loops that serve connections; default: 1
  --grace        the time in seconds for requests to complete after a signal; default: 3

Without a certificate there is no TLS.";

const MAX_CONNECTIONS: usize = 10_000;
/// The time for the headers of a request, also of the first one on an idle connection.
const HEADERS: Duration = Duration::from_secs(30);
/// The time without a byte in either direction after which a connection is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A connection waits with more unsent bytes.
const HIGH_WATER: usize = 256 * 1024;
const LOW_WATER: usize = 64 * 1024;

type Http = auto::Builder<LocalExecutor>;
type ResponseBody = Either<Incoming, Either<Full<Bytes>, Pattern>>;

fn main() -> ExitCode {
    let names = ["--tls", "--listen", "--threads", "--grace"];
    options::main(USAGE, &names, &["--self-signed"], |options| Ok(run(&Arguments::parse(options)?)?))
}

struct Arguments {
    certificate: Option<Certificate>,
    listen: SocketAddr,
    threads: usize,
    grace: Duration,
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        options.rest(0)?;
        Ok(Arguments {
            certificate: Certificate::parse(options)?,
            listen: serving::listen(options, 8080)?,
            threads: serving::threads(options)?,
            grace: serving::grace(options)?,
        })
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    // The program decides which cryptography is used.
    rustls::crypto::ring::default_provider().install_default().expect("the first provider");
    let event_loop = EventLoop::new()?;
    let limits = ConnectionLimits::new().idle_timeout(IDLE).water_marks(HIGH_WATER, LOW_WATER);
    let mut builder =
        TcpServer::bind(&event_loop, arguments.listen)?.max_connections(MAX_CONNECTIONS).limits(limits);
    let tls = arguments.certificate.as_ref().map(|certificate| certificate.tls(&["h2", "http/1.1"]));
    // HTTP marks the ends of its messages, and many clients end without an alert.
    let tls = tls.transpose()?.map(ServerTls::allow_truncation);
    if let Some(tls) = &tls {
        builder = builder.tls(tls);
    }
    let http = Arc::new(http());
    let server =
        builder.threads(arguments.threads).serve_async(move |stream| serve(stream, Arc::clone(&http)))?;
    let command = if tls.is_some() { "curl --insecure https://" } else { "curl http://" };
    let _reload = reload::on_hangup(&event_loop, tls)?;
    serving::run(&event_loop, server, arguments.grace, |ip, port| {
        format!("{command}{}/", SocketAddr::new(ip, port))
    })
}

/// Both protocols, with limits. hyper spawns a future for each request of HTTP/2, on the loop.
fn http() -> Http {
    let mut http = Http::new(LocalExecutor);
    http.http1()
        .timer(LoopTimer)
        .header_read_timeout(HEADERS)
        .max_buf_size(64 * 1024)
        // A client may end its output before it has the response.
        .half_close(true);
    http.http2()
        .timer(LoopTimer)
        .keep_alive_interval(IDLE / 3)
        .keep_alive_timeout(IDLE / 3)
        .max_concurrent_streams(100)
        .max_send_buf_size(64 * 1024);
    http
}

/// Serves a connection until the client or a stop ends it.
async fn serve(stream: ByteStream, http: Arc<Http>) -> io::Result<()> {
    let stop = stream.stop_requested();
    let peer = stream.peer_address()?;
    let mut connection = pin!(http.serve_connection(stream, service_fn(respond)));
    let ended = match select(stop, connection.as_mut()).await {
        future::Either::Left(((), _)) => {
            // Completes the requests that have begun.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        future::Either::Right((ended, _)) => ended,
    };
    // Of the client: it has broken the protocol, or its connection.
    if let Err(error) = ended {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        log::info!("{peer}: {error}{cause}");
    }
    Ok(())
}

async fn respond(request: Request<Incoming>) -> Result<Response<ResponseBody>, hyper::Error> {
    let is_head = request.method() == Method::HEAD;
    let path = request.uri().path();
    let allowed = match path {
        "/echo" | "/length" => &[Method::POST, Method::PUT],
        _ => &[Method::GET, Method::HEAD],
    };
    if !allowed.contains(request.method()) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "wrong method\n");
        let allowed = if allowed.contains(&Method::POST) { "POST, PUT" } else { "GET, HEAD" };
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return Ok(response);
    }
    let mut response = match path {
        "/" => text(StatusCode::OK, "hello\n"),
        "/echo" => Response::new(Either::Left(request.into_body())),
        "/length" => text(StatusCode::OK, format!("{}\n", length(request.into_body()).await?)),
        _ => match path.strip_prefix("/bytes/").map(str::parse) {
            Some(Ok(left)) => Response::new(Either::Right(Either::Right(Pattern { left }))),
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        },
    };
    if let (true, Some(length)) = (is_head, response.body().size_hint().exact()) {
        // hyper leaves the body out with HTTP/1.1, not with HTTP/2.
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        *response.body_mut() = Either::Right(Either::Left(Full::default()));
    }
    Ok(response)
}

/// Reads a body, which may be of any length. hyper then sends `100 Continue` if the client waits
/// for it.
async fn length(mut body: Incoming) -> Result<usize, hyper::Error> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(length)
}

fn text(status: StatusCode, text: impl Into<Full<Bytes>>) -> Response<ResponseBody> {
    let mut response = Response::new(Either::Right(Either::Left(text.into())));
    *response.status_mut() = status;
    response
}

/// A body whose byte at `n` is the remainder of `n` by [`PERIOD`]. hyper requests a part of it when
/// the client has taken enough of the former ones.
struct Pattern {
    left: u64,
}

const PERIOD: usize = 251;
static PARTS: [u8; 64 * PERIOD] = {
    let mut parts = [0; 64 * PERIOD];
    let mut at = 0;
    while at < parts.len() {
        parts[at] = (at % PERIOD) as u8;
        at += 1;
    }
    parts
};

impl Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let n = usize::try_from(self.left).map_or(PARTS.len(), |left| left.min(PARTS.len()));
        self.left -= n as u64;
        Poll::Ready((n > 0).then(|| Ok(Frame::data(Bytes::from_static(&PARTS[..n])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
