//! Event sources other than sockets: user descriptors, eventfds, signals, child processes, file
//! changes, and pressure and memory notifications.

/// Implements the methods and `Debug` of a user's value, for which `$field` refers to the source.
macro_rules! user_value {
    ($name:ident, $field:ident) => {
        impl $name {
            /// Whether the source is open. A panic in its callback and the end of its loop close
            /// it.
            pub fn is_open(&self) -> bool {
                self.$field.is_open()
            }

            /// Excludes the source from what
            /// [`run_until_idle`](crate::EventLoop::run_until_idle) waits for. Its callback is
            /// called as long as the loop runs.
            pub fn exclude_from_idle(&self) {
                self.$field.exclude_from_idle();
            }

            /// Ends the effect of [`exclude_from_idle`](Self::exclude_from_idle).
            pub fn include_in_idle(&self) {
                self.$field.include_in_idle();
            }

            /// Closes the source: its callback is not called again.
            pub fn close(self) {}

            /// Leaves the source to the loop, until the loop is dropped.
            pub fn detach(self) {
                self.$field.detach();
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("is_open", &self.is_open()).finish_non_exhaustive()
            }
        }
    };
}

pub(crate) mod async_source;
pub(crate) mod cgroup_memory;
pub(crate) mod channel;
pub(crate) mod child;
pub(crate) mod eventfd_source;
pub(crate) mod pressure;
pub(crate) mod signals;
pub(crate) mod terminal;
pub(crate) mod watcher;
