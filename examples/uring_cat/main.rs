//! cat(1) on a loop: prints files byte for byte, one after the other.
//!
//! Run it with `cargo run --release --features uring --example uring_cat -- -v /etc/passwd`.
//! Several pieces of a file are read concurrently and written in order, so reads overlap with the
//! output. With the feature `uring`, and a kernel that supports it, the reads use io_uring;
//! otherwise a few threads read. `-v` prints which one is used, and `RUST_LOG=info` the reason.

#[path = "../shared/file_backend.rs"]
mod file_backend;
#[path = "../shared/options.rs"]
mod options;

mod cat;
mod input;

use std::process::ExitCode;

use cat::Cat;
use options::{Failure, Options};
use reveille::EventLoop;

const USAGE: &str = "usage: uring_cat [-v] [--by io_uring|threads] [FILE...]

  FILE  the file to print; `-`, or no FILE at all, is the standard input
  -v    print the backend to stderr
  --by  the backend that reads; default: io_uring if available";

fn main() -> ExitCode {
    options::main(USAGE, &["--by"], &["-v"], run)
}

fn run(options: &mut Options) -> Result<(), Failure> {
    let builder = file_backend::builder(options)?;
    let mut names = options.rest(usize::MAX)?;
    if names.is_empty() {
        names.push("-".into());
    }

    let event_loop = EventLoop::new()?;
    let files = builder.build(&event_loop)?;
    if options.has("-v") {
        eprintln!("uring_cat: {}", file_backend::name(&files));
    }
    let cat = Cat::start(files, names.into_iter())?;
    event_loop.run()?;
    // The messages have been printed.
    if cat.has_failed() { Err(Failure::Printed) } else { Ok(()) }
}
