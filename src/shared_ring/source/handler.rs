//! What a shared ring on a loop calls back.

use super::RingRef;
use crate::event_loop::containment::logger;
use crate::shared_ring::RingError;

/// What a process does with what its peer sends.
///
/// One value for each end, called on the end's loop with `&mut self` and never re-entered. A method that panics ends the link.
///
/// ```
/// use reveille::{RingHandler, RingRef, RingSendError};
/// use std::collections::VecDeque;
///
/// /// Sends back whatever comes, and keeps what the peer leaves no room for.
/// #[derive(Default)]
/// struct Echo {
///     waiting: VecDeque<Vec<u8>>,
/// }
///
/// impl RingHandler for Echo {
///     fn on_message(&mut self, ring: &RingRef, message: &[u8]) {
///         self.waiting.push_back(message.to_vec());
///         self.on_room(ring);
///     }
///
///     fn on_room(&mut self, ring: &RingRef) {
///         while let Some(message) = self.waiting.pop_front() {
///             if let Err(RingSendError::Full) = ring.send(&message) {
///                 return self.waiting.push_front(message);
///             }
///         }
///     }
/// }
/// ```
pub trait RingHandler: 'static {
    /// A message has come, whole; its bytes may be none.
    fn on_message(&mut self, ring: &RingRef<'_>, message: &[u8]);

    /// There is room: for the message that was last refused with [`Full`](crate::RingSendError::Full), and in half of the
    /// ring. Called once after such a refusal, also if a later send has found room already.
    fn on_room(&mut self, ring: &RingRef<'_>) {
        let _ = ring;
    }

    /// The peer has broken the rules, or cannot be rung for, and the link has ended. The last call. Unless this is written
    /// otherwise it is logged, at level error, once a second at most.
    ///
    /// A peer that dies breaks no rule, and is not told here.
    fn on_end(&mut self, ring: &RingRef<'_>, error: RingError) {
        let _ = ring;
        logger::recurring("a shared ring", |left_out| {
            log::error!("a shared ring has ended: {error}{left_out}");
        });
    }
}

/// A closure as a handler.
pub(super) struct OnMessage<F>(pub(super) F);

impl<F: FnMut(&RingRef<'_>, &[u8]) + 'static> RingHandler for OnMessage<F> {
    fn on_message(&mut self, ring: &RingRef<'_>, message: &[u8]) {
        (self.0)(ring, message)
    }
}
