//! Waits for moments that are near, in which the thread stays busy and no loop has a part.

use std::hint;
use std::time::Instant;

/// Waits until the clock shows a later time than this.
pub(crate) fn wait_for_tick(since: Instant) {
    while Instant::now() <= since {
        hint::spin_loop();
    }
}
