//! The limit of open descriptors, for programs that need several for each connection.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of this process to the hard limit. The soft limit is 1024 by default, for
/// programs that use select(2).
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        log::warn!("the limit of open descriptors stays at {:?}: {error}", limit.current);
    }
}
