//! The client of the crate redis on the loop: its connection is a byte stream with the traits of
//! tokio, its driver is a task of the loop, and no runtime of tokio runs.
//!
//! Run it with `cargo run --release -p integrations --bin redis_async -- 127.0.0.1:6379`, with a
//! Redis server on that port. It sends a pipeline, then counts with several tasks that share the
//! connection, and then waits for something that does not come. It removes its keys.

#[path = "../shared/options.rs"]
mod options;

use std::cell::Cell;
use std::error::Error;
use std::io::{self, IoSlice, Write};
use std::num::NonZeroU64;
use std::pin::Pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use fragile::Fragile;
use futures_util::future::try_join_all;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, Value, cmd, pipe};
use reveille::net::ByteStream;
use reveille::time::timeout;
use reveille::{EventLoop, task};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use options::{Failure, Options};

const USAGE: &str = "usage: redis_async [--tasks N] [--requests N] [--timeout SECONDS] HOST:PORT

  --tasks     the number of tasks that share the connection; default: 10
  --requests  the number of requests of each; default: 100
  --timeout   the time for the connection and for each reply; default: 5";

/// The time to wait for something that does not come.
const SHORT: Duration = Duration::from_millis(100);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    options::main(USAGE, &["--tasks", "--requests", "--timeout"], &[], |options| {
        run(Arguments::parse(options)?).map_err(|error| Failure::Error(in_one_line(error)))
    })
}

/// The errors of the crate may have several lines.
fn in_one_line(error: Box<dyn Error>) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Arguments {
    tasks: NonZeroU64,
    requests: NonZeroU64,
    timeout: Duration,
    server: String,
}

impl Arguments {
    fn parse(options: &mut Options) -> Result<Arguments, Failure> {
        let number = |value| NonZeroU64::new(value).expect("not zero");
        let seconds = options.get("--timeout", number(5), "a number of seconds from 1")?;
        Ok(Arguments {
            tasks: options.get("--tasks", number(10), "a number from 1")?,
            requests: options.get("--requests", number(100), "a number from 1")?,
            timeout: Duration::from_secs(seconds.get()),
            server: options.only("the server")?.to_string_lossy().into_owned(),
        })
    }
}

fn run(arguments: Arguments) -> Outcome<()> {
    let event_loop = EventLoop::new()?;
    let result = Rc::new(Cell::new(Ok(())));
    let stored = Rc::clone(&result);
    event_loop.spawn_local(async move {
        stored.set(requests(&arguments).await);
        task::with_loop(EventLoop::quit);
    });
    event_loop.run()?;
    result.replace(Ok(()))
}

async fn requests(arguments: &Arguments) -> Outcome<()> {
    let limit = arguments.timeout;
    let connection = connect(arguments).await?;
    // Keys that no other run uses.
    let id = std::process::id();
    let (visits, list) = (format!("reveille:visits:{id}"), format!("reveille:list:{id}"));

    let mut pipeline = pipe();
    pipeline.cmd("SET").arg(&visits).arg(5).ignore();
    pipeline.cmd("INCRBY").arg(&visits).arg(10);
    pipeline.cmd("GET").arg(&visits);
    let mut sender = connection.clone();
    let (sum, text): (i64, String) = timeout(limit, pipeline.query_async(&mut sender)).await??;
    print(format_args!("a pipeline: INCRBY returned {sum}, GET returned {text:?}"))?;

    let counting = (0..arguments.tasks.get()).map(|_| {
        let (mut connection, key, requests) = (connection.clone(), visits.clone(), arguments.requests.get());
        let counting = task::spawn_local(async move {
            let request = cmd("INCR").arg(key).to_owned();
            for _ in 0..requests {
                let count = request.query_async::<u64>(&mut connection);
                timeout(limit, count).await.map_err(io::Error::from)?.map_err(io::Error::other)?;
            }
            io::Result::Ok(())
        });
        async { counting.await? }
    });
    try_join_all(counting).await?;
    let count: u64 = timeout(limit, cmd("GET").arg(&visits).query_async(&mut sender)).await??;
    let (tasks, requests) = (arguments.tasks, arguments.requests);
    print(format_args!("{tasks} tasks with {requests} requests each: the count is {count}"))?;

    // A request that blocks has a connection of its own, since replies come in order. The drop of
    // the future at the limit does not end the request, but the drop of the connection does.
    let mut waiting = connect(arguments).await?;
    let request = cmd("BLPOP").arg(&list).arg(0).to_owned();
    match timeout(SHORT, request.query_async::<Value>(&mut waiting)).await {
        Err(_) => print(format_args!("BLPOP: nothing within {SHORT:?}"))?,
        Ok(reply) => print(format_args!("BLPOP: {reply:?}"))?,
    }
    drop(waiting);
    let removed: u64 = timeout(limit, cmd("DEL").arg(&visits).query_async(&mut sender)).await??;
    print(format_args!("{removed} key removed"))?;
    Ok(())
}

/// Connects, and leaves the driver of the connection to the loop. It ends with the last clone.
async fn connect(arguments: &Arguments) -> Outcome<MultiplexedConnection> {
    // The timeouts of the crate need a runtime. The example uses those of the loop.
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
    let info = RedisConnectionInfo::default();
    let connecting = async {
        let stream = LoopStream(Fragile::new(ByteStream::connect(arguments.server.as_str()).await?));
        io::Result::Ok(MultiplexedConnection::new_with_config(&info, stream, config).await)
    };
    let (connection, driver) = timeout(arguments.timeout, connecting).await???;
    task::spawn_local(driver);
    Ok(connection)
}

fn print(line: std::fmt::Arguments<'_>) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

/// A stream that may be given to code that demands `Send`. It panics if it is used on another
/// thread, which does not happen: the futures that own it are tasks of the loop.
struct LoopStream(Fragile<ByteStream>);

impl LoopStream {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut ByteStream> {
        Pin::new(self.get_mut().0.get_mut())
    }
}

impl AsyncRead for LoopStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(self.stream(), context, bytes)
    }
}

impl AsyncWrite for LoopStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(self.stream(), context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write_vectored(self.stream(), context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(self.stream(), context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(self.stream(), context)
    }
}
