//! `transfer get`: an async function on the loop, and a thread for files.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use reveille::signal::{Signal, Signals};
use reveille::tls::ClientTls;
use reveille::{EventLoop, task};

use crate::disk::Disk;
use crate::download::{Download, Settings};
use crate::options::{Failure, Options};
use crate::protocol::Name;

pub(crate) struct Arguments {
    target: String,
    name: Name,
    destination: PathBuf,
    ca: Option<PathBuf>,
    patience: Duration,
}

impl Arguments {
    pub(crate) fn parse(options: &Options, rest: Vec<OsString>) -> Result<Arguments, Failure> {
        let [target, name, destination] = <[OsString; 3]>::try_from(rest)
            .map_err(|_| options.wrong("`get` has three arguments: ADDRESS:PORT, NAME and DESTINATION"))?;
        let target = target.to_string_lossy().into_owned();
        let is_target = target
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !is_target {
            return Err(options.wrong(format!("`{target}` is not an address with a port")));
        }
        let Ok(parsed) = Name::new(name.as_bytes()) else {
            let message =
                format!("`{}` is not a path below the root of the server, or `.`", name.to_string_lossy());
            return Err(options.wrong(message));
        };
        Ok(Arguments {
            target,
            name: parsed,
            destination: destination.into(),
            ca: options.path("--ca"),
            patience: options.seconds("--patience", 60)?,
        })
    }
}

pub(crate) fn run(arguments: Arguments) -> io::Result<()> {
    let Arguments { target, name, destination, ca, patience } = arguments;
    let event_loop = EventLoop::new()?;
    let settings = Settings { target, tls: ca.map(ClientTls::from_pem_file).transpose()?, patience };
    let mut download = Download::new(settings, name, Disk::open(&destination)?)?;

    let result = Rc::new(RefCell::new(None));
    let interrupted = Rc::clone(&result);
    let _signals = Signals::new(&event_loop, [Signal::INT, Signal::TERM], move |event_loop, _| {
        let message = "interrupted; the same command continues the transfer";
        interrupted.replace(Some(Err(message.to_owned())));
        event_loop.quit();
    })?;
    let finished = Rc::clone(&result);
    event_loop.spawn_local(async move {
        let outcome = download.run().await;
        let totals = download.totals;
        finished.replace(Some(outcome.map(|()| totals)));
        task::with_loop(EventLoop::quit);
    });
    event_loop.run()?;
    // Ends the transfer. What was received is written before the program ends.
    drop(event_loop);

    let totals = result.take().unwrap_or_else(|| Err("the transfer has panicked".to_owned()));
    let totals = totals.map_err(io::Error::other)?;
    let _ = writeln!(
        io::stdout(),
        "{} files received, {} unchanged, {} failed, {} bytes",
        totals.received,
        totals.unchanged,
        totals.failed,
        totals.bytes
    );
    match totals.failed {
        0 => Ok(()),
        failed => Err(io::Error::other(format!("{failed} files or directories have failed"))),
    }
}
