//! A tokio program that awaits what a loop on another thread does.
//!
//! Run it with `cargo run --release --example call_from_tokio`. It shows a call, a future that need
//! not be `Send` and sleeps on the loop's clock, and the error of a call that panics.

#[path = "shared/options.rs"]
mod options;

use std::io::{self, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use reveille::task::CallError;
use reveille::{LoopThread, time};

fn main() -> ExitCode {
    options::main("usage: call_from_tokio", &[], &[], |options| {
        options.rest(0)?;
        // The one panic is expected, and reported by the example itself.
        std::panic::set_hook(Box::new(|_| ()));
        Ok(tokio::runtime::Builder::new_current_thread().build()?.block_on(run())?)
    })
}

async fn run() -> io::Result<()> {
    let thread = LoopThread::spawn("worker")?;
    let mut output = io::stdout();

    let turns = thread.handle().call_async(|event_loop| event_loop.iteration()).await?;
    writeln!(output, "the loop has made {turns} turns")?;

    // A call can be awaited in any task of tokio.
    let handle = thread.handle().clone();
    let product = tokio::spawn(async move { handle.call_async(|_| 6 * 7).await });
    writeln!(output, "a task has got {}", product.await.map_err(io::Error::other)??)?;

    // A future on the loop. It need not be `Send`, but its result must be.
    let joined = thread.handle().spawn_with(|_| {
        let answer = Rc::new("slept");
        async move {
            time::sleep(Duration::from_millis(10)).await;
            *answer
        }
    })?;
    writeln!(output, "a future has {}", joined.await?)?;

    match thread.handle().call_async(|_| -> u32 { panic!("in the call") }).await {
        Err(CallError::Panicked) => writeln!(output, "a call has panicked, and the loop runs on"),
        other => Err(io::Error::other(format!("{other:?}"))),
    }
}
