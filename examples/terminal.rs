//! Shows the keys that are pressed, one in a line, and the size of the window when it changes. The
//! key `q` ends it.
//!
//! Run it in a terminal with `cargo run --example terminal`. The terminal is in raw mode until the
//! program ends. The standard input and output may also be pipes, files or sockets: then it shows
//! the bytes of its input up to the end, as with
//! `socat - EXEC:target/debug/examples/terminal,pty,raw,echo=0`.

#[path = "shared/options.rs"]
mod options;

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::rc::Rc;

use options::Failure;
use reveille::io::Terminal;
use reveille::net::CloseReason;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection};

struct Keys {
    line_end: &'static str,
    ends: bool,
    error: Rc<Cell<Option<String>>>,
}

impl ConnectionHandler for Keys {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        Ok(conn.send(format!("q ends{}", self.line_end))?)
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        for key in input.take_all() {
            if *key == b'q' {
                self.ends = true;
                // What was sent leaves before `on_drained`. A terminal has no end to wait for.
                conn.notify_drained();
                break;
            }
            conn.send(format!("{}{}", key.escape_ascii(), self.line_end))?;
        }
        Ok(())
    }

    fn on_drained(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        if self.ends {
            conn.close();
        }
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection<'_>, reason: &CloseReason) {
        if let CloseReason::Error(error) = reason {
            self.error.set(Some(error.to_string()));
        }
    }
}

fn main() -> ExitCode {
    options::main("usage: terminal", &[], &[], |options| {
        options.rest(0)?;
        run()?.map_or(Ok(()), |error| Err(Failure::Error(error)))
    })
}

/// Returns the error of the connection.
fn run() -> io::Result<Option<String>> {
    let event_loop = EventLoop::new()?;
    let error = Rc::new(Cell::new(None));
    // Another kind of input has no mode and no size.
    let terminal = Terminal::new(io::stdin()).ok();
    let line_end = if terminal.is_some() { "\r\n" } else { "\n" };
    let _raw = terminal.as_ref().map(Terminal::raw_mode).transpose()?;
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let keys = Keys { line_end, ends: false, error: Rc::clone(&error) };
    let connection = TcpConnection::adopt_pipes(&event_loop, input, output, |_| keys)?;
    let resizes = match &terminal {
        Some(terminal) => Some(terminal.on_resize(&event_loop, move |_, size| {
            // Refused if the connection has just ended.
            let _ = connection.send(format!("{size}\r\n"));
        })?),
        None => None,
    };
    if let Some(resizes) = &resizes {
        resizes.exclude_from_idle();
    }
    event_loop.run_until_idle()?;
    Ok(error.take())
}
