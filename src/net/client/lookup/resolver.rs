//! The threads on which names are looked up: a small number for the process, however many clients there are.
//!
//! Names wait in the order in which they were first asked for, each once: whoever asks for a name that waits or is being looked up
//! shares that lookup. A thread takes name after name and ends when none waits. A lookup cannot be interrupted, so names that the
//! resolver is slow with hold their threads until it returns; the others then wait, no longer than that, and what they wait counts
//! for the time-out of their attempts.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::ToSocketAddrs;
use std::sync::{Arc, Weak};
use std::thread;

use parking_lot::Mutex;

use super::Answer;
use crate::event_loop::containment::{catch, dispose, logger};
use crate::event_loop::process_mark::PerProcess;
use crate::event_loop::trimming::slack::release_if_empty;
use crate::eventfd::EventFd;

/// How many names are looked up at a time in a process.
pub(super) const MOST_THREADS: usize = 16;

/// What one client has asked for.
pub(super) struct Question {
    host: String,
    port: u16,
    answer: Mutex<Option<Answer>>,
    answered: EventFd,
}

/// The system's, or that of a test.
type Resolve = dyn Fn(&str) -> Answer + Send + Sync;

pub(super) struct Resolver {
    resolve: Box<Resolve>,
    most_threads: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    threads: usize,
    /// Names that wait for a thread. Each is in `asked` as well.
    waiting: VecDeque<String>,
    /// Who has asked for each name that waits or is being looked up.
    asked: BTreeMap<String, Vec<Weak<Question>>>,
}

impl Question {
    pub(super) fn new(host: &str, port: u16) -> io::Result<Question> {
        let answered = EventFd::new(0)?;
        Ok(Question { host: host.to_owned(), port, answer: Mutex::new(None), answered })
    }

    /// Becomes readable when there is an answer.
    pub(super) fn answered(&self) -> &EventFd {
        &self.answered
    }

    pub(super) fn take_answer(&self) -> Option<Answer> {
        self.answer.lock().take()
    }

    /// The names that share a lookup: case makes no difference to them.
    fn name(&self) -> String {
        self.host.to_ascii_lowercase()
    }

    fn answer(&self, answer: &Answer) {
        let answer = match answer {
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
        *self.answer.lock() = Some(answer);
        if let Err(error) = self.answered.signal() {
            logger::call(|| log::error!("cannot report that {} has been looked up: {error}", self.host));
        }
    }
}

/// An error like this one, for another of those who share it.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

impl Resolver {
    pub(super) fn new(
        most_threads: usize,
        resolve: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Resolver {
        Resolver { resolve: Box::new(resolve), most_threads, state: Mutex::default() }
    }

    pub(super) fn of_system() -> &'static Resolver {
        static SYSTEM: PerProcess<Resolver> = PerProcess::new();
        SYSTEM.get(|| Resolver::new(MOST_THREADS, |host| (host, 0).to_socket_addrs().map(Iterator::collect)))
    }

    /// Has the question answered.
    ///
    /// # Errors
    /// That there is no thread, and none can be had.
    pub(super) fn ask(&'static self, question: &Arc<Question>) -> io::Result<()> {
        let mut state = self.state.lock();
        let name = question.name();
        if let Some(sharing) = state.asked.get_mut(&name) {
            sharing.push(Arc::downgrade(question));
            return Ok(());
        }
        if state.threads < self.most_threads {
            // The lock is held, so the thread begins when the name is there.
            match thread::Builder::new().name("reveille-lookup".to_owned()).spawn(|| self.work()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => return Err(error),
                // The threads that there are take it in its turn.
                Err(_) => {}
            }
        }
        state.waiting.push_back(name.clone());
        state.asked.insert(name, vec![Arc::downgrade(question)]);
        Ok(())
    }

    /// Forgets the question. A name that waits and that nobody else has asked for is not looked up.
    pub(super) fn cancel(&self, question: &Arc<Question>) {
        let mut state = self.state.lock();
        let name = question.name();
        let Some(sharing) = state.asked.get_mut(&name) else { return };
        sharing.retain(|other| other.as_ptr() != Arc::as_ptr(question));
        if !sharing.is_empty() {
            return;
        }
        // One that is not waiting is being looked up, and is removed after that.
        if let Some(at) = state.waiting.iter().position(|waiting| *waiting == name) {
            state.waiting.remove(at);
            state.asked.remove(&name);
        }
    }

    /// What a thread does: it looks up name after name, and ends when none waits.
    fn work(&self) {
        while let Some(name) = self.next() {
            let answer = self.look_up(&name);
            let sharing = self.state.lock().asked.remove(&name).unwrap_or_default();
            // Nothing is locked: answering wakes other threads, and may log.
            for question in sharing.iter().filter_map(Weak::upgrade) {
                question.answer(&answer);
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

    fn look_up(&self, name: &str) -> Answer {
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
