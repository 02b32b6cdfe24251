//! The work of the client: lists a tree, then transfers its files one after the other. After a
//! failure of the connection it continues where it was.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reveille::task::Workers;
use reveille::time::sleep;
use reveille::tls::ClientTls;

use crate::connection::Connection;
use crate::disk::{Begun, Disk, Part, Start};
use crate::progress::Progress;
use crate::protocol::{Code, NOT_REGULAR, Name, ProtocolError, Reply, Request};
use crate::walk::{File, Walk};

/// The number of times that a file is transferred from its beginning.
const MAX_FRESH: u32 = 3;

/// The delays before the client connects again.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// The time without a byte after which the client connects again, unless its patience is short.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// The bytes per second at which a server computes checksums, at least.
const SLOWEST_SUM: u64 = 10 << 20;

pub(crate) struct Settings {
    pub(crate) target: String,
    pub(crate) tls: Option<ClientTls>,
    /// The time without progress after which the client gives up.
    pub(crate) patience: Duration,
}

/// The numbers of files, and of bytes that were received.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) received: u64,
    pub(crate) unchanged: u64,
    pub(crate) failed: u64,
    pub(crate) bytes: u64,
}

/// Why a session has ended.
enum Failure {
    /// Another connection may continue.
    Connection(String),
    /// The rest of a reply is not wanted.
    Reconnect,
    Fatal(String),
}

pub(crate) struct Download {
    settings: Settings,
    walk: Walk,
    disk: Arc<Disk>,
    /// One thread, which does all work on files.
    workers: Workers,
    progress: Progress,
    pub(crate) totals: Totals,
    /// The bytes of the files that are done.
    done: u64,
    /// How to begin the current file, and how often it was begun from its beginning.
    start: Start,
    fresh: u32,
    /// The current file, if it was begun and no byte was requested yet.
    begun: Option<Begun>,
    /// The time of the last progress. What the client and the server compute meanwhile is added.
    progressed: Instant,
    delay: Duration,
    /// Whether a server has sent the first line.
    was_greeted: bool,
}

impl Download {
    pub(crate) fn new(settings: Settings, name: Name, disk: Disk) -> io::Result<Download> {
        Ok(Download {
            settings,
            walk: Walk::new(name),
            disk: Arc::new(disk),
            workers: Workers::builder().threads(1).name("disk").build()?,
            progress: Progress::new(),
            totals: Totals::default(),
            done: 0,
            start: Start::Verify,
            fresh: 0,
            begun: None,
            progressed: Instant::now(),
            delay: FIRST_DELAY,
            was_greeted: false,
        })
    }

    /// Transfers everything. An error ends it; failures of single files are counted.
    pub(crate) async fn run(&mut self) -> Result<(), String> {
        loop {
            match self.session().await {
                Ok(()) => return Ok(()),
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Reconnect) => {}
                Err(Failure::Connection(error)) => {
                    let left = self.left();
                    if left < FIRST_DELAY {
                        let seconds = self.settings.patience.as_secs();
                        return Err(format!("no progress in {seconds} s: {error}"));
                    }
                    log::info!("connects again: {error}");
                    // The last attempt must have time too.
                    sleep(self.delay.min(left / 2)).await;
                    self.delay = (self.delay * 2).min(LONGEST_DELAY);
                }
            }
        }
    }

    async fn session(&mut self) -> Result<(), Failure> {
        let Settings { target, tls, patience } = &self.settings;
        // A connection that has become silent is replaced once while the patience lasts.
        let silence = LONGEST_SILENCE.min(*patience / 2);
        let limit = silence.min(self.left());
        let mut connection = Connection::open(target, tls.as_ref(), limit).await?;
        match connection.hello(silence).await {
            Ok(()) => self.was_greeted = true,
            // A server with TLS waits for the first bytes, or replies with an alert.
            Err(error) if tls.is_none() && !self.was_greeted => {
                let message = format!("{error}; perhaps the server demands TLS: see --ca");
                return Err(io::Error::new(error.kind(), message).into());
            }
            Err(error) => return Err(error.into()),
        }
        while let Some(directory) = self.walk.directory().cloned() {
            self.list(&mut connection, directory).await?;
            self.has_progressed();
        }
        self.progress.set_length(self.walk.length);
        while let Some(file) = self.walk.file().cloned() {
            self.transfer(&mut connection, &file).await?;
        }
        Ok(())
    }

    fn has_progressed(&mut self) {
        self.progressed = Instant::now();
        self.delay = FIRST_DELAY;
    }

    /// The time that is left for progress.
    fn left(&self) -> Duration {
        self.settings.patience.saturating_sub(self.progressed.elapsed())
    }

    // --- Directories -------------------------------------------------------------------------

    async fn list(&mut self, connection: &mut Connection, name: Name) -> Result<(), Failure> {
        connection.request(&Request::List(name.clone())).await?;
        match connection.line(Duration::ZERO).await? {
            Reply::Directory(count) => {
                let mut entries = Vec::new();
                for _ in 0..count {
                    let Reply::Entry(entry) = connection.line(Duration::ZERO).await? else {
                        return unexpected();
                    };
                    entries.push(entry);
                }
                let (disk, local) = (Arc::clone(&self.disk), self.walk.local(&name));
                if let Err(error) = self.workers.run(move || disk.make_directory(&local)).await? {
                    self.walk.skip_directory();
                    self.fail(&name, &error.to_string());
                    return Ok(());
                }
                for other in self.walk.is_directory(entries)? {
                    self.progress.report(&format!("{}: {NOT_REGULAR}", other.encode()));
                }
                Ok(())
            }
            Reply::File { length, is_executable } => Ok(self.walk.is_file(length, is_executable)?),
            Reply::Error { code, text } => {
                let text = refused(code, text)?;
                self.walk.skip_directory();
                self.fail(&name, &text);
                Ok(())
            }
            _ => unexpected(),
        }
    }

    // --- Files -------------------------------------------------------------------------------

    /// Makes one attempt to transfer the current file.
    async fn transfer(&mut self, connection: &mut Connection, file: &File) -> Result<(), Failure> {
        let begun = match self.begun.take() {
            Some(begun) => begun,
            None => {
                let (disk, begins, start) = (Arc::clone(&self.disk), file.clone(), self.start);
                let started = Instant::now();
                let begun = self.workers.run(move || disk.begin(&begins, start)).await?;
                // It computes the checksum of what the client holds.
                self.progressed += started.elapsed();
                match begun {
                    Ok(begun) => begun,
                    Err(error) => return self.end(file, Err(error.to_string())),
                }
            }
        };
        let held = match &begun {
            Begun::Existing { length, .. } => *length,
            Begun::Part(part) => part.length,
        };
        self.progress.set(self.done + held, &file.name);
        let length = match get(connection, file, held).await {
            Ok(Reply::Data { length, .. }) => length,
            Ok(Reply::Error { code: Code::OutOfRange, .. }) => return self.begin_again(file),
            Ok(Reply::Error { code, text }) => {
                let text = refused(code, text)?;
                return self.end(file, Err(text));
            }
            Ok(_) => return unexpected(),
            // The checksum of what is held takes long, so it is kept for the next connection.
            Err(failure) => {
                self.begun = Some(begun);
                return Err(failure);
            }
        };
        match begun {
            Begun::Existing { .. } if length != held => {
                self.start = Start::Resume;
                Err(Failure::Reconnect)
            }
            Begun::Existing { sum, .. } => match self.sum(connection, length).await? {
                Reply::Sum(expected) if expected == sum => {
                    self.totals.unchanged += 1;
                    self.end(file, Ok(()))
                }
                Reply::Sum(_) | Reply::Changed => {
                    self.start = Start::Resume;
                    Ok(())
                }
                Reply::Error { code, text } => {
                    let text = refused(code, text)?;
                    self.end(file, Err(text))
                }
                _ => unexpected(),
            },
            Begun::Part(part) => {
                let part = self.receive(connection, file, part, length).await?;
                let is_executable = file.is_executable;
                let complete = match self.sum(connection, length).await? {
                    Reply::Sum(sum) => self.workers.run(move || part.complete(&sum, is_executable)).await?,
                    Reply::Changed => Ok(false),
                    Reply::Error { code, text } => {
                        let text = refused(code, text)?;
                        return self.end(file, Err(text));
                    }
                    _ => return unexpected(),
                };
                match complete {
                    Ok(true) => {
                        self.totals.received += 1;
                        self.end(file, Ok(()))
                    }
                    Ok(false) => self.begin_again(file),
                    Err(error) => self.end(file, Err(error.to_string())),
                }
            }
        }
    }

    /// The line after the bytes of a file, for which the server computes its checksum.
    async fn sum(&mut self, connection: &mut Connection, length: u64) -> io::Result<Reply> {
        let (started, computing) = (Instant::now(), Duration::from_secs(length / SLOWEST_SUM));
        let reply = connection.line(computing).await;
        self.progressed += started.elapsed().min(computing);
        reply
    }

    /// Receives the rest of a file. The next bytes are received while the last ones are written.
    async fn receive(
        &mut self,
        connection: &mut Connection,
        file: &File,
        part: Box<Part>,
        length: u64,
    ) -> Result<Box<Part>, Failure> {
        let mut left = length - part.length;
        let mut writing = Err(part);
        while left > 0 {
            let received = connection.bytes().await;
            // Also after a failure of the connection: the part is locked until it is dropped.
            let mut part = match writing {
                Ok(job) => written(job).await?,
                Err(part) => part,
            };
            let bytes = received?;
            let count = bytes.len() as u64;
            left -= count;
            self.totals.bytes += count;
            self.has_progressed();
            self.progress.set(self.done + length - left, &file.name);
            let job = self.workers.submit_async(move || part.write(&bytes).map(|()| part));
            writing = Ok(job.map_err(|refused| io::Error::from(refused.reason()))?);
        }
        match writing {
            Ok(job) => written(job).await,
            Err(part) => Ok(part),
        }
    }

    /// What the client holds is not what the server has, or the file has changed meanwhile.
    fn begin_again(&mut self, file: &File) -> Result<(), Failure> {
        self.start = Start::Fresh;
        self.fresh += 1;
        if self.fresh > MAX_FRESH {
            return self.end(file, Err("it changes while it is transferred".to_owned()));
        }
        log::info!("{}: from its beginning", file.name.encode());
        Ok(())
    }

    /// The current file is done, or has failed.
    fn end(&mut self, file: &File, result: Result<(), String>) -> Result<(), Failure> {
        if let Err(error) = result {
            self.fail(&file.name, &error);
        }
        self.done += file.length;
        self.progress.set(self.done, &file.name);
        self.walk.end_file();
        self.start = Start::Verify;
        self.fresh = 0;
        self.has_progressed();
        Ok(())
    }

    fn fail(&mut self, name: &Name, error: &str) {
        self.totals.failed += 1;
        self.progress.report(&format!("{}: {error}", name.encode()));
    }
}

/// Requests a file from an offset, and returns the first line of the reply.
async fn get(connection: &mut Connection, file: &File, held: u64) -> Result<Reply, Failure> {
    connection.request(&Request::Get { name: file.name.clone(), offset: held }).await?;
    let reply = connection.line(Duration::ZERO).await?;
    match reply {
        Reply::Data { offset, .. } if offset != held => unexpected(),
        reply => Ok(reply),
    }
}

/// The part, once its last bytes are written.
async fn written(job: reveille::task::JobFuture<io::Result<Box<Part>>>) -> Result<Box<Part>, Failure> {
    let result = job.await.map_err(io::Error::from)?;
    // The disk is full, for example. Other files would fail too.
    result.map_err(|error| Failure::Fatal(format!("cannot write: {error}")))
}

fn unexpected<T>() -> Result<T, Failure> {
    Err(ProtocolError("the server has sent another reply than expected").into())
}

/// Returns the text if only this request is refused.
fn refused(code: Code, text: String) -> Result<String, Failure> {
    match code {
        Code::Busy => Err(Failure::Connection(text)),
        Code::BadRequest => Err(Failure::Fatal(text)),
        _ => Ok(text),
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        // TLS errors and violations of the protocol do not end by themselves.
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Failure::Fatal(error.to_string()),
            _ => Failure::Connection(error.to_string()),
        }
    }
}

impl From<ProtocolError> for Failure {
    fn from(error: ProtocolError) -> Failure {
        Failure::Fatal(error.to_string())
    }
}
