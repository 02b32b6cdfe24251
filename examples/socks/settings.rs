//! What the files of the proxy set, and what its connections share.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::rules::Rules;
use super::users::Users;

/// The files that the settings come from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    pub(crate) rules: Option<PathBuf>,
    pub(crate) users: Option<PathBuf>,
}

/// The contents of the files.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) rules: Rules,
    /// `None` if clients need no password.
    pub(crate) users: Option<Users>,
}

impl Files {
    /// # Errors
    /// A file cannot be read or is not valid. The message names the file.
    pub(crate) fn load(&self) -> io::Result<Settings> {
        let rules = self.rules.as_deref().map(|path| parse(path, Rules::parse)).transpose()?;
        let users = self.users.as_deref().map(|path| parse(path, Users::parse)).transpose()?;
        Ok(Settings { rules: rules.unwrap_or_default(), users })
    }
}

fn parse<T>(path: &Path, parse: impl Fn(&str) -> Result<T, String>) -> io::Result<T> {
    let name = path.display();
    let text =
        fs::read_to_string(path).map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
    parse(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: {error}")))
}

/// What the connections of all loops share.
#[derive(Debug)]
pub(crate) struct Shared {
    settings: Mutex<Arc<Settings>>,
    /// The time for the handshake, and then for the lookup and the connect together.
    pub(crate) timeout: Duration,
    pub(crate) totals: Totals,
}

#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) connected: AtomicU64,
    pub(crate) associations: AtomicU64,
    pub(crate) refused: AtomicU64,
}

impl Shared {
    pub(crate) fn new(settings: Settings, timeout: Duration) -> Shared {
        Shared { settings: Mutex::new(Arc::new(settings)), timeout, totals: Totals::default() }
    }

    /// The present settings. Connections that are relayed already keep what they were permitted.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace(&self, settings: Settings) {
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}

impl Totals {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }
}
