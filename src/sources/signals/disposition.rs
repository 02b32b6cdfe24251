//! What the process does with a signal when no source asks for it any longer: what it did before.
//!
//! A handler once installed stays, since taking it away while others may have chained theirs to it cannot be done without
//! losing one. So the default is imitated: an action that ends or stops the process is registered beside the sources', and does
//! nothing while there are any.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use parking_lot::Mutex;
use signal_hook::flag;

use crate::sources::signals::signal::Signal;
use crate::sources::signals::signal::action::{self, Action};

/// How the signals that were ever asked for are held. An entry stays for good, as its action does.
static HELD: Mutex<BTreeMap<Signal, Held>> = Mutex::new(BTreeMap::new());

struct Held {
    claims: usize,
    /// Says that the default is due. None if it was not the default that we found.
    default_is_due: Option<Arc<AtomicBool>>,
}

/// As long as one of these lives, the signal does not do what it did before.
pub(super) struct Claim(Signal);

impl Claim {
    pub(super) fn new(signal: Signal) -> io::Result<Claim> {
        let mut held = HELD.lock();
        if let Some(held) = held.get_mut(&signal) {
            held.claims += 1;
            if let Some(default_is_due) = &held.default_is_due {
                default_is_due.store(false, SeqCst);
            }
        } else {
            let mut default_is_due = None;
            if action::current(signal.as_raw())? == Action::Default {
                let due = Arc::new(AtomicBool::new(false));
                flag::register_conditional_default(signal.as_raw(), Arc::clone(&due))?;
                default_is_due = Some(due);
            }
            held.insert(signal, Held { claims: 1, default_is_due });
        }
        Ok(Claim(signal))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut held = HELD.lock();
        let held = held.get_mut(&self.0).expect("an entry that was claimed stays");
        held.claims -= 1;
        if held.claims == 0 {
            if let Some(default_is_due) = &held.default_is_due {
                default_is_due.store(true, SeqCst);
            }
        }
    }
}
