//! Responses to requests that read: what a path names.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use reveille::net::SendError;
use reveille::{EventLoop, TcpConnection};

use crate::cache::{self, Cache, Entry};
use crate::clock::{Clock, DATE_LENGTH};
use crate::exchange::{Exchange, Sent};
use crate::file_reply::{Content, send_selected};
use crate::listing;
use crate::protocol::{Method, Request, Status};
use crate::reply::Persistence;
use crate::root::{Found, Root};

/// The files that a loop serves.
pub(crate) struct Site {
    root: Root,
    cache: RefCell<Cache>,
    clock: Clock,
    /// The value of the field Allow.
    allowed: &'static str,
}

impl Site {
    pub(crate) fn new(
        event_loop: &EventLoop,
        root: Root,
        accepts_uploads: bool,
        uploads: Arc<AtomicU64>,
    ) -> Site {
        let allowed = if accepts_uploads { "GET, HEAD, OPTIONS, PUT" } else { "GET, HEAD, OPTIONS" };
        let cache = RefCell::new(Cache::new(uploads));
        Site { root, cache, clock: Clock::new(event_loop.now()), allowed }
    }

    pub(crate) fn now(&self, conn: &TcpConnection) -> ([u8; DATE_LENGTH], SystemTime) {
        self.clock.read(conn.event_loop().now())
    }

    pub(crate) fn exchange<'a>(
        &self,
        conn: &'a TcpConnection<'a>,
        request: &'a Request<'a>,
        persistence: Persistence,
    ) -> Exchange<'a> {
        let (date, time) = self.now(conn);
        Exchange { conn, request, persistence, date, time, allowed: self.allowed }
    }

    /// Responds to a request, except PUT.
    pub(crate) fn respond(&self, exchange: &Exchange<'_>) -> Result<Sent, SendError> {
        let target = &exchange.request.target;
        match exchange.request.method {
            Method::Get | Method::Head if target.is_hidden => exchange.refuse(Status(404)),
            Method::Get | Method::Head if target.is_directory => {
                let index: Cow<'_, [u8]> = match &*target.path {
                    b"" => Cow::Borrowed(b"index.html"),
                    path => Cow::Owned([path, b"/index.html"].concat()),
                };
                match self.file(exchange, &index) {
                    Err(Status(404)) => self.listing(exchange),
                    Err(status) => exchange.refuse(status),
                    Ok(sent) => sent,
                }
            }
            Method::Get | Method::Head => match self.file(exchange, &target.path) {
                Err(Status(404)) => self.directory(exchange),
                Err(status) => exchange.refuse(status),
                Ok(sent) => sent,
            },
            Method::Options => {
                let head = exchange.head(Status(204)).field("Allow", self.allowed);
                exchange.send(Status(204), head, b"")
            }
            Method::Put | Method::Other => exchange.refuse(Status(405)),
        }
    }

    /// Responds with the file `path`.
    ///
    /// # Errors
    /// There is no such file; nothing has been sent.
    fn file(&self, exchange: &Exchange<'_>, path: &[u8]) -> Result<Result<Sent, SendError>, Status> {
        let (now, date, time) = (exchange.conn.event_loop().now(), exchange.date, exchange.time);
        let mut cache = self.cache.borrow_mut();
        let entry = match cache.get(path, &self.root, now, time) {
            Some(entry) => entry,
            None => {
                let uploads = cache.uploads();
                // A pipe or a device would notice that it is opened.
                if !matches!(self.root.find(path)?, Found::File(_)) {
                    return Err(Status(404));
                }
                let (file, version) = self.root.open_file(path)?;
                let is_small = version.length <= cache::LARGEST;
                let entry =
                    is_small.then(|| Entry::read(uploads, path, &file, version.clone(), now, (date, time)));
                match entry.flatten() {
                    Some(entry) => cache.insert(path, entry),
                    None => return Ok(send_selected(exchange, path, &version, Content::File(file))),
                }
            }
        };
        let request = exchange.request;
        let is_plain = request.method == Method::Get && !request.fields.select;
        if is_plain && exchange.persistence == Persistence::KeepAlive {
            let response = entry.response(date);
            let sent = Sent { status: Status(200), bytes: response.len() as u64 };
            return Ok(exchange.conn.send(response).map(|()| sent));
        }
        Ok(send_selected(exchange, path, &entry.version, Content::Memory(entry.content())))
    }

    /// Responds to a request for a directory whose target does not end with `/`, if it is one:
    /// relative links of its page would not work there.
    fn directory(&self, exchange: &Exchange<'_>) -> Result<Sent, SendError> {
        let target = &exchange.request.target;
        if !matches!(self.root.find(&target.path), Ok(Found::Directory)) {
            return exchange.refuse(Status(404));
        }
        let mut location = String::from("/");
        listing::push_encoded(&mut location, &target.path);
        location.push('/');
        location.push_str(&String::from_utf8_lossy(target.query));
        exchange.send_status(Status(301), exchange.head(Status(301)).field("Location", location))
    }

    fn listing(&self, exchange: &Exchange<'_>) -> Result<Sent, SendError> {
        let path = &exchange.request.target.path;
        match self.root.list(path) {
            Ok(entries) => {
                let head = exchange.head(Status(200)).field("Content-Type", "text/html; charset=utf-8");
                exchange.send(Status(200), head, listing::page(path, &entries).as_bytes())
            }
            Err(status) => exchange.refuse(status),
        }
    }
}
