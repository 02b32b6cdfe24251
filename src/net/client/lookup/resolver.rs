//! `Resolver`: a bounded pool of lookup threads for the process.
//!
//! Names wait in FIFO order of their first request, each once: a request for a name that is waiting
//! or being looked up shares that lookup. A thread looks up one name after another and ends when
//! none waits. A lookup cannot be interrupted, so a slow lookup occupies its thread until the
//! resolver returns. The other names wait at most that long, and the wait counts towards the
//! time-out of their attempts.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::ToSocketAddrs;
use std::sync::{Arc, Weak};
use std::thread;

use parking_lot::Mutex;

use super::Response;
use crate::event_loop::containment::{catch, dispose, logger};
use crate::event_loop::process_mark::PerProcess;
use crate::event_loop::trimming::slack::release_if_empty;
use crate::eventfd::EventFd;

/// The maximum number of concurrent lookups of the process.
pub(super) const MAX_THREADS: usize = 16;

/// One client's request for a lookup.
pub(super) struct Request {
    host: String,
    port: u16,
    response: Mutex<Option<Response>>,
    responded: EventFd,
}

/// The system's resolver, or that of a test.
type Resolve = dyn Fn(&str) -> Response + Send + Sync;

pub(super) struct Resolver {
    resolve: Box<Resolve>,
    max_threads: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    threads: usize,
    /// The names that wait for a thread. Each is in `requests` as well.
    waiting: VecDeque<String>,
    /// The requests for each name that waits or is being looked up.
    requests: BTreeMap<String, Vec<Weak<Request>>>,
}

impl Request {
    pub(super) fn new(host: &str, port: u16) -> io::Result<Request> {
        let responded = EventFd::new(0)?;
        Ok(Request { host: host.to_owned(), port, response: Mutex::new(None), responded })
    }

    /// Becomes readable when the response has been stored.
    pub(super) fn responded(&self) -> &EventFd {
        &self.responded
    }

    pub(super) fn take_response(&self) -> Option<Response> {
        self.response.lock().take()
    }

    /// The name in lower case. Names that differ only in case share a lookup.
    fn name(&self) -> String {
        self.host.to_ascii_lowercase()
    }

    fn respond(&self, response: &Response) {
        let response = match response {
            Ok(addresses) => Ok(addresses
                .iter()
                .map(|address| {
                    let mut address = *address;
                    address.set_port(self.port);
                    address
                })
                .collect()),
            Err(error) => Err(copy(error)),
        };
        *self.response.lock() = Some(response);
        if let Err(error) = self.responded.signal() {
            logger::call(|| log::error!("cannot signal that {} has been looked up: {error}", self.host));
        }
    }
}

/// A copy of the error, for another request that shares the lookup.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

impl Resolver {
    pub(super) fn new(
        max_threads: usize,
        resolve: impl Fn(&str) -> Response + Send + Sync + 'static,
    ) -> Resolver {
        Resolver { resolve: Box::new(resolve), max_threads, state: Mutex::default() }
    }

    pub(super) fn of_system() -> &'static Resolver {
        static SYSTEM: PerProcess<Resolver> = PerProcess::new();
        SYSTEM.get(|| Resolver::new(MAX_THREADS, |host| (host, 0).to_socket_addrs().map(Iterator::collect)))
    }

    /// Queues a lookup for the request, or joins the lookup of the same name.
    ///
    /// # Errors
    /// The error of spawning a thread, if no lookup thread is running.
    pub(super) fn submit(&'static self, request: &Arc<Request>) -> io::Result<()> {
        let mut state = self.state.lock();
        let name = request.name();
        if let Some(sharing) = state.requests.get_mut(&name) {
            sharing.push(Arc::downgrade(request));
            return Ok(());
        }
        if state.threads < self.max_threads {
            // The lock is held, so the thread sees the name, which is queued below.
            match thread::Builder::new().name("reveille-lookup".to_owned()).spawn(|| self.work()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => return Err(error),
                // The running threads look it up in turn.
                Err(_) => {}
            }
        }
        state.waiting.push_back(name.clone());
        state.requests.insert(name, vec![Arc::downgrade(request)]);
        Ok(())
    }

    /// Cancels the request. A waiting name without other requests is not looked up.
    pub(super) fn cancel(&self, request: &Arc<Request>) {
        let mut state = self.state.lock();
        let name = request.name();
        let Some(sharing) = state.requests.get_mut(&name) else { return };
        sharing.retain(|other| other.as_ptr() != Arc::as_ptr(request));
        if !sharing.is_empty() {
            return;
        }
        // A name that is not waiting is being looked up; its thread removes it afterwards.
        if let Some(at) = state.waiting.iter().position(|waiting| *waiting == name) {
            state.waiting.remove(at);
            state.requests.remove(&name);
        }
    }

    /// The body of a thread: looks up names until none waits.
    fn work(&self) {
        while let Some(name) = self.next() {
            let response = self.look_up(&name);
            let sharing = self.state.lock().requests.remove(&name).unwrap_or_default();
            // Without the lock: responding wakes other threads and may log.
            for request in sharing.iter().filter_map(Weak::upgrade) {
                request.respond(&response);
            }
        }
    }

    fn next(&self) -> Option<String> {
        let mut state = self.state.lock();
        let name = state.waiting.pop_front();
        release_if_empty(&mut state.waiting);
        if name.is_none() {
            state.threads -= 1;
        }
        name
    }

    fn look_up(&self, name: &str) -> Response {
        catch("a lookup", || (self.resolve)(name)).unwrap_or_else(|payload| {
            dispose(payload);
            Err(io::Error::other(format!("the lookup of {name} panicked")))
        })
    }

    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.state.lock().threads
    }
}
