//! Boxed callbacks of timers that know the names of their types.

use std::any::type_name;

use crate::event_loop::EventLoop;

/// A closure that is called once.
pub(in crate::event_loop) trait CallOnce {
    fn call(self: Box<Self>, event_loop: &EventLoop);

    /// The name of the closure's type.
    fn name(&self) -> &'static str {
        type_name::<Self>()
    }
}

impl<F: FnOnce(&EventLoop)> CallOnce for F {
    fn call(self: Box<Self>, event_loop: &EventLoop) {
        self(event_loop);
    }
}

/// A closure that is called repeatedly.
pub(in crate::event_loop) trait CallMut {
    fn call(&mut self, event_loop: &EventLoop);

    /// The name of the closure's type.
    fn name(&self) -> &'static str {
        type_name::<Self>()
    }
}

impl<F: FnMut(&EventLoop)> CallMut for F {
    fn call(&mut self, event_loop: &EventLoop) {
        self(event_loop);
    }
}
