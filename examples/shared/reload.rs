//! A certificate that is loaded again on SIGHUP.

use std::io::{self, Write};

use reveille::EventLoop;
use reveille::signal::{Signal, Signals};
use reveille::tls::ServerTls;

/// Loads the files of `tls` again on SIGHUP, while the result exists. If this fails, the old
/// certificate stays in use. Without TLS, the signal keeps its default action.
pub(crate) fn on_hangup(event_loop: &EventLoop, tls: Option<ServerTls>) -> io::Result<Option<Signals>> {
    let Some(tls) = tls else { return Ok(None) };
    let signals = Signals::new(event_loop, [Signal::HUP], move |_, _| {
        // The crate logs a failure.
        if tls.reload().is_ok() {
            let _ = writeln!(io::stdout(), "the certificate is loaded again");
        }
    });
    signals.map(Some)
}
