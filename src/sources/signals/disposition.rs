//! Restores a signal's former disposition when its last source is dropped.
//!
//! An installed handler is never removed: other code may have chained its handler to it, and a
//! removal would lose one of them. Instead, the default effect is emulated. An action that
//! terminates or stops the process is registered beside those of the sources; it does nothing while
//! there is a source.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use parking_lot::Mutex;
use signal_hook::flag;

use crate::sources::signals::signal::Signal;
use crate::sources::signals::signal::action::{self, Action};

/// The state of each signal that ever had a source. An entry is never removed, and neither is its
/// action.
static SIGNALS: Mutex<BTreeMap<Signal, SignalState>> = Mutex::new(BTreeMap::new());

struct SignalState {
    claims: usize,
    /// Enables the emulated default effect. `None` if the disposition before was not the default.
    runs_default: Option<Arc<AtomicBool>>,
}

/// While a claim on a signal exists, the signal's former disposition is disabled.
pub(super) struct Claim(Signal);

impl Claim {
    pub(super) fn new(signal: Signal) -> io::Result<Claim> {
        let mut signals = SIGNALS.lock();
        if let Some(state) = signals.get_mut(&signal) {
            state.claims += 1;
            if let Some(runs_default) = &state.runs_default {
                runs_default.store(false, SeqCst);
            }
        } else {
            let mut runs_default = None;
            if action::current(signal.as_raw())? == Action::Default {
                let enabled = Arc::new(AtomicBool::new(false));
                flag::register_conditional_default(signal.as_raw(), Arc::clone(&enabled))?;
                runs_default = Some(enabled);
            }
            signals.insert(signal, SignalState { claims: 1, runs_default });
        }
        Ok(Claim(signal))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut signals = SIGNALS.lock();
        let state = signals.get_mut(&self.0).expect("the entry of a claimed signal is never removed");
        state.claims -= 1;
        if state.claims == 0 {
            if let Some(runs_default) = &state.runs_default {
                runs_default.store(true, SeqCst);
            }
        }
    }
}
