//! The callbacks of a shared ring on a loop.

use super::RingRef;
use crate::event_loop::containment::logger;
use crate::shared_ring::RingError;

/// Handles the messages of one end of a shared ring.
///
/// Each end has one value, called on the end's loop with `&mut self` and never re-entered. A panic
/// in a method ends the link.
///
/// ```
/// use reveille::ipc::{RingHandler, RingRef, RingSendError};
/// use std::collections::VecDeque;
///
/// /// Echoes each message, and queues those for which the ring has no space.
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
    /// A whole message has arrived. It may be empty.
    fn on_message(&mut self, ring: &RingRef<'_>, message: &[u8]);

    /// There is space for the message that was last refused with
    /// [`Full`](crate::ipc::RingSendError::Full), and half of the ring is free. Called once after
    /// such a refusal, even if a later send has already succeeded.
    fn on_room(&mut self, ring: &RingRef<'_>) {
        let _ = ring;
    }

    /// The peer has violated the protocol or cannot be signalled, and the link has ended. This is
    /// the last call. Default: logs at level error, at most once per second.
    ///
    /// A peer that dies does not violate the protocol, and is not reported here.
    fn on_end(&mut self, ring: &RingRef<'_>, error: RingError) {
        let _ = ring;
        logger::recurring("a shared ring", |left_out| {
            log::error!("a shared ring has ended: {error}{left_out}");
        });
    }
}

/// Adapts a closure to a handler.
pub(super) struct OnMessage<F>(pub(super) F);

impl<F: FnMut(&RingRef<'_>, &[u8]) + 'static> RingHandler for OnMessage<F> {
    fn on_message(&mut self, ring: &RingRef<'_>, message: &[u8]) {
        (self.0)(ring, message)
    }
}
